"""What the system bears: long footage, hundreds of people in one dataset, and a page under fifty connections.

    python scripts/bench/load.py chain --video a.mp4 --minutes 10       every step on 1080p footage of that length; is its memory flat?
    python scripts/bench/load.py identities --count 200                 so many people in one dataset; a fourth of them first, to compare
    python scripts/bench/load.py page --video a.mp4                     the driver's delay with and without 49 connections that do harm

chain: the footage is the clip there and back, over and over. Memory is that of a command and all processes that it starts (RSS, files that
are mapped included), four times a second; its slope is a straight line's through what came after the first quarter, per 1,000 frames.
Tables go to standard output, all figures to --output. Needs Linux (/proc).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import cycle, islice
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[2])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

import cv2
import numpy as np

from util.cli import UserError, run, say
from util.image_io import write_bytes
from util.layout import Dataset, root
from util.video.reading import probe, read_frames

HD = (1920, 1080)  # pixels of the footage
TEST_RATIO = 0.8  # of the footage that goes to test and paste-back: training is not what is measured
TRAINING_MINUTES = 2
TINY = "--preset preview --loadSize 64 --ngf 4 --n_blocks 1 --ndf 4 --no_tensorboard --move_heads 0 --gpu_ids -1"
CLIP_FRAMES = 12  # of each of the many identities


# ---- commands ----


def session_memory(session: int) -> int:
    """RSS of all processes of a session, bytes."""
    total = 0
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError):
            if int(path.read_text().rpartition(")")[2].split()[3]) == session:
                total += int(path.with_name("statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return total


def watch(step: str, frames: int, *words: str | Path | int) -> dict[str, Any]:
    """Run a command of the repository to its end. Raises: UserError when it fails."""
    began, memory = time.monotonic(), []
    with tempfile.TemporaryFile() as log:
        command = [sys.executable, root() / words[0], *words[1:]]
        process = subprocess.Popen([str(w) for w in command], stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            while process.poll() is None:
                memory.append((time.monotonic() - began, session_memory(process.pid) / 1e6))
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.25)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # nothing is left where this is interrupted
        if process.returncode:
            log.seek(0)
            raise UserError(f"{step} ended with {process.returncode}: {log.read().decode(errors='replace')[-2000:]}")
    return {"step": step, "frames": frames, "seconds": time.monotonic() - began, **told(np.array(memory), frames)}


def told(memory: np.ndarray, frames: int) -> dict[str, float]:
    """Figures of memory, [N, 2] seconds and MB. "At 100 %" is the last tenth's: at the very end everything is given back."""
    share, mb = memory[:, 0] / max(memory[-1, 0], 1e-9), memory[:, 1]
    late = share > 0.25
    slope = np.polyfit(share[late] * frames, mb[late], 1)[0] * 1000 if late.sum() > 2 else float("nan")
    around = {25: (0.2, 0.3), 50: (0.45, 0.55), 100: (0.9, 0.99)}
    near = {n: mb[(share >= a) & (share <= b)] for n, (a, b) in around.items()}
    shares = {f"mb_at_{n}": np.median(v) if len(v) else float("nan") for n, v in near.items()}
    return {"mb_peak": mb.max(), **shares, "mb_per_1000_frames": slope, "memory": memory.round(1).tolist()}


# ---- long footage ----


def make_footage(clip: Path, path: Path, minutes: float) -> int:
    """Write the clip there and back, in HD, over and over; the number of frames. The loops are copies of what is encoded once."""
    import av

    from util.video.writing import VideoWriter

    info = probe(clip)
    once, frames = path.with_name("once.mp4"), list(read_frames(clip, info))
    frames += frames[-2:0:-1]
    with VideoWriter(once, info.fps, audio_from=clip if info.has_audio else None) as writer:
        for frame in frames:
            scale = min(HD[0] / frame.shape[1], HD[1] / frame.shape[0])
            large = cv2.resize(frame, None, fx=scale, fy=scale)
            side, above = HD[0] - large.shape[1], HD[1] - large.shape[0]
            edges = (above // 2, above - above // 2, side // 2, side - side // 2)
            writer.write(cv2.copyMakeBorder(large, *edges, cv2.BORDER_REPLICATE))
    loops = max(1, round(60 * minutes * info.fps / len(frames)))
    with av.open(str(path), "w") as output:
        with av.open(str(once)) as source:
            streams = [output.add_stream_from_template(s) for s in source.streams]
        last = [-math.inf] * len(streams)
        for loop in range(loops):
            with av.open(str(once)) as source:
                for packet in source.demux():
                    index, shift = packet.stream.index, round(loop * len(frames) / info.fps / packet.time_base)
                    if packet.dts is not None and packet.dts + shift > last[index]:  # sound is a little longer than its pictures
                        packet.pts, packet.dts, packet.stream = packet.pts + shift, packet.dts + shift, streams[index]
                        last[index] = packet.dts
                        output.mux(packet)
    once.unlink()
    return loops * len(frames)


def chain(o: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """All steps on long footage."""
    video = folder / "Ann.mp4"
    total = make_footage(o.video or demo_clip(folder / "demo.mp4", 360, 512), video, o.minutes)
    size, fps = video.stat().st_size / 1e6, float(probe(video).fps)
    say(f"footage: {HD[0]}x{HD[1]}, {total} frames, {total / fps / 60:.1f} minutes, {size:.0f} MB")
    say(f"{'':20s}   frames  minutes  frames/s  peak MB  at 25 %  at 50 % at 100 %  MB per 1,000")
    table = []

    def step(name: str, frames: int, *words: str | Path | float) -> None:
        f = watch(name, frames, *words)
        table.append(f)
        at = " ".join(f"{f[f'mb_at_{share}']:8.0f}" for share in (25, 50, 100))
        rate, slope = frames / f["seconds"], f["mb_per_1000_frames"]
        say(f"{name:20s} {frames:8d} {f['seconds'] / 60:8.1f} {rate:9.1f} {f['mb_peak']:8.0f} {at} {slope:13.2f}")

    data = ("--dataset_name", "D", "--datasets_dir", folder / "datasets")
    target = (*data, "--checkpoints_dir", folder / "checkpoints", "--target_id", "Ann")
    results = ("--results_dir", folder / "results")
    detection = ("--original_videos_path", video, "--test_seq_ratio", TEST_RATIO, "--consent", "footage of a test")
    step("detect", total, "preprocessing/detect.py", *data, *detection)
    splits = Dataset.open("D", folder / "datasets").read_record("Ann").splits
    both, train, test = sum(splits.values()), splits["train"], splits["test"]
    step("landmarks", both, "preprocessing/detect_landmarks70.py", *data)
    step("reconstruct", both, "preprocessing/reconstruct.py", *data)
    step("prepare_training", train, "scripts/prepare_training.py", *data, "--loadSize", 128)
    training = ("--preset", "preview", "--max_minutes", TRAINING_MINUTES, "--no_tensorboard", "--gpu_ids", -1)
    step("train", train, "train.py", *target, *training)
    step("test", test, "test.py", *target, *results, "--gpu_ids", -1)
    step("paste_back", test, "scripts/paste_back.py", *results, "--datasets_dir", folder / "datasets")
    written = sum(p.stat().st_blocks * 512 for p in folder.rglob("*") if p.is_file())
    say(f"on disk: {written / 1e9:.1f} GB, {written / total / 1e3:.0f} kB a frame of the footage")
    return table


def demo_clip(path: Path, frames: int, size: int) -> Path:
    """The built-in clip."""
    words = [sys.executable, root() / "scripts/make_demo_video.py", "--output", path, "--frames", frames, "--size", size]
    subprocess.run([str(w) for w in words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return path


# ---- many identities ----


def identities(o: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Every command on a dataset of a fourth of the people, then on one of all of them: time and memory grow as their number, or less."""
    from util.video.writing import VideoWriter

    whole, table = demo_clip(folder / "whole.mp4", CLIP_FRAMES * o.count, 256), []
    frames, fps, videos = read_frames(whole), probe(whole).fps, folder / "videos"
    videos.mkdir()
    for number in range(o.count):
        with VideoWriter(videos / f"person{number:04d}.mp4", fps) as writer:
            for frame in islice(frames, CLIP_FRAMES):
                writer.write(frame)
    for people in (o.count // 4, o.count):
        place = folder / str(people)
        (place / "videos").mkdir(parents=True)
        for video in sorted(videos.iterdir())[:people]:
            (place / "videos" / video.name).symlink_to(video)
        data = ("--dataset_name", "D", "--datasets_dir", place / "datasets")
        crops = ("--train_seq_length", 8, "--cropped_image_size", 64)
        target = (*data, "--checkpoints_dir", place / "checkpoints")
        one = ("--target_id", "person0001", "--name", "everybody", "--gpu_ids", -1, "--results_dir", place / "results")
        preprocess = ("scripts/preprocess.py", place / "videos", *data, *crops, "--workers", 1, "--face_model", "mesh478")
        for step, *words in (
            ("preprocess", *preprocess),
            ("all complete", *preprocess),
            ("detect", "preprocessing/detect.py", *data, *crops, "--original_videos_path", place / "videos"),
            ("landmarks", "preprocessing/detect_landmarks70.py", *data),
            ("reconstruct", "preprocessing/reconstruct.py", *data, "--face_model", "mesh478"),
            ("find_identity", "scripts/find_identity.py", *data, "person0001"),
            ("prepare_training", "scripts/prepare_training.py", *data, "--workers", 0, "--loadSize", 64),
            ("train, all of them", "train.py", *target, "--name", "everybody", *TINY.split(), "--niter", 1, "--niter_decay", 0),
            ("write_profile", "scripts/write_profile.py", *target, *one[:4]),
            ("test, one of them", "test.py", *target, *one),
            ("reenact", "preprocessing/reenact.py", *target[:4], "--target_id", "person0001", "--source_id", "person0000"),
        ):
            table.append({**watch(step, people, *words), "people": people})
            say(f"{people:4d} people: {step}, {table[-1]['seconds']:.1f} s")
        table.append({"step": "the page's list", "people": people, **page_list(place, people)})
    few, many = (f"{people} people" for people in (o.count // 4, o.count))
    say(f"{'':20s} seconds: {few:>10s} {many:>10s}   peak MB: {few:>10s} {many:>10s}")
    for a, b in zip(table[: len(table) // 2], table[len(table) // 2 :]):
        say(f"{a['step']:29s} {a['seconds']:10.2f} {b['seconds']:10.2f} {a['mb_peak']:20.0f} {b['mb_peak']:10.0f}")
    return table


def page_list(place: Path, people: int) -> dict[str, float]:
    """How long the page takes to say who there is, median of 20 times."""
    from live.web.options import WebOptions
    from live.web.persons import find_persons

    trained = place / "checkpoints/D/everybody"
    for number in range(people):  # as many runs as people
        for name in ("latest_net_G.pth", "opt.txt", "profiles/person0001.npz", "appearances/person0001.npz"):
            link = place / f"runs/D/run{number}" / name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(trained / name)
    with Server(WebOptions(checkpoints_dir=place / "runs", results_dir=place / "results", gpu_ids="-1")) as server:
        import requests

        found = len(find_persons(place / "runs"))
        if found != people:
            raise UserError(f"the page finds {found} of {people} people")
        times = []
        for _ in range(20):
            began = time.monotonic()
            requests.get(f"{server.address}/api/state", timeout=600).raise_for_status()
            times.append(time.monotonic() - began)
        return {"seconds": float(np.median(times)), "mb_peak": server.state()["mb"]}


# ---- the page under load ----


class Server:
    """The page's server in a process of its own. Use as a context manager."""

    def __init__(self, options: Any) -> None:
        from dataclasses import replace

        from live.web.server import listen

        with listen(options.host, 0) as free:
            self.port = free.getsockname()[1]
        self.address = f"http://localhost:{self.port}"
        self._process = multiprocessing.get_context("spawn").Process(target=serve_page, args=(replace(options, port=self.port),))

    def __enter__(self) -> Server:
        import requests

        self._process.start()
        for _ in range(600):
            with suppress(requests.ConnectionError):
                requests.get(self.address, timeout=60)
                return self
            time.sleep(0.1)
        raise UserError("the page's server does not start")

    def __exit__(self, *_: object) -> None:
        os.kill(self._process.pid, signal.SIGINT)  # as Ctrl-C
        self._process.join()

    def state(self) -> dict[str, float]:
        """Memory (RSS, MB), open files and threads of the process."""
        place = Path(f"/proc/{self._process.pid}")
        pages = int((place / "statm").read_text().split()[1])
        counts = {name: len(list((place / folder).iterdir())) for name, folder in (("files", "fd"), ("threads", "task"))}
        return {"mb": round(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, 1), **counts}


def serve_page(options: Any) -> None:
    from live.web.server import serve

    serve(options)


def page(o: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The driver's delay, and the server's memory, files and threads: alone, with the others, and after them."""
    from live.web.options import WebOptions
    from scripts.bench.untrained_run import make_untrained_run

    video = o.video or demo_clip(folder / "demo.mp4", 120, 512)
    make_untrained_run(folder / "checkpoints/D/head2head_Ann", video, loadSize=o.size)
    options = WebOptions(checkpoints_dir=folder / "checkpoints", results_dir=folder / "results", gpu_ids="-1")
    (folder / "results/live/recordings").mkdir(parents=True)
    with (folder / "results/live/recordings/long.mp4").open("wb") as file:
        file.truncate(200_000_000)  # more than any buffer between server and slow reader
    table = []
    with Server(options) as server, Driver(server, video) as driver:
        driver.drive(o.seconds / 2)  # calibration, and what grows at first
        say(f"{'':12s} pictures/s  delay ms: p50      p99  memory, MB  files  threads")
        for what in ["alone", *(f"with {o.connections}, {i + 1}" for i in range(o.rounds)), "after them"]:
            others = multiprocessing.get_context("spawn").Process(target=harm, args=(server.port, o.connections if "with" in what else 0))
            others.start()
            driver.drive(2)
            figures = {"what": what, **driver.drive(o.seconds)}
            others.terminate()
            others.join()
            driver.drive(5)  # connections that were cut off are gone by then
            figures |= server.state()
            table.append(figures)
            speed = f"{figures['fps']:10.1f} {figures['p50']:14.1f} {figures['p99']:8.1f}"
            say(f"{what:12s} {speed} {figures['mb']:11.1f} {figures['files']:6d} {figures['threads']:8d}")
    return table


class Driver:
    """Drives as the page's camera does: a picture when the server asks for the next one, 30 a second at most."""

    def __init__(self, server: Server, video: Path) -> None:
        from websockets.sync.client import connect

        self._address, frames = server.address, islice(read_frames(video), 300)
        self._jpegs = cycle([cv2.imencode(".jpg", cv2.cvtColor(f, cv2.COLOR_RGB2BGR))[1].tobytes() for f in frames])
        place = server.address.replace("http", "ws") + "/live"
        self._connection = connect(place, origin=server.address, compression=None, max_size=None)
        self._next_s, self._may_send = 0.0, True

    def __enter__(self) -> Driver:
        import requests

        self._socket = self._connection.__enter__()
        self._tell(type="hello", now=1000 * time.monotonic())
        state = requests.get(f"{self._address}/api/state", timeout=60).json()
        self._tell(type="person", id=state["persons"][0]["id"])
        while json.loads(self._socket.recv())["type"] != "person":
            pass
        self._tell(type="source", kind="camera")
        return self

    def __exit__(self, *details: Any) -> None:
        self._connection.__exit__(*details)

    def _tell(self, **message: Any) -> None:
        self._socket.send(json.dumps(message))

    def drive(self, seconds: float) -> dict[str, float]:
        """Pictures a second, and their delay, ms: from when the camera's was taken until the synthesised one is here."""
        from live.web.wire import _HEAD

        delays, end = [], time.monotonic() + seconds
        while (now := time.monotonic()) < end:
            if self._may_send and now >= self._next_s:
                self._socket.send(_HEAD.pack(1, 0, 0, 0, 1000 * now) + next(self._jpegs))
                self._may_send, self._next_s = False, max(self._next_s + 1 / 30, now)
            with suppress(TimeoutError):
                message = self._socket.recv(timeout=max(0.0, self._next_s - now) if self._may_send else 0.1)
                if isinstance(message, bytes):
                    delays.append(1000 * time.monotonic() - _HEAD.unpack_from(message)[4])
                    self._socket.send(b"")  # it was shown
                elif json.loads(message)["type"] == "next":
                    self._may_send = True
        if not delays:
            raise UserError("no picture came in that time; give a larger --seconds")
        p50, p99 = np.percentile(delays, [50, 99])
        return {"fps": len(delays) / seconds, "p50": float(p50), "p99": float(p99)}


def harm(port: int, connections: int) -> None:
    """Do harm by so many connections, until the process is ended. They stand for other machines: the work of this one comes first."""
    os.nice(19)
    kinds = (look_on, read_slowly, send_broken_frames, ask_by_halves, send_large_heads, hang_up, upload_slowly)

    async def again(kind: Callable, port: int) -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 12)
                try:
                    await kind(reader, writer, f"Host: localhost:{port}\r\nOrigin: http://localhost:{port}\r\n".encode())
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.2)

    async def all_of_them() -> None:
        await asyncio.gather(*(again(kinds[i % len(kinds)], port) for i in range(connections)), asyncio.Event().wait())

    asyncio.run(all_of_them())


async def look_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, names: bytes) -> None:
    """What an open page does that does not drive."""
    while True:
        writer.write(b"GET /api/state HTTP/1.1\r\n" + names + b"\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))
        await asyncio.sleep(2)


async def read_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, names: bytes) -> None:
    writer.write(b"GET /api/recordings/long.mp4 HTTP/1.1\r\n" + names + b"\r\n")
    while await reader.read(1):
        await asyncio.sleep(1)


async def send_broken_frames(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, names: bytes) -> None:
    ask = b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    writer.write(b"GET /live HTTP/1.1\r\n" + names + ask)
    for _ in range(100):
        writer.write(os.urandom(500))
        await writer.drain()
        await asyncio.sleep(0.05)


async def ask_by_halves(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, names: bytes) -> None:
    writer.write(b"GET /api/state HTTP/1.1\r\n" + names)
    await reader.read(1)  # until the server has had enough


async def send_large_heads(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, names: bytes) -> None:
    writer.write(b"GET / HTTP/1.1\r\n" + names)
    for _ in range(100):
        writer.write(b"X-Much: " + b"a" * 20_000 + b"\r\n")
        await writer.drain()


async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, names: bytes) -> None:
    writer.write(b"POST /api/uploads?purpose=drive&name=a.mp4 HTTP/1.1\r\n" + names + b"Content-Length: 1000000\r\n\r\n" + bytes(50_000))
    await writer.drain()
    await asyncio.sleep(0.5)


async def upload_slowly(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, names: bytes) -> None:
    writer.write(b"POST /api/login HTTP/1.1\r\n" + names + b"Content-Length: 10000\r\n\r\n")
    for _ in range(10_000):
        writer.write(b"[")
        await writer.drain()
        await asyncio.sleep(1)


# ---- the command ----


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("part", choices=("chain", "identities", "page"))
    parser.add_argument("--video", type=Path, metavar="FILE", help="clip of a face (default: the demo clip)")
    parser.add_argument("--minutes", type=float, default=10, metavar="M", help="chain: length of the footage (default: 10)")
    parser.add_argument("--count", type=int, default=200, metavar="N", help="identities: how many (default: 200)")
    parser.add_argument("--connections", type=int, default=49, metavar="N", help="page: those that do harm (default: 49)")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="page: how often they come (default: 3)")
    parser.add_argument("--seconds", type=float, default=60, metavar="S", help="page: of each measurement (default: 60)")
    parser.add_argument("--size", type=int, default=128, metavar="PX", help="page: side of the images (default: 128)")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to work; emptied at the end (default: the system's)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write all figures to this .json")
    o = parser.parse_args(argv)
    if sys.platform != "linux":
        raise UserError("memory is read from /proc, which only Linux has; run it there")
    with tempfile.TemporaryDirectory(dir=o.folder) as folder:
        say(f"disk: {shutil.disk_usage(folder).free / 1e9:.0f} GB free; load {os.getloadavg()[0]:.1f}")
        table = {"chain": chain, "identities": identities, "page": page}[o.part](o, Path(folder))
    if o.output:
        write_bytes(o.output, (json.dumps({"part": o.part, "table": table}, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    run(main)
