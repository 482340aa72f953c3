"""All measures of results at once: a table, evaluation.json beside the frames, and curves over time in the report page.

    python scripts/evaluate.py results/D/head2head_T/latest_epoch/test/T
    python scripts/evaluate.py --compare RESULTS_DIR1 RESULTS_DIR2 ...     side by side, in the terminal and as a page

Works on any machine: a measure whose dependency is missing (MediaPipe, a network's weights, the dataset) is left out, with the reason.
Frames that were brought back from elsewhere may be pictures (fake/*.png) or videos alone (all.mp4, only_fake.mp4).

**Self reenactment** (definitions in util/metrics.py): APD-L2, MAPD-L2, mouth-APD-L2, PSNR, SSIM, flicker, eye-landmarks, DAI-L1, AED-L1,
ARD-L1; and the same of the *nearest training frame*, which a network must beat to have learned anything: for every frame the training
frame with the nearest pose and expression (`nearest_frames`) is taken as if it were the synthesised one. "ratio" is the measure through
the nearest frame's.

**In both** (what arrives of the motion): correlation over time between what is found again in the synthesised frames and in the frames
that drive (the truth, or the driver's): mouth, both eyes' openings, gaze x and y, yaw, pitch, roll (fitting/refit.py), -1..1; in
face reenactment the angles are those of the target's own frames. Curves that hardly move in the driving frames are left out: their
correlation would be noise's. `expression-correlation`: the mean of the correlations of all expression weights, weighted by their
variance in the driving frames. `jitter-ratio`: median size of the second differences over time of the 51 inner landmarks, synthesised
through driving, both in pixels of the same size; above 1 trembles more.

**Driven by another**: `identity-distance-target`: L1 distance of the identity fitted to the synthesised frames to the target's, standard
deviations summed; `identity-distance-source` to the driver's, which should be larger.

**With networks, if their weights are there** (--download fetches them): `LPIPS` (Zhang et al., CVPR 2018; AlexNet, 0..1, lower is
better), `FID` (Heusel et al., NeurIPS 2017; Inception of torch-fidelity; biased upwards for a few hundred frames, so compare only equal
numbers of frames), `identity-similarity`: cosine of FaceNet's embeddings (Schroff et al., CVPR 2015; InceptionResnetV1 trained on
VGGFace2, from facenet-pytorch) of the synthesised face and the real one of that frame, or the mean of the target's training frames when
another drives; -1..1.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in reconstruct.py

import numpy as np

from preprocessing.compute_distances import choose_face_model, fitted_distances
from preprocessing.compute_eye_landmarks_distance import eye_distances
from preprocessing.compute_pixel_distance import pixel_distances, real_landmarks
from preprocessing.driving.motion import head_rotation, to_angles
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.face_models.registry import FACE_MODELS
from preprocessing.fitting.refit import ANGLES, CURVES, Refit, find, refit
from util.cli import UserError, progress, run, say
from util.device import choose_device
from util.face.landmarks import INNER
from util.geometry import Cameras, rotation_vector
from util.image_io import read_image
from util.layout import Run, read_camera, read_table
from util.layout import Sequence as FrameSequence
from util.metrics import MEASURES, correlation, face_mask, frame_measures, identity_distance, mean_measures, warp_error
from util.results import perceptual
from util.results.evaluation import Evaluation, comparison_table, read_evaluation, table, write_comparison, write_evaluation
from util.results.folder import Results
from util.results.frames import ResultFrames, add_result_options, find_folders, open_as_asked

_CHUNK = 128  # frames that are held at once


def main(argv: Sequence[str] | None = None) -> int | None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("results_dir", type=Path, nargs="*", metavar="RESULTS_DIR", help="a result's folder, or one above several")
    parser.add_argument("--compare", type=Path, nargs="+", metavar="DIR", help="put the evaluations of these results side by side")
    parser.add_argument("--output", type=Path, default=Path("comparison.html"), help="page of --compare (default: comparison.html)")
    parser.add_argument("--redo", action="store_true", help="with --compare: evaluate again also what has an evaluation")
    parser.add_argument("--face_model", choices=("auto", *FACE_MODELS), default="auto", help="face model to fit (default: the dataset's)")
    parser.add_argument("--download", action="store_true", help="fetch networks' weights that are not there (LPIPS, FID, FaceNet)")
    parser.add_argument("--gpu_ids", default="-1", metavar="N", help="GPU for those networks: auto, 0, 1, ... (default: -1, the CPU)")
    parser.add_argument(
        "--checkpoints_dir", type=Path, metavar="DIR", help="folder of all runs, for the report page (default: checkpoints)"
    )
    add_result_options(parser)
    args = parser.parse_args(argv)
    if bool(args.results_dir) == bool(args.compare):
        raise UserError("give either a results' folder, or several with --compare")
    for folder in [f for d in args.results_dir for f in find_folders(d)]:
        show(folder, evaluate(folder, args))
    if args.compare:
        names = short_names(args.compare)
        compared = {name: (None if args.redo else read_evaluation(d)) or evaluate(d, args) for name, d in zip(names, args.compare)}
        say(comparison_table(compared))
        say(f"page: {write_comparison(args.output, compared)}")
    return None


def show(folder: Path, evaluation: Evaluation) -> None:
    who = f"{evaluation.target} driven by {evaluation.source or 'own held-out frames'}"
    say(f"{folder}: {who}, {evaluation.count} frames of {evaluation.size} pixels")
    say(table(evaluation))


def short_names(folders: Sequence[str | Path]) -> list[str]:
    """Names of folders without the parts that all have in common, at the beginning and at the end."""
    parts = [Path(f).resolve().parts for f in folders]
    if len(set(parts)) < len(parts):
        raise UserError("--compare names one folder twice")
    shortest = min(map(len, parts))
    start = next((i for i in range(shortest) if len({p[i] for p in parts}) > 1), shortest)
    end = next((i for i in range(shortest - start) if len({p[-1 - i] for p in parts}) > 1), 0)
    return ["/".join(p[start : len(p) - end]) or p[-1] for p in parts]


def evaluate(folder: Path, args: argparse.Namespace) -> Evaluation:
    """Measure all that can be measured of one results' folder; writes evaluation.json, and the report page where there is one."""
    with open_as_asked(folder, args) as frames:
        evaluation = Evaluation(frames.target, frames.source, [frames.numbers[0], frames.numbers[-1]], frames.size, notes=frames.notes)
        with_reason(evaluation, "the comparison with the truth and with the nearest training frame", pixels, frames)
        with_reason(evaluation, "flicker", flicker, frames)
        with_reason(evaluation, "eye-landmarks, DAI-L1, AED-L1, ARD-L1, correlations", motion, frames, args.face_model)
        for name, measure in (("LPIPS", lpips), ("FID", fid), ("identity-similarity", identity_similarity)):
            with_reason(evaluation, name, measure, frames, args)
        write_evaluation(frames.folder, evaluation)
        write_page(frames, args)
    return evaluation


class Skip(Exception):
    """A measure that cannot be had here; the message says why."""


def with_reason(evaluation: Evaluation, name: str, measure: Callable[..., None], *arguments: Any) -> None:
    """Run measure(evaluation, *arguments); what stops it is kept as the reason why the measure is missing."""
    try:
        measure(evaluation, *arguments)
    except (Skip, UserError, ImportError) as e:
        evaluation.skipped[name] = str(e)


def write_page(frames: ResultFrames, args: argparse.Namespace) -> None:
    """Make the report page anew, with the evaluation, if the results are complete."""
    results = Results(frames.folder)
    if (facts := results.read()) is None:
        return
    from models.checkpoints import read_run_options
    from util.report.result_page import write_report

    trained = Run.open(facts["dataset_name"], facts["run"], args.checkpoints_dir)
    try:
        options = read_run_options(trained)
    except UserError:
        options = {}  # trained elsewhere
    say(f"report: {write_report(results, trained, options, args.datasets_dir)}")


# ---- pictures ----


def pixels(evaluation: Evaluation, frames: ResultFrames) -> None:
    """APD-L2 and its like, and the nearest training frames'."""
    if frames.driven:
        raise Skip("another person drives, so there is no truth")
    landmarks = real_landmarks(frames)
    per_frame = pixel_distances(frames, landmarks)
    put_frames(evaluation, per_frame)
    evaluation.values |= mean_measures(per_frame)
    if "nmfc" not in frames.paths:
        evaluation.skipped["MAPD-L2"] = "there are no NMFC images here; give --datasets_dir, or bring nmfc/ back too"
        evaluation.values.pop("MAPD-L2")
    with_reason(evaluation, "the nearest training frames", nearest, frames, landmarks)


def put_frames(evaluation: Evaluation, per_frame: list[dict[str, float]]) -> None:
    evaluation.per_frame |= {name: [m[name] for m in per_frame] for name in MEASURES}


def nearest(evaluation: Evaluation, frames: ResultFrames, landmarks: np.ndarray) -> None:
    """The measures of the nearest training frames, taken as if they were synthesised."""
    dataset = frames.dataset
    if dataset is None:
        raise Skip("the dataset is not here; give --datasets_dir")
    training = [(s, n) for s in dataset.sequences("train", frames.target) for n in s.frames()]
    test = dataset.sequence("test", frames.target)
    if not training:
        raise Skip(f"{frames.target} has no training frames in {dataset.folder}")
    known, wanted = (read_pose(some) for some in (training, [(test, n) for n in frames.numbers]))
    chosen = nearest_frames(known, wanted)

    def measure(i: int) -> dict[str, float]:
        sequence, number = training[chosen[i]]
        real, other = frames.read("real", i), frames.scaled(read_image(sequence.path("images", number)))
        return frame_measures(real, other, frames.read("nmfc", i) if "nmfc" in frames.paths else np.zeros_like(real), landmarks[i])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        count = len(frames.numbers)
        per_frame = list(progress(pool.map(measure, range(count)), desc="nearest training frames", total=count))
    evaluation.nearest |= {name: value for name, value in mean_measures(per_frame).items() if name in evaluation.values}


def read_pose(frames: Sequence[tuple[FrameSequence, int]]) -> tuple[np.ndarray, np.ndarray]:
    """Pose and expression of frames, as fitted by reconstruct.py: [N, 6] and [N, K].

    Pose: rotation vector (radians), logarithm of the scale, and place in the picture in units of the head (translation / scale).
    """
    cameras = [read_camera(s.path("misc", n)) for s, n in frames]
    scale, rotation, translation = (np.array([c[i] for c in cameras]) for i in range(3))
    heads = head_rotation(Cameras(scale, rotation, translation))
    pose = np.concatenate([rotation_vector(heads), np.log(scale)[:, None], translation[:, :2] / scale[:, None]], 1)
    return pose, np.stack([read_table(s.path("exp_coeffs", n))[:, 0] for s, n in frames])


def nearest_frames(known: tuple[np.ndarray, np.ndarray], wanted: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """For every wanted frame the known one with the nearest pose [., 6] and expression [., K] (of read_pose): int [N].

    Nearest by the squared differences in units of the known frames' total variance, pose and expression weighing the same. The variance
    is that of rotation, size and place each by itself, and of all expression weights together, so that shapes that hardly ever move do
    not decide.
    """
    total = np.zeros((len(wanted[0]), len(known[0])))
    groups = [(0, slice(0, 3), 1 / 3), (0, slice(3, 4), 1 / 3), (0, slice(4, 6), 1 / 3), (1, slice(None), 1.0)]
    for which, part, weight in groups:
        a, b = wanted[which][:, part], known[which][:, part]
        squared = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
        total += weight * squared / max(float(b.var(0).sum()), 1e-12)
    return total.argmin(1)


def flicker(evaluation: Evaluation, frames: ResultFrames) -> None:
    """Warp errors along the real frames' optical flow (util.metrics)."""
    if frames.driven or "real" not in frames.paths:
        raise Skip("another person drives, so there is no truth" if frames.driven else "there are no real frames")
    count = len(frames.numbers)
    if count < 2:
        raise Skip("a single frame does not flicker")
    from models.flow import DISFlow

    flow = DISFlow()
    rows = []
    with progress(desc="flicker", total=count - 1) as bar:
        for start in range(0, count - 1, _CHUNK):  # a long video does not fit into memory at once
            part = range(start, min(start + _CHUNK, count - 1) + 1)
            real, fake = ([frames.read(kind, i) for i in part] for kind in ("real", "fake"))
            ways = flow.estimate((now, before) for before, now in pairwise(real))
            for i, way in enumerate(ways):
                rows.append((warp_error(fake[i + 1], fake[i], way), warp_error(real[i + 1], real[i], way)))
                bar.update()
    errors = np.array(rows)
    fake, real = np.nanmean(errors, 0)
    evaluation.values |= {"flicker": fake - real, "warp-error": fake, "warp-error-real": real}
    evaluation.per_frame["flicker"] = [math.nan, *(errors[:, 0] - errors[:, 1])]


# ---- what is found again ----


def motion(evaluation: Evaluation, frames: ResultFrames, face_model: str) -> None:
    """Landmarks and face model found again in the synthesised frames, and in the frames that drive."""
    found = find(frames.paths["fake"], "landmarks of the synthesised frames")
    evaluation.values["faces-found"] = float((~found.missed).mean())
    model = choose_face_model(frames, face_model)
    fake = refit(model, found)
    if frames.driven:
        identities(evaluation, frames, model, fake)
    if "real" not in frames.paths:
        raise Skip("a file drives: there are no frames to compare with" if frames.driven else "there are no real frames")
    real = refit(model, find(frames.paths["real"], "landmarks of the frames that drive"))
    if not frames.driven:
        distances = eye_distances(frames, real.found, found)
        evaluation.per_frame["eye-landmarks"] = distances.tolist()
        evaluation.values["eye-landmarks"] = float(np.nanmean(distances))
        means, per_frame = fitted_distances(real, fake)
        evaluation.values |= means
        evaluation.per_frame |= {name: values.tolist() for name, values in per_frame.items()}
    correlations(evaluation, frames, model, real, fake)


def identities(evaluation: Evaluation, frames: ResultFrames, model: MorphableModel, fake: Refit) -> None:
    """Distances of the synthesised identity to the target's and the driver's, which the dataset knows."""
    for role, name in (("target", frames.target), ("source", frames.source)):
        paths = [frames.dataset.id_coeffs_path(split, name) for split in ("train", "test")] if frames.dataset and name else []
        path = next((p for p in paths if p.is_file()), None)
        own = read_table(path)[:, 0] if path else np.zeros(0)
        if own.shape == fake.fit.identity.shape:
            evaluation.values[f"identity-distance-{role}"] = identity_distance(own, fake.fit.identity)
        elif role == "target":
            evaluation.skipped["identity-distance-target"] = f"the dataset with {name}'s identity in the model {model.name} is not here"


def correlations(evaluation: Evaluation, frames: ResultFrames, model: MorphableModel, real: Refit, fake: Refit) -> None:
    """How far the motion arrives (see the module's text)."""
    own, new = real.curves(model), fake.curves(model)
    pair = frames.dataset.read_pair(frames.target, frames.source) if frames.dataset and frames.source else None
    if pair and pair.mode == "face":
        own |= target_angles(frames, pair.target_split, pair.target_frames[: len(frames.numbers)])
    still = []
    for name, least in CURVES.items():
        if np.nanstd(own[name]) < least:
            still.append(name)
            continue
        evaluation.values[f"{name}-correlation"] = correlation(own[name], new[name])
    if still:
        evaluation.skipped[f"correlation of {', '.join(still)}"] = "hardly moves in the frames that drive"
    variance = np.nanvar(real.expression, 0)
    each = np.array([correlation(a, b) for a, b in zip(real.expression.T, fake.expression.T)])
    each = np.where(np.isfinite(each), each, 0.0)  # a weight that never moves in the synthesised frames has not arrived
    if variance.sum() > 1e-6:
        evaluation.values["expression-correlation"] = float((variance * each).sum() / variance.sum())
    trembling = []
    for some, size in ((fake, frames.size), (real, frames.read_size("real"))):
        points = some.found.landmarks[:, INNER] / size
        trembling.append(np.nanmedian(np.linalg.norm(np.diff(points, 2, axis=0), axis=-1)))
    if trembling[1] > 0:
        evaluation.values["jitter-ratio"] = float(trembling[0] / trembling[1])


def target_angles(frames: ResultFrames, split: str, numbers: Sequence[int]) -> dict[str, np.ndarray]:
    """Yaw, pitch and roll of the target's own frames, degrees, each [N]."""
    places = {n: s for s in frames.dataset.sequences(split, frames.target, "misc") for n in s.frames("misc")} if frames.dataset else {}
    if missing := sorted(set(numbers) - set(places)):
        raise Skip(f"the camera of {frames.target}'s frame {missing[0]} is not in the dataset")
    rotation = np.array([read_camera(places[n].path("misc", n))[1] for n in numbers])
    count = len(numbers)
    return dict(zip(ANGLES, to_angles(head_rotation(Cameras(np.ones(count), rotation, np.zeros((count, 3)))))))


# ---- networks ----


def lpips(evaluation: Evaluation, frames: ResultFrames, args: argparse.Namespace) -> None:
    need_truth(frames)
    values = perceptual.lpips_distances(all_of(frames, "real"), all_of(frames, "fake"), choose_device(args.gpu_ids), args.download)
    evaluation.per_frame["LPIPS"] = values
    evaluation.values["LPIPS"] = float(np.mean(values))


def fid(evaluation: Evaluation, frames: ResultFrames, args: argparse.Namespace) -> None:
    need_truth(frames)
    device = choose_device(args.gpu_ids)
    evaluation.values["FID"] = perceptual.fid(all_of(frames, "real"), all_of(frames, "fake"), device, args.download)


def need_truth(frames: ResultFrames) -> None:
    if frames.driven:
        raise Skip("another person drives, so there is no truth")
    if "real" not in frames.paths:
        raise Skip("there are no real frames")


def all_of(frames: ResultFrames, kind: str) -> Iterator[np.ndarray]:
    return (frames.read(kind, i) for i in range(len(frames.numbers)))


def identity_similarity(evaluation: Evaluation, frames: ResultFrames, args: argparse.Namespace) -> None:
    """Faces are cut out where the NMFC image shows the face; its landmarks would favour frames in which they are found well."""
    device = choose_device(args.gpu_ids)
    network = perceptual.load_facenet(device, args.download)
    if "nmfc" not in frames.paths:
        raise Skip("there are no NMFC images to say where the face is")
    boxes = [face_box(frames.read("nmfc", i)) for i in range(len(frames.numbers))]
    fake = perceptual.face_embeddings(network, all_of(frames, "fake"), boxes, device)
    if not frames.driven:
        need_truth(frames)
        own = perceptual.face_embeddings(network, all_of(frames, "real"), boxes, device)
    else:
        if frames.dataset is None:
            raise Skip("the dataset with the target's own frames is not here")
        training = [(s, n) for s in frames.dataset.sequences("train", frames.target) for n in s.frames()]
        training = training[:: max(1, len(training) // 100)]
        known = [face_box(read_image(s.path("nmfcs", n))) for s, n in training]
        own = perceptual.face_embeddings(network, (read_image(s.path("images", n)) for s, n in training), known, device)
        own = own.mean(0, keepdims=True)
    similarity = (fake * own).sum(1) / np.maximum(np.linalg.norm(fake, axis=1) * np.linalg.norm(own, axis=1), 1e-9)
    evaluation.per_frame["identity-similarity"] = similarity.tolist()
    evaluation.values["identity-similarity"] = float(similarity.mean())


def face_box(nmfc: np.ndarray) -> np.ndarray:
    """Left, top, right, bottom of the face in an NMFC image, without a head's crown and neck: as high as wide, from the chin's side.

    Of an empty image the middle half.
    """
    mask = face_mask(nmfc)
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    height, width = mask.shape
    if not rows.size:
        return np.array([width / 4, height / 4, width * 3 / 4, height * 3 / 4])
    side = columns[-1] + 1 - columns[0]
    middle = (rows[0] + min(rows[-1] + 1, rows[0] + 1.5 * side)) / 2
    return np.array([columns[0], middle - side / 2, columns[-1] + 1, middle + side / 2])


if __name__ == "__main__":
    run(main)
