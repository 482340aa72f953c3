"""Reading and writing single images, always RGB uint8 [H, W, 3], never half-written."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
from isal import isal_zlib

from util.cli import UserError, writing
from util.part_files import begin_part

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_RGB8 = bytes([8, 2, 0, 0, 0])  # 8 bits, RGB, not interlaced
_UP = 2  # the filter that says how a row differs from the one above
_DATA_START, _AFTER_DATA = 41, 16  # bytes before the pixels: signature, IHDR, and the head of IDAT; after them: a checksum, and IEND

_DEFLATE_RATIO = 1032  # no zlib stream holds more bytes for one of its own


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file.

    Returns: uint8 [H, W, 3], RGB.
    Raises: UserError when the file is missing or is no readable image.
    """
    try:
        with Path(path).open("rb") as file:  # not cv2.imread: that fails in silence, and on non-ASCII paths on Windows
            data = file.read()
    except FileNotFoundError:
        raise UserError(f"there is no image {path}; run the step that makes it again") from None
    image = decode_own_png(data)
    if image is not None:
        return image
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if image is None:
        raise UserError(f"{path} is not a readable image; delete it and run the step that makes it again")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def crop(frame: np.ndarray, box: Sequence[int], size: int) -> np.ndarray:
    """Cut `box` out of a frame, uint8 [H, W, 3], and resize it to [size, size, 3]; outside the frame its border repeats."""
    left, top, right, bottom = box
    height, width = frame.shape[:2]
    part = frame[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)]
    if not part.size:  # the box lies beside the frame, where OpenCV's copyMakeBorder crashes
        rows, columns = np.clip(np.arange(top, bottom), 0, height - 1), np.clip(np.arange(left, right), 0, width - 1)
        part = frame[rows[:, None], columns]
    elif part.shape[:2] != (bottom - top, right - left):
        above, below, before, behind = (max(int(side), 0) for side in (-top, bottom - height, -left, right - width))
        part = cv2.copyMakeBorder(part, above, below, before, behind, cv2.BORDER_REPLICATE)
    if part.shape[0] == size:
        return part
    return cv2.resize(part, (size, size), interpolation=cv2.INTER_AREA if part.shape[0] > size else cv2.INTER_CUBIC)


def resize_image(image: np.ndarray, height: int, width: int | None = None) -> np.ndarray:
    """Resize a photograph, uint8 [H, W, 3 or 4]. width: None: as much as the height."""
    width = height if width is None else width
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if height < image.shape[0] else cv2.INTER_CUBIC)


def resize_nmfc(image: np.ndarray, size: int) -> np.ndarray:
    """Resize an NMFC image, uint8 [H, W, 3], to size x size.

    Shrinking averages areas, so that the mesh still moves smoothly at a fraction of a pixel; enlarging keeps the colours pure.
    """
    if image.shape[:2] == (size, size):
        return image
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if size < image.shape[0] else cv2.INTER_NEAREST_EXACT)


def encode_image(image: np.ndarray, suffix: str = ".png", quality: int = 95) -> bytes:
    """Encode an RGB uint8 [H, W, 3] image; `quality` (0..100) is for .jpg."""
    if suffix == ".png":
        return _encode_png(image)
    ok, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not ok:
        raise ValueError(f"cannot encode an image of shape {image.shape} as {suffix}")
    return data.tobytes()


def _encode_png(image: np.ndarray) -> bytes:
    """PNG (W3C, third edition): every row as its difference to the row above, deflated by ISA-L.

    A seventh of the time that OpenCV takes at its quickest level, for files of the same size.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(f"cannot encode an image of shape {image.shape} and type {image.dtype} as .png")
    height, width = image.shape[:2]
    rows = np.ascontiguousarray(image).reshape(height, -1)
    filtered = np.empty((height, 1 + rows.shape[1]), np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    header = struct.pack(">II", width, height) + _RGB8
    chunks = ((b"IHDR", header), (b"IDAT", isal_zlib.compress(filtered, 1)), (b"IEND", b""))
    packed = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", isal_zlib.crc32(data, isal_zlib.crc32(kind)))
        for kind, data in chunks
    )
    return _SIGNATURE + b"".join(packed)


def decode_own_png(data: bytes) -> np.ndarray | None:
    """The image in a file as _encode_png makes it; None for any other or damaged file (the zlib stream has a checksum).

    Less than half the time that OpenCV takes.
    """
    if len(data) < _DATA_START or data[:16] != _SIGNATURE + b"\0\0\0\x0dIHDR" or data[24:29] != _RGB8 or data[37:_DATA_START] != b"IDAT":
        return None
    width, height, _, _, _, _, _, _, length = struct.unpack_from(">IIBBBBBII", data, 16)
    if len(data) != _DATA_START + length + _AFTER_DATA:  # the pixels are in several chunks, or further chunks say how they are meant
        return None
    size = height * (1 + 3 * width)
    if size > _DEFLATE_RATIO * length:
        return None
    try:
        filtered = isal_zlib.decompress(memoryview(data)[_DATA_START : _DATA_START + length], bufsize=size)
    except isal_zlib.error:
        return None
    if len(filtered) != size:
        return None
    rows = np.frombuffer(filtered, np.uint8).reshape(height, -1)
    if not (rows[:, 0] == _UP).all():
        return None
    pixels, other, step = rows[:, 1:].copy(), np.empty((height, 3 * width), np.uint8), 1
    while step < height:  # running sums down the columns: of 2 rows, of 4, of 8, ...
        other[:step] = pixels[:step]
        np.add(pixels[step:], pixels[:-step], out=other[step:])
        pixels, other, step = other, pixels, 2 * step
    return pixels.reshape(height, width, 3)


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write an RGB uint8 [H, W, 3] image; the format follows the file's ending, the folder is made if missing."""
    write_bytes(path, encode_image(image, Path(path).suffix))


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file in one step: the block writes to the path it is given, and when it ends without an error the file is there
    whole (also after a crash), else not at all. Its folder is made if missing.

    The block does nothing but write: an OSError in it is one of this file.
    Raises: UserError when it cannot be written.
    """
    path = Path(path)
    part = begin_part(path)
    try:
        with writing(path):
            yield part
            part.replace(path)
    except BaseException:
        with suppress(OSError):  # the error that brought us here is the one to report
            part.unlink()
        raise


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a file in one step: it is there whole, or not at all (also after a crash). Raises: UserError when it cannot be written."""
    with replacing(path) as part:
        part.write_bytes(data)


class ImageStore:
    """Writes images and remembers them as far as its memory goes, so that a later step of the same process need not read them again.

    memory_bytes: for all images together; 0: they are only written and read. Remembered images must not be changed.
    """

    def __init__(self, memory_bytes: int = 0) -> None:
        self._free = memory_bytes
        self._images: dict[Path, np.ndarray] = {}
        self._lock = Lock()

    def write(self, path: Path, image: np.ndarray) -> None:
        """As write_image."""
        write_image(path, image)
        with self._lock:
            if image.nbytes <= self._free:
                self._free -= image.nbytes
                self._images[path] = np.array(image)

    def read(self, path: Path) -> np.ndarray:
        """As read_image."""
        image = self._images.get(path)
        return read_image(path) if image is None else image
