#!/usr/bin/env bash
# Checks style and formatting; with --fix, mends what can be mended.
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
exec "$PYTHON" -m ruff format --check .
