#!/usr/bin/env bash
# From a video of a talking person to a video of that head synthesised from motion it was not trained on, in one command.
set -euo pipefail
START=$(date +%s)

usage() {
  cat <<'TEXT'
usage: bash scripts/quickstart.sh [VIDEO.mp4] [options]

Installs what is missing into .venv, then runs detect -> landmarks -> reconstruct -> train -> self-reenactment on VIDEO
(a person who talks and moves the head; half a minute or more) or, without a video, on the built-in demo clip.
With a CUDA GPU it trains the default recipe to its end; without one, a small preview: 15 minutes in all on 2 cores.
Run it again to go on from where it stopped.

  --minutes M     end training after M minutes                 (default: no limit with a GPU; without, what is left of 15)
  --preset P      default or preview                           (default: by the machine)
  --seconds S     use only the first S seconds of the video    (default: all with a GPU; 60 without)
  --mirror M      where to get the ICT face model from: a folder, an archive or an address
                  (default: its official address; without it, the embedded face model is used)
  -h, --help      this text

You need the consent of the person in the video. Every video written is marked as synthetic in its metadata.
TEXT
}

VIDEO="" MINUTES="" PRESET="" CUT="" MIRROR="${HEAD2HEAD_MIRROR:-}"
while [ $# -gt 0 ]; do
  case "$1" in
    -h | --help) usage; exit 0 ;;
    --minutes | --preset | --seconds | --mirror)
      [ $# -ge 2 ] || { echo "error: $1 needs a value; see --help" >&2; exit 2; }
      case "$1" in --minutes) MINUTES="$2" ;; --preset) PRESET="$2" ;; --seconds) CUT="$2" ;; --mirror) MIRROR="$2" ;; esac
      shift 2 ;;
    *)
      [[ "$1" != -* || -f "./$1" ]] || { echo "error: unknown option $1; see --help" >&2; exit 2; }
      [ -z "$VIDEO" ] || { echo "error: one video at a time; see --help" >&2; exit 2; }
      VIDEO="$1"; shift ;;
  esac
done
# Everything cheap is checked before anything is installed.
for number in "$MINUTES" "$CUT"; do
  [[ "$number" =~ ^[0-9]*\.?[0-9]*$ ]] || { echo "error: '$number' is not a number of minutes or seconds; see --help" >&2; exit 2; }
done
case "$PRESET" in "" | default | preview) ;; *) echo "error: --preset is default or preview, not '$PRESET'" >&2; exit 2 ;; esac
if [ -n "$VIDEO" ]; then
  [ -f "$VIDEO" ] || { echo "error: there is no video file $VIDEO" >&2; exit 1; }
  VIDEO="$(cd -- "$(dirname -- "$VIDEO")" && pwd)/$(basename -- "$VIDEO")"
fi

source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
cd "$ROOT"

step() { echo; echo "== $* (minute $((($(date +%s) - START) / 60)))"; }

if "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  GPU=1; : "${PRESET:=default}"
else
  GPU=0; : "${PRESET:=preview}"; : "${CUT:=60}"
fi

step "Face model"
if [ -n "$MIRROR" ]; then
  "$PYTHON" scripts/download_files.py --mirror "$MIRROR"
else
  "$PYTHON" scripts/download_files.py || echo "The ICT face model could not be had: going on with the embedded one."
fi

DATASET=quickstart
if [ -z "$VIDEO" ]; then
  step "Built-in demo clip"
  NAME=demo
  VIDEO="$ROOT/datasets/$DATASET/original_videos/demo.mp4"
  [ -f "$VIDEO" ] || "$PYTHON" scripts/make_demo_video.py --output "$VIDEO"
else
  NAME="$("$PYTHON" scripts/find_identity.py --dataset_name "$DATASET" --video "$VIDEO")"
fi

step "Face detection"
"$PYTHON" preprocessing/detect.py --dataset_name "$DATASET" --original_videos_path "$VIDEO" --name "$NAME" --split train \
  --max_seconds "${CUT:-0}"
step "Landmarks"
"$PYTHON" preprocessing/detect_landmarks70.py --dataset_name "$DATASET" --name "$NAME"
step "3D reconstruction"
"$PYTHON" preprocessing/reconstruct.py --dataset_name "$DATASET" --name "$NAME"

step "Training ($PRESET)"
if [ -z "$MINUTES" ] && [ "$GPU" = 0 ]; then
  # What is left of 15 minutes, less the test and the video (about 2); at least 4, or there is nothing worth looking at.
  MINUTES=$(((13 * 60 - ($(date +%s) - START)) / 60))
  [ "$MINUTES" -ge 4 ] || MINUTES=4
fi
bash scripts/train/train_on_target.sh "$NAME" "$DATASET" --preset "$PRESET" ${MINUTES:+--max_minutes "$MINUTES"}

step "Self-reenactment of the frames kept back"
bash scripts/test/test_self_reenactment_on_target.sh "$NAME" "$DATASET"

RESULT="results/$DATASET/head2head_$NAME/latest_epoch/test/$NAME"
step "Done"
echo "video:  $ROOT/$RESULT/all.mp4"
echo "report: $ROOT/$RESULT/index.html"
