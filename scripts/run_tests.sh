#!/usr/bin/env bash
# Runs the whole test suite in the environment of the quickstart.
#
# usage: bash scripts/run_tests.sh [pytest options]      for instance: -k layout, -x, tests/test_render.py
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
# Debian's software Vulkan driver, so that the Vulkan renderer is tested on machines without a GPU as well.
if ! ls /usr/share/vulkan/icd.d/*.json /etc/vulkan/icd.d/*.json >/dev/null 2>&1; then
  install_debian mesa-vulkan-drivers libvulkan1 || echo "no Vulkan driver and no right to install one: the tests of the Vulkan renderer will be skipped"
fi
cd "$ROOT"
# So that preprocessing on a cluster is tested as well.
"$PYTHON" -c 'import ray' 2>/dev/null || "$PYTHON" -m pip install -q --require-hashes --no-deps -r requirements-ray.lock ||
  echo "Ray cannot be installed: the tests of clusters will be skipped"
exec "$PYTHON" -m pytest "$@"
