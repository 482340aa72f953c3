"""data/preparation.py, scripts/prepare_training.py, and training on many identities of different lengths."""

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_dataset import make_dataset

from data.clips import ClipIndex, VideoDataset
from data.heads import shapes_nbytes
from data.loader import ClipOrder
from data.preparation import Recipe, prepare, share_items
from scripts import prepare_training
from util.caches.flow import read_flows
from util.caches.memory import Budget, OnceCache
from util.caches.persons import read_persons
from util.cli import UserError
from util.layout import Dataset

SIZE = 64
PARTS = {"Ann": 1, "Bob": 2, "Cid": 1, "Dan": 4, "Eve": 1, "Fay": 3}


def estimate(pairs):
    for target, _ in pairs:
        yield np.ones((2, *target.shape[:2]), np.float32)


def make_estimate():
    return estimate


def skin(image):
    return (image[..., 0] > 180).astype(np.float32)


def make_mask():
    return skin


RECIPE = Recipe(SIZE, flow="test", make_estimate=make_estimate, heads=True, make_mask=make_mask)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets")
    for name, parts in PARTS.items():
        make_dataset(root, name, parts=parts, test_frames=0, size=SIZE)
    data = Dataset.open("fake", root)
    prepare(share_items(data, list(PARTS)), RECIPE)
    return data


def open_videos(dataset, **options):
    def flows(sequence, part):
        return read_flows(sequence, "test", SIZE, part=part)

    return VideoDataset(dataset, list(PARTS), SIZE, move_heads=0.7, flows=flows, persons=lambda n: read_persons(dataset, n), **options)


def files(dataset):
    found = [*dataset.home.rglob("*.npz"), *dataset.home.rglob("*.rows")]
    return {p.relative_to(dataset.home): p.stat().st_mtime_ns for p in found}


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    return torch.equal(a, b)


def test_everything_is_prepared_once(dataset):
    before = files(dataset)
    assert len(before) == sum(PARTS.values()) + len(PARTS)  # flow of each sequence; masks of each identity
    prepare(share_items(dataset, list(PARTS)), RECIPE)
    assert files(dataset) == before


def test_processes_share_all_work_evenly(dataset):
    parts = [share_items(dataset, list(PARTS), rank, 3) for rank in range(3)]
    sequences = [s.id for items in parts for item in items for s in item.sequences]
    assert sorted(sequences) == sorted(s.id for name in PARTS for s in dataset.sequences("train", name))
    assert [sum(len(i.sequences) for i in items) for items in parts] == [4, 4, 4]
    assert [[i.name for i in items if i.heads] for items in parts] == [["Ann", "Dan"], ["Bob", "Eve"], ["Cid", "Fay"]]


def test_worker_processes_make_the_same_and_one_failure_stops_nobody(tmp_path, dataset):
    for name in ("Ann", "Bob", "Cid"):
        make_dataset(tmp_path, name, parts=PARTS[name], test_frames=0, size=SIZE)
    own = Dataset.open("fake", tmp_path)
    own.train_sequence("Bob", 1).path("nmfcs", 9).unlink()
    with pytest.raises(UserError, match=r"1 of 3 identities could not be prepared \(Bob\): Bob_000001 has 8 images but 7 nmfcs"):
        prepare(share_items(own, ["Ann", "Bob", "Cid"]), RECIPE, workers=2)
    made = sorted(files(own))
    assert [p.stem for p in made] == ["Ann_000000", "Cid_000000", "Ann", "Cid"]
    for path in made:
        assert (own.home / path).read_bytes() == (dataset.home / path).read_bytes()


def test_an_unexpected_error_is_named_with_its_identity(dataset):
    def fail(pairs):
        raise RuntimeError("no luck")

    other = Recipe(SIZE, flow="other", make_estimate=lambda: fail)
    with pytest.raises(UserError, match=r"6 of 6 identities .*\(Ann, Bob, Cid, Dan, Eve, \.\.\.\): RuntimeError: no luck"):
        prepare(share_items(dataset, list(PARTS)), other)


def test_done_is_called_while_work_goes_on(tmp_path):
    data = make_dataset(tmp_path, parts=1, size=SIZE)
    calls = []
    prepare(share_items(data, ["Ann"]), RECIPE, done=lambda: calls.append(1))
    assert len(calls) == 7 + 5 + 8 + 1  # pairs of frames 1 and 3 apart, frames, the identity


def test_the_command(tmp_path, monkeypatch, capsys):
    make_dataset(tmp_path, "Ann", parts=1, test_frames=0)
    data = make_dataset(tmp_path, "Bob", parts=1, test_frames=0)
    monkeypatch.setattr("preprocessing.tracking.person_matte.create_person_mask", make_mask)
    options = ["--dataset_name", "fake", "--datasets_dir", str(tmp_path), "--loadSize", "64", "--workers", "0"]
    prepare_training.main([*options, "--flow", "dis", "--target_id", "Bob"])
    assert {p.stem for p in files(data)} == {"Bob_000000", "Bob"} and "prepared Bob" in capsys.readouterr().out
    prepare_training.main([*options, "--flow", "none"])
    assert sorted(p.stem for p in files(data)) == ["Ann", "Bob", "Bob_000000"]
    for wrong, message in ((["--target_id", "Cid"], "no person 'Cid'"), (["--workers", "-1"], "must not be negative")):
        with pytest.raises(UserError, match=message):
            prepare_training.main([*options, *wrong])


# -- many identities -------------------------------------------------------------------------------------------------------


def test_identities_take_equal_turns_and_sequences_of_one_likewise():
    identities = [name for name, parts in PARTS.items() for _ in range(parts)]
    lengths = [8] * len(identities)
    clips = ClipOrder(lengths, 1, identities).clips(range(6 * 12), 4)
    for turn in range(12):
        assert sorted(identities[c.sequence] for c in clips[6 * turn : 6 * turn + 6]) == sorted(PARTS)
    count = Counter(c.sequence for c in clips)
    assert all(count[i] == 12 // PARTS[name] for i, name in enumerate(identities))
    assert len({tuple(identities[c.sequence] for c in clips[i : i + 6]) for i in range(0, 72, 6)}) > 6  # in random order
    assert clips[37:40] == ClipOrder(lengths, 1, identities).clips(range(37, 40), 4)  # a clip's number says all
    assert len({c.seed for c in clips}) == len(clips)


@pytest.mark.parametrize("identities", [None, ["Ann"] * 4])
def test_the_stream_of_one_identity_is_the_one_that_runs_began_with(identities):
    clips = ClipOrder([50, 50, 7, 20], 3, identities).clips(range(6), 12)
    expected = []
    for number in range(6):
        turn, place = divmod(number, 4)
        sequence = int(np.random.default_rng([3, turn]).permutation(4)[place])
        rng, length = np.random.default_rng([3, turn, place]), min(12, [50, 50, 7, 20][sequence])
        start = int(rng.integers([50, 50, 7, 20][sequence] - length + 1))
        expected.append(ClipIndex(sequence, start, length, int(rng.integers(2**63))))
    assert clips == expected


def test_threads_get_the_same_items_with_and_without_room_in_memory(dataset):
    clips = [ClipIndex(i % 12, i % 5, 3, i) for i in range(36)]
    one_thread = open_videos(dataset)
    expected = [one_thread[c] for c in clips]
    for cache_gb in (None, 0.0, 1e-3):
        with ThreadPoolExecutor(6) as pool:
            got = list(pool.map(open_videos(dataset, cache_gb=cache_gb).__getitem__, clips))
        assert all(equal(a, b) for a, b in zip(got, expected, strict=True))


def test_memory_is_bounded_and_shapes_are_computed_once(dataset, monkeypatch):
    computed = []

    def compute(*args):
        computed.append(1)
        return real(*args)

    from data import heads

    real = heads.head_shapes
    monkeypatch.setattr("data.heads.head_shapes", compute)
    for stored in dataset.home.rglob("head_shapes/*/*.rows"):
        stored.unlink()
    budget = 600_000
    data = open_videos(dataset, cache_gb=budget / 1e9)
    for turn in range(3):
        for sequence in range(12):
            data[ClipIndex(sequence, turn, 3, 0)]
    assert len(computed) == 12
    kept = sum(8 * (SIZE * SIZE * 6 + 560) for _ in data._cache) + sum(shapes_nbytes(8) for _ in data._head_cache)
    kept += sum(f.nbytes for i in data._flow_cache for f in data._flow_cache.peek(i).values())
    kept += sum(data._person_cache.peek(name).nbytes for name in data._person_cache)
    assert budget / 2 < kept <= budget
    assert len(data._stored_heads) == 12 - len(data._head_cache) > 0
    open_videos(dataset, cache_gb=0)[ClipIndex(11, 0, 3, 0)]  # another run finds those on disk
    assert len(computed) == 12


def test_values_are_made_once_and_kept_within_the_budget():
    cache, made, begin = OnceCache(Budget(10)), [], threading.Barrier(8)

    def ask(key):
        begin.wait()
        return cache.get(key, 4, lambda: made.append(key) or key)

    threads = [threading.Thread(target=ask, args=(i % 2,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert sorted(made) == [0, 1] and set(cache) == {0, 1}
    assert cache.get(2, 4, lambda: pytest.fail("made without room")) is None
    assert cache.get_or_make(3, lambda: "x", lambda _: 4) == "x" and len(cache) == 2
    with pytest.raises(OSError):
        cache.get(4, 2, lambda: Path("/nowhere").read_bytes())
    assert cache.get(5, 2, lambda: 7) == 7  # what failed takes no room


def test_different_keys_are_made_side_by_side():
    cache, together = OnceCache(Budget(10)), threading.Barrier(2, timeout=10)  # each waits for the other's work to have begun
    threads = [threading.Thread(target=cache.get, args=(i, 1, together.wait)) for i in range(2)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(cache) == 2
