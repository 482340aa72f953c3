#!/usr/bin/env bash
# Checks style and formatting of the Python code, shell scripts and the Dockerfile; with --fix, mends what can be mended.
#
# usage: bash scripts/lint.sh [--fix]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
cd "$ROOT"
if [ "${1:-}" = "--fix" ]; then
  "$PYTHON" -m ruff check --fix .
  exec "$PYTHON" -m ruff format .
fi
"$PYTHON" -m ruff check .
"$PYTHON" -m ruff format --check .
# SC2034: a script that is sourced sets variables for others
find scripts docker .ci -name '*.sh' -print0 -o -path .ci/run -print0 |
  xargs -0 "${PYTHON%/*}/shellcheck" --external-sources --source-path=SCRIPTDIR --severity=warning --exclude=SC2034
exec "${PYTHON%/*}/hadolint" docker/debian/bookworm/vulkan-base/Dockerfile
