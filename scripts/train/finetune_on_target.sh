#!/usr/bin/env bash
# Learns one person's head, starting from networks trained on many (train_faceforensicspp.sh).
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash scripts/train/finetune_on_target.sh TARGET DATASET [options of train.py]

As train_on_target.sh, but starts from the networks in checkpoints/faceforensicspp/head2head_faceforensicspp;
another start: --load_pretrain FOLDER. Writes checkpoints/DATASET/head2head_TARGET/.

  options: python train.py --help
TEXT
}

for argument in "$@"; do
  case "$argument" in -h | --help) usage; exit 0 ;; esac
done
if [ $# -lt 2 ] || [[ "$1" == -* || "$2" == -* ]]; then
  usage >&2
  exit 2
fi
TARGET="$1" DATASET="$2"
shift 2

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
PYTHON="$ROOT/.venv/bin/python"
[ -x "$PYTHON" ] || PYTHON="$(command -v python3)" || { echo "error: there is no Python; run: bash scripts/setup_env.sh" >&2; exit 1; }

exec "$PYTHON" "$ROOT/train.py" --dataset_name "$DATASET" --target_id "$TARGET" --name "head2head_$TARGET" \
  --load_pretrain "$ROOT/checkpoints/faceforensicspp/head2head_faceforensicspp" "$@"
