#!/usr/bin/env bash
# Learns one person's head, starting from networks trained on many (train_faceforensicspp.sh).
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash scripts/train/finetune_on_target.sh TARGET DATASET [options of train.py]

As train_on_target.sh, but starts from the networks in checkpoints/faceforensicspp/head2head_faceforensicspp/;
another start: --load_pretrain FOLDER. Writes checkpoints/DATASET/head2head_TARGET/.

  GPUS=2 before the command: on two GPUs of this machine (any number)
  options: python train.py --help; all settings of the recipe: python train.py --list_settings
TEXT
}

source "$(dirname "${BASH_SOURCE[0]}")/../wrapper.sh"
need_target_and_dataset "$@"
shift 2

START="$(value_of --checkpoints_dir "$ROOT/checkpoints" "$@")/faceforensicspp/head2head_faceforensicspp"
START="$(value_of --load_pretrain "$START" "$@")"
if [ ! -d "$START" ]; then
  echo "error: there are no networks to start from in $START; train them with scripts/train/train_faceforensicspp.sh," \
    "fetch them with scripts/download_checkpoints.py, or name others: --load_pretrain FOLDER" >&2
  exit 1
fi

exec "${TRAIN[@]}" --dataset_name "$DATASET" --target_id "$TARGET" --name "head2head_$TARGET" --load_pretrain "$START" "$@"
