"""The parts of the training loop by themselves."""

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess

import pytest
import torch
from fake_dataset import make_dataset

from data.clip_stream import ClipStream
from data.clips import VideoDataset
from models.checkpoints import read_tensors, save_weights, write_tensors
from models.training.beginning import check_pretrained
from models.training.checkpoint_writer import CheckpointWriter
from models.training.clock import Clock
from models.training.loss_meter import LossMeter
from models.training.memory import advice_when_out_of_memory, choose_batch_size
from models.training.run_state import set_aside
from models.training.stop_signal import StopSignal
from util.cli import DiskFull, UserError
from util.layout import Dataset, Run

CPU = torch.device("cpu")
MODEL = {"name": "ict", "version": "2"}


def test_first_signal_asks_and_the_second_stops(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with StopSignal() as stop:
        assert stop.received == 0
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM and "stopping after this clip" in capsys.readouterr().out
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGTERM) == before


def test_clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    assert Clock(90.0, None, 0.25, 5).done() == 0.25  # no limit
    clock = Clock(90.0, 1.0, 0.2, reserve_s=10)  # the command began at 90 and ends at 150, less 10 for saving
    assert clock.done() == pytest.approx(0.2)
    now[0] = 120.0
    assert clock.done() == pytest.approx(0.6)
    now[0] = 140.0
    assert clock.done() == pytest.approx(1.0)
    now[0] = 500.0
    assert clock.done() == 1.0 and Clock(90.0, 1.0, 0.0, 10).done() == 0.0  # preparation took all: one clip all the same


def test_loss_meter_means_and_starts_again():
    meter = LossMeter()
    meter.add({"a": torch.tensor(1.0), "b": torch.tensor(5.0)})
    meter.add({"a": torch.tensor(2.0)})  # b had no frames here
    assert meter.read() == {"a": 1.5, "b": 5.0} and meter.read() == {}
    meter.add({"a": torch.tensor(float("nan"))})
    with pytest.raises(UserError, match="diverged: a became infinite or NaN"):
        meter.read()


@pytest.mark.parametrize(("free_gb", "clips"), [(5, 1), (9, 1), (13.3, 2), (20.5, 4), (140, 4)])
def test_batch_size_is_what_the_free_memory_holds(monkeypatch, free_gb, clips):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (int(free_gb * 1e9), 0))
    assert choose_batch_size(torch.device("cuda"), frames=4, load_size=256, ngf=64) == clips
    assert choose_batch_size(CPU, frames=4, load_size=256, ngf=64) == 1


def test_out_of_memory_proposes_halves_of_what_can_be_halved():
    with pytest.raises(UserError, match=r"out of GPU memory \(no room\); try --ngf 32, or a smaller --loadSize"):
        with advice_when_out_of_memory({"batch_size": 1, "ngf": 64}):
            raise torch.OutOfMemoryError("no room\nmore")


def pretrained(folder, **options):
    (folder / "opt.txt").write_text(json.dumps(options))
    save_weights(torch.nn.Linear(1, 1), Run(folder, folder).network_path("G"))
    return folder


def test_pretrained_run_of_other_networks_is_refused(tmp_path):
    folder = pretrained(tmp_path, ngf=8, n_blocks=2, use_eyes_D=True, face_model=MODEL)
    check_pretrained(folder, MODEL, {"ngf": 8, "n_blocks": 2, "use_eyes_D": False, "ndf": 4})
    with pytest.raises(UserError, match=r"was trained with other networks \(--ngf was 8, is 4; --n_blocks was 2, is 3\); use the same, or"):
        check_pretrained(folder, MODEL, {"ngf": 4, "n_blocks": 3})


def test_pretrained_run_without_a_whole_generator_is_refused(tmp_path):
    with pytest.raises(UserError, match="--load_pretrain: .*latest_net_G.pth is missing; give the folder of a trained run"):
        check_pretrained(tmp_path, MODEL, {})
    folder = pretrained(tmp_path, face_model=MODEL)
    with pytest.raises(UserError, match="--load_pretrain: .*7_net_G.pth is missing; take the latest, without --which_epoch"):
        check_pretrained(folder, MODEL, {}, "7")
    path = Run(folder, folder).network_path("G")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UserError, match="--load_pretrain: .*latest_net_G.pth is cut off or damaged; give the folder"):
        check_pretrained(folder, MODEL, {})


def test_pretrained_run_of_another_face_model_is_refused(tmp_path, capsys):
    check_pretrained(pretrained(tmp_path, face_model=MODEL), MODEL, {})
    assert capsys.readouterr().err == ""
    for other in ({"name": "mesh478", "version": "2"}, {"name": "ict", "version": "1"}):
        with pytest.raises(UserError, match=f"was trained with face model {other['name']} {other['version']}, but this dataset .* ict 2"):
            check_pretrained(pretrained(tmp_path, face_model=other), MODEL, {})


@pytest.mark.parametrize(("theirs", "ours", "silent"), [(None, MODEL, "the run"), (MODEL, None, "the dataset")])
def test_pretrained_run_of_an_unknown_face_model_is_warned_of(tmp_path, capsys, theirs, ours, silent):
    check_pretrained(pretrained(tmp_path, **({"face_model": theirs} if theirs else {})), ours, {})
    said = capsys.readouterr().err
    assert said.count("warning") == 1 and f"{silent}" in said and "does not say which face model" in said


def state(epoch):
    networks = {"G": {"w": torch.full((1,), float(epoch))}, "D": {"w": torch.zeros(1)}}
    return {"networks": networks, "average": None, "progress": {"epoch": epoch, "clip": 0}}


def test_checkpoint_writer_removes_outdated_numbers_of_all_networks(tmp_path):
    run = Run(tmp_path, tmp_path)
    foreign = run.network_path("Dm", 1)  # no network of this run
    foreign.write_bytes(b"mine")
    with CheckpointWriter(run) as writer:
        writer.write(state(1), 1)
        writer.write(state(2), 2, [1])
        writer.write(state(3))
    assert sorted(p.name for p in tmp_path.glob("*.pth")) == [
        "1_net_Dm.pth",
        "2_net_D.pth",
        "2_net_G.pth",
        "latest_net_D.pth",
        "latest_net_G.pth",
    ]
    assert read_tensors(run.network_path("G"))["w"] == 3 and read_tensors(run.state_path)["progress"]["epoch"] == 3
    assert run.iteration_path.read_text() == "4\n0\n"


@contextlib.contextmanager
def small_disk(folder, size):
    """A real disk of that size at `folder`, where this is permitted."""
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def large(epoch):
    return {**state(epoch), "optimizers": torch.zeros(100000)}


@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount here")
def test_full_disk_keeps_the_checkpoint_before(tmp_path):
    with small_disk(tmp_path / "disk", "600k") as disk:
        run = Run(disk, disk)
        with CheckpointWriter(run) as writer:
            writer.write(large(1))
        whole = run.state_path.read_bytes()
        with pytest.raises(DiskFull, match=r"latest_state.pt: the disk is full; free some space.*\(the checkpoint before is whole, and"):
            with CheckpointWriter(run) as writer:
                writer.write(large(2))
                writer._writing.exception()  # wait
                writer.check()
                pytest.fail("the loop was not told")
        assert run.state_path.read_bytes() == whole and not list(disk.glob(".*"))
        (disk / "ballast").write_bytes(bytes(disk_free(disk)))
        with pytest.raises(DiskFull, match="latest_net_G.pth: the disk is full"):
            with CheckpointWriter(run) as writer:
                writer.write(large(3))
        (disk / "ballast").unlink()
        run.state_path.unlink()
        with CheckpointWriter(run) as writer:
            writer.write(large(2))
        assert read_tensors(run.state_path)["progress"]["epoch"] == 2


def disk_free(folder):
    return shutil.disk_usage(folder).free


@pytest.mark.skipif(shutil.which("mount") is None, reason="no mount here")
def test_full_disk_at_the_first_checkpoint_leaves_nothing(tmp_path):
    for ballast in (disk_free, lambda _: 0):
        with small_disk(tmp_path / str(ballast(tmp_path)), "100k") as disk:
            (disk / "ballast").write_bytes(bytes(ballast(disk)))
            with pytest.raises(DiskFull, match="nothing of this run is saved yet"):
                with CheckpointWriter(Run(disk, disk)) as writer:
                    writer.write(large(1))
            assert not list(disk.glob("*.p*"))


@pytest.mark.parametrize("written", [1, 2])
def test_a_run_killed_in_its_first_checkpoint_goes_on(tmp_path, monkeypatch, written):
    """After so many files: the state is among them."""
    count = itertools.count()

    def write(path, tensors):
        if next(count) == written:
            raise KeyboardInterrupt  # what comes after it does not happen
        write_tensors(path, tensors)

    monkeypatch.setattr("models.training.checkpoint_writer.write_tensors", write)
    run = Run(tmp_path, tmp_path)
    with pytest.raises(KeyboardInterrupt), CheckpointWriter(run) as writer:
        writer.write(state(1))
    assert read_tensors(run.state_path)["progress"]["epoch"] == 1  # from which the networks are written anew


def test_damaged_files_are_set_aside_and_never_over_another(tmp_path):
    for text in "abc":
        (tmp_path / "x.pt").write_text(text)
        set_aside(tmp_path / "x.pt")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"x.pt.damaged": "a", "x.pt.damaged2": "b", "x.pt.damaged3": "c"}


def test_parts_of_the_stream_are_those_of_the_whole(tmp_path):
    """Two processes with a clip each see the two clips of one process, cut to the same length."""
    make_dataset(tmp_path, "Ann", parts=2, part_length=12, test_frames=0, size=32)
    make_dataset(tmp_path, "Bob", parts=1, part_length=7, test_frames=0, size=32)
    videos = VideoDataset(Dataset.open("fake", tmp_path), ["Ann", "Bob"], 32, augment=True)
    stream = ClipStream(videos, CPU, roi_px=10, seed=3)
    assert stream.lengths == [12, 12, 7]

    def first(count, *args, **kwargs):
        batches = stream.batches(*args, **kwargs)
        found = list(itertools.islice(batches, count))
        batches.close()
        return found

    whole = first(3, 2, 9, 2)
    assert {b["image"].shape[1] for b in whole} == {7}  # Bob is in every round: Ann's clips are cut to his frames
    for part in (0, 1):
        for mine, both in zip(first(3, 2, 9, 1, part=part, parts=2), whole):
            assert set(mine["corners"]) == {"mouth", "eyes"} and mine["corners"]["mouth"].shape == (1, mine["image"].shape[1], 2)
            for key in ("image", "nmfc", "gaze", "landmarks"):
                assert torch.equal(mine[key], both[key][part : part + 1]), key
            assert torch.equal(mine["corners"]["eyes"], both["corners"]["eyes"][part : part + 1])
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first(2, 4, 9, 2), whole[1:]))  # from any number on
