"""Step 4: conditioning images for a head that is driven by somebody else, or by a file of motion.

    python preprocessing/reenact.py --dataset_name mine --source_id bob --target_id ann                     pose, expression, gaze of bob
    python preprocessing/reenact.py --dataset_name mine --source_id bob --target_id ann --keep_target_pose  the pose stays ann's
    python preprocessing/reenact.py --dataset_name mine --drive take7.csv --target_id ann                   ARKit blendshapes of a phone
    python preprocessing/reenact.py --dataset_name mine --source_id bob --save_template bob.json            bob's motion without his images

Both must have been preprocessed in the same dataset with the same face model. Writes test/source_nmfcs, source_landmarks70 and
(for an identity) source_images of the pair <target>_<source>, and its pair.json; `test.py --target_id ann --source_id bob` goes on
from there. The pair of a file is called <target>_<file's name without ending>.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in reconstruct.py

import numpy as np

from preprocessing.driving.motion import (
    Edit,
    Motion,
    check_edits,
    head_rotation,
    parse_edits,
    read_arkit,
    read_template,
    save_template,
    to_angles,
)
from preprocessing.driving.retarget import Driven, Person, drive, even_out, read_motion, repeated_frames, steady_motion, target_frames
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.face_models.registry import FACE_MODELS, load_face_model, model_version, resolve_kind
from preprocessing.reconstruct import continues
from preprocessing.render import create_renderer
from util.ahead import map_ahead
from util.cli import UserError, add_flag, progress, run, say, warn
from util.geometry import Cameras
from util.image_io import read_image, write_image
from util.layout import SPLITS, Dataset, Pair, Record, read_camera, read_table, write_table
from util.layout import Sequence as FrameSequence

VERSION = 1  # of the pairs: another one makes them again
KINDS = ("source_images", "source_nmfcs", "source_landmarks70")
ORIGINAL_FPS = Fraction(25)  # of a dataset of the original system, which does not record it
TEMPLATE_FPS = Fraction(30)  # of a CSV that becomes a template, with no target to set the rate
TURN_MARGIN_DEG = 8.0  # how far beyond the turns it was trained on a network is trusted


@dataclass(frozen=True)
class Frames:
    """The frames of an identity that take part."""

    name: str
    split: str
    frames: list[tuple[FrameSequence, int]]
    record: Record | None

    @property
    def numbers(self) -> list[int]:
        return [number for _, number in self.frames]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--dataset_name", required=True, help="name of the dataset")
    p.add_argument("--datasets_dir", type=Path, help="folder of all datasets (default: datasets/ of this repository)")
    driver = p.add_mutually_exclusive_group(required=True)
    driver.add_argument("--source_id", "--source_name", metavar="S", help="the identity that drives")
    driver.add_argument(
        "--drive", type=Path, metavar="FILE", help="drive by a .csv of ARKit blendshapes with head rotation, or by a template (.json)"
    )
    p.add_argument("--target_id", "--target_name", metavar="T", help="the identity that is driven")
    p.add_argument("--keep_target_pose", action="store_true", help="face reenactment: the head moves as the target's own frames do")
    p.add_argument("--no_scale_or_translation_adaptation", action="store_true", help="the head is as large and where the source's is")
    p.add_argument("--no_translation_adaptation", action="store_true", help="the head is where the source's is, in the target's size")
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
    add_flag(p, "smoothing", True, "take tracking jitter and repeated frames out of the source's motion")
    add_flag(p, "limit_expressions", True, "keep expressions softly to what the target's frames show")
    p.add_argument(
        "--face_model", choices=("auto", *FACE_MODELS), default="auto", help="check that both were fitted with it (default: any)"
    )
    p.add_argument("--renderer", choices=("auto", "vulkan", "cpu"), default="auto", help="what draws the NMFC images (default: auto)")
    o = p.parse_args(argv)
    if o.target_id is None and o.save_template is None:
        raise UserError("nothing to do: give --target_id, the identity to drive, or --save_template")
    if not 0 <= o.exaggerate <= 10:
        raise UserError(f"--exaggerate {o.exaggerate}: give a value from 0 to 10")
    return o


def main(argv: Sequence[str] | None = None) -> int:
    o = parse(argv)
    dataset = Dataset.open(o.dataset_name, o.datasets_dir)
    edits = parse_edits(o.edit)
    target = find_frames(dataset, o.target_id, o.split_t, "--split_t") if o.target_id else None
    source = find_frames(dataset, o.source_id, o.split_s, "--split_s") if o.source_id else None
    if o.drive is not None and not o.drive.is_file():
        raise UserError(f"there is no file {o.drive}; check --drive")
    kind = common_face_model(dataset, [f for f in (source, target) if f], o.face_model)
    key = pair_key(o, kind, source, target)
    name = source.name if source else o.drive.stem
    if target and o.save_template is None and is_complete(dataset, target.name, name, key):
        say(f"{target.name}_{name}: already complete")
        return 0

    model = load_face_model(kind)
    check_edits(edits, model.expression_names)
    motion = identity_motion(dataset, source, model, o.smoothing) if source else file_motion(o.drive, model, target)
    if o.save_template is not None:
        save_template(o.save_template, motion, model.expression_names, f"{model.name} {model.version}")
        say(f"template: {o.save_template} ({len(motion)} frames)")
    if target:
        make_pair(o, dataset, model, motion, source, target, edits, key)
    return 0


# ---- what is there ----


def find_frames(dataset: Dataset, name: str, split: str, option: str) -> Frames:
    """The frames of an identity in a split, once its preprocessing is complete. Raises: UserError."""
    known = dataset.identities()
    command = f"--dataset_name {dataset.home.name}"
    if name not in known:
        raise UserError(
            f"there is no identity '{name}' in {dataset.folder}; it holds: {', '.join(known)}"
            if known
            else f"there are no frames in {dataset.folder}; run preprocessing/detect.py {command} first"
        )
    record = dataset.read_record(name)
    frames = [(s, f) for s in dataset.sequences(split, name) for f in s.frames()]
    if not frames:
        other = next(s for s in SPLITS if s != split)
        raise UserError(f"'{name}' has no frames in {split}; use {option} {other}")
    if record and "landmarks70" not in record.steps:
        raise UserError(f"the landmarks of '{name}' are not complete; run preprocessing/detect_landmarks70.py {command}")
    lacking = [k for k in ("landmarks70", "misc", "exp_coeffs") if any(s.frames(k) != s.frames() for s in dict(frames))]
    if (record and "reconstruct" not in record.steps) or lacking or not dataset.id_coeffs_path(split, name).is_file():
        step = "detect_landmarks70" if "landmarks70" in lacking else "reconstruct"
        raise UserError(f"'{name}' is not reconstructed completely; run preprocessing/{step}.py {command}")
    return Frames(name, split, frames, record)


def common_face_model(dataset: Dataset, people: Sequence[Frames], asked: str) -> str:
    """The face model that all were fitted with. Raises: UserError when they differ, or from the one that was asked for."""
    remedy = f"run preprocessing/reconstruct.py --dataset_name {dataset.home.name} --face_model"
    kinds: dict[str, str] = {}
    for f in people:
        if f.record and f.record.face_model:
            model = f.record.face_model
            kinds[f.name] = model["name"]
            kind = resolve_kind(model["name"])
            if model["version"] != model_version(kind):
                raise UserError(
                    f"'{f.name}' was fitted with version {model['version']} of {kind}, now it is {model_version(kind)}; {remedy} {kind}"
                )
    if len(set(kinds.values())) > 1:
        (a, kind_a), (b, kind_b) = kinds.items()
        raise UserError(f"'{a}' was fitted with the face model {kind_a} and '{b}' with {kind_b}; {remedy} {kind_b}, without --name")
    kind = next(iter(kinds.values()), None)
    if kind and asked not in ("auto", kind):
        raise UserError(f"{' and '.join(kinds)} were fitted with the face model {kind}, not {asked}; {remedy} {asked}, or leave it out")
    return kind or resolve_kind(asked)


def read_person(dataset: Dataset, f: Frames, model: MorphableModel) -> Person:
    """Everything of an identity's frames but the images. Raises: UserError when files are damaged or of another face model."""
    cameras = [read_camera(s.path("misc", n)) for s, n in f.frames]
    identity = read_table(dataset.id_coeffs_path(f.split, f.name))[:, 0]
    tables = [read_table(s.path("exp_coeffs", n))[:, 0] for s, n in f.frames]
    sizes = {len(t) for t in tables}
    if len(identity) != len(model.identity_basis) or sizes != {len(model.expression_names)}:
        raise UserError(
            f"the coefficients of '{f.name}' ({len(identity)} identity, {min(sizes)} expression) are not of the face model {model.name}; "
            f"run preprocessing/reconstruct.py --dataset_name {dataset.home.name} --face_model {model.name}"
        )
    landmarks = [read_table(s.path("landmarks70", n)) for s, n in f.frames]
    if {t.shape for t in landmarks} != {(70, 2)}:
        raise UserError(f"the landmarks of '{f.name}' are not 70 points a frame; run preprocessing/detect_landmarks70.py again")
    sequence, number = f.frames[0]
    return Person(
        identity,
        np.stack(tables),
        Cameras(*(np.array([c[i] for c in cameras]) for i in range(3))),
        np.stack(landmarks),
        read_image(sequence.path("images", number)).shape[0],
        f.record.fps if f.record else ORIGINAL_FPS,
        continues(f.frames, f.record),
    )


# ---- motion ----


def identity_motion(dataset: Dataset, source: Frames, model: MorphableModel, smoothing: bool) -> Motion:
    """The source's motion, without jitter and repeated frames if wanted."""
    person = read_person(dataset, source, model)
    motion = read_motion(model, person)
    if not smoothing:
        return motion
    repeated = repeated_frames(picture_changes(source), float(person.fps))
    if repeated.any():
        say(f"{source.name}: {repeated.sum()} of {len(repeated)} frames repeat the one before; the motion is spread evenly over them")
        motion = even_out(motion, repeated, person.joined)
    return steady_motion(motion, person.joined, model.expression_bounds)


def picture_changes(source: Frames) -> np.ndarray:
    """Mean absolute difference of every frame's picture to the one before (the first: 0), [N]."""
    changes, last = np.zeros(len(source.frames)), None
    with ThreadPoolExecutor(2) as pool:
        for i, image in enumerate(pool.map(lambda at: read_image(at[0].path("images", at[1])).astype(np.int16), source.frames)):
            changes[i] = np.abs(image - last).mean() if last is not None and last.shape == image.shape else 0
            last = image
    return changes


def file_motion(path: Path, model: MorphableModel, target: Frames | None) -> Motion:
    """The motion of a CSV (at the target's frame rate, or TEMPLATE_FPS without one) or a template (at its own)."""
    names = model.expression_names
    if path.suffix.lower() == ".csv":
        rate = TEMPLATE_FPS if target is None else target.record.fps if target.record else ORIGINAL_FPS
        return read_arkit(path, names, rate)
    return read_template(path, names)


# ---- the pair ----


def pair_key(o: argparse.Namespace, kind: str, source: Frames | None, target: Frames | None) -> dict[str, Any]:
    """What a pair is made from: the same key and whole files need no new run."""
    options = ("keep_target_pose", "no_scale_or_translation_adaptation", "no_translation_adaptation", "no_eye_gaze", "split_s", "split_t")
    options += ("exaggerate", "edit", "smoothing", "limit_expressions")
    people = {f.name: f.record.steps.get("reconstruct") if f.record else None for f in (source, target) if f}
    file = {"sha256": sha256(o.drive)} if o.drive else None
    return {"version": VERSION, "face_model": kind, "file": file, "people": people, **{name: getattr(o, name) for name in options}}


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def is_complete(dataset: Dataset, target: str, source: str, key: dict[str, Any]) -> bool:
    pair = dataset.read_pair(target, source)
    if pair is None or not pair.complete or pair.made_from != key:
        return False
    # without records nothing says whether the people are still the same
    if None in key["people"].values():
        return False
    whole = list(range(pair.frames[0], pair.frames[1] + 1))
    kinds = [k for k in KINDS if not (k == "source_images" and key["file"]) and not (k == "source_landmarks70" and key["no_eye_gaze"])]
    return all(dataset.pair(target, source).frames(k) == whole for k in kinds)


def make_pair(
    o: argparse.Namespace,
    dataset: Dataset,
    model: MorphableModel,
    motion: Motion,
    source: Frames | None,
    target: Frames,
    edits: Sequence[Edit],
    key: dict[str, Any],
) -> None:
    person = read_person(dataset, target, model)
    place = target_frames(len(motion), motion.fps, len(target.frames), person.fps)
    try:
        driven = drive(
            model,
            person,
            motion,
            place if o.keep_target_pose else None,
            scale=not o.no_scale_or_translation_adaptation,
            translation=not (o.no_translation_adaptation or o.no_scale_or_translation_adaptation),
            exaggerate=o.exaggerate,
            limit=o.limit_expressions,
            edits=edits,
        )
    except ValueError as e:
        raise UserError(f"{o.drive}: {e}; leave out --no_translation_adaptation and --no_scale_or_translation_adaptation") from None
    if not o.keep_target_pose:
        warn_of_turns(target.name, person, driven)
    name = source.name if source else o.drive.stem
    numbers = source.numbers if source else list(range(len(motion)))
    if numbers[-1] - numbers[0] + 1 != len(numbers):  # part of the train frames were left out between two videos
        numbers = list(range(len(numbers)))
    pair = Pair(
        target.name,
        name,
        "face" if o.keep_target_pose else "head",
        motion.fps,
        [numbers[0], numbers[-1]],
        {"kind": "identity", "split": source.split}
        if source
        else {
            "kind": "arkit" if o.drive.suffix.lower() == ".csv" else "template",
            "file": str(o.drive.resolve()),
            "sha256": key["file"]["sha256"],
        },
        target.split,
        [target.numbers[i] for i in place],
        key,
    )
    dataset.write_pair(pair)  # from here on the old files are replaced: nothing may take them for complete
    write_frames(dataset, model, person, driven, pair, source, numbers, o)
    dataset.write_pair(replace(pair, complete=True))
    say(f"{target.name}_{name}: {len(numbers)} frames ({pair.mode} reenactment)")


def warn_of_turns(name: str, target: Person, driven: Driven) -> None:
    """Say so when the driven head often turns further than the target's frames show: networks know nothing of those views."""
    turns = []
    for axis, own, new in zip(("yaw", "pitch", "roll"), *(to_angles(head_rotation(c)) for c in (target.cameras, driven.cameras))):
        low, high = own.min() - TURN_MARGIN_DEG, own.max() + TURN_MARGIN_DEG
        share = ((new < low) | (new > high)).mean()
        if share > 0.02:
            turns.append(f"{axis} {new.min():.0f} to {new.max():.0f} degrees where {own.min():.0f} to {own.max():.0f} are known")
    if turns:
        warn(f"the head turns further than {name}'s own frames show: {'; '.join(turns)}; expect faults there, or use --keep_target_pose")


def write_frames(
    dataset: Dataset,
    model: MorphableModel,
    person: Person,
    driven: Driven,
    pair: Pair,
    source: Frames | None,
    numbers: Sequence[int],
    o: argparse.Namespace,
) -> None:
    """Write the pair's images and landmarks; what an earlier run left is removed first."""
    sequence = dataset.pair(pair.target, pair.source)
    for kind in KINDS:
        shutil.rmtree(sequence.folder(kind), ignore_errors=True)
    drawer = create_renderer(o.renderer, model.triangles, model.nmfc_colours(), (person.size, person.size))

    def write(drawn: tuple[int, np.ndarray]) -> None:
        i, picture = drawn
        write_image(sequence.path("source_nmfcs", numbers[i]), picture)
        if not o.no_eye_gaze:
            write_table(sequence.path("source_landmarks70", numbers[i]), driven.landmarks[i], precision=3)
        if source:
            own, number = source.frames[i]
            link(own.path("images", number), sequence.path("source_images", numbers[i]))

    pictures = enumerate(drawer.draw_many(model.in_images(person.identity, driven.expression, driven.cameras)))
    for _ in progress(map_ahead(write, pictures, depth=16), desc=f"{sequence.id}: NMFC images", total=len(numbers)):
        pass


def link(original: Path, copy: Path) -> None:
    """The same file under a second name, or a copy where the disk knows no such thing. Frames are never changed in place."""
    copy.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(original, copy)
    except OSError:
        shutil.copyfile(original, copy)


if __name__ == "__main__":
    run(main)
