#!/usr/bin/env bash
# Learns all persons of the FaceForensics++ dataset together: a start for fine-tuning on one (finetune_on_target.sh).
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash scripts/train/train_faceforensicspp.sh [options of train.py]

Trains on every person of datasets/faceforensicspp and writes checkpoints/faceforensicspp/head2head_faceforensicspp/.
Needs preprocessing (detect, detect_landmarks70, reconstruct) to be done. Run it again to go on after an interruption.

  options: python train.py --help
TEXT
}

for argument in "$@"; do
  case "$argument" in -h | --help) usage; exit 0 ;; esac
done
if [ $# -gt 0 ] && [[ "$1" != -* ]]; then
  usage >&2
  exit 2
fi

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
PYTHON="$ROOT/.venv/bin/python"
[ -x "$PYTHON" ] || PYTHON="$(command -v python3)" || { echo "error: there is no Python; run: bash scripts/setup_env.sh" >&2; exit 1; }

exec "$PYTHON" "$ROOT/train.py" --dataset_name faceforensicspp --name head2head_faceforensicspp "$@"
