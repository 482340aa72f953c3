#!/usr/bin/env bash
# What scripts need of the system before there is an environment: a Python, and Debian's packages. Sourced, or run to install packages.
#
# usage: source system.sh                        gives ROOT, VENV, PYTHON (its), die, install_debian, find_python
#        bash scripts/system.sh PACKAGE...       installs Debian packages; fails quietly where that cannot be done
# environment: PYTHON3=/path/to/python3          the interpreter to make .venv from (found by itself otherwise)
set -euo pipefail
unset CDPATH # with it, cd prints where it goes
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

any_python() { # a Python that runs our Python scripts; from which one .venv is made is their choice
  local candidate
  for candidate in "$PYTHON" ${PYTHON3:-} python3.12 python3.11 python3.10 python3; do
    if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
      command -v "$candidate"
      return
    fi
  done
  return 1
}

find_python() { # any_python; on Debian, where there is none, it is installed
  any_python || { install_debian python3 python3-venv && any_python; } ||
    die "Python 3.10, 3.11 or 3.12 is needed; install it (Debian/Ubuntu: apt-get install python3 python3-venv) or set PYTHON3 to its path"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  install_debian "$@"
fi
