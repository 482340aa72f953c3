#!/usr/bin/env bash
# Whether the container does its work: a page that is served answers, and a GPU that was passed in is still there.
#
# usage: healthcheck.sh [PORT]     default: 8000
set -euo pipefail
port="${1:-8000}"

# Docker can take a GPU away from a running container when the host's services are reloaded.
if command -v nvidia-smi >/dev/null && ! nvidia-smi -L >/dev/null 2>&1; then
  echo "the GPU is gone; start the container anew"
  exit 1
fi

if exec 3<>"/dev/tcp/127.0.0.1/$port"; then
  printf 'GET / HTTP/1.0\r\nHost: localhost\r\n\r\n' >&3
  status=""
  read -r -t 5 _ status _ <&3 || true
  timeout 2 cat <&3 >/dev/null || true # the rest, or the page would take us for somebody who hung up
  [[ "$status" =~ ^[1-4][0-9][0-9]$ ]] || { echo "the page on port $port does not answer (status: ${status:-none})"; exit 1; }
  echo "the page on port $port answers"
fi 2>/dev/null
