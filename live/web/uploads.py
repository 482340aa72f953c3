"""Files that come through the page: limited in size and length, and opened to see what they are, whatever they are called."""

from __future__ import annotations

import secrets
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from util.cli import UserError, collecting, file_error
from util.layout import PageFiles
from util.video.reading import VideoInfo, probe

# Containers that people's videos come in. FFmpeg's lists of other files (HLS, DASH, concat, image sequences) would let an upload name files
# and addresses of this machine.
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,live_flv,asf,ogg,mxf,dv,mjpeg,gif,wtv,h264,hevc,ivf"
KEPT = 12  # uploads; the oldest that nobody uses is deleted first
FORGOTTEN_S = 24 * 3600.0  # uploads of before a restart
SPARE_BYTES = 1_000_000_000  # of the disk, that uploads and recordings leave free
NEARLY_FULL = "the disk of this machine is nearly full; delete some recordings"
MOTION_BYTES = 50_000_000  # an hour of ARKit at 60 frames/s has 40 MB
MOST_PIXELS = 8192 * 4320  # of a frame: 8K
LEAST_S, LEAST_PERSON_S = 0.5, 5.0  # of a video that drives, and of one to learn from


@dataclass
class Upload:
    """A file that was taken. id: names it in addresses. name: what it was called, for people alone."""

    id: str
    name: str
    kind: str  # "video" or "motion"
    path: Path
    info: VideoInfo | None = None
    sound: Path | None = None
    notes: list[str] = field(default_factory=list)
    used: int = 0  # by how many

    def as_json(self) -> dict[str, Any]:
        told: dict[str, Any] = {"id": self.id, "name": self.name, "kind": self.kind, "notes": self.notes}
        if self.info:
            told |= {"seconds": round(self.info.duration_s, 1), "fps": float(self.info.fps), "sound": self.sound is not None}
            told |= {"width": self.info.width, "height": self.info.height}
        return told


class Uploads:
    """The folder of uploads."""

    def __init__(self, files: PageFiles, max_bytes: int, max_video_s: float) -> None:
        self._folder, self._max_bytes, self._max_video_s = files.uploads, max_bytes, max_video_s
        self._known: dict[str, Upload] = {}
        with suppress(FileNotFoundError):
            for old in self._folder.iterdir():
                with suppress(OSError):
                    if old.is_file() and time.time() - old.stat().st_mtime > FORGOTTEN_S:
                        old.unlink()

    def get(self, id: Any) -> Upload:
        """Raises: UserError when there is none, or not any more."""
        found = self._known.get(id) if isinstance(id, str) else None
        if found is None or not found.path.is_file():
            raise UserError("this file is not here any more; choose it again")
        return found

    async def receive(self, name: str, purpose: str, length: int | None, chunks: AsyncIterator[bytes]) -> Upload:
        """Take a file.

        name: what it is called on the other machine; only shown. purpose: drive (a video), motion, or person. length: in bytes, as told.
        Raises: UserError when it is too large, too long, or something else than it should be. Nothing of it stays then.
        """
        from starlette.concurrency import run_in_threadpool as run_sync

        name = "".join(c for c in name if c.isprintable())[:120] or "a file"
        most = MOTION_BYTES if purpose == "motion" else self._max_bytes
        self._make_room(length or 0, most)
        id = secrets.token_hex(8)
        path = self._folder / f"{id}.{'motion' if purpose == 'motion' else 'video'}"
        try:
            received = 0
            with path.open("wb") as file:
                async for chunk in chunks:
                    received += len(chunk)
                    if received > most:
                        raise UserError(f"{name} is larger than {_megabytes(most)}; cut it, or save it with less resolution")
                    await run_sync(file.write, chunk)
            if length is not None and received != length:
                raise UserError(f"{name} did not arrive whole; try again")
            if not received:
                raise UserError(f"{name} is empty; choose another file")
            check = self._motion if purpose == "motion" else self._video
            upload = await run_sync(check, Upload(id, name, "motion" if purpose == "motion" else "video", path), purpose)
        except OSError as e:
            self._delete(path)
            raise UserError(str(file_error("cannot keep", name, e))) from None
        except BaseException:  # also when the page is closed meanwhile
            self._delete(path)
            raise
        self._known[id] = upload
        return upload

    def take(self, upload: Upload, place: Path) -> Path:
        """Move an upload to where it is to stay; `place` gets the suffix of what it is."""
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(upload.path, place)
        self._known.pop(upload.id, None)
        return place

    def _make_room(self, length: int, most: int) -> None:
        if length > most:
            raise UserError(f"the file has {_megabytes(length)}, more than {_megabytes(most)}; cut it, or save it with less resolution")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self._folder).free
        except OSError as e:
            raise file_error("cannot keep uploads in", self._folder.name, e) from None
        if free < length + SPARE_BYTES:
            raise UserError(NEARLY_FULL)
        for old in [u for u in self._known.values() if not u.used][: max(0, len(self._known) - KEPT + 1)]:
            self._known.pop(old.id)
            self._delete(old.path)
            if old.sound:
                self._delete(old.sound)

    @staticmethod
    def _delete(path: Path) -> None:
        with suppress(OSError):
            path.unlink()

    def _video(self, upload: Upload, purpose: str) -> Upload:
        kind = _container(upload)
        try:
            info = probe(upload.path)
        except UserError as e:
            raise UserError(str(e).replace(str(upload.path), upload.name)) from None
        least = LEAST_PERSON_S if purpose == "person" else LEAST_S
        if info.duration_s < least:
            advice = "half a minute is good" if purpose == "person" else "choose a longer one"
            raise UserError(f"{upload.name} has {info.duration_s:.1f} seconds, less than {least:g}; {advice}")
        if info.duration_s > self._max_video_s:
            raise UserError(f"{upload.name} has {info.duration_s / 60:.0f} minutes, more than {self._max_video_s / 60:g}; cut it")
        if info.width * info.height > MOST_PIXELS:
            raise UserError(f"{upload.name} has {info.width}x{info.height} pixels; save it with 4K at most")
        path = upload.path.with_suffix(f".{kind}")
        upload.path.replace(path)
        upload.path, upload.info, upload.notes = path, info, list(info.notes)
        if info.has_audio and purpose == "drive":
            upload.sound = _extract_sound(path)
        return upload

    def _motion(self, upload: Upload, _: str) -> Upload:
        with upload.path.open("rb") as file:
            is_template = file.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith((b"{", b"["))
        path = upload.path.with_suffix(".json" if is_template else ".csv")
        upload.path.replace(path)
        upload.path = path
        try:
            with collecting() as said:
                motion = read_motion_file(upload)
        except UserError as e:
            self._delete(path)
            raise UserError(str(e).replace(str(path), upload.name).replace(path.name, upload.name)) from None
        upload.notes = [text.replace(path.name, upload.name) for text, _ in said]
        seconds = len(motion) / float(motion.fps)
        if seconds > self._max_video_s:
            raise UserError(f"{upload.name} has {seconds / 60:.0f} minutes, more than {self._max_video_s / 60:g}; cut it")
        return upload


def read_motion_file(upload: Upload, names: tuple[str, ...] | None = None):
    """The motion (preprocessing.driving.motion.Motion) of an upload, for a face model's expressions (None: those of the usual model).

    Raises: UserError.
    """
    from fractions import Fraction

    from preprocessing.driving.motion_files import read_arkit, read_template
    from preprocessing.face_models.registry import load_face_model, resolve_kind

    names = names or tuple(load_face_model(resolve_kind("auto")).expression_names)
    if upload.path.suffix == ".json":
        return read_template(upload.path, names)
    return read_arkit(upload.path, names, Fraction(30))


def _container(upload: Upload) -> str:
    """A suffix for what the file is, by its content. Raises: UserError when it is no video."""
    import av

    try:
        with av.open(str(upload.path), options={"format_whitelist": FORMATS, "protocol_whitelist": "file"}) as container:
            kinds = container.format.name.split(",")
            if not any(s.codec_context is not None for s in container.streams.video):
                raise UserError(f"{upload.name} holds no picture; choose a video")
    except (av.error.FFmpegError, ValueError, OverflowError, UnicodeError):
        raise UserError(f"{upload.name} is no video that can be read; choose an MP4, MOV, MKV, WebM or AVI file") from None
    return "mp4" if "mp4" in kinds else "mkv" if "matroska" in kinds else kinds[0]


def _extract_sound(path: Path) -> Path | None:
    """The sound of a video as a file of its own that every browser plays; None when it cannot be decoded."""
    import av

    from util.video.sound import sound_packets

    place = path.with_suffix(".m4a")
    try:
        with collecting(), av.open(str(place), "w", format="mp4", options={"movflags": "+faststart"}) as output:
            packets = sound_packets(output, path, 0.0)
            next(packets)
            if not output.streams.audio:
                raise UserError("no sound")
            for _, packet in packets:
                output.mux(packet)
    except (UserError, av.error.FFmpegError):
        with suppress(OSError):
            place.unlink()
        return None
    return place


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.0f} MB" if count < 1e9 else f"{count / 1e9:.1f} GB"
