#!/usr/bin/env bash
# What build.sh, run.sh and pre_docker_install.sh share. Sourced, not run.
#
# usage: source common.sh     gives HERE, ROOT, IMAGE, die, check_docker, has_gpu, docker_has_gpu
set -euo pipefail
unset CDPATH # with it, cd prints where it goes
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
ROOT="$(cd "$HERE/../../../.." && pwd)"
IMAGE=head2head:bookworm

die() { echo "error: $*" >&2; exit 1; }

check_docker() { # ends with one sentence where docker cannot be used
  local answer
  command -v docker >/dev/null || die "docker is not installed; run: bash $HERE/pre_docker_install.sh"
  answer="$(docker version --format '{{.Server.Version}}' 2>&1)" && return
  case "$answer" in
    *"ermission denied"*)
      die "user $(id -un) may not use docker; run: sudo usermod -aG docker $(id -un), then log out and in again" ;;
    *"annot connect"* | *"connection refused"* | *"daemon running"*)
      die "docker is installed, but its service does not run; run: sudo systemctl start docker" ;;
    *) die "docker does not answer: ${answer%%$'\n'*}" ;;
  esac
}

has_gpu() { [[ "$(nvidia-smi -L 2>/dev/null)" == "GPU "* ]]; }

docker_has_gpu() { # whether docker can pass an NVIDIA GPU into a container: NVIDIA's container toolkit is installed or known to it
  command -v nvidia-container-runtime-hook >/dev/null || [[ "$(docker info --format '{{json .Runtimes}}' 2>/dev/null)" == *'"nvidia"'* ]]
}
