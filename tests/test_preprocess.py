"""scripts/preprocess.py: many videos in one process, in workers and on a Ray cluster, with everything that may die meanwhile."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from synthetic_videos import face_frame, write_video
from worker_jobs import sleep_unless_first, square_or_die

from preprocessing.steps import video
from preprocessing.steps.crops import CropSettings
from preprocessing.steps.video import StepSettings, Tools, attempt, complete_identities, preprocess_video
from scripts import preprocess
from util.cli import DiskFull, UserError
from util.layout import SPLITS, Dataset
from util.locks import locked
from util.ray_tasks import judge, probe, versions
from util.video.search import search_videos
from util.workers import Died, choose_workers, map_on_workers

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("Ann", "Bob", "Cid")
OPTIONS = ["--dataset_name", "D", "--face_model", "mesh478", "--cropped_image_size", "96", "--train_seq_length", "5"]
SETTINGS = StepSettings(CropSettings(cropped_image_size=96, train_seq_length=5), "mesh478", True)


@pytest.fixture(scope="session", autouse=True)
def interrupts():
    """Commands in the background of a shell inherit that SIGINT is ignored: what is tested here is Ctrl-C in a terminal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def videos(tmp_path_factory):
    """Ann, Bob and Cid, of whom Ann has a second part."""
    folder = tmp_path_factory.mktemp("videos")
    for k, name in enumerate((*NAMES, "Ann_2")):
        write_video(folder / f"{name}.mp4", (face_frame((128, 112), (62 + k + t / 4, 58), 0.45) for t in range(12)))
    return folder


@pytest.fixture(scope="session")
def alone(videos, tmp_path_factory):
    """What one process makes of them."""
    folder = tmp_path_factory.mktemp("alone")
    with command(videos, "--datasets_dir", folder, "--workers", "1") as process:
        out, err = process.communicate()
    assert process.returncode == 0 and "3 made, 0 complete already, 0 failed" in out, err
    return Dataset.open("D", folder)


@pytest.fixture
def copy(alone, tmp_path):
    shutil.copytree(alone.home, tmp_path / "D")
    return Dataset.open("D", tmp_path)


def content(dataset):
    return {p.relative_to(dataset.home): p.read_bytes() for p in sorted(dataset.home.rglob("*")) if p.is_file()}


def times(dataset):
    return {p: p.stat().st_mtime_ns for p in dataset.home.rglob("*") if p.is_file()}


def command(*arguments, **how):
    """Start the command as a user does, in a process group of its own."""
    full = [sys.executable, "-u", ROOT / "scripts/preprocess.py", *map(str, arguments), *OPTIONS]
    return subprocess.Popen(full, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True, **how)


def wait_for(found, process=None, limit_s=120):
    """What `found` gives, as soon as it gives something."""
    for _ in range(limit_s * 20):
        if value := found():
            return value
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.05)
    raise AssertionError("it did not come")


def holders(dataset):
    """Process that works on an identity at the moment -> the identity."""
    found = {}
    for path in (dataset.folder / "metadata").glob(".*.lock"):
        try:
            found[int(path.read_text().split()[1])] = path.name[1:-5]
        except (IndexError, FileNotFoundError):  # just made, or just gone
            pass
    return found


def has_ended(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


# -- one process -------------------------------------------------------------------------------------------------------------


def test_all_steps_of_all_videos_and_nothing_twice(videos, alone, capsys, monkeypatch):
    for name in NAMES:
        record = alone.read_record(name)
        assert list(record.steps) == ["detect", "landmarks70", "reconstruct"] and record.face_model["name"] == "mesh478"
        for split in SPLITS:
            for sequence in alone.sequences(split, name):
                assert all(sequence.frames(kind) == sequence.frames() != [] for kind in video.MADE)
    assert [Path(s["file"]).name for s in alone.read_record("Ann").sources] == ["Ann.mp4", "Ann_2.mp4"]
    assert not list((alone.folder / "metadata").glob(".*"))
    before = times(alone)
    monkeypatch.setattr("util.video.sources.sha256_of", lambda _: pytest.fail("a video that did not change is not read"))
    preprocess.main([str(videos), "--datasets_dir", str(alone.home.parent), *OPTIONS])
    frames = sum(sum(alone.read_record(name).splits.values()) for name in NAMES)
    assert f"all 3 videos are complete already ({frames} frames)" in capsys.readouterr().out
    assert times(alone) == before


def test_what_changed_is_made_again_and_nothing_else(videos, copy, tmp_path, capsys):
    own = tmp_path / "videos"
    shutil.copytree(videos, own)
    run = partial(preprocess.main, [str(own), "--datasets_dir", str(tmp_path), "--workers", "1", *OPTIONS])
    before = times(copy)
    run()  # of the same content at another place: looked at, nothing is made
    out = capsys.readouterr().out
    assert "0 made, 3 complete already, 0 failed" in out and "videos/hour" not in out
    assert times(copy) == before
    shutil.rmtree(copy.sequence("test", "Cid").folder("nmfcs"))
    write_video(own / "Bob.mp4", (face_frame((128, 112), (66, 58), 0.45) for _ in range(14)))
    run()
    assert "2 made, 1 complete already, 0 failed" in capsys.readouterr().out
    changed = {p.relative_to(copy.folder).parts for p, time_ns in times(copy).items() if before.get(p) != time_ns}
    assert {part[:3] for parts in changed for part in parts if part[:3] in NAMES} == {"Bob", "Cid"}
    assert copy.read_record("Bob").sources[0]["frames"] == 14 and copy.sequence("test", "Cid").frames("nmfcs")


def test_a_failed_video_stops_nobody(videos, tmp_path, capsys):
    (tmp_path / "no.mp4").write_text("this is no video")
    write_video(tmp_path / "wall.mp4", (np.full((112, 128, 3), 128, np.uint8) for _ in range(12)))
    with pytest.raises(UserError) as failure:
        preprocess.main([f"{videos}/B*.mp4", str(tmp_path), "--datasets_dir", str(tmp_path), "--workers", "1", *OPTIONS])
    lines = str(failure.value).splitlines()
    assert lines[0] == "2 of 3 videos failed, the others are complete:" and len(lines) == 3
    assert "no: " in lines[1] and "no.mp4" in lines[1] and "wall: no face was found" in lines[2]
    out, err = capsys.readouterr()
    assert re.search(r"1 made, 0 complete already, 2 failed\n8 frames in \d+ s: [\d.]+ frames/s, \d+ videos/hour\n", out)
    assert "error: wall: no face was found" in err and "Bob: landmarks of 8 frames" in out
    assert complete_identities(Dataset.open("D", tmp_path), {"Bob": [videos / "Bob.mp4"]}, SETTINGS) == {"Bob": 8}
    with pytest.raises(UserError, match="no face was found"):  # a single one says its own error
        preprocess.main([str(tmp_path / "wall.mp4"), "--datasets_dir", str(tmp_path), *OPTIONS])


def test_the_face_model_is_one_for_all_and_said_before_any_work(videos, copy):
    copy.write_record(replace(copy.read_record("Ann"), face_model={"name": "lsfm", "version": "1"}))
    copy.write_record(copy.read_record("Bob").without_steps("reconstruct"))
    before = times(copy)
    options = ["--dataset_name", "D", "--datasets_dir", str(copy.home.parent), "--face_model", "mesh478"]
    with pytest.raises(UserError, match=r"'Ann' of this dataset has the face model lsfm.* must not be mixed"):
        preprocess.main([str(videos / "Bob.mp4"), *options])
    assert times(copy) == before


def test_a_video_that_changes_while_it_is_read_is_not_complete(videos, tmp_path):
    own = Path(shutil.copy(videos / "Bob.mp4", tmp_path))
    dataset = Dataset.open("D", tmp_path)

    class Detector:
        batch_size = 1

        def __getattr__(self, name):
            shutil.copy(videos / "Cid.mp4", own)
            return getattr(Tools(SETTINGS).detector, name)

    tools = Tools(SETTINGS)
    tools.detector = Detector()
    with pytest.raises(UserError, match=r"Bob.mp4 was changed while it was being read; run again"):
        preprocess_video(dataset, "Bob", [own], SETTINGS, tools)
    assert dataset.read_record("Bob").steps == {}
    assert preprocess_video(dataset, "Bob", [own], SETTINGS, Tools(SETTINGS)) == (8, True)


def test_a_bug_is_an_outcome_with_its_place(videos, tmp_path, monkeypatch):
    monkeypatch.setattr(video, "make_landmarks", lambda *_: np.zeros(2)[3])
    outcome = attempt(Dataset.open("D", tmp_path), SETTINGS, ("Bob", [videos / "Bob.mp4"]))
    assert re.match(r"IndexError: index 3 .* \(test_preprocess.py, line \d+\)", outcome.error) and not outcome.disk_full
    assert any(message.startswith("Bob: 5 train and 3 test frames") for message, _ in outcome.messages)


@contextmanager
def small_disk(folder, size):
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_stops_all(videos, tmp_path, capsys):
    with small_disk(tmp_path / "disk", "300k") as disk:
        with pytest.raises(DiskFull, match="the disk is full; free some space and run again"):
            preprocess.main([str(videos), "--datasets_dir", str(disk), "--workers", "1", *OPTIONS])
    assert re.search(r"\d made, 0 complete already, 0 failed, \d not done", capsys.readouterr().out)


def test_many_complete_identities_are_looked_at_at_once(copy, tmp_path, monkeypatch):
    (tmp_path / "v").mkdir()
    record, found = copy.read_record("Bob"), {}
    for k in range(150):
        name, path = f"P{k}", tmp_path / f"v/P{k}.mp4"
        path.write_bytes(b"")
        found[name] = [path]
        for split, ids in (("train", (f"{name}_000000", f"{name}_000001")), ("test", (name,))):
            for kind in video.MADE:
                for id in ids:
                    (copy.folder / split / kind / id).mkdir()
    for name, (path,) in found.items():
        source = {**record.sources[0], "file": str(path)}
        copy.write_record(replace(record, name=name, sources=[source]))
    looks = []
    monkeypatch.setattr(Path, "iterdir", lambda self, own=Path.iterdir: looks.append(self) or own(self))
    monkeypatch.setattr(os, "scandir", lambda *a, own=os.scandir: looks.append(a) or own(*a))
    assert complete_identities(copy, found, SETTINGS) == dict.fromkeys(found, 8)
    assert len(looks) <= 20


# -- which videos ------------------------------------------------------------------------------------------------------------


def test_files_folders_patterns_and_lists(tmp_path, monkeypatch, capsys):
    dataset = Dataset.open("D", tmp_path / "datasets")
    for path in ("a/Ann.mp4", "a/Ann_2.mp4", "a/notes.doc", "a/.hidden.mp4", "b/deep/x [1].mov", "b/Bob.MP4", "c/odd"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"")
    (tmp_path / "list.txt").write_text("\ufeff# mine\n\nb/Bob.MP4\r\n  b/deep \nc/odd\n")
    monkeypatch.chdir(tmp_path)

    def found(*named):
        return {name: [str(p.relative_to(tmp_path)) for p in paths] for name, paths in search_videos(named, dataset).items()}

    ann, bob, x, odd = {"Ann": ["a/Ann.mp4", "a/Ann_2.mp4"]}, {"Bob": ["b/Bob.MP4"]}, {"x[1]": ["b/deep/x [1].mov"]}, {"odd": ["c/odd"]}
    assert found("a") == found("a/*") == found("a/*.mp4", "a/Ann.mp4", tmp_path / "a") == ann
    out, err = capsys.readouterr()
    assert "Ann: Ann.mp4 + Ann_2.mp4" in out and f"warning: not taken from {tmp_path / 'a'}: notes.doc (no video by its name" in err
    assert found("a/Ann_2.mp4") == {"Ann2": ["a/Ann_2.mp4"]}
    assert found("**/*.[mM]*") == found("**") == ann | bob | x
    assert found("b/deep/x [1].mov") == x and found("c/odd") == odd
    assert found(str(tmp_path / "list.txt"), "a") == ann | bob | x | odd
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "bad.txt").write_text("a\nnowhere.mp4\n")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/Bob.mov").write_bytes(b"")
    for named, message in (
        (["c"], r"there is no video in c; put one there"),
        (["z.mp4"], "there is no video file, folder or list z.mp4"),
        (["z/*.mp4"], r"no video matches z/\*.mp4"),
        (["empty.txt"], "the list empty.txt names no video"),
        (["bad.txt"], "^bad.txt line 2: there is no video file, folder or list nowhere.mp4"),
        (["b", "d"], r"b/Bob.MP4 and .*d/Bob.mov would both become 'Bob'; rename one, or give it another --dataset_name"),
    ):
        with pytest.raises(UserError, match=message):
            search_videos(named, dataset)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "0"], "--workers 0: give a number from 1"),
        (["--workers", "2", "--ray", "auto"], "exclude one another"),
        (["--test_seq_ratio", "2"], "--test_seq_ratio 2.0: give a value from 0 to 0.95"),
        ([], "there is no video file, folder or list .*/D/original_videos"),
    ],
)
def test_bad_options_are_said_before_any_work(tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        preprocess.main(["--dataset_name", "D", "--datasets_dir", str(tmp_path), *options])
    assert not list(tmp_path.iterdir())


# -- worker processes --------------------------------------------------------------------------------------------------------


def test_a_worker_that_dies_costs_its_item_only_and_that_is_tried_again(tmp_path):
    items = [(0, tmp_path, 0), (1, tmp_path, 1), (2, tmp_path, 9), (3, tmp_path, 0)]
    done, died = {}, {}
    for item, result in map_on_workers(square_or_die, items, 2):
        if isinstance(result, Died):
            died.setdefault(item[0], []).append(result)
        else:
            done[item[0]] = result
    assert {number: result[0] for number, result in done.items()} == {0: 0, 1: 1, 3: 9}
    assert [d.final for d in died[1]] == [False] and [d.final for d in died[2]] == [False, False, True]
    assert died[2][-1].reason == "its worker process died 3 times (SIGKILL: memory may have run out, fewer workers need less)"
    assert {p.stem: p.stat().st_size for p in tmp_path.iterdir()} == {"0": 1, "1": 2, "2": 3, "3": 1}  # tries
    assert {result[2:] for result in done.values()} == {(str(max(1, len(os.sched_getaffinity(0)) // 2)), "1")}
    assert not {"HEAD2HEAD_CORES", "NUMBA_NUM_THREADS"} & set(os.environ)
    assert all(has_ended(result[1]) for result in done.values())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_workers_end_with_their_parent(tmp_path, how):
    parent = subprocess.Popen([sys.executable, ROOT / "tests/worker_jobs.py", tmp_path], stderr=subprocess.PIPE, start_new_session=True)
    workers = wait_for(lambda: len(texts := [p.read_text() for p in tmp_path.iterdir()]) == 2 and all(texts) and [*map(int, texts)], parent)
    os.killpg(parent.pid, how) if how == signal.SIGINT else parent.send_signal(how)  # Ctrl-C goes to the whole group
    parent.wait(20)
    wait_for(lambda: all(map(has_ended, workers)), limit_s=20)
    assert parent.stderr.read().count(b"KeyboardInterrupt") == (how == signal.SIGINT)  # of the parent alone


def test_the_number_of_workers_fits_cores_and_memory():
    cores = len(os.sched_getaffinity(0))
    assert choose_workers(1000, 1.0) == cores and choose_workers(1, 1.0) == 1 and choose_workers(1000, 1e18) == 1


def test_closing_the_iterator_ends_the_workers(tmp_path):
    first, *others = items = [tmp_path / str(number) for number in range(3)]
    results = map_on_workers(sleep_unless_first, items, 2)
    assert next(results) == (first, 0)
    workers = wait_for(lambda: all(p.is_file() and p.read_text() for p in others) and [int(p.read_text()) for p in others])
    results.close()
    assert len(set(workers)) == 2 and all(map(has_ended, workers))


@pytest.mark.slow
def test_ctrl_c_ends_all_and_workers_make_the_same_to_the_byte_even_if_one_is_killed(videos, alone, tmp_path):
    dataset = Dataset.open("D", tmp_path)
    with command(videos, "--datasets_dir", tmp_path, "--workers", "2") as process:
        workers = wait_for(lambda: len(found := holders(dataset)) == 2 and found, process)
        os.killpg(process.pid, signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130 and "interrupted: run the same command again" in err and "Traceback" not in err
    assert all(map(has_ended, workers))

    with command(videos, "--datasets_dir", tmp_path, "--workers", "2") as process:
        living = partial(holders, dataset)
        killed, name = wait_for(lambda: next(((w, n) for w, n in living().items() if not has_ended(w)), None), process)
        os.kill(killed, signal.SIGKILL)
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert "3 videos on 2 processes" in out and "3 made, 0 complete already, 0 failed" in out
    assert f"warning: {name}: its worker process died and it is tried again (SIGKILL" in err
    assert [out.count(f"{n}: {sum(alone.read_record(n).splits.values())} NMFC images") for n in NAMES] == [1] * 3
    assert content(dataset) == content(alone)


def test_two_commands_never_work_on_one_identity(videos, copy, tmp_path):
    path = copy.lock_path("Ann")
    code = "import pathlib, sys, util.locks\nwith util.locks.locked(pathlib.Path(sys.argv[1]), 'Ann'): print('held', flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code, path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        outcome = attempt(copy, SETTINGS, ("Ann", [videos / "Ann.mp4"]))
        assert outcome.error.startswith(f"'Ann' is being worked on by process {other.pid} on ") and "run again" in outcome.error
        assert attempt(copy, SETTINGS, ("Bob", [videos / "Bob.mp4"])).error == ""
        other.kill()
        other.wait()
    assert path.is_file()  # it was killed: the lock is free all the same
    with locked(path, "Ann"), pytest.raises(UserError, match=f"Ann is being worked on by process {os.getpid()}"), locked(path, "Ann"):
        pass
    assert not path.exists()


# -- Ray ---------------------------------------------------------------------------------------------------------------------


def test_without_ray_or_a_cluster_the_sentence_says_what_to_do(videos, tmp_path):
    with pytest.raises(UserError, match=r"requirements-ray.txt|no Ray cluster can be reached at 127.0.0.1:1 \(.*ray start --head"):
        preprocess.main([str(videos), "--datasets_dir", str(tmp_path), *OPTIONS, "--ray", "127.0.0.1:1"])


def test_machines_that_see_other_files_or_have_other_packages_are_named(tmp_path):
    mark, film = tmp_path / "mark", tmp_path / "film.mp4"
    own = versions()
    assert own["Python"].startswith("3.") and own["numpy"] == np.__version__

    def said(**changes):
        return judge("n1 (10.0.0.2)", {**probe(mark, "text", [film]), **changes}, own, tmp_path)

    assert f"n1 (10.0.0.2) does not see {tmp_path}; put the datasets on storage that all machines" in said()[0]
    mark.write_text("text")
    assert f"n1 (10.0.0.2) does not see {film}; put the videos" in said()[0]
    film.write_bytes(b"")
    assert said() == []
    assert said(writable=False) == [f"n1 (10.0.0.2) may not write into {tmp_path}; allow it there"]
    assert "has numpy 1.0 instead of" in said(versions={**own, "numpy": "1.0"})[0]
    assert "has mediapipe missing instead of" in said(versions={**own, "mediapipe": None})[0]


@pytest.fixture(scope="module")
def cluster():
    """Two nodes with a core each, on this machine; the second one's raylet."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-ray.txt")
    from ray.cluster_utils import Cluster

    store = 80 << 20
    quick = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 4}
    head = {"num_cpus": 1, "object_store_memory": store, "include_dashboard": False, "_system_config": quick}
    nodes = Cluster(initialize_head=True, head_node_args=head)
    second = nodes.add_node(num_cpus=1, object_store_memory=store)
    yield nodes, second
    nodes.shutdown()


def parent_of(process):
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.slow
def test_a_cluster_makes_the_same_to_the_byte_even_if_a_node_is_lost(videos, alone, tmp_path, cluster):
    nodes, second = cluster
    dataset = Dataset.open("D", tmp_path)
    raylet = second.all_processes["raylet"][0].process.pid
    with command(videos, "--datasets_dir", tmp_path, "--ray", nodes.address) as process:
        lost = wait_for(lambda: next((w for w in holders(dataset) if parent_of(w) == raylet), None), process)
        os.kill(raylet, signal.SIGKILL)
        os.kill(lost, signal.SIGKILL)
        out, err = process.communicate()
    assert process.returncode == 0, err
    assert "Ray: 2 machines, 2 cores" in out and "3 made, 0 complete already, 0 failed" in out
    assert [out.count(f"{n}: {sum(alone.read_record(n).splits.values())} NMFC images") for n in NAMES] == [1] * 3
    assert content(dataset) == content(alone)
    assert "Traceback" not in err and "(pid=" not in out + err
