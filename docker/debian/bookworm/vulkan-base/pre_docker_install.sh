#!/usr/bin/env bash
# Prepares a Debian or Ubuntu machine: installs docker and, where there is an NVIDIA GPU, NVIDIA's container toolkit. Run again, it does
# only what is still missing.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() {
  cat <<TEXT
usage: bash docker/debian/bookworm/vulkan-base/pre_docker_install.sh [--dry-run | --yes]

Shows every command that is needed and asks before it runs the first; uses sudo where you are not root. Works without a GPU.

  --dry-run     only show the commands
  --yes         do not ask
  -h, --help    this text
TEXT
}

MODE=ask
for argument in "$@"; do
  case "$argument" in
    --dry-run) MODE=show ;;
    --yes) MODE=go ;;
    -h | --help) usage; exit 0 ;;
    *) echo "error: unknown option $argument; see --help" >&2; exit 2 ;;
  esac
done

system="$(. /etc/os-release 2>/dev/null && echo "${PRETTY_NAME:-}")"
family="$(. /etc/os-release 2>/dev/null && echo "${ID:-} ${ID_LIKE:-}")"
case " $family " in
  *" debian "* | *" ubuntu "*) ;;
  *) die "this script knows Debian and Ubuntu, this is ${system:-another system}; install docker and, for a GPU, NVIDIA's container toolkit" \
    "as their makers say, then run: bash $HERE/build.sh" ;;
esac

STEPS=() # "why|command", in their order
need() { STEPS+=("$1|$2"); }
packaged() { apt-cache show "$1" >/dev/null 2>&1; }
as_root=""
[ "$(id -u)" = 0 ] || as_root="sudo "

# Docker itself, as the distribution packages it
if command -v docker >/dev/null; then
  fault="$(check_docker 2>&1)" && echo "docker: there, and answers" || echo "docker: there, but: ${fault#error: }"
else
  fault=missing
  packages=docker.io
  for package in docker-cli docker-buildx docker-compose-v2 docker-compose; do # what there is; compose has one of two names
    case "$packages" in *docker-compose*) continue ;; esac
    if packaged "$package"; then packages+=" $package"; fi
  done
  echo "docker: not installed"
  need "install docker" "${as_root}apt-get update"
  need "" "${as_root}apt-get install -y $packages"
fi
case "$fault" in *"service does not run"*) need "start docker" "${as_root}systemctl enable --now docker" ;; esac
user="${SUDO_USER:-$(id -un)}"
if [ "$user" != root ] && [[ "$fault" == missing || "$fault" == *"may not use docker"* ]]; then
  need "let $user use docker (whoever may, can become root), from the next login on" "${as_root}usermod -aG docker $user"
fi

# The GPU
if has_gpu && docker_has_gpu; then
  echo "NVIDIA GPU: there; container toolkit: there"
elif has_gpu; then
  echo "NVIDIA GPU: there; container toolkit: not installed"
  site=https://nvidia.github.io/libnvidia-container
  key=/usr/share/keyrings/nvidia-container-toolkit.asc
  need "install NVIDIA's container toolkit, from NVIDIA's own packages" "${as_root}apt-get update"
  need "" "${as_root}apt-get install -y curl ca-certificates"
  need "" "${as_root}curl -fsSL -o $key $site/gpgkey"
  need "" "echo 'deb [signed-by=$key] $site/stable/deb/\$(ARCH) /' | ${as_root}tee /etc/apt/sources.list.d/nvidia-container-toolkit.list"
  need "" "${as_root}apt-get update"
  need "" "${as_root}apt-get install -y nvidia-container-toolkit"
  need "tell docker of the GPU; containers that run now are stopped" "${as_root}nvidia-ctk runtime configure --runtime=docker"
  need "" "${as_root}systemctl restart docker"
elif grep -qsi '^0x10de' /sys/bus/pci/devices/*/vendor; then
  echo "NVIDIA GPU: there, but its driver is not. For the GPU install that first (Debian: apt-get install nvidia-driver, from non-free;" \
    "Ubuntu: ubuntu-drivers install), start the machine anew and run this again; without it, containers use the processor."
else
  echo "NVIDIA GPU: none; containers will use the processor"
fi

if [ ${#STEPS[@]} = 0 ]; then
  [ -z "$fault" ] || die "${fault#error: }"
  echo "Nothing to do. Now: bash $HERE/build.sh"
  exit 0
fi
echo "What is to be done:"
for step in "${STEPS[@]}"; do
  [ -z "${step%%|*}" ] || echo "  # ${step%%|*}"
  echo "  ${step#*|}"
done
if [ "$MODE" = show ]; then exit 0; fi
if [ "$MODE" = ask ]; then
  [ -t 0 ] || die "nobody is there to be asked; run it with --yes to do this, or with --dry-run to see it only"
  read -r -p "Do this now? [y/N] " answer
  [[ "$answer" =~ ^[yY] ]] || { echo "Nothing was changed."; exit 1; }
fi
for step in "${STEPS[@]}"; do
  echo "+ ${step#*|}"
  DEBIAN_FRONTEND=noninteractive bash -o pipefail -c "${step#*|}" || die "this failed: ${step#*|}; see its message above, mend it, and run this script again"
done
case "${STEPS[*]}" in *usermod*) echo "Log out and in again, for docker to let $user in." ;; esac
echo "Done. Now: bash $HERE/build.sh"
