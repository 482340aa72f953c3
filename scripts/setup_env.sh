#!/usr/bin/env bash
# Makes .venv in the repository and installs what Head2Head needs; does nothing when that is already done.
# Source it to get $PYTHON and $ROOT, or run it by itself: a thin call of scripts/setup_env.py, for which it finds, or installs, a Python.
#
# usage: bash scripts/setup_env.sh [--latest]      explained by --help
# environment: PYTHON3=/path/to/python3            the interpreter to make .venv from (found by itself otherwise)
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/system.sh"
SYSTEM_PYTHON="$(find_python)"
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  exec "$SYSTEM_PYTHON" "$ROOT/scripts/setup_env.py" "$@"
fi
"$SYSTEM_PYTHON" "$ROOT/scripts/setup_env.py" # without arguments: those are of the script that sources this
