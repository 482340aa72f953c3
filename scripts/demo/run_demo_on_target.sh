#!/usr/bin/env bash
# A trained person, driven live by a camera, a video or an address.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash scripts/demo/run_demo_on_target.sh TARGET DATASET [options of demo.py]

Drives checkpoints/DATASET/head2head_TARGET by camera 0, in a window. Keys: c calibrate again, m mirror, f head or face, s side
by side, p paste back, o overlay, r record, h help, q quit.

  options, for instance: --source driver.mp4 --output TARGET.mp4, --source 1, --virtual_camera, --mode face, --side_by_side,
  --overlay, --paste_back, --gpu_ids -1 (CPU); all: python demo.py --help
TEXT
}

source "$(dirname "${BASH_SOURCE[0]}")/../wrapper.sh"
need_target_and_dataset "$@"
shift 2

exec "$PYTHON" "$ROOT/demo.py" "$TARGET" --dataset_name "$DATASET" "$@"
