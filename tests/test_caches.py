"""util/caches: arrays that are read by rows, and digests of files that are kept."""

import json
import os
import shutil
import time

import numpy as np
import pytest

from util.caches import digests
from util.caches.digests import file_digests, frames_key
from util.caches.frame_file import PackedRows, has_rows, read_rows, write_rows
from util.image_io import write_image
from util.layout import Dataset

ALL = slice(None)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return {
        "flow": rng.standard_normal((7, 2, 5, 6)).astype(np.float16),
        "masks": rng.integers(256, size=(7, 4, 4), dtype=np.uint8),
        "depth": rng.standard_normal((7, 3)).astype(np.float32),
        "number": rng.standard_normal(1),
        "none": np.zeros((0, 2, 8, 8), np.float16),
    }


def test_rows_come_back_alone_or_all(tmp_path, arrays):
    path = tmp_path / "a.rows"
    write_rows(path, "key", **arrays)
    found = read_rows(path, dict.fromkeys(arrays, ALL), "key")
    assert all(np.array_equal(found[name], a) and found[name].dtype == a.dtype for name, a in arrays.items())
    for part in (slice(2, 5), slice(6, 7), slice(3, 3), slice(5, 99), slice(6, 2)):
        found = read_rows(path, dict.fromkeys(("flow", "masks", "none"), part))
        assert all(np.array_equal(rows, arrays[name][part]) for name, rows in found.items())


def test_rows_packed_as_they_come_make_the_same_file(tmp_path, arrays):
    write_rows(tmp_path / "a.rows", "key", **arrays)
    write_rows(tmp_path / "b.rows", "key", **{name: PackedRows(a) if len(a) else a for name, a in arrays.items()})
    assert (tmp_path / "a.rows").read_bytes() == (tmp_path / "b.rows").read_bytes()


def test_a_file_of_another_key_or_without_an_array_is_none(tmp_path, arrays):
    path = tmp_path / "a.rows"
    assert read_rows(path, {"flow": ALL}) is None and not has_rows(path, ["flow"], "key")
    write_rows(path, "key", **arrays)
    assert has_rows(path, ["flow", "none"], "key")
    assert not has_rows(path, ["flow"], "other") and not has_rows(path, ["flow", "absent"], "key")
    assert read_rows(path, {"flow": ALL}, "other") is None and read_rows(path, {"absent": ALL}) is None


def test_damage_is_seen(tmp_path, arrays):
    path = tmp_path / "a.rows"
    write_rows(path, "key", **arrays)
    whole = path.read_bytes()
    for data in (b"", b"no rows", whole[:5], whole[:40], whole[:-1]):
        path.write_bytes(data)
        assert not has_rows(path, ["flow"], "key")
        assert read_rows(path, dict.fromkeys(arrays, ALL)) is None
    middle = whole.index(b"}}}") + 60  # within the first row
    path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
    assert read_rows(path, {"flow": slice(0, 1)}) is None  # a row has a checksum
    assert np.array_equal(read_rows(path, {"flow": slice(1, 7)})["flow"], arrays["flow"][1:])  # the others are whole


# -- digests ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sequence(tmp_path):
    sequence = Dataset.open("D", tmp_path).train_sequence("Ann", 0)
    for n in range(3, 6):
        write(sequence, n, n)
    return sequence


def write(sequence, number, grey, back_s=60):
    """Write a frame; what it was changed at is set back, as if nobody had touched it since."""
    path = sequence.path("images", number)
    write_image(path, np.full((4, 4, 3), grey, np.uint8))
    os.utime(path, ns=(time.time_ns() - back_s * 10**9,) * 2)


@pytest.fixture
def reads(monkeypatch):
    """Counts the files that are read. A file's status cannot be set back in time: it counts as settled at once."""
    monkeypatch.setattr(digests, "_SETTLED_NS", -(10**10))
    found = []
    real = digests.read_file
    monkeypatch.setattr(digests, "read_file", lambda path: found.append(path) or real(path))
    return found


def test_files_that_nobody_touched_are_read_once(sequence, reads):
    first = file_digests(sequence, "images")
    assert list(first) == [3, 4, 5] and len(set(first.values())) == 3 and len(reads) == 3
    assert file_digests(sequence, "images") == first and len(reads) == 3
    key = frames_key("flow", [sequence])
    assert key != frames_key("masks", [sequence]) and len(reads) == 3


def test_every_kind_of_change_is_noticed(sequence, reads):
    first = file_digests(sequence, "images")
    path = sequence.path("images", 4)
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[-20] ^= 1  # as many bytes
    with path.open("r+b") as file:  # in place: the same inode
        file.write(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # and the time set back
    changed = file_digests(sequence, "images")
    assert changed[4] != first[4] and changed[3] == first[3]
    sequence.path("images", 5).unlink()
    assert list(file_digests(sequence, "images")) == [3, 4]
    write(sequence, 5, 5)
    sequence.path("images", 3).rename(path.with_name("swap"))
    sequence.path("images", 5).rename(sequence.path("images", 3))
    path.with_name("swap").rename(sequence.path("images", 5))
    swapped = file_digests(sequence, "images")
    assert (swapped[3], swapped[5]) == (first[5], first[3])


def test_copies_and_links_have_the_same_digests(sequence, tmp_path, reads):
    first = file_digests(sequence, "images")
    for i, copy in enumerate((shutil.copy2, os.link), 1):
        other = Dataset.open(f"copy{i}", tmp_path).train_sequence("Ann", 0)
        shutil.copytree(sequence.folder("images"), other.folder("images"), copy_function=copy)
        assert file_digests(other, "images") == first
    other.digests_path("images").parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(sequence.digests_path("images"), other.digests_path("images"))  # that of other files
    write(other, 4, 9)  # replaces the link
    assert file_digests(other, "images")[4] != first[4] and file_digests(sequence, "images") == first


def test_files_that_changed_just_now_are_read_again(sequence):
    """They may change once more in the same tick of the file system's clock."""
    file_digests(sequence, "images")
    assert not sequence.digests_path("images").exists()


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", json.dumps({"stamp": 1}).encode()])
def test_damaged_digests_are_made_again(sequence, reads, damage):
    first = file_digests(sequence, "images")
    sequence.digests_path("images").write_bytes(damage)
    assert file_digests(sequence, "images") == first and len(reads) == 6
    assert file_digests(sequence, "images") == first and len(reads) == 6


def test_a_dataset_that_may_not_be_written_to(sequence, reads):
    sequence.digests_path("images").parent.parent.write_bytes(b"in the way of the folder")
    assert file_digests(sequence, "images") == file_digests(sequence, "images") and len(reads) == 6


def test_a_sequence_without_files_has_no_digests(tmp_path):
    assert file_digests(Dataset.open("D", tmp_path).train_sequence("Ann", 0), "images") == {}
