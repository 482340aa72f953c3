#!/usr/bin/env bash
# Head reenactment: a trained person moves as somebody else does. Conditioning images, frames, video, report page.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash scripts/test/test_reenactment_from_source_to_target.sh SOURCE TARGET DATASET [options]

TARGET takes pose, expression and gaze of SOURCE: a person of the same dataset, preprocessed like TARGET, or a file of motion
(a .csv of ARKit blendshapes, or a template .json). Synthesises with checkpoints/DATASET/head2head_TARGET and writes
results/DATASET/head2head_TARGET/latest_epoch/test/TARGET_SOURCE/: frames, all.mp4, index.html.

  of preprocessing/reenact.py: --keep_target_pose, --exaggerate 1.2, --edit jawOpen=+0.1,yaw=10, --save_template FILE,
      --split_s train, --split_t test, --no_translation_adaptation, --no_scale_or_translation_adaptation, --no_eye_gaze,
      --no_smoothing, --no_limit_expressions, --limit_mouth, --no_limit_pose, --face_model M, --renderer R, --target_run DIR
  all others go to test.py, for instance --which_epoch 40, --how_many 100, --gpu_ids -1 (CPU); see python test.py --help
TEXT
}

source "$(dirname "${BASH_SOURCE[0]}")/../wrapper.sh"
[ $# -ge 3 ] && [[ "$1" != --* ]] || { usage >&2; exit 2; }
SOURCE="$1"
shift
need_target_and_dataset "$@"
shift 2

DRIVE=() TEST=()
while [ $# -gt 0 ]; do
  case "$1" in
    --keep_target_pose | --no_translation_adaptation | --no_scale_or_translation_adaptation | --no_eye_gaze) DRIVE+=("$1") ;;
    --smoothing | --no_smoothing | --limit_expressions | --no_limit_expressions) DRIVE+=("$1") ;;
    --limit_mouth | --no_limit_mouth | --limit_pose | --no_limit_pose) DRIVE+=("$1") ;;
    --exaggerate=* | --edit=* | --save_template=* | --split_s=* | --split_t=* | --face_model=* | --renderer=* | --target_run=*) DRIVE+=("$1") ;;
    --exaggerate | --edit | --save_template | --split_s | --split_t | --face_model | --renderer | --target_run)
      [ $# -ge 2 ] || { echo "error: $1 needs a value; see --help" >&2; exit 2; }
      DRIVE+=("$1" "$2"); shift ;;
    --datasets_dir=* | --checkpoints_dir=*) DRIVE+=("$1"); TEST+=("$1") ;;
    --datasets_dir | --checkpoints_dir) DRIVE+=("$1" "${2:-}"); TEST+=("$1") ;; # its value goes to test.py in the next round
    *) TEST+=("$1") ;;
  esac
  shift
done

case "$SOURCE" in
  *.csv | *.CSV | *.tsv | *.tab | *.txt | *.json) NAME="$(basename -- "$SOURCE")"; NAME="${NAME%.*}" DRIVE+=("--drive=$SOURCE") ;;
  *) NAME="$(identity_of "$SOURCE" ${TEST[@]+"${TEST[@]}"})"; DRIVE+=(--source_id "$NAME") ;;
esac
"$PYTHON" "$ROOT/preprocessing/reenact.py" --dataset_name "$DATASET" --target_id "$TARGET" "${DRIVE[@]}"
"$PYTHON" "$ROOT/test.py" --dataset_name "$DATASET" --target_id "$TARGET" "--source_id=$NAME" ${TEST[@]+"${TEST[@]}"}
make_video "${TARGET}_$NAME" ${TEST[@]+"${TEST[@]}"}
