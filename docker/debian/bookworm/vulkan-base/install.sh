#!/usr/bin/env bash
# What Head2Head needs of Debian 12 (bookworm), for an image or a root folder: packages and a user. Leaves no caches behind.
#
# usage: install.sh     as root, inside of the image or root folder
set -euo pipefail
[ "$(id -u)" = 0 ] || { echo "error: installing packages needs root; run this in a container or in a debootstrap root" >&2; exit 1; }
grep -q '^VERSION_CODENAME=bookworm$' /etc/os-release || { echo "error: this is for Debian 12 (bookworm) alone; see /etc/os-release" >&2; exit 1; }

PACKAGES=(
  python3 python3-venv
  libvulkan1 mesa-vulkan-drivers # the loader and, where no GPU's driver is passed in, a driver that computes on the processor
  libegl1 libx11-6 libxext6      # what NVIDIA's Vulkan and EGL drivers, which come from the host, are linked with
  gcc libc6-dev libpython3-dev   # Triton compiles the launchers of its GPU kernels when they are first used
)
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${PACKAGES[@]}" >/dev/null
apt-get clean
rm -rf /var/lib/apt/lists/*

# The image's own user. Containers run with the id of whoever starts them, so any user may write to this home.
useradd --uid 1000 --shell /bin/bash --home-dir /home/head2head --create-home head2head
chmod 1777 /home/head2head
echo "PS1='head2head:\w\\$ '" >/home/head2head/.bashrc # an id without a name would show as "I have no name!"
