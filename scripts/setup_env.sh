#!/usr/bin/env bash
# Makes .venv in the repository and installs what Head2Head needs; does nothing when that is already done.
# Source it to get $PYTHON, or run it by itself.
#
# usage: bash scripts/setup_env.sh
# environment: PYTHON3=/path/to/python3   the interpreter to make .venv from (3.10 to 3.12; found by itself otherwise)
set -euo pipefail
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="$ROOT/.venv"
PYTHON="$VENV/bin/python"

die() { echo "error: $*" >&2; exit 1; }

as_root() { # run a command as root where we may without a password, else fail quietly
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo -n "$@" 2>/dev/null; else return 1; fi
}

install_debian() { # install Debian packages; false where that cannot be done
  command -v apt-get >/dev/null || return 1
  { as_root apt-get update -qq && as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } >/dev/null 2>&1
}

find_python() { # the newest interpreter that the pinned face tracker has wheels for
  local candidate
  for candidate in ${PYTHON3:-} python3.12 python3.11 python3.10 python3; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

has_packages() { # whether nothing of the lists was removed from .venv since
  "$PYTHON" -c 'import re, sys, importlib.metadata as m
[m.version(name) for path in sys.argv[1:] for name in re.findall(r"(?m)^[\w.-]+", open(path).read())]' \
    "$ROOT/requirements.txt" "$ROOT/requirements-nodeps.txt" 2>/dev/null
}

make_venv() {
  local python wanted
  wanted="$(cat "$ROOT/requirements.txt" "$ROOT/requirements-nodeps.txt" | cksum)"
  if [ -x "$PYTHON" ] && [ "$(cat "$VENV/.installed" 2>/dev/null)" = "$wanted" ] && has_packages; then
    return
  fi
  if [ ! -x "$PYTHON" ] || ! "$PYTHON" -m pip --version >/dev/null 2>&1; then
    python="$(find_python)" || { install_debian python3 python3-venv && python="$(find_python)"; } ||
      die "Python 3.10, 3.11 or 3.12 is needed; install it (Debian/Ubuntu: apt-get install python3 python3-venv) or set PYTHON3 to its path"
    echo "Making $VENV with $("$python" --version)"
    rm -rf "$VENV"
    if ! "$python" -m venv "$VENV" >/dev/null 2>&1; then
      rm -rf "$VENV"
      install_debian python3-venv && "$python" -m venv "$VENV" ||
        die "$python cannot make virtual environments; install its venv module (Debian/Ubuntu: sudo apt-get install python3-venv) and run this again"
    fi
  fi
  echo "Installing packages into $VENV (PyTorch is large: a few minutes the first time)"
  "$PYTHON" -m pip install -q -r "$ROOT/requirements.txt" ||
    die "pip could not install requirements.txt; see its message above, check the connection and the free disk space (8 GB), and run this again"
  "$PYTHON" -m pip install -q --no-deps -r "$ROOT/requirements-nodeps.txt" ||
    die "pip could not install requirements-nodeps.txt; see its message above and run this again"
  echo "$wanted" >"$VENV/.installed"
}

# pip's hint that a newer pip exists is of no use to someone who wants a video
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1
make_venv
