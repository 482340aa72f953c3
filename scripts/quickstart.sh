#!/usr/bin/env bash
# From a video of a talking person to a video of that head synthesised from motion it was not trained on, in one command.
# A thin call of scripts/quickstart.py, for which it finds, or on Debian installs, a Python.
#
# usage: bash scripts/quickstart.sh [VIDEO.mp4] [options]      explained by --help
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/system.sh"
case " $* " in *" -h "* | *" --help "*)
  any_python >/dev/null || { sed -n '/^usage:/,/^You need/p' "$ROOT/scripts/quickstart.py"; exit 0; } ;; # nothing is installed to show this
esac
SYSTEM_PYTHON="$(find_python)"
exec "$SYSTEM_PYTHON" "$ROOT/scripts/quickstart.py" "$@"
