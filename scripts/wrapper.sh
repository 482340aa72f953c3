#!/usr/bin/env bash
# What the wrappers around train.py and test.py share. Sourced, not run.
#
# usage: source wrapper.sh     after `usage` is defined, which it calls if one of the script's arguments asks for help;
#                              gives ROOT, PYTHON and need_target_and_dataset
set -euo pipefail
for argument in "$@"; do # a sourced file sees the arguments of the script
  case "$argument" in -h | --help) usage; exit 0 ;; esac
done
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="$ROOT/.venv/bin/python"
[ -x "$PYTHON" ] || PYTHON="$(command -v python3)" || { echo "error: there is no Python; run: bash scripts/setup_env.sh" >&2; exit 1; }

need_target_and_dataset() { # TARGET and DATASET from the first two arguments
  if [ $# -lt 2 ] || [[ "$1" == -* || "$2" == -* ]]; then
    usage >&2
    exit 2
  fi
  TARGET="$1" DATASET="$2"
}
