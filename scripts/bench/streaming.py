"""How fast training frames of many people are read and made ready, when memory holds next to none of them.

python scripts/bench/streaming.py --folder /data/made                       makes 1,000 people of 50 frames there (6 GB) and streams them
python scripts/bench/streaming.py --folder /data/made --threads 1 2 6       with these numbers of loader threads
python scripts/bench/streaming.py --folder /data/made --output table.json   also as JSON, with all figures

The people are made: a mesh478 face that talks (scripts/demo_clip/motion.py) is drawn into smooth noise with the grain of a camera, whose
files are as large as those of real crops; so are flow and mattes. Everything lies in the dataset's own layout, and what is read are
VideoDataset and ClipStream, as train.py uses them. Without a GPU the loader alone is measured: what ClipStream does with a batch on the
device is left out. Times of the parts are processor time, with the files in the system's memory. Memory is the peak of the whole process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as in train.py

try:
    import resource
except ImportError:  # Windows
    resource = None

from data import clip_stream
from data.clip_stream import ClipStream
from data.clips import ClipIndex, VideoDataset
from data.frames import read_landmarks, read_square
from data.loader import ClipOrder
from data.preparation import Recipe, prepare, share_items
from options.train_options import TrainOptions
from options.train_options import parse as parse_training
from preprocessing.driving.head_mesh import HeadMeshes
from scripts.bench.made_people import make_people
from util.ahead import usable_cores
from util.caches.flow import require_flows
from util.caches.persons import require_persons
from util.cli import UserError, run, say
from util.face.eye_gaze import draw_eye_gaze
from util.image_io import write_bytes
from util.layout import Dataset

DATASET = "made"
PART_CLIPS = 60  # clips that the parts are timed on, each of another identity


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--folder", type=Path, required=True, metavar="DIR", help="folder of datasets; people that are there already are kept")
    p.add_argument("--identities", type=int, default=1000, metavar="N", help="people (default: 1000)")
    p.add_argument("--frames", type=int, default=50, metavar="N", help="frames of each person (default: 50)")
    p.add_argument("--workers", type=int, metavar="N", help="processes that make people (default: one per core)")
    p.add_argument("--seconds", type=float, default=30, metavar="S", help="time of each measurement (default: 30)")
    p.add_argument("--threads", type=int, nargs="+", metavar="N", help="loader threads, one measurement each (default: as in training)")
    p.add_argument("--cache_gb", type=float, default=0.2, metavar="GB", help="memory for decoded frames (default: 0.2)")
    p.add_argument("--batch_size", type=int, default=4, metavar="B", help="clips at once (default: 4)")
    p.add_argument("--preset", default="default", help="recipe of train.py whose data are read (default: default)")
    p.add_argument("--device", default="auto", help="cuda, cpu or auto (default: auto)")
    p.add_argument("--first_pass", action="store_true", help="measure from the first clip on, not after every sequence was seen once")
    p.add_argument("--output", type=Path, metavar="FILE", help="write the figures as JSON")
    o = p.parse_args(argv)
    if o.identities < 1 or o.frames < 2 or o.seconds <= 0 or o.batch_size < 1 or min(o.threads or [1]) < 1:
        raise UserError("--identities, --seconds, --batch_size and --threads must be above 0, --frames at least 2")
    return o


def main(argv: Sequence[str] | None = None) -> int | None:
    o = parse(argv)
    import torch

    device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if o.device == "auto" else o.device)
    options = parse_training(["--dataset_name", DATASET, "--datasets_dir", str(o.folder), "--preset", o.preset, "--flow", "dis"])
    dataset = Dataset.open(DATASET, o.folder)
    size, workers = options.loadSize, usable_cores() if o.workers is None else o.workers
    names = make_people(dataset, o.identities, o.frames, size, flow=options.needs_flow, workers=workers)
    facts: dict[str, Any] = {
        "identities": o.identities,
        "frames_each": o.frames,
        "size": size,
        "preset": o.preset,
        "cores": usable_cores(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "bytes_per_frame": bytes_of(dataset, names, options),
        "start_s": time_start(dataset, names, options, workers),
    }
    show("bytes a training frame has on disk", facts["bytes_per_frame"], "B", 0)
    show("seconds before the first clip", facts["start_s"], "s", 2)
    facts["parts_ms"] = time_parts(dataset, names, options)
    show("milliseconds of processor time that a frame of a clip takes", facts["parts_ms"], "ms", 3)
    facts["streams"] = []
    for threads in o.threads or [clip_stream._LOADERS[device.type]]:
        facts["streams"].append(stream(dataset, names, options, device, threads, o))
    if o.output:
        write_bytes(o.output, (json.dumps(facts, indent=1) + "\n").encode())
    return None


def open_videos(dataset: Dataset, names: Sequence[str], options: TrainOptions, cache_gb: float, **changes: Any) -> VideoDataset:
    """As train.py opens them. changes: of the arguments."""
    chosen: dict[str, Any] = {
        "augment": options.augment,
        "move_heads": options.move_heads,
        "change_expressions": options.change_expressions,
        "appearance": options.appearance,
        "context": options.conditioning_frames - 1,
        "flows": partial(require_flows, method="dis", size=options.loadSize) if options.needs_flow else None,
        "persons": partial(require_persons, dataset),
        "meshes": HeadMeshes(dataset),
    }
    return VideoDataset(dataset, names, options.loadSize, cache_gb=cache_gb, **{**chosen, **changes})


def time_start(dataset: Dataset, names: Sequence[str], options: TrainOptions, workers: int) -> dict[str, float]:
    """Seconds of what train.py does before the first clip."""
    recipe = Recipe(options.loadSize, heads=bool(options.move_heads))
    if options.needs_flow:
        recipe = Recipe(options.loadSize, "dis", "", never, recipe.heads)

    def prepare_all() -> None:
        prepare(share_items(dataset, names), recipe, workers=workers if workers > 1 and len(names) > 1 else 0)

    steps: dict[str, Callable[[], object]] = {
        "list identities": dataset.identities,
        "open videos (steps, lists of files)": lambda: open_videos(dataset, names, options, 0.0),
        "key of the data": lambda: [dataset.read_record(name) for name in names],
        "order of the clips": lambda: ClipOrder([50] * len(names), 0, names),
        "prepare: heads that are not measured yet, digests that are not kept yet": prepare_all,
        "prepare, everything there": prepare_all,
    }
    return {name: timed(step) for name, step in steps.items()}


def never() -> Any:
    raise AssertionError("all flow is there")


def timed(step: Callable[[], object]) -> float:
    begun = time.perf_counter()
    step()
    return time.perf_counter() - begun


def time_parts(dataset: Dataset, names: Sequence[str], options: TrainOptions) -> dict[str, float]:
    """Milliseconds of processor time a frame of a clip of the recipe's first length, of whole clips and of their parts, without cache."""
    length, size = options.n_frames_total, options.loadSize
    names = names[:: max(1, len(names) // PART_CLIPS)][:PART_CLIPS]
    videos = open_videos(dataset, names, options, 0.0)
    firsts = {name: i for i, name in reversed(list(enumerate(videos.identities)))}
    length = min(length, *(videos.lengths[i] for i in firsts.values()))
    clips = [ClipIndex(i, (videos.lengths[i] - length) // 2, length, i) for i in firsts.values()]
    sequences = [dataset.sequences("train", name)[0] for name in names]
    files = [(s, n) for s, c in zip(sequences, clips) for n in s.frames()[c.start : c.start + length]]
    points = [read_landmarks(s, "landmarks70", n) for s, n in files]

    def per_frame(call: Callable[[Any], object], items: Sequence[Any]) -> float:
        call(items[0])
        begun = time.process_time()
        for item in items:
            call(item)
        return 1000 * (time.process_time() - begun) / len(files)

    parts = {
        "picture": per_frame(lambda f: read_square(f[0], "images", f[1], size), files),
        "NMFC image": per_frame(lambda f: read_square(f[0], "nmfcs", f[1], size), files),
        "landmarks": per_frame(lambda f: read_landmarks(f[0], "landmarks70", f[1]), files),
        "gaze image": per_frame(lambda x: draw_eye_gaze(x, size), points),
    }
    plain = {"flows": None, "move_heads": 0.0}
    variants = {"whole clip without heads and flow": plain, "whole clip without heads": {"move_heads": 0.0}, "whole clip": {}}
    for name, changes in variants.items():
        videos = open_videos(dataset, names, options, 0.0, **changes)
        for clip in clips if name == "whole clip" else ():
            videos[clip]  # head shapes are computed once per sequence, then read
        parts[name] = per_frame(lambda clip, videos=videos: videos[clip], clips)
    return parts


def stream(
    dataset: Dataset, names: Sequence[str], options: TrainOptions, device: Any, threads: int, o: argparse.Namespace
) -> dict[str, Any]:
    """Frames a second of the stream, and what it takes."""
    videos = open_videos(dataset, names, options, o.cache_gb)
    seen: Counter[str] = Counter()
    clips = ClipStream(videos, device, roi_px=72, seed=0)
    if device.type == "cpu":
        clips._on_device = lambda batch: batch
    if not o.first_pass:
        see_all(videos, usable_cores())
    before = read_bytes()
    with loaders(threads), contextlib.closing(clips.batches(0, options.n_frames_total, o.batch_size)) as batches:
        next(batches)
        begun, cpu, frames, count = time.perf_counter(), time.process_time(), 0, 1
        while time.perf_counter() - begun < o.seconds:
            frames += next(batches)["image"].shape[:2].numel()
            count += 1
        if device.type == "cuda":
            import torch

            torch.cuda.synchronize()
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    for clip in ClipOrder(videos.lengths, 0, videos.identities).clips(range(count * o.batch_size), 1):
        seen[videos.identities[clip.sequence]] += 1
    result = {
        "threads": threads,
        "frames_per_s": frames / seconds,
        "cores_busy": cpu / seconds,
        "read_bytes_per_frame": (read_bytes() - before) / max(frames, 1),
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9 if resource else math.nan,
        "cache_gb": o.cache_gb,
        "clips_per_identity": [min(seen[name] for name in names), max(seen.values())],
    }
    say(f"{threads} threads: {result['frames_per_s']:.0f} frames/s, {result['cores_busy']:.1f} cores busy, peak memory "
        f"{result['peak_memory_gb']:.2f} GB, {result['read_bytes_per_frame'] / 1e3:.0f} kB read a frame, "
        f"{' to '.join(map(str, result['clips_per_identity']))} clips of an identity")  # fmt: skip
    return result


def see_all(videos: VideoDataset, threads: int) -> None:
    """Take a clip of every sequence: what is computed once per sequence is on the disk afterwards."""
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda i: videos[ClipIndex(i, 0, 1, 0)] and None, range(len(videos.lengths))):
            pass


@contextlib.contextmanager
def loaders(threads: int) -> Iterator[None]:
    """ClipStream takes this many loader threads."""
    before = dict(clip_stream._LOADERS)
    clip_stream._LOADERS.update(dict.fromkeys(before, threads))
    try:
        yield
    finally:
        clip_stream._LOADERS.update(before)


def read_bytes() -> int:
    """Bytes that this process has read from files so far, from the disk or from the system's memory; 0 where nothing tells."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/io").read_text().split("rchar: ")[1].split()[0])
    return 0


def bytes_of(dataset: Dataset, names: Sequence[str], options: TrainOptions) -> dict[str, float]:
    """Bytes per frame of the files that training reads, mean over some people."""
    sequences = [s for name in names[:: max(1, len(names) // 20)] for s in dataset.sequences("train", name)]
    kinds = ("images", "nmfcs", "landmarks70")
    count = sum(len(s.frames()) for s in sequences)
    sizes = {kind: sum(s.path(kind, n).stat().st_size for s in sequences for n in s.frames()) / count for kind in kinds}
    if options.needs_flow:
        sizes["flow"] = sum(s.flow_path("dis", options.loadSize).stat().st_size for s in sequences) / count
    return sizes


def show(title: str, values: dict[str, float], unit: str, digits: int) -> None:
    say(title)
    for name, value in values.items():
        say(f"    {value:10,.{digits}f} {unit}  {name}")


if __name__ == "__main__":
    run(main)
