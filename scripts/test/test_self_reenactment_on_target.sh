#!/usr/bin/env bash
# A trained person driven by the frames kept back from training: frames, measures against the truth, video, report page.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash scripts/test/test_self_reenactment_on_target.sh TARGET DATASET [options of test.py]

Synthesises TARGET's held-out frames with checkpoints/DATASET/head2head_TARGET and compares them with the real ones.
Writes results/DATASET/head2head_TARGET/latest_epoch/test/TARGET/: frames, metrics.json, all.mp4, index.html.
Needs preprocessing and training (scripts/train/train_on_target.sh TARGET DATASET) to be done.

  options, for instance: --which_epoch 40, --how_many 100, --gpu_ids -1 (CPU); all: python test.py --help
TEXT
}

source "$(dirname "${BASH_SOURCE[0]}")/../wrapper.sh"
need_target_and_dataset "$@"
shift 2

# test.py finds a relative folder from where this script was called, as any command does.
"$PYTHON" "$ROOT/test.py" --dataset_name "$DATASET" --target_id "$TARGET" "$@"

make_video "$TARGET" "$@"
