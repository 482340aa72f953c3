"""Measure reenactment before any network: how well the motion is reproduced, its jitter, and the steadiness of the head's size.

python scripts/bench/reenact.py --dataset_name D                       every ordered pair of the dataset's identities, both modes
python scripts/bench/reenact.py --dataset_name D --output table.json   also as JSON, with all figures

Curves over time are compared between the source as it was detected and fitted (unsmoothed) and the driven head:

mouth       distance of the inner lips on the mesh, in model units                                    correlation
eye R, L    lid opening of the landmarks70, taken back to a frontal view by the camera                 correlation
gaze x, y   pupil's place in the eye from the front, in eye widths, mean of both eyes                  correlation
rotation    least of yaw, pitch, roll: with the source in head mode, with the target's pose in face mode   correlation
scale       std / mean of the driven camera's scale divided by the source's (head mode)                 ratio, at most 1
jitter      median second difference, driven divided by source: of rotation (head mode), and of the face's    ratio, below 1
            landmarks on the mesh in model units
blink       how deep the driven eyes close at the source's blinks, divided by how deep the source's do    ratio
reach       largest expression weight beyond the target's training range (0 to 1.2 is the scale)

A curve that hardly moves in the source (less than fitting.refit.CURVES says) is noise; its correlation is shown in brackets.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import permutations
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

import numpy as np

from preprocessing.driving.heads import Driven, Person
from preprocessing.driving.landmarks import frontal, gaze
from preprocessing.driving.motion import ANGLES, Motion, head_rotation, to_angles
from preprocessing.driving.people import common_face_model, find_frames, identity_motion, read_person
from preprocessing.driving.profile import TargetProfile, covered_range
from preprocessing.driving.retarget import drive, target_frames
from preprocessing.face_models.dense_points import from_dense
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.face_models.registry import load_face_model
from preprocessing.fitting.refit import CURVES
from util.cli import UserError, run, say
from util.face.landmarks import eye_openings, mouth_opening
from util.image_io import write_bytes
from util.layout import Dataset


def curves(model: MorphableModel, identity: np.ndarray, head: Person | Driven) -> dict[str, np.ndarray]:
    """All compared curves of a source or driven head, each [N]."""
    mesh = from_dense(model.landmarks(identity, head.expression))
    eyes = frontal(head.landmarks, head.cameras)
    width = np.linalg.norm(eyes[:, [39, 45]] - eyes[:, [36, 42]], axis=-1).mean()
    opening, look = eye_openings(eyes), gaze(model, identity, head).mean(1) / width
    named = {"mouth": mouth_opening(mesh), "eye R": opening[:, 0], "eye L": opening[:, 1], "gaze x": look[:, 0], "gaze y": look[:, 1]}
    return named | dict(zip(ANGLES, to_angles(head_rotation(head.cameras))))


def jitter(values: np.ndarray) -> float:
    """Median size of the second differences of [N, ...]."""
    return float(np.median(np.abs(np.diff(values, 2, axis=0))))


def compare(
    model: MorphableModel, source: Person, target: Person, motion: Motion, driven: Driven, poses: np.ndarray | None
) -> dict[str, float | dict[str, float]]:
    """The figures of one pair in one mode (see the module's text)."""
    own, new = curves(model, source.identity, source), curves(model, target.identity, driven)
    if poses is not None:  # the pose is the target's
        pose = target.cameras[poses]
        own |= dict(zip(ANGLES, to_angles(head_rotation(pose))))
    correlation = {k: float(np.corrcoef(own[k], new[k])[0, 1]) if own[k].std() > 1e-9 and new[k].std() > 1e-9 else 1.0 for k in own}
    spread = {k: float(v.std()) for k, v in own.items()}
    low, high = covered_range(target.expression)
    beyond = np.maximum(driven.expression - high, low - driven.expression) / (model.expression_bounds[:, 1] - model.expression_bounds[:, 0])
    asked = np.maximum(motion.expression - high, low - motion.expression) / (model.expression_bounds[:, 1] - model.expression_bounds[:, 0])
    meshes = [from_dense(model.landmarks(p, e)) for p, e in ((source.identity, source.expression), (target.identity, driven.expression))]
    figures = {
        "correlation": correlation,
        "spread": spread,
        "mean_eye": float((new["eye R"] + new["eye L"]).mean() / eye_openings(frontal(target.landmarks, target.cameras)).sum(1).mean()),
        "blink": blink_depth(own, new),
        "beyond": float(1.2 * max(beyond.max(), 0)),
        "asked_beyond": float(1.2 * max(asked.max(), 0)),
        "jitter_mesh": jitter(meshes[1]) / jitter(meshes[0]),
    }
    if poses is None:
        figures["scale"] = float(
            (driven.cameras.scale.std() / driven.cameras.scale.mean()) / (source.cameras.scale.std() / source.cameras.scale.mean())
        )
        angles = [np.stack(to_angles(head_rotation(c)), 1) for c in (source.cameras, driven.cameras)]
        figures["jitter_rotation"] = jitter(angles[1]) / jitter(angles[0])
        figures["jitter_rotation_deg"] = jitter(angles[0])
    return figures


def blink_depth(own: dict[str, np.ndarray], new: dict[str, np.ndarray]) -> float:
    """At the source's blinks (opening under half of its median), how far the driven eye closes relative to its own median, divided by
    how far the source's does; the mean over the deepest frame of every blink, NaN without any."""
    ratios = []
    for eye in ("eye R", "eye L"):
        source, driven = own[eye] / np.median(own[eye]), new[eye] / np.median(new[eye])
        shut = np.flatnonzero(source < 0.5)
        for blink in np.split(shut, np.flatnonzero(np.diff(shut) > 2) + 1) if len(shut) else ():
            around = slice(max(blink[0] - 1, 0), blink[-1] + 2)
            ratios.append((1 - driven[around].min()) / (1 - source[around].min()))
    return float(np.mean(ratios)) if ratios else float("nan")


def line(pair: str, mode: str, f: dict) -> str:
    """One row of the table."""

    def shown(*names: str) -> str:
        name = min(names, key=lambda n: f["correlation"][n] if f["spread"][n] >= CURVES[n] else 2)
        text = f"{f['correlation'][name]:.3f}"
        return f"({text})" if f["spread"][name] < CURVES[name] else f" {text} "

    cells = [shown("mouth"), shown("eye R"), shown("eye L"), shown("gaze x"), shown("gaze y"), shown(*ANGLES)]
    rest = [f.get("scale"), f.get("jitter_rotation"), f["jitter_mesh"], f["blink"], f["mean_eye"], f["asked_beyond"], f["beyond"]]
    return f"{pair:28s} {mode} " + " ".join(cells) + " " + " ".join(f"{v:6.2f}" if v is not None else "     -" for v in rest)


HEADER = f"{'source -> target':28s} mode  mouth   eye R   eye L  gaze x  gaze y  rotation scale jit.rot jit.mesh blink eyes asked reach"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset_name", required=True)
    parser.add_argument("--datasets_dir", type=Path, help="folder of all datasets (default: datasets/ of this repository)")
    parser.add_argument("--names", help="only these identities, separated by commas")
    parser.add_argument("--output", type=Path, help="write all figures to this JSON file")
    o = parser.parse_args(argv)
    dataset = Dataset.open(o.dataset_name, o.datasets_dir)
    names = o.names.split(",") if o.names else dataset.identities()
    if len(names) < 2:
        raise UserError(f"{dataset.folder} has {len(names)} identities; a pair needs two")
    sources = {n: find_frames(dataset, n, "test", "--split_s") for n in names}
    targets = {n: find_frames(dataset, n, "train", "--split_t") for n in names}
    model = load_face_model(common_face_model(dataset, list(sources.values()), "auto"))
    motions = {n: identity_motion(dataset, f, model, True) for n, f in sources.items()}
    seen = {n: read_person(dataset, f, model) for n, f in sources.items()}
    known = {n: read_person(dataset, f, model) for n, f in targets.items()}
    table: dict[str, dict] = {}
    say(HEADER)
    for source, target in permutations(names, 2):
        motion, person = motions[source], known[target]
        profile = TargetProfile.of(model, person, target)
        place = target_frames(len(motion), motion.fps, len(person.expression), person.fps)
        for mode, poses in (("head", None), ("face", place)):
            driven = drive(model, profile, motion, poses)
            figures = compare(model, seen[source], person, motion, driven, poses)
            table[f"{source} -> {target}, {mode}"] = figures
            say(line(f"{source} -> {target}", mode, figures))
    moving = [(f["correlation"][k], f"{k}, {pair}") for pair, f in table.items() for k in CURVES if f["spread"][k] >= CURVES[k]]
    low = sorted(m for m in moving if m[0] < 0.95)
    say(f"{len(moving)} correlations of curves that move: median {np.median([m[0] for m in moving]):.4f}, {len(low)} below 0.95")
    for value, what in low[:40]:
        say(f"  {value:.3f}  {what}")
    if o.output:
        write_bytes(o.output, (json.dumps(table, indent=1) + "\n").encode())


if __name__ == "__main__":
    run(main)
