"""Make the built-in demo clip: a talking head animated from a public-domain portrait, with its true motion beside it.

    python scripts/make_demo_video.py --output FILE.mp4

FILE.mp4 shows scikit-image's `astronaut` (Eileen Collins, NASA, public domain) talking, with a synthetic voice; FILE.npz
holds the head rotation, expression, blinks and gaze of every frame (docs/demo_clip.md). Needs no download; the same options
give the same frames.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

import numpy as np

from options.signing_options import add_signing_options, use_certificate
from scripts.demo_clip.motion import make_motion, make_voice
from util.cli import UserError, progress, run, say
from util.image_io import write_bytes
from util.provenance import Provenance
from util.video.writing import VideoWriter

FPS = 30
VOICE_RATE_HZ = 24000


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="video to write, .mp4")
    parser.add_argument("--frames", type=int, default=360, help=f"length, {FPS} frames a second")
    parser.add_argument("--size", type=int, default=512, help="height and width in pixels")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another motion")
    parser.add_argument("--truth", type=Path, default=None, help="true motion, .npz or .json (default: beside the video, .npz)")
    add_signing_options(parser)
    options = parser.parse_args(argv)
    options.truth = options.truth or options.output.with_suffix(".npz")
    if options.output.suffix.lower() != ".mp4":
        raise UserError(f"--output {options.output}: give the video a name that ends in .mp4")
    if options.truth.suffix not in (".npz", ".json"):
        raise UserError(f"--truth {options.truth}: give the file a name that ends in .npz or .json")
    if options.frames < 1:
        raise UserError(f"--frames {options.frames}: a clip has at least 1 frame")
    if not 64 <= options.size <= 2048 or options.size % 2:
        raise UserError(f"--size {options.size}: use an even number from 64 to 2048")
    if options.seed < 0:
        raise UserError(f"--seed {options.seed}: use 0 or more")
    use_certificate(options)
    return options


def write_truth(path: Path, truth: dict[str, np.ndarray]) -> None:
    if path.suffix == ".json":
        write_bytes(path, json.dumps({k: v.tolist() for k, v in truth.items()}).encode())
        return
    file = io.BytesIO()
    np.savez_compressed(file, **truth)
    write_bytes(path, file.getvalue())


def write_sound(path: Path, samples: np.ndarray) -> None:
    """Write float32 [n] in -1..1 as a sound file (AAC)."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=VOICE_RATE_HZ, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = VOICE_RATE_HZ
        container.mux([*stream.encode(frame), *stream.encode(None)])


def main(argv: Sequence[str] | None = None) -> int | None:
    options = parse(argv)
    from scripts.demo_clip.scene import DemoScene

    motion = make_motion(options.frames, FPS, options.seed)
    scene = DemoScene(options.size)
    points = []
    with tempfile.TemporaryDirectory() as folder:
        sound = Path(folder) / "voice.m4a"
        write_sound(sound, make_voice(motion, VOICE_RATE_HZ, options.seed))
        description = "Animated by Head2Head from the NASA portrait of Eileen Collins (public domain)"
        shown = Provenance("Eileen Collins, animated", consent="portrait by NASA, public domain", composite=True)
        title = "Head2Head demo clip"
        with VideoWriter(options.output, FPS, audio_from=sound, title=title, description=description, provenance=shown) as video:
            for frame in progress(scene.frames(motion), desc="demo clip", total=len(motion)):
                video.write(frame.image)
                points.append(frame.points)
    write_truth(options.truth, scene.truth(motion) | {"points": np.stack(points)})
    say(f"{options.output}: {options.frames} frames, true motion in {options.truth}")
    return 0


if __name__ == "__main__":
    run(main)
