"""Measure scripts/preprocess.py: videos an hour and frames a second by the number of workers and Ray nodes, and what a large dataset needs.

python scripts/bench/preprocess.py                                 clips of the demo clip, with 1, 2 and 4 workers
python scripts/bench/preprocess.py ../shared/clips --ray 1 2       these videos, also on Ray clusters of one and two nodes with a core each
python scripts/bench/preprocess.py --output table.json             also as JSON, with all figures

Each run is the whole command in an empty dataset: its start, the start of its workers, and all steps. The projection takes the best run's
frames a second and the bytes per frame to --videos_in_all and --frames_in_all (default: FaceForensics++, 1,000 and 500,000).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

from itertools import islice

from util.ahead import usable_cores
from util.cli import UserError, run, say
from util.image_io import write_bytes
from util.layout import Dataset, root
from util.video.reading import probe, read_frames
from util.video.search import search_videos
from util.video.writing import VideoWriter

CLIPS, CLIP_FRAMES = 4, 150  # that the demo clip is cut into
STORE_BYTES = 80 << 20  # of a Ray node's object store: results are small


def demo_clips(folder: Path) -> list[Path]:
    """The demo clip, cut into CLIPS videos."""
    whole = folder / "whole.mp4"
    say("making the demo clip")
    made = [sys.executable, root() / "scripts/make_demo_video.py", "--output", whole, "--frames", str(CLIPS * CLIP_FRAMES)]
    subprocess.run(made, check=True, stdout=subprocess.DEVNULL)
    info, frames = probe(whole), read_frames(whole)
    clips = [folder / f"demo{letter}.mp4" for letter in "abcdefgh"[:CLIPS]]
    for clip in clips:
        with VideoWriter(clip, info.fps) as writer:
            for frame in islice(frames, CLIP_FRAMES):
                writer.write(frame)
    return clips


def measure(videos: Sequence[Path], options: Sequence[str]) -> dict[str, Any]:
    """One run of the command in an empty dataset. Memory is that of all its processes together, without those of a Ray cluster."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, root() / "scripts/preprocess.py", *videos, "--dataset_name", "bench", "--datasets_dir", folder, *options]
        start = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
            peak = [0]
            watcher = threading.Thread(target=watch_memory, args=(process, peak), daemon=True)
            watcher.start()
            output, _ = process.communicate()
        seconds = time.perf_counter() - start
        if process.returncode:
            raise UserError(f"the measured command failed: {output.strip().splitlines()[-1]}")
        dataset = Dataset.open("bench", folder)
        records = [dataset.read_record(name) for name in dataset.identities()]
        files = [p.stat() for p in dataset.home.rglob("*") if p.is_file()]
    frames = sum(sum(r.splits.values()) for r in records)
    return {
        "videos": len(records),
        "frames": frames,  # written; some between the splits are not
        "frames_read": sum(source["frames"] for r in records for source in r.sources),
        "seconds": seconds,
        "bytes": sum(f.st_size for f in files),
        "disk_bytes": sum(f.st_blocks * 512 for f in files),
        "files": len(files),
        "memory_bytes": peak[0],
    }


def watch_memory(process: subprocess.Popen, peak: list[int]) -> None:
    """Keep the largest sum of the proportional memory of a process and its children in peak[0]; 0 where /proc is missing."""
    while process.poll() is None:
        total = 0
        for child in [process.pid, *children(process.pid)]:
            with suppress(OSError, IndexError, ValueError):
                total += 1024 * int(Path(f"/proc/{child}/smaps_rollup").read_text().split("Pss:")[1].split()[0])
        peak[0] = max(peak[0], total)
        time.sleep(0.5)


def children(process: int) -> list[int]:
    with suppress(OSError):
        return [int(c) for c in Path(f"/proc/{process}/task/{process}/children").read_text().split()]
    return []


@contextmanager
def ray_cluster(nodes: int) -> Iterator[str]:
    """The address of a Ray cluster of this many nodes with a core each, on this machine."""
    try:
        from ray.cluster_utils import Cluster
    except ImportError as e:
        raise UserError(f"--ray needs Ray ({e}); run: pip install -r requirements-ray.txt") from None
    each = {"num_cpus": 1, "object_store_memory": STORE_BYTES, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=each)
    try:
        for _ in range(nodes - 1):
            cluster.add_node(**each)
        yield cluster.address
    finally:
        cluster.shutdown()


def row(what: str, f: dict[str, Any]) -> str:
    memory = "-" if what.startswith("Ray") else f"{f['memory_bytes'] / 1e9:.2f}"
    return f"{what:12s} {f['seconds']:8.1f} {f['frames_read'] / f['seconds']:9.1f} {3600 * f['videos'] / f['seconds']:12.0f} {memory:>11s}"


def projection(f: dict[str, Any], read_bytes: int, videos: int, frames: int) -> dict[str, float]:
    """What `videos` videos of `frames` frames in all need, by one run's figures. read_bytes: size of that run's videos."""
    scale = frames / f["frames_read"]
    hours = f["seconds"] * scale / 3600
    return {
        "hours": hours,
        "disk_bytes": f["disk_bytes"] * scale,
        "bytes": f["bytes"] * scale,
        "files": f["files"] * scale,
        "read_bytes_a_pass": read_bytes * scale,
        # A video is read three times: for its digest, for the faces, for the crops. Crops are read again for landmarks and fit.
        "network_bytes_per_s": (3 * read_bytes + 3 * f["bytes"]) * scale / hours / 3600,
        "videos_per_hour": videos / hours,
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="*", help="as for scripts/preprocess.py (default: the demo clip, cut into several)")
    parser.add_argument("--workers", nargs="*", type=int, default=[1, 2, 4], metavar="N", help="numbers of workers (default: 1 2 4)")
    parser.add_argument("--ray", nargs="*", type=int, default=[], metavar="N", help="numbers of Ray nodes (default: none)")
    parser.add_argument("--face_model", default="auto", help="as for scripts/preprocess.py (default: auto)")
    parser.add_argument("--videos_in_all", type=int, default=1000, metavar="N", help="of the projection (default: 1000)")
    parser.add_argument("--frames_in_all", type=int, default=500_000, metavar="N", help="of the projection (default: 500000)")
    parser.add_argument("--output", type=Path, help="write all figures to this JSON file")
    o = parser.parse_args(argv)
    table: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        named = o.videos or demo_clips(Path(folder))
        videos = [p for paths in search_videos(named, Dataset.open("bench", folder)).values() for p in paths]
        read_bytes = sum(p.stat().st_size for p in videos)
        load = getattr(os, "getloadavg", lambda: (float("nan"),))()[0]  # Windows has none
        say(f"{len(videos)} videos on {usable_cores()} cores of {platform.node()}, load {load:.1f}")
        say(f"{'':12s}  seconds  frames/s  videos/hour  memory, GB")
        model = ["--face_model", o.face_model]
        for workers in o.workers:
            name = f"{workers} worker{'s' * (workers > 1)}"
            table[name] = measure(videos, [*model, "--workers", str(workers)])
            say(row(name, table[name]))
        for nodes in o.ray:
            name = f"Ray, {nodes} node{'s' * (nodes > 1)}"
            with ray_cluster(nodes) as address:
                table[name] = measure(videos, [*model, "--ray", address])
            say(row(name, table[name]))
    best = min(table, key=lambda name: table[name]["seconds"])
    p = projection(table[best], read_bytes, o.videos_in_all, o.frames_in_all)
    f = table[best]
    say(
        f"written per frame: {f['bytes'] / f['frames']:.0f} bytes, on disk {f['disk_bytes'] / f['frames']:.0f}, "
        f"{f['files'] / f['frames']:.1f} files; read per video and pass: {read_bytes / f['videos'] / 1e6:.2f} MB, three passes"
    )
    need = f"{p['hours']:.1f} hours, {p['disk_bytes'] / 1e9:.0f} GB of disk in {p['files'] / 1e6:.1f} million files"
    network = f"at most {p['network_bytes_per_s'] / 1e6:.1f} MB/s where all storage is behind the network and nothing is cached"
    say(f"{o.videos_in_all} videos of {o.frames_in_all} frames, as with {best}: {need}, {network}")
    if o.output:
        figures = {"runs": table, "projection": p, "read_bytes": read_bytes, "cores": usable_cores()}
        write_bytes(o.output, (json.dumps(figures, indent=1) + "\n").encode())


if __name__ == "__main__":
    run(main)
