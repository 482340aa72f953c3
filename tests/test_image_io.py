"""util/image_io.py: what is written is read again, by other programs too."""

import io

import cv2
import numpy as np
import pytest
from isal import isal_zlib
from PIL import Image

from util.cli import UserError
from util.image_io import ImageStore, decode_own_png, encode_image, read_image, write_image

PICTURES = {
    "noise": np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8),
    "black": np.zeros((64, 64, 3), np.uint8),
    "one pixel": np.uint8([[[1, 2, 255]]]),
    "a row": np.arange(300, dtype=np.uint8).reshape(1, 100, 3),
    "a column": np.arange(300, dtype=np.uint8).reshape(100, 1, 3),
    "a part of a larger one": np.random.default_rng(1).integers(0, 256, (90, 80, 3), np.uint8)[5:70:2, 3:60, ::-1],
}


@pytest.mark.parametrize("name", PICTURES)
def test_png_is_lossless_for_all_readers(tmp_path, name):
    picture = PICTURES[name]
    path = tmp_path / "new folder" / "Bild_ä.png"
    write_image(path, picture)
    assert np.array_equal(read_image(path), picture)
    with Image.open(path) as opened:
        opened.verify()  # checksums of all chunks
    assert np.array_equal(np.array(Image.open(path)), picture)
    assert np.array_equal(cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)[..., ::-1], picture)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (255, 7), (256, 256), (300, 5)])
def test_own_pngs_are_read_as_opencv_reads_them(size, monkeypatch):
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    data = encode_image(picture)
    assert np.array_equal(decode_own_png(data), picture)
    assert np.array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], picture)


def test_other_pngs_are_left_to_opencv(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    own = encode_image(picture)
    others = [cv2.imencode(".png", p)[1].tobytes() for p in (picture[..., ::-1], picture[..., 0], picture.astype(np.uint16) * 257)]
    gamma = b"\0\0\0\x04gAMA" + (45455).to_bytes(4, "big")
    others.append(own[:33] + gamma + isal_zlib.crc32(gamma[4:]).to_bytes(4, "big") + own[33:])
    for i, data in enumerate(others):
        assert decode_own_png(data) is None
        (tmp_path / f"{i}.png").write_bytes(data)
        expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert np.array_equal(read_image(tmp_path / f"{i}.png"), expected)
    for data in (b"", own[:30], own[:60], own[:-1], own[:45] + bytes([own[45] ^ 255]) + own[46:], own[:16] + b"\x7f" + own[17:]):
        assert decode_own_png(data) is None


def test_png_is_not_larger_than_opencv_at_its_quickest():
    y, x = np.mgrid[:256, :256]
    picture = np.stack([x, y, (x + y) // 2], -1).astype(np.uint8) + np.random.default_rng(0).integers(0, 8, (256, 256, 3), np.uint8)
    _, by_opencv = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert len(encode_image(picture)) < 1.02 * len(by_opencv)


def test_jpeg():
    picture = cv2.GaussianBlur(PICTURES["noise"], (0, 0), 6)
    decoded = np.array(Image.open(io.BytesIO(encode_image(picture, ".jpg"))))
    assert np.abs(decoded.astype(int) - picture).mean() < 3


@pytest.mark.parametrize("picture", [np.zeros((0, 4, 3), np.uint8), np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)])
def test_what_is_no_picture_is_refused(picture):
    with pytest.raises(ValueError, match="cannot encode"):
        encode_image(picture)


@pytest.mark.parametrize("content", [b"", b"no picture", encode_image(PICTURES["noise"])[:200]])
def test_a_damaged_file_is_said(tmp_path, content):
    path = tmp_path / "000001.png"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"000001\.png is not a readable image; delete it"):
        read_image(path)


def test_a_store_remembers_as_much_as_its_memory_holds(tmp_path):
    first, second = tmp_path / "1.png", tmp_path / "2.png"
    store = ImageStore(PICTURES["noise"].nbytes + 10)
    for path in (first, second):
        store.write(path, PICTURES["noise"])
        assert np.array_equal(read_image(path), PICTURES["noise"]) and np.array_equal(store.read(path), PICTURES["noise"])
    first.unlink()
    second.unlink()
    assert np.array_equal(store.read(first), PICTURES["noise"])
    with pytest.raises(UserError, match="there is no image"):
        store.read(second)
