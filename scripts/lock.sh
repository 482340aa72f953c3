#!/usr/bin/env bash
# Writes requirements.lock and requirements-ray.lock: the versions and hashes of all packages, for the Pythons and the platform that
# tool.uv in pyproject.toml names. Versions that are in the locks stay while they fit the ranges of requirements*.txt.
#
# usage: bash scripts/lock.sh [options of uv pip compile]
#   for instance: --upgrade (the newest of everything), --upgrade-package torch==2.14.1
# needs any Python 3 with venv and the package registry; uv is installed into a folder that is deleted afterwards
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
case "${1:-}" in -h | --help) sed -n '/^# Writes/,/^# needs/s/^# \?//p' "$0"; exit 0 ;; esac

SCRATCH="$(mktemp -d "$PWD/.lock.XXXXXX")" # here, so that finished files only have to be renamed
trap 'rm -rf "$SCRATCH"' EXIT
python3 -m venv "$SCRATCH/uv"
"$SCRATCH/uv/bin/pip" install -q --disable-pip-version-check "uv<1"
for lock in requirements.lock requirements-ray.lock; do
  if [ -f "$lock" ]; then cp "$lock" "$SCRATCH"; fi
done

compile() { # LOCK ARGUMENT...: writes $SCRATCH/LOCK. For every supported Python at once; from wheels, so that no code of a package runs.
  local lock="$1"
  shift
  UV_PYTHON_DOWNLOADS=never "$SCRATCH/uv/bin/uv" pip compile --quiet --no-cache --universal --python-version 3.10 --no-build \
    --generate-hashes --no-annotate --custom-compile-command "bash scripts/lock.sh" -o "$SCRATCH/$lock" "$@" >/dev/null
}
compile requirements.lock requirements.txt requirements-nodeps.txt "$@"
compile requirements-ray.lock requirements-ray.txt --constraint "$SCRATCH/requirements.lock" "$@"
mv "$SCRATCH/requirements.lock" "$SCRATCH/requirements-ray.lock" .
