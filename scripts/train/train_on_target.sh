#!/usr/bin/env bash
# Learns one person's head from the training frames of a dataset.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash scripts/train/train_on_target.sh TARGET DATASET [options of train.py]

Trains on TARGET's frames of datasets/DATASET and writes checkpoints/DATASET/head2head_TARGET/.
Needs preprocessing (detect, detect_landmarks70, reconstruct) to be done. Run it again to go on after an interruption.

  GPUS=2 before the command: on two GPUs of this machine (any number)
  options, for instance: --preset preview --max_minutes 6 (quick, for CPUs), --gpu_ids -1 (CPU), --use_eyes_D;
  more: python train.py --help; all settings of the recipe: python train.py --list_settings
TEXT
}

source "$(dirname "${BASH_SOURCE[0]}")/../wrapper.sh"
need_target_and_dataset "$@"
shift 2

exec "${TRAIN[@]}" --dataset_name "$DATASET" --target_id "$TARGET" --name "head2head_$TARGET" "$@"
