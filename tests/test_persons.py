"""util/caches/persons.py: masks of the person and the background behind, made once per identity."""

import numpy as np
import pytest
from fake_dataset import make_dataset

from util.caches.persons import MASK_SIDE, ensure_persons, read_persons, require_persons
from util.cli import UserError
from util.image_io import read_image, write_image

SIZE = 64
WALL = np.linspace(40, 200, SIZE)[None, :, None].repeat(SIZE, 0).repeat(3, 2).astype(np.uint8)


@pytest.fixture
def dataset(tmp_path):
    """A white square that goes to the right before a wall that gets brighter."""
    data = make_dataset(tmp_path, "Ann", size=SIZE)
    for sequence in data.sequences("train", "Ann"):
        for frame in sequence.frames():
            picture = WALL.copy()
            picture[20:50, place(frame) : place(frame) + 16] = 255
            write_image(sequence.path("images", frame), picture)
    return data


def place(frame):
    return 4 + 2 * frame


def white(image):
    return (image == 255).all(-1).astype(np.float32)


def test_masks_and_background(dataset):
    assert ensure_persons(dataset, "Ann", lambda: white)
    persons = read_persons(dataset, "Ann")
    assert persons.masks.shape == (16, MASK_SIDE, MASK_SIDE)  # both sequences, in order
    for frame in (0, 9, 15):
        inside = persons.masks[frame, 44:96, 2 * place(frame) + 2 : 2 * place(frame) + 30]
        assert (inside == 255).all() and persons.masks[frame].mean() < 1.1 * 255 * 30 * 16 / SIZE**2
    np.testing.assert_allclose(persons.background[..., :3].astype(int), WALL, atol=1)
    assert (persons.background[..., 3] == 255).all()  # each place was seen in some frame


def test_what_a_person_always_hides_is_filled_in(dataset):
    def always(image):
        mask = np.zeros(image.shape[:2], np.float32)
        mask[:, 24:40] = 1
        return mask

    assert ensure_persons(dataset, "Ann", lambda: always)
    background = read_persons(dataset, "Ann").background
    assert (background[:, 26:38, 3] == 0).all() and (background[:, [10, 50], 3] == 255).all()
    assert WALL[5, 20, 0] - 5 < background[5, 32, 0] < WALL[5, 44, 0] + 5  # from the wall's brightness left and right of it


def test_mattes_are_computed_once_and_again_when_frames_change_or_the_file_is_damaged(dataset):
    calls = []

    def create():
        calls.append(1)
        return white

    for _ in range(2):
        assert ensure_persons(dataset, "Ann", create)
    assert len(calls) == 1
    path = dataset.sequences("train", "Ann")[0].path("images", 3)
    write_image(path, 255 - read_image(path))
    assert ensure_persons(dataset, "Ann", create) and len(calls) == 2
    dataset.persons_path("Ann").write_bytes(b"PK\x03\x04 half a file")
    assert read_persons(dataset, "Ann") is None
    assert ensure_persons(dataset, "Ann", create) and len(calls) == 3


def test_parts_are_read_and_a_damaged_one_is_said(dataset):
    ensure_persons(dataset, "Ann", lambda: white)
    whole = require_persons(dataset, "Ann")
    part = require_persons(dataset, "Ann", slice(5, 9))
    assert np.array_equal(part.masks, whole.masks[5:9]) and np.array_equal(part.background, whole.background)
    path = dataset.persons_path("Ann")
    data = path.read_bytes()
    path.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])  # in the background, the last row
    with pytest.raises(UserError, match="Ann.rows is missing or damaged; delete it and run again"):
        require_persons(dataset, "Ann")


def test_without_a_segmenter_there_is_nothing(dataset):
    assert not ensure_persons(dataset, "Ann", lambda: None)
    assert not dataset.persons_path("Ann").exists()
