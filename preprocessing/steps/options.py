"""The options that say how videos are cropped, shared by detect.py and scripts/preprocess.py."""

from __future__ import annotations

import argparse
from dataclasses import fields

from preprocessing.steps.crops import CropSettings
from preprocessing.tracking.crop_box import REFERENCE_SIZE
from preprocessing.tracking.detectors import DETECTORS
from preprocessing.tracking.follower import parse_face
from util.cli import UserError
from util.layout import SPLITS


def add_crop_options(p: argparse.ArgumentParser) -> None:
    """Add the options of CropSettings, and those of the detector mtcnn."""
    p.add_argument("--split", choices=SPLITS, default="train", help="train: the video's end goes to test; test: all of it (default: train)")
    p.add_argument(
        "--detector",
        choices=DETECTORS,
        default="mediapipe",
        help="mediapipe: 2 ms a frame, follows small faces; mtcnn: the original's, about 20 times slower without a GPU; both lead to "
        "nearly the same crop (default: mediapipe)",
    )
    p.add_argument("--mtcnn_batch_size", type=int, default=8, metavar="N", help="frames per batch of mtcnn (default: 8)")
    p.add_argument("--cropped_image_size", type=int, default=256, metavar="PX", help="side of the written frames, pixels (default: 256)")
    p.add_argument(
        "--margin",
        type=int,
        default=100,
        metavar="PX",
        help="room around the face (hair line to chin), pixels of a 256-pixel crop: with 100 the face takes 156 of 256 (default: 100)",
    )
    p.add_argument(
        "--dst_threshold",
        type=float,
        default=0.3,
        metavar="X",
        help="refuse a video whose smoothed face box moves by more than this fraction of the mean of the frame's sides (default: 0.3)",
    )
    p.add_argument(
        "--window_length", type=int, default=99, metavar="N", help="frames of the Savitzky-Golay filter over the boxes (default: 99)"
    )
    p.add_argument("--polyorder", type=int, default=3, metavar="N", help="order of that filter (default: 3)")
    p.add_argument(
        "--height_recentre",
        type=float,
        default=0.0,
        metavar="X",
        help="move the crop down by this fraction of its side; negative: up (default: 0)",
    )
    p.add_argument("--train_seq_length", type=int, default=50, metavar="N", help="frames of a train sequence (default: 50)")
    p.add_argument(
        "--test_seq_ratio", type=float, default=0.33, metavar="X", help="fraction of a train video that goes to test (default: 0.33)"
    )
    p.add_argument(
        "--n_replicate_first", type=int, default=0, metavar="N", help="copies of the first frame to put at the start (default: 0)"
    )
    p.add_argument(
        "--max_seconds", type=float, default=0, metavar="S", help="use only the first seconds of an identity (default: 0, all of it)"
    )
    p.add_argument(
        "--face",
        default="largest",
        metavar="WHICH",
        help="which of several faces: largest (and longest in the picture), left or right as seen in the picture, or X,Y: the one nearest "
        "to this pixel of the frame (default: largest)",
    )
    p.add_argument("--all_shots", action="store_true", help="take all shots that show the person, not only the longest")
    p.add_argument("--gpu_id", type=int, default=0, metavar="N", help="GPU of mtcnn, negative for the CPU (default: 0)")


def crop_settings(o: argparse.Namespace) -> CropSettings:
    """The settings that the options name. Raises: UserError when a value makes no sense."""
    parse_face(o.face)
    for name, least, most in (
        ("mtcnn_batch_size", 1, 4096),
        ("cropped_image_size", 32, 4096),
        ("margin", 0, REFERENCE_SIZE - 1),
        ("dst_threshold", 0, float("inf")),
        ("window_length", 1, float("inf")),
        ("polyorder", 0, 20),
        ("height_recentre", -1, 1),
        ("train_seq_length", 1, float("inf")),
        ("test_seq_ratio", 0, 0.95),
        ("n_replicate_first", 0, 1000),
        ("max_seconds", 0, float("inf")),
    ):
        value = getattr(o, name)
        if not least <= value <= most:
            raise UserError(f"--{name} {value}: give a value from {least} to {most}")
    return CropSettings(**{f.name: getattr(o, f.name) for f in fields(CropSettings)})
