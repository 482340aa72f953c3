"""A run whose networks were never trained: as fast as a trained one, for measuring time, without data or a GPU."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from itertools import islice
from pathlib import Path

import numpy as np

from models.checkpoints import save_weights, write_run_options
from models.networks import build_generator
from options.presets import Recipe, resolve
from preprocessing.driving.heads import Person
from preprocessing.driving.profile import TargetProfile
from preprocessing.face_models.dense_points import from_dense
from preprocessing.face_models.registry import load_face_model, resolve_kind
from preprocessing.fitting.video import fit_video
from preprocessing.tracking.crop_box import choose_box
from preprocessing.tracking.tracker import track_frames
from util.cli import UserError
from util.face.appearance import CELLS, Appearance
from util.image_io import write_bytes
from util.layout import Run
from util.video.reading import probe, read_frames

FRAMES = 60  # of the video, from which the profile is made


def add_run_options(p: argparse.ArgumentParser) -> None:
    """Options of a measurement: a trained run or an untrained one, its driver, and where the figures go."""
    which = p.add_mutually_exclusive_group(required=True)
    which.add_argument("--run", type=Path, help="folder of a trained run")
    which.add_argument("--untrained", action="store_true", help="the default network with random weights, as fast as a trained one")
    p.add_argument("--video", type=Path, required=True, help="the driver")
    p.add_argument("--size", type=int, default=256, help="side of the images of --untrained (default: 256)")
    p.add_argument("--backend", default="auto", help="what runs the generator (default: auto)")
    p.add_argument("--output", type=Path, help="write the figures to this .json")


def make_untrained_run(folder: Path, video: Path, preset: str = "default", face_model: str = "auto", **settings) -> Run:
    """Write opt.txt, latest_net_G.pth, a profile of the person in a video, and random colours: all that driving needs.

    settings: of the recipe (loadSize, ngf, ...). Raises: UserError when the video cannot be read or shows no face.
    """
    run, kind = Run(folder, folder), resolve_kind(face_model)
    model, info = load_face_model(kind), probe(video)
    options = {**asdict(Recipe()), **resolve(preset, settings)}
    size, count = options["loadSize"], min(FRAMES, info.frames)
    dense = track_frames(islice(read_frames(video, info), count), count, f"{video.name}: landmarks").dense
    seen = np.flatnonzero(np.isfinite(dense[:, 0, 0]))
    if len(seen) < 2:
        raise UserError(f"{video} shows no face in its first {count} frames")
    points = dense[seen, :, :2]
    boxes = np.concatenate([points.min(1), points.max(1)], 1)
    box = choose_box([boxes], (info.width, info.height))
    crop = (points - box[:2]) * (size / (box[2] - box[0]))
    fit = fit_video(model, crop)
    landmarks, joined = from_dense(crop).astype(np.float64), np.arange(len(seen)) > 0
    person = Person(fit.identity, fit.expression, fit.cameras, landmarks, size, info.fps, joined)
    profile = TargetProfile.of(model, person, "untrained", box, numbers=seen)
    run.checkpoints.mkdir(parents=True, exist_ok=True)
    write_run_options(run, {**options, "face_model": {"name": model.name, "version": model.version}})
    save_weights(build_generator(options), run.network_path("G"))
    write_bytes(run.profile_path("untrained"), profile.to_bytes())
    colours, backdrop = (np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8) for shape in ((CELLS**3,), (size, size)))
    write_bytes(run.appearance_path("untrained"), Appearance(colours, backdrop).to_bytes())
    return run
