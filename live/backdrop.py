"""The target's own video, played there and back, into which the driven head is blended."""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from preprocessing.driving.conditioner import Conditioner
from preprocessing.driving.profile import TargetProfile
from preprocessing.face_models.morphable import MorphableModel
from util.cli import UserError
from util.paste_back.blender import Blender, Original
from util.video.reading import probe, read_frames

SECONDS = 20  # of the target's video, which are held as JPEGs: about 100 MB at 720p
QUALITY = 95  # of the JPEGs, 0..100: no visible loss

Prepared = Future  # of a target's frame, util.paste_back.blender.Original


class Backdrop:
    """The frames of a target's video that its profile was made from.

    model: the profile's. video: the file that the target's crops were cut from. size: side of the synthesised frames, pixels.
    Raises: UserError when the video cannot be read, or is another one.
    """

    def __init__(self, model: MorphableModel, profile: TargetProfile, video: str | Path, size: int) -> None:
        info = probe(video).at_rate(profile.fps)
        numbers = profile.numbers
        if not profile.crop_box:
            raise UserError(f"the profile of '{profile.name}' does not say where its crops come from, which paste-back needs; train anew")
        if info.frames <= numbers[0]:
            raise UserError(f"{video} ends before frame {numbers[0]}, where '{profile.name}' begins; give the video it was learnt from")
        left, top, right, bottom = profile.crop_box
        if min(right, info.width) - max(left, 0) < (right - left) / 2 or min(bottom, info.height) - max(top, 0) < (bottom - top) / 2:
            raise UserError(f"{video} is {info.width}x{info.height}, '{profile.name}' was cut from a larger video; give that one")
        self._profile, self._fps = profile, float(profile.fps)
        self._frame_size = (info.height, info.width)
        self._blenders = {aligned: Blender(profile.crop_box, self._frame_size, self._fps, aligned) for aligned in (False, True)}
        self._heads = Conditioner(model, profile.identity, size, "cpu", profile.size)
        self._size, self._neutral = size, np.zeros(len(model.expression_names))
        self._pictures: list[np.ndarray] = []
        self._worker = ThreadPoolExecutor(1, "head2head backdrop")
        self._place, self._prepared = -1, Future()  # of the last call of `prepare`
        count = min(len(numbers), round(SECONDS * self._fps))
        self._closed, self._first = False, threading.Event()
        self._reader = threading.Thread(target=self._read, args=(video, info, numbers[:count]), name="head2head backdrop", daemon=True)
        self._reader.start()
        self._first.wait()
        if not self._pictures:
            self._reader.join()
            raise UserError(f"{video} could not be read as far as its frame {numbers[0]}")

    @property
    def count(self) -> int:
        """How many frames can be shown so far; they are read in the background."""
        return len(self._pictures)

    def prepare(self, place: int) -> Prepared:
        """Begin to unpack the target's frame at `place`, 0 to `count` - 1, on a thread of its own, and to draw the head that it shows."""
        if place != self._place:
            self._place, self._prepared = place, self._worker.submit(self._unpack, place)
        return self._prepared

    def blend(self, image: np.ndarray, nmfc: np.ndarray, prepared: Prepared, aligned: bool) -> np.ndarray:
        """Lay a synthesised crop into the target's frame.

        image, nmfc: uint8 [S, S, 3]. prepared: of that frame. aligned: the crop shows the head in that frame's pose.
        Returns: uint8 [H, W, 3] RGB.
        """
        return self._blenders[aligned].blend(prepared.result(), image, nmfc)

    def close(self) -> None:
        self._closed = True
        self._reader.join()
        self._worker.shutdown()

    def _unpack(self, place: int) -> Original:
        picture = cv2.cvtColor(cv2.imdecode(self._pictures[place], cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
        own = self._heads.nmfc(self._neutral, self._profile.cameras[place])
        return self._blenders[False].prepare(picture, self._size, own)

    def _read(self, video: str | Path, info, numbers: np.ndarray) -> None:
        try:
            wanted, last = set(numbers.tolist()), int(numbers[-1])
            for i, frame in enumerate(islice(read_frames(video, info), last + 1)):
                if self._closed:
                    return
                if i in wanted:
                    _, data = cv2.imencode(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
                    self._pictures.append(data)
                    self._first.set()
        except UserError:
            pass  # what was read until here is shown
        finally:
            self._first.set()
