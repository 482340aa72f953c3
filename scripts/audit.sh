#!/usr/bin/env bash
# Asks the Python Packaging Advisory Database whether the versions of requirements.lock and requirements-ray.lock have known weaknesses.
#
# usage: bash scripts/audit.sh
# needs the network (pypi.org), which is why it is not a part of scripts/lint.sh and .ci/run; fails as well where a package could not be
# asked for. pip-audit is installed into a folder that is deleted afterwards.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1:-}" in -h | --help) sed -n '/^# Asks/,/^# asked/s/^# \?//p' "$0"; exit 0 ;; esac

SCRATCH="$(mktemp -d)"
trap 'rm -rf "$SCRATCH"' EXIT
python3 -m venv "$SCRATCH/venv"
"$SCRATCH/venv/bin/pip" install -q --disable-pip-version-check "pip-audit<3"
for lock in requirements.lock requirements-ray.lock; do
  echo "== $lock"
  # --disable-pip, --require-hashes: the lists are read as they are, nothing is installed
  "$SCRATCH/venv/bin/pip-audit" --strict --progress-spinner off --disable-pip --require-hashes -r "$lock"
done
