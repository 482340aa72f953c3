#!/usr/bin/env bash
# Runs a command, or a shell, in the container: with the GPU and cameras where there are some, as the calling user, on this checkout's data.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<TEXT
usage: bash docker/debian/bookworm/vulkan-base/run.sh [options] [COMMAND [ARGUMENT...]]

Without a command it opens a shell. In the container the working folder is /head2head; its datasets/, checkpoints/, results/ and
preprocessing/files/ are this checkout's. Everything else that is written is gone when the command ends.

  --videos DIR    a folder of yours that the container may read, as /videos
  -p, --port N    the live page of the container (its port 8000) at http://127.0.0.1:N, for this machine alone
  --cpu           do not use the GPU
  -h, --help      this text

examples: run.sh bash scripts/quickstart.sh
          run.sh --videos ~/Videos bash scripts/quickstart.sh /videos/ann.mp4
TEXT
}

PORT="" VIDEOS="" CPU=""
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --cpu) CPU=1; shift ;;
    -p | --port | --videos)
      [ $# -ge 2 ] || { echo "error: $1 needs a value; see --help" >&2; exit 2; }
      case "$1" in --videos) VIDEOS="$2" ;; *) PORT="$2" ;; esac
      shift 2 ;;
    --) shift; break ;;
    -*) echo "error: unknown option $1; see --help" >&2; exit 2 ;;
    *) break ;;
  esac
done
if [ -n "$PORT" ]; then
  [[ "$PORT" =~ ^[1-9][0-9]{0,4}$ ]] && [ "$PORT" -le 65535 ] || { echo "error: '$PORT' is not a port, 1 to 65535" >&2; exit 2; }
fi
[ -z "$VIDEOS" ] || [ -d "$VIDEOS" ] || die "there is no folder $VIDEOS"
check_docker
docker image inspect "$IMAGE" >/dev/null 2>&1 || die "there is no image $IMAGE yet; run: bash $HERE/build.sh"

# Whose files are written: the caller's. A rootless docker makes root of the container the caller.
OWNER="$(id -u):$(id -g)"
if [[ "$(docker info --format '{{json .SecurityOptions}}' 2>/dev/null)" == *rootless* ]]; then
  OWNER=0:0
elif [ "$(id -u)" = 0 ] && [ -n "${SUDO_UID:-}" ]; then
  OWNER="$SUDO_UID:${SUDO_GID:-$SUDO_UID}"
fi

options=(--rm --init --interactive --user "$OWNER" --shm-size 8g)
if [ -t 0 ] && [ -t 1 ]; then options+=(--tty); fi

share() { # SOURCE TARGET [readonly]: the value of --mount, whose fields may hold spaces, colons and commas
  options+=(--mount "type=bind,\"source=${1//\"/\"\"}\",\"target=${2//\"/\"\"}\"${3:+,$3}")
}
make_folder() { # a folder that docker made by itself would be root's
  [ -d "$1" ] && return
  mkdir -p "$1" 2>/dev/null || die "cannot make the folder $1; check who owns the folder above it"
  [ "$(id -u)" != 0 ] || [ "$OWNER" = 0:0 ] || chown "$OWNER" "$1"
}
for folder in datasets checkpoints results preprocessing/files; do
  make_folder "$ROOT/$folder"
  share "$ROOT/$folder" "/head2head/$folder"
  for link in "$ROOT/$folder"/*; do # links to where there is more room: the container is given what they lead to
    if [ -L "$link" ] && [ -e "$link" ]; then share "$(realpath "$link")" "/head2head/$folder/${link##*/}"; fi
  done
done
for weights in "$ROOT"/models/flownet2_pytorch/*.tar; do
  if [ -f "$weights" ]; then share "$(realpath "$weights")" "/head2head/models/flownet2_pytorch/${weights##*/}" readonly; fi
done
# Not the host's own cache: what is compiled there may need newer libraries than the container has.
cache="${HEAD2HEAD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/head2head}/container"
make_folder "$cache"
share "$(realpath "$cache")" /cache
if [ -n "$VIDEOS" ]; then share "$(realpath "$VIDEOS")" /videos readonly; fi

if [ -n "$CPU" ]; then
  options+=(--env NVIDIA_VISIBLE_DEVICES=void) # for hosts whose docker passes GPUs in unasked
elif ! has_gpu; then
  echo "No NVIDIA GPU here: running on the processor." >&2
elif ! docker_has_gpu; then
  echo "Docker cannot pass on the NVIDIA GPU: running on the processor. To change that: bash $HERE/pre_docker_install.sh" >&2
else
  options+=(--gpus all --env NVIDIA_DRIVER_CAPABILITIES=all) # all: with Vulkan, not only CUDA
fi
for camera in /dev/video*; do
  if [ -c "$camera" ]; then options+=(--device "$camera" --group-add "$(stat -c %g "$camera")"); fi
done
if [ -n "$PORT" ]; then options+=(--publish "127.0.0.1:$PORT:8000"); fi
for name in GPUS CUDA_VISIBLE_DEVICES http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY; do
  if [ -n "${!name:-}" ]; then options+=(--env "$name"); fi
done
exec docker run "${options[@]}" "$IMAGE" "$@"
