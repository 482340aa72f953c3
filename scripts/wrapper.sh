#!/usr/bin/env bash
# What the wrappers around train.py and test.py share. Sourced, not run.
#
# usage: source wrapper.sh     after `usage` is defined, which it calls if one of the script's arguments asks for help;
#                              gives ROOT, PYTHON, TRAIN, need_target_and_dataset, value_of and make_video
set -euo pipefail
unset CDPATH # with it, cd prints where it goes
for argument in "$@"; do # a sourced file sees the arguments of the script
  case "$argument" in -h | --help) usage; exit 0 ;; esac
done
ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
PYTHON="$ROOT/.venv/bin/python"
[ -x "$PYTHON" ] || PYTHON="$(command -v python3)" || { echo "error: there is no Python; run: bash scripts/setup_env.sh" >&2; exit 1; }

need_target_and_dataset() { # TARGET and DATASET from the first two arguments; a person may be named as the video is called
  if [ $# -lt 2 ] || [[ "$1" == --* || "$2" == -* ]]; then
    usage >&2
    exit 2
  fi
  DATASET="$2"
  TARGET="$(identity_of "$1" "${@:3}")"
}

identity_of() { # the identity that NAME means in DATASET, by the options of a command: NAME OPTION...
  local name="$1" place=()
  shift
  while [ $# -gt 0 ]; do
    case "$1" in
      --datasets_dir=* | --checkpoints_dir=*) place+=("$1") ;;
      --datasets_dir | --checkpoints_dir) place+=("$1=${2:-}") ;;
    esac
    shift
  done
  "$PYTHON" "$ROOT/scripts/find_identity.py" --dataset_name "$DATASET" ${place[@]+"${place[@]}"} -- "$name"
}

TRAIN=("$PYTHON" "$ROOT/train.py") # as it is to be started
if [ "${GPUS:-1}" != 1 ]; then
  [[ "$GPUS" =~ ^[1-9][0-9]*$ ]] || { echo "error: GPUS=$GPUS is no number of GPUs; use GPUS=2, for instance" >&2; exit 2; }
  "$PYTHON" -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("torch"))' || exec "$PYTHON" "$ROOT/train.py" # says what to do
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-4}" # of each process
  TRAIN=("$PYTHON" -m torch.distributed.run --standalone --nproc_per_node "$GPUS" "$ROOT/train.py")
fi

value_of() { # the last value that a command's options give one of them: --NAME DEFAULT OPTION...
  local name="$1" value="$2"
  shift 2
  while [ $# -gt 0 ]; do
    case "$1" in "$name="*) value="${1#*=}" ;; "$name") value="${2:-}" ;; esac
    shift
  done
  printf '%s\n' "$value"
}

make_video() { # the video beside the frames that test.py wrote: TARGET or PAIR, then the options that test.py got
  local folder="$1" name epoch results option file seal=()
  shift
  name="$(value_of --name "head2head_$TARGET" "$@")"
  epoch="$(value_of --which_epoch latest "$@")"
  results="$(value_of --results_dir "$ROOT/results" "$@")"
  for option in --certificate --key; do
    file="$(value_of "$option" "" "$@")"
    [ -z "$file" ] || seal+=("$option=$file")
  done
  results+="/$DATASET/$name/${epoch}_epoch/test/$folder"
  "$PYTHON" "$ROOT/scripts/images_to_video.py" --output_mode all --results_dir "$results" ${seal[@]+"${seal[@]}"}
}
