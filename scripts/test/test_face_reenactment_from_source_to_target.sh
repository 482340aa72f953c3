#!/usr/bin/env bash
# Face reenactment: a trained person takes somebody's expression and gaze, and keeps the pose of the own video.
set -euo pipefail

usage() {
  cat <<'TEXT'
usage: bash scripts/test/test_face_reenactment_from_source_to_target.sh SOURCE TARGET DATASET [options]

As scripts/test/test_reenactment_from_source_to_target.sh with --keep_target_pose: TARGET's head moves as in TARGET's own
video, only expression and gaze are SOURCE's. See the --help of that script for the options.
TEXT
}

source "$(dirname "${BASH_SOURCE[0]}")/../wrapper.sh"
[ $# -ge 3 ] && [[ "$1" != --* ]] || { usage >&2; exit 2; }
exec bash "$ROOT/scripts/test/test_reenactment_from_source_to_target.sh" "$@" --keep_target_pose
