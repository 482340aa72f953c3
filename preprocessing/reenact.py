"""Step 4: conditioning images for a head that is driven by somebody else, or by a file of motion.

    python preprocessing/reenact.py --dataset_name mine --source_id bob --target_id ann                     pose, expression, gaze of bob
    python preprocessing/reenact.py --dataset_name mine --source_id bob --target_id ann --keep_target_pose  the pose stays ann's
    python preprocessing/reenact.py --dataset_name mine --drive take7.csv --target_id ann                   ARKit blendshapes of a phone
    python preprocessing/reenact.py --dataset_name mine --source_id bob --save_template bob.json            bob's motion without his images

Both must have been preprocessed in the same dataset with the same face model; a target without frames there is driven by the profile that
training wrote beside its checkpoint. Writes test/source_nmfcs, source_landmarks70 and (for an identity) source_images of the pair
<target>_<source>, and its pair.json; `test.py --target_id ann --source_id bob` goes on from there. The pair of a file is called
<target>_<file's name without ending>.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in reconstruct.py

import numpy as np

from options.dataset_options import add_dataset_options, open_dataset
from preprocessing.driving.conditioner import draw_frames
from preprocessing.driving.coverage import MIN_BEYOND_SHARE, OPENS_MOUTH, expressions_beyond
from preprocessing.driving.edits import Edit, check_edits, edit_cameras, parse_edits
from preprocessing.driving.heads import Driven
from preprocessing.driving.limits import FREE_DEG, MOST_DEG
from preprocessing.driving.motion import ANGLES, Motion, head_rotation, to_angles
from preprocessing.driving.motion_files import read_arkit, read_template, save_template, template_origin
from preprocessing.driving.openings import openings
from preprocessing.driving.people import (
    Frames,
    common_face_model,
    find_frames,
    identity_motion,
    load_profile,
    read_profile,
    unrecorded_face_model,
)
from preprocessing.driving.profile import TargetProfile
from preprocessing.driving.retarget import drive, target_frames, wanted_expression
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.face_models.registry import FACE_MODELS, load_face_model
from util.cli import UserError, add_flag, run, say, warn, writing
from util.geometry import FRONTAL, Cameras
from util.hashing import sha256_of
from util.identities import find_identity
from util.image_io import write_image
from util.layout import SPLITS, Dataset, Pair, Run, write_table
from util.locks import locked
from util.provenance import NOT_STATED

VERSION = 2  # of the pairs; those of another version are made again
FILE_VERSION = 2  # of what is read from files that drive; likewise
TABLES = (".csv", ".tsv", ".tab", ".txt")  # files of ARKit blendshapes; others are templates
KINDS = ("source_images", "source_nmfcs", "source_landmarks70")
TEMPLATE_FPS = Fraction(30)  # frame rate of a template made from a CSV without a target


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_dataset_options(p, name_help=None)
    driver = p.add_mutually_exclusive_group(required=True)
    driver.add_argument("--source_id", "--source_name", metavar="S", help="the identity that drives")
    driver.add_argument(
        "--drive",
        type=Path,
        metavar="FILE",
        help="drive by a .csv of ARKit blendshapes (without head rotation: see --keep_target_pose), or by a template (.json)",
    )
    p.add_argument("--target_id", "--target_name", metavar="T", help="the identity that is driven")
    p.add_argument(
        "--target_run",
        type=Path,
        metavar="DIR",
        help="drive the target by the profile in this trained run's folder (default: by its frames in the dataset; if there are none, by "
        "the profile in <checkpoints_dir>/<dataset_name>/head2head_<T>)",
    )
    p.add_argument("--checkpoints_dir", type=Path, metavar="DIR", help="folder of all runs (default: checkpoints/ of this repository)")
    p.add_argument("--keep_target_pose", action="store_true", help="face reenactment: the head moves as the target's own frames do")
    p.add_argument("--no_scale_or_translation_adaptation", action="store_true", help="keep the source's head size and position")
    p.add_argument("--no_translation_adaptation", action="store_true", help="keep the source's head position; use the target's size")
    p.add_argument("--no_eye_gaze", action="store_true", help="write no eye landmarks, for networks trained with --no_eye_gaze")
    p.add_argument("--split_s", choices=SPLITS, default="test", help="frames of the source that drive (default: test)")
    p.add_argument("--split_t", choices=SPLITS, default="train", help="frames of the target to adapt to (default: train)")
    p.add_argument("--exaggerate", type=float, default=1.0, metavar="X", help="scale the expressions (default: 1.0)")
    p.add_argument(
        "--edit",
        default="",
        metavar="LIST",
        help="for instance jawOpen=+0.2,mouthSmile_L=0.3,yaw=10: a sign adds, a bare number sets; degrees",
    )
    p.add_argument("--save_template", type=Path, metavar="FILE", help="write the motion to a template (.json) for --drive; no images in it")
    add_flag(p, "smoothing", True, "remove tracking jitter and repeated frames from the source's motion")
    add_flag(p, "limit_expressions", True, "limit expressions softly to the range of the target's frames; mouth and lids stay free")
    add_flag(p, "limit_mouth", False, "open the mouth hardly further than in the target's frames")
    add_flag(p, "limit_pose", True, "ease turns, size and place of the head that go far beyond the target's frames")
    p.add_argument(
        "--face_model", choices=("auto", *FACE_MODELS), default="auto", help="check that both were fitted with it (default: any)"
    )
    p.add_argument("--renderer", choices=("auto", "vulkan", "cpu"), default="auto", help="renderer of the NMFC images (default: auto)")
    o = p.parse_args(argv)
    if o.target_id is None and o.save_template is None:
        raise UserError("nothing to do: give --target_id, the identity to drive, or --save_template")
    if not 0 <= o.exaggerate <= 10:
        raise UserError(f"--exaggerate {o.exaggerate}: give a value from 0 to 10")
    return o


def main(argv: Sequence[str] | None = None) -> int:
    o = parse(argv)
    dataset = open_dataset(o)
    if not (o.target_run and o.target_id and Run(o.target_run, o.target_run).profile_path(o.target_id).is_file()):
        o.target_id = find_identity(dataset, o.target_id, o.checkpoints_dir)
    o.source_id = find_identity(dataset, o.source_id)
    edits = parse_edits(o.edit)
    if is_originals_pair(dataset, o):
        why = "the coefficients are of no face model here, so the conditioning images that are there are kept"
        warn(f"{o.target_id}_{o.source_id}: {why}; whether they are of head or of face reenactment is not recorded")
        return 0
    target = find_target(dataset, o) if o.target_id else None
    source = find_frames(dataset, o.source_id, o.split_s, "--split_s") if o.source_id else None
    if o.drive is not None and not o.drive.is_file():
        raise UserError(f"there is no file {o.drive}; check --drive")
    kind = choose_model(dataset, source, target, o.face_model)
    key = pair_key(o, kind, source, target)
    name = source.name if source else o.drive.stem
    if target and o.save_template is None and is_complete(dataset, target.name, name, key):
        say(f"{target.name}_{name}: already complete")
        return 0

    model = target.load_model() if isinstance(target, TargetProfile) else load_face_model(kind)
    check_edits(edits, model.expression_names)
    profile = read_profile(dataset, target, model) if isinstance(target, Frames) else target
    if source:
        motion = identity_motion(dataset, source, model, o.smoothing)
    else:
        motion = file_motion(o.drive, model.expression_names, profile.fps if profile else TEMPLATE_FPS)
        if not o.keep_target_pose and np.allclose(motion.rotation, np.eye(3), atol=1e-6):
            ahead = "the head looks straight ahead all the time; --keep_target_pose takes the target's own"
            warn(f"no head rotation in {o.drive.name}: {ahead}")
    if o.save_template is not None:
        person = (source.name, dataset.consent(source.name) or NOT_STATED) if source else ("", "")
        save_template(o.save_template, motion, model.expression_names, f"{model.name} {model.version}", *person)
        say(f"template: {o.save_template} ({len(motion)} frames)")
    if profile is None:
        return 0

    place = target_frames(len(motion), motion.fps, len(profile.cameras), profile.fps)
    driven = drive_target(o, model, profile, motion, place if o.keep_target_pose else None, edits)
    if not o.keep_target_pose:
        warn_of_turns(o, profile, motion, edits)
    warn_of_expressions(o, model, profile, motion)

    numbers = frame_numbers(source, len(motion))
    driver = {"kind": "identity", "split": source.split} if source else file_facts(o.drive, key["file"]["sha256"])
    pair = Pair(
        profile.name,
        name,
        "face" if o.keep_target_pose else "head",
        motion.fps,
        [numbers[0], numbers[-1]],
        driver,
        profile.split,
        profile.numbers[place].tolist(),
        key,
    )
    with locked(dataset.lock_path(f"{pair.target}_{name}"), f"the pair {pair.target}_{name}"):
        dataset.write_pair(pair)  # marks the pair as incomplete while its files are replaced
        write_frames(dataset, model, profile, driven, pair, source, numbers, o)
        dataset.write_pair(replace(pair, complete=True))
    say(f"{pair.target}_{name}: {len(numbers)} frames ({pair.mode} reenactment)")
    return 0


# ---- inputs ----


def find_target(dataset: Dataset, o: argparse.Namespace) -> Frames | TargetProfile:
    """The target's frames in the dataset; where there are none, or with --target_run, its stored profile. Raises: UserError."""
    known = o.target_id in dataset.identities()
    files = Run(o.target_run, o.target_run) if o.target_run else Run.open(o.dataset_name, f"head2head_{o.target_id}", o.checkpoints_dir)
    path = files.profile_path(o.target_id)
    if o.target_run or (not known and path.is_file()):
        return load_profile(path)
    try:
        return find_frames(dataset, o.target_id, o.split_t, "--split_t")
    except UserError as e:
        if known:
            raise
        raise UserError(f"{e}; or give the folder of a run that was trained on '{o.target_id}' with --target_run") from None


def choose_model(dataset: Dataset, source: Frames | None, target: Frames | TargetProfile | None, asked: str) -> str:
    """The face model of all who take part. Raises: UserError when they differ, or from the one that was asked for."""
    people = [f for f in (source, target) if isinstance(f, Frames)]
    if not isinstance(target, TargetProfile):
        return common_face_model(dataset, people, asked)
    if asked not in ("auto", target.face_model):
        raise UserError(f"'{target.name}' was trained with the face model {target.face_model}, not {asked}; leave out --face_model")
    return common_face_model(dataset, people, target.face_model)


def file_motion(path: Path, names: Sequence[str], fps: Fraction) -> Motion:
    """The motion of a CSV (at `fps`) or a template (at its own rate), for a model with the expression shapes `names`."""
    return read_arkit(path, names, fps) if is_table(path) else read_template(path, names)


def is_table(path: Path) -> bool:
    return path.suffix.lower() in TABLES


def frame_numbers(source: Frames | None, count: int) -> list[int]:
    """Numbers of the pair's frames: the source's own; from 0 for a file, and where the source lacks frames between two videos."""
    numbers = source.numbers if source else list(range(count))
    return numbers if numbers[-1] - numbers[0] + 1 == len(numbers) else list(range(len(numbers)))


# ---- the pair's record ----


def pair_key(o: argparse.Namespace, kind: str, source: Frames | None, target: Frames | TargetProfile | None) -> dict[str, Any]:
    """Everything that a pair is made from: with the same key and complete files it need not be made again."""
    options = ("keep_target_pose", "no_scale_or_translation_adaptation", "no_translation_adaptation", "no_eye_gaze", "split_s", "split_t")
    options += ("exaggerate", "edit", "smoothing", "limit_expressions", "limit_mouth", "limit_pose")
    people = {f.name: made_from(f) for f in (source, target) if f}
    file = {"version": FILE_VERSION, "sha256": sha256_of(o.drive)} if o.drive else None
    return {"version": VERSION, "face_model": kind, "file": file, "people": people, **{name: getattr(o, name) for name in options}}


def made_from(person: Frames | TargetProfile) -> dict[str, Any] | None:
    """Identifies the version of a person's data; None for frames without a record."""
    if isinstance(person, TargetProfile):
        return {"profile": hashlib.sha256(person.to_bytes()).hexdigest()}
    return person.record.steps.get("reconstruct") if person.record else None


def file_facts(path: Path, digest: str) -> dict[str, str]:
    """The entry of a driving file in a pair's record."""
    origin = {} if is_table(path) else template_origin(path)
    return {"kind": "arkit" if is_table(path) else "template", "file": str(path.resolve()), "sha256": digest, **origin}


def is_complete(dataset: Dataset, target: str, source: str, key: dict[str, Any]) -> bool:
    pair = dataset.read_pair(target, source)
    if pair is None or not pair.complete or pair.made_from != key:
        return False
    # without records a change of the data cannot be noticed
    if None in key["people"].values():
        return False
    whole = list(range(pair.frames[0], pair.frames[1] + 1))
    kinds = [k for k in KINDS if not (k == "source_images" and key["file"]) and not (k == "source_landmarks70" and key["no_eye_gaze"])]
    return all(dataset.pair(target, source).frames(k) == whole for k in kinds)


def is_originals_pair(dataset: Dataset, o: argparse.Namespace) -> bool:
    """Whether the original system made this pair, of people whose coefficients are of no face model here: it can only be kept.

    Options that the original does not have ask for another pair.
    """
    if not (o.source_id and o.target_id) or o.target_run or o.edit or o.exaggerate != 1 or o.save_template or o.face_model != "auto":
        return False
    if dataset.read_pair(o.target_id, o.source_id) or not dataset.pair(o.target_id, o.source_id).frames("source_nmfcs"):
        return False
    people = ((o.source_id, o.split_s), (o.target_id, o.split_t))
    return all(dataset.read_record(name) is None and unrecorded_face_model(dataset, name, split) is None for name, split in people)


# ---- the frames ----


def drive_target(
    o: argparse.Namespace, model: MorphableModel, target: TargetProfile, motion: Motion, poses: np.ndarray | None, edits: Sequence[Edit]
) -> Driven:
    """`drive` with the command's options. Raises: UserError when a driving file has no head size or position."""
    try:
        return drive(
            model,
            target,
            motion,
            poses,
            scale=not o.no_scale_or_translation_adaptation,
            translation=not (o.no_translation_adaptation or o.no_scale_or_translation_adaptation),
            exaggerate=o.exaggerate,
            limit=o.limit_expressions,
            limit_mouth=o.limit_mouth,
            limit_pose=o.limit_pose,
            edits=edits,
        )
    except ValueError as e:
        raise UserError(f"{o.drive}: {e}; leave out --no_translation_adaptation and --no_scale_or_translation_adaptation") from None


def warn_of_turns(o: argparse.Namespace, target: TargetProfile, motion: Motion, edits: Sequence[Edit]) -> None:
    """Warn when the driver's head often turns further than in the target's frames: the network has not seen those views."""
    turns = []
    asked = edit_cameras(edits, Cameras(motion.zoom, FRONTAL @ motion.rotation, np.zeros((len(motion), 3))))
    for axis, (least, largest), new in zip(ANGLES, target.turns_deg, to_angles(head_rotation(asked))):
        beyond = (new < least - FREE_DEG) | (new > largest + FREE_DEG)
        if beyond.mean() > MIN_BEYOND_SHARE:
            turns.append(f"{axis} {new.min():.0f} to {new.max():.0f} degrees where {least:.0f} to {largest:.0f} are known")
    if turns:
        what = f"it is eased, to at most {MOST_DEG:.0f} degrees more (--no_limit_pose: not)" if o.limit_pose else "expect faults there"
        remedy = f"film {target.name} turning further, or use --keep_target_pose"
        warn(f"the head turns further than {target.name}'s own frames show: {'; '.join(turns)}; {what}; {remedy}")


def warn_of_expressions(o: argparse.Namespace, model: MorphableModel, target: TargetProfile, motion: Motion) -> None:
    """Warn, in one sentence, when the driver's face often does more than the target's ever does."""
    wanted = wanted_expression(model, openings(model, target.identity), target, motion, o.exaggerate)
    beyond = expressions_beyond(wanted, target.expression_range, model.expression_names)
    if not beyond:
        return
    does = " and ".join(filter(None, (", ".join(beyond[:-1]), beyond[-1])))
    hold = ", or hold the mouth with --limit_mouth" if beyond[0] == OPENS_MOUTH and not o.limit_mouth else ""
    remedy = f"should faults show there, film {target.name} doing so (README.md, How to film){hold}"
    warn(f"the driver {does} than {target.name} ever does in the training frames; {remedy}")


def write_frames(
    dataset: Dataset,
    model: MorphableModel,
    target: TargetProfile,
    driven: Driven,
    pair: Pair,
    source: Frames | None,
    numbers: Sequence[int],
    o: argparse.Namespace,
) -> None:
    """Write the pair's images and landmarks; those of an earlier run are removed first."""
    sequence = dataset.pair(pair.target, pair.source)
    for kind in KINDS:
        shutil.rmtree(sequence.folder(kind), ignore_errors=True)

    def write(i: int, nmfc: np.ndarray) -> None:
        write_image(sequence.path("source_nmfcs", numbers[i]), nmfc)
        if not o.no_eye_gaze:
            write_table(sequence.path("source_landmarks70", numbers[i]), driven.landmarks[i], precision=3)
        if source:
            own, number = source.frames[i]
            link(own.path("images", number), sequence.path("source_images", numbers[i]))

    size, desc = (target.size, target.size), f"{sequence.id}: NMFC images"
    draw_frames(model, target.identity, driven.expression, driven.cameras, size, write, renderer=o.renderer, desc=desc)


def link(original: Path, copy: Path) -> None:
    """Hard link to a file, or a copy where the file system has none. Frames are never changed in place."""
    with writing(copy):
        copy.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(original, copy)
        except OSError:
            shutil.copyfile(original, copy)


if __name__ == "__main__":
    run(main)
