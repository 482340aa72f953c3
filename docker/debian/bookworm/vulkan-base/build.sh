#!/usr/bin/env bash
# Makes the container image head2head:bookworm from this checkout. Made again after a change of the code, it reinstalls nothing.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<TEXT
usage: bash docker/debian/bookworm/vulkan-base/build.sh [options of docker build]      for instance: --no-cache

Makes the image $IMAGE: Debian 12, Python 3.11, all packages and the code. The first time it downloads 3 GB and takes some minutes.
TEXT
}
case "${1:-}" in -h | --help) usage; exit 0 ;; esac

check_docker
proxies=()
for name in http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
  [ -z "${!name:-}" ] || proxies+=(--build-arg "$name")
done
docker build --tag "$IMAGE" --file "$HERE/Dockerfile" "${proxies[@]}" "$@" "$ROOT" ||
  die "the image could not be made; see docker's message above. It needs the network and 20 GB of free disk where docker keeps its images"
echo "Made $IMAGE. Now: bash $HERE/run.sh"
