#!/usr/bin/env bash
# Learns all persons of the FaceForensics++ dataset together: a start for fine-tuning on one (finetune_on_target.sh).
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash scripts/train/train_faceforensicspp.sh [options of train.py]

Trains on every person of datasets/faceforensicspp and writes checkpoints/faceforensicspp/head2head_faceforensicspp/.
Needs preprocessing to be done: python scripts/preprocess.py FOLDER --dataset_name faceforensicspp (python scripts/download_dataset.py --help
says how to get the videos). Run it again to go on after an interruption.
Every person is learnt from equally, however long the videos are. Optical flow and masks are computed first where they
are missing; on a machine without a GPU ahead of this: python scripts/prepare_training.py --dataset_name faceforensicspp

  GPUS=2 before the command: on two GPUs of this machine (any number)
  options: python train.py --help; all settings of the recipe: python train.py --list_settings
TEXT
}

source "$(dirname "${BASH_SOURCE[0]}")/../wrapper.sh"
if [ $# -gt 0 ] && [[ "$1" != -* ]]; then
  usage >&2
  exit 2
fi

exec "${TRAIN[@]}" --dataset_name faceforensicspp --name head2head_faceforensicspp "$@"
