"""The training command: files, exact resume, schedule, limits, and user errors."""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from fake_dataset import make_dataset

import train
from models.checkpoints import load_weights, read_run_options, read_tensors, save_weights
from models.networks import build_generator
from models.training.clock import Clock
from models.training.loop import Training
from util.cli import UserError
from util.face.appearance import CELLS, Appearance
from util.layout import Run, root

NETWORKS = ("G", "D", "Dm", "D_T0", "D_T1", "D_T2")
TINY = "--preset published --loadSize 32 --ngf 4 --n_downsample_G 2 --n_blocks 2 --ndf 4 --n_layers_D 2 --gpu_ids -1 --no_vgg".split()
TINY += "--niter 2 --niter_decay 1".split()
TINY += "--batch_size 1 --ema 0.9 --n_frames_total 6 --niter_step 1 --max_frames_per_gpu 4 --no_tensorboard".split()
TINY += "--move_heads 0 --lambda_L1 0 --lambda_gradient 0 --epoch_frames 0".split()


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    make_dataset(folder, "Ann", parts=3, part_length=21, test_frames=0, size=32)
    make_dataset(folder, "Bob", parts=1, part_length=8, test_frames=0, size=32)
    return folder


@pytest.fixture
def command(datasets, tmp_path):
    """Run train.py on Ann with tiny networks; returns its exit code."""

    def call(*extra):
        return train.main([*base(datasets, tmp_path), *TINY, *extra])

    call.run = Run.open("fake", "head2head_Ann", tmp_path / "checkpoints")
    return call


def base(datasets, folder, person="Ann"):
    return [
        "--dataset_name",
        "fake",
        "--target_id",
        person,
        "--datasets_dir",
        str(datasets),
        "--checkpoints_dir",
        str(folder / "checkpoints"),
    ]


def state(run):
    return read_tensors(run.state_path)


def stop_after(monkeypatch, clips):
    """Requests a stop after that many clips, as Ctrl-C does."""
    original = Training.after_clip
    done = []

    def after_clip(self, *args):
        original(self, *args)
        done.append(1)
        if len(done) == clips:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Training, "after_clip", after_clip)


def test_a_run_and_its_files(command, capsys):
    assert command("--save_epoch_freq", "2") is None
    run = command.run
    options = read_run_options(run)
    assert options["ngf"] == 4 and options["seed"] == 0 and options["identities"] == ["Ann"] and options["face_model"]["name"] == "mesh478"
    for label in NETWORKS:
        for epoch in ("latest", 2):
            assert run.network_path(label, epoch).is_file()
    generator = build_generator(options)
    load_weights(generator, run.network_path("G"))
    saved = state(run)
    # the generator that is saved for use is the moving average of the one in training
    assert saved["finished"] and torch.equal(saved["average"]["network"]["model_final_img.1.bias"], generator.model_final_img[1].bias)
    assert not torch.equal(saved["networks"]["G"]["model_final_img.1.bias"], generator.model_final_img[1].bias)
    # epochs of 3 clips with 6, 12, 21 frames in chunks of 4
    assert saved["progress"]["epoch"] == 3 and saved["progress"]["frames"] == 3 * (6 + 12 + 21)
    assert saved["progress"]["steps"] == 3 * (2 + 3 + 6)
    assert run.iteration_path.read_text().split() == ["4", "0"]
    entries = [json.loads(line) for line in run.log_path.read_text().splitlines()]
    losses = entries[-1]["losses"]
    wanted = {"G", "D", "G_warp"} | {f"G_GAN_{n}" for n in NETWORKS[1:]} | {f"{n}_real" for n in NETWORKS[1:]}
    assert wanted <= set(losses) and entries[-1]["step"] == 33
    assert losses["G"] == pytest.approx(
        sum(v * (10 if k.startswith("G_feat") or k == "G_warp" else 1) for k, v in losses.items() if k.startswith("G_")), rel=1e-4
    )
    assert (run.web / "index.html").is_file() and list((run.web / "images").glob("*_fake.jpg"))
    assert not list(run.checkpoints.glob(".*"))  # no half-written files are left

    # once more: nothing is done
    before = {p: p.stat().st_mtime_ns for p in run.checkpoints.rglob("*")}
    capsys.readouterr()
    assert command("--save_epoch_freq", "2") is None
    assert "trained to its end already" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in run.checkpoints.rglob("*")} == before
    # a larger --niter goes on
    command("--continue_train", "--niter", "3")
    assert state(run)["progress"]["epoch"] == 4


@pytest.mark.parametrize(
    ("batch", "clips", "epoch", "clip", "more"),
    [
        ("1", 4, 1, 1, []),
        ("2", 4, 2, 2, []),  # batches go across the epochs' ends
        ("2", 4, 2, 2, ["--augment", "--move_heads", "0.5", "--lambda_gradient", "9"]),  # what is random in the frames
        ("1", 4, 0, 4, ["--epoch_frames", "100"]),  # epochs of 5 clips from 3 sequences
    ],
)
def test_resumed_run_equals_an_uninterrupted_one(command, datasets, tmp_path, monkeypatch, batch, clips, epoch, clip, more):
    monkeypatch.setattr(
        "preprocessing.tracking.person_matte.create_person_mask", lambda: lambda image: np.ones(image.shape[:2], np.float32)
    )
    command("--batch_size", batch, *more)
    whole = state(command.run)
    other = tmp_path / "interrupted"
    args = [*base(datasets, other), *TINY, "--batch_size", batch, *more]
    with monkeypatch.context() as m:
        stop_after(m, clips)
        assert train.main(args) == 130
    run = Run.open("fake", "head2head_Ann", other / "checkpoints")
    half = state(run)
    assert not half["finished"] and half["progress"]["epoch"] == epoch and half["progress"]["clip"] == clip
    assert run.iteration_path.read_text().split() == [str(epoch + 1), str(clip)]
    assert train.main(args) is None  # the same command again goes on
    resumed = state(run)
    assert resumed["progress"] | {"seconds": 0} == whole["progress"] | {"seconds": 0}
    assert torch.equal(resumed["rng"], whole["rng"])
    for label in NETWORKS:
        for key, value in whole["networks"][label].items():
            torch.testing.assert_close(resumed["networks"][label][key], value, rtol=0, atol=1e-6, msg=f"{label} {key}")
    for key, value in whole["average"]["network"].items():
        torch.testing.assert_close(resumed["average"]["network"][key], value, rtol=0, atol=1e-6)
    assert resumed["average"]["updates"] == whole["average"]["updates"] > 0
    for name in ("G", "D"):
        for index, moments in whole["optimizers"][name]["state"].items():
            for key, value in moments.items():
                torch.testing.assert_close(resumed["optimizers"][name]["state"][index][key], value, rtol=0, atol=1e-6)


def test_kill_leaves_a_sound_checkpoint(datasets, tmp_path):
    """SIGTERM saves and ends with 143; what it saved is gone on with. Really a process, really a signal."""
    args = [sys.executable, str(root() / "train.py"), *base(datasets, tmp_path), *TINY, "--niter", "100000"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = Run.open("fake", "head2head_Ann", tmp_path / "checkpoints")
    process = subprocess.Popen(args, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((run.web / "images").glob("*.jpg")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "run the same command to go on" in out and "Traceback" not in err
    saved = state(run)
    assert saved["progress"]["steps"] > 0 and not saved["finished"]


def test_time_limit_fits_the_schedule_into_it(command, monkeypatch):
    """Time drives rate and clip length, not only between epochs, and the run ends complete. A clock that moves on with every clip."""
    rates, lengths = [], []
    original = Training.train

    def spy(self, clip):
        rates.append(self.model.optimizers["D"].param_groups[0]["lr"])
        lengths.append(clip.length)
        return original(self, clip)

    monkeypatch.setattr(Training, "train", spy)
    monkeypatch.setattr(Clock, "done", lambda self: len(rates) / 10)
    schedule = ["--niter", "40", "--niter_decay", "40", "--niter_step", "20"]
    assert command(*schedule, "--max_minutes", "3") is None
    # position = 8 epochs for every clip: longer clips from 20, 40 on, decay from 40 on
    assert lengths == [6, 6, 6, 12, 12, 21, 21, 21, 21, 21]
    assert rates == pytest.approx([2e-4] * 6 + [1.6e-4, 1.2e-4, 0.8e-4, 0.4e-4])
    saved = state(command.run)
    assert saved["finished"] and saved["progress"]["share"] == 1 and saved["progress"]["epoch"] == 3
    assert command(*schedule, "--max_minutes", "7") is None  # complete, whatever the limit is now
    assert len(rates) == 10


# -- every state that a run's folder can be in -------------------------------------------------------------------------------

LEAN = "--n_scales_temporal 0 --lambda_warp 0 --niter 1 --niter_decay 1 --niter_step 9 --save_epoch_freq 1".split()


@pytest.fixture(scope="module")
def finished(datasets, tmp_path_factory):
    """The folder of a finished run, with numbered checkpoints of its two epochs; it is copied, then damaged."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("finished")
    train.main([*base(datasets, folder), *TINY, *LEAN])
    return folder


@pytest.fixture
def again(finished, command, tmp_path, capsys):
    """The same command on a copy of the finished run; returns all that it says, an error too."""

    def call(*extra):
        capsys.readouterr()
        try:
            assert command(*LEAN, *extra) is None
            error = ""
        except UserError as e:
            error = f"error: {e}"
        return "".join(capsys.readouterr()) + error

    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    call.run = command.run
    return call


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def of_another(path):
    torch.save({"model": torch.zeros(3)}, path)


DAMAGES = [cut, flip, of_another, lambda p: p.write_bytes(b""), lambda p: p.write_text("hello"), lambda p: torch.save(torch.nn.ReLU(), p)]
AT_ITS_END = "is trained to its end already (a schedule of 2 epochs); to go on: --continue_train --niter 2 or more\n"


def test_what_the_state_holds_is_written_anew(again):
    run = again.run
    whole = {p: p.read_bytes() for p in (run.network_path("G"), run.network_path("D"), run.options_path, run.iteration_path)}
    weights = read_tensors(run.network_path("G"))
    for damage in (*DAMAGES, lambda p: p.unlink()):
        damage(run.network_path("G"))
        said = again()
        assert AT_ITS_END in said and said.count("latest_net_G.pth ") == said.count("written anew from latest_state.pt") == 1, said
        for key, value in read_tensors(run.network_path("G")).items():
            assert torch.equal(value, weights[key])  # the moving average
    assert len(list(run.checkpoints.glob("latest_net_G.pth.damaged*"))) == len(DAMAGES)  # what was there
    cut(run.network_path("D"))
    run.iteration_path.write_text("x")
    for damage in (cut, lambda p: p.unlink()):
        damage(run.options_path)
        again()
        assert json.loads(run.options_path.read_text()) == json.loads(whole[run.options_path])
    assert run.iteration_path.read_bytes() == whole[run.iteration_path] and read_tensors(run.network_path("D"))
    said = again()
    assert said.endswith(AT_ITS_END) and "warning" not in said


def test_interrupted_run_goes_on_over_a_damaged_generator(again):
    run = again.run
    saved = {**state(run), "finished": False}
    saved["progress"]["epoch"] = 1
    torch.save(saved, run.state_path)
    cut(run.network_path("G"))
    said = again()
    assert "going on at epoch 2" in said and "latest_net_G.pth is cut off or damaged: written anew" in said and state(run)["finished"]


def test_damaged_state_goes_on_from_the_networks_and_is_kept(again):
    run = again.run
    for damage in DAMAGES:
        damage(run.state_path)
        damaged = run.state_path.read_bytes()
        said = again()
        assert "latest_state.pt " in said and "the networks beside it are whole; add --continue_train to go on from them" in said
        assert run.state_path.read_bytes() == damaged
    said = again("--continue_train", "--niter", "2")
    kept = run.checkpoints / "latest_state.pt.damaged"
    assert f"kept as {kept.name}" in said and kept.read_bytes() == damaged and state(run)["progress"]["epoch"] == 3


def test_without_state_and_generator_numbered_checkpoints_or_a_new_start(again):
    run = again.run
    for damage in (cut, lambda p: p.unlink(missing_ok=True)):
        for path in (run.state_path, run.network_path("G")):
            damage(path)
        for extra in ([], ["--continue_train"]):
            assert "go on from epoch 2 with --continue_train --which_epoch 2, or choose another --name" in again(*extra)
    cut(run.network_path("G", 2))
    assert "go on from epoch 1 with --continue_train --which_epoch 1" in again()
    assert "take the latest" not in again("--continue_train", "--which_epoch", "2")
    assert "at epoch 2" in again("--continue_train", "--which_epoch", "1") and state(run)["finished"]
    assert "there: 1" in again("--continue_train", "--which_epoch", "7")
    for path in (*run.checkpoints.glob("[0-9]*_net_G.pth"), run.state_path):
        path.unlink()
    cut(run.network_path("G"))
    said = again()
    assert f"nothing here can be gone on with: start anew with another --name, or after mv {run.checkpoints} " in said
    shutil.move(run.checkpoints, f"{run.checkpoints}.damaged")
    assert "generator:" in again() and state(run)["finished"]


def test_state_that_does_not_fit_its_run(again):
    run = again.run
    whole = {**state(run), "finished": False}
    whole["progress"]["epoch"] = 1

    def optimizers(s):
        s["optimizers"]["D"]["state"][3]["exp_avg"] = torch.zeros(2)

    def network(s):
        s["networks"]["D"] = s["networks"]["G"]

    for change, words in ((optimizers, "holds the optimisers of other networks"), (network, r"latest_state.pt (D) does not fit")):
        changed = copy.deepcopy(whole)
        change(changed)
        torch.save(changed, run.state_path)
        said = again()
        assert words in said and f"--continue_train after mv {run.state_path} {run.state_path}.other" in said
    run.state_path.rename(f"{run.state_path}.other")
    assert "at epoch 3" in again("--continue_train", "--niter", "2") and state(run)["finished"]


def test_lost_options_of_a_state_without_a_copy(again):
    run = again.run
    torch.save({k: v for k, v in state(run).items() if k != "options"}, run.state_path)
    cut(run.options_path)
    assert "this run's options and frames are not known; add --continue_train to go on" in again()
    said = again("--continue_train")
    assert "going on with those of this command" in said and AT_ITS_END in said
    assert read_run_options(run)["ngf"] == 4 and "warning" not in again()


def test_an_average_can_begin_later(again):
    torch.save({**state(again.run), "average": None}, again.run.state_path)
    assert "trained" in again("--continue_train", "--niter", "2") and state(again.run)["average"]


def test_run_that_time_ended_goes_on(again, command, monkeypatch):
    """It is at the end of its schedule, whatever it is asked for, until that is longer; then it goes on from there."""
    run = again.run
    saved = state(run)
    saved["progress"] |= {"epoch": 1, "clip": 1, "share": 1.0}
    torch.save(saved, run.state_path)
    for extra in ([], ["--max_minutes", "7"], ["--continue_train"], ["--continue_train", "--max_minutes", "7"], []):
        assert AT_ITS_END in again(*extra)
    assert "trained" in again("--continue_train", "--niter", "2")
    progress = state(run)["progress"]
    assert progress["epoch"] == 3 and progress["frames"] == saved["progress"]["frames"] + 3 * 6
    monkeypatch.setattr(Clock, "done", lambda self: self._before + (1 - self._before) / 2)
    positions = []
    original = Training.train
    monkeypatch.setattr(Training, "train", lambda self, clip: (positions.append(self.position), original(self, clip))[1])
    again("--continue_train", "--niter", "5", "--max_minutes", "5")
    assert positions[:2] == [3, 4.5]  # of 6


def test_divergence_stops_with_advice_and_keeps_the_checkpoint(command, monkeypatch):
    with monkeypatch.context() as m:
        stop_after(m, 2)
        command()
    before = command.run.state_path.read_bytes()
    original = Training.begin

    def begin(self, *args):
        original(self, *args)
        self.model.G.model_final_img[1].bias.data.fill_(float("nan"))

    monkeypatch.setattr(Training, "begin", begin)
    with pytest.raises(UserError, match="training diverged.*--continue_train and half the --lr"):
        command()
    assert command.run.state_path.read_bytes() == before


def test_out_of_memory_gives_advice(command, monkeypatch):
    def fail(self, clip):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nmore")

    monkeypatch.setattr(Training, "train", fail)
    with pytest.raises(
        UserError, match=r"out of GPU memory \(CUDA out of memory. Tried to allocate 20 GiB.\); try --max_frames_per_gpu 2, --ngf 2, or"
    ):
        command()


def test_other_options_or_frames_are_not_mixed_into_a_run(command, datasets, tmp_path, monkeypatch):
    stop_after(monkeypatch, 1)
    command()
    with pytest.raises(UserError, match="--lr was 0.0002, is 0.001.*--continue_train"):
        command("--lr", "1e-3")
    with pytest.raises(UserError, match="--ngf was 4, is 8"):
        command("--ngf", "8", "--continue_train")
    command("--lr", "1e-3", "--continue_train")
    assert read_run_options(command.run)["lr"] == 1e-3
    with pytest.raises(UserError, match="other frames"):
        train.main([*base(datasets, tmp_path, "Bob"), "--name", "head2head_Ann", *TINY])


def test_a_run_of_an_older_version_goes_on(command, monkeypatch):
    """Its opt.txt does not name the settings that came later; they are as published."""
    with monkeypatch.context() as m:
        stop_after(m, 1)
        command()
    options = json.loads(command.run.options_path.read_text())
    older = {k: v for k, v in options.items() if k not in ("appearance", "conditioning_frames")}
    command.run.options_path.write_text(json.dumps(older))
    with pytest.raises(UserError, match="--conditioning_frames was 3, is 1"):
        command("--conditioning_frames", "1", "--continue_train")
    assert command() is None and state(command.run)["finished"]


def test_lean_networks(command):
    assert command("--conditioning_frames", "1", "--no_prev_output", "--niter", "1", "--niter_decay", "0") is None
    generator = build_generator(read_run_options(command.run))
    load_weights(generator, command.run.network_path("G"))
    assert generator.model_down_seg[1].in_channels == 6


def test_what_a_person_looks_like_is_kept_with_the_run(command):
    """A run that goes on writes it anew; of a finished one it is left alone, for the run has learnt with it, unless it is lost."""
    options = ("--appearance", "--niter", "1", "--niter_decay", "0")
    assert command(*options) is None
    path = command.run.appearance_path("Ann")
    whole, old = Appearance.read(path), Appearance(np.zeros((CELLS**3, 3), np.uint8))
    assert whole.backdrop.shape == (32, 32, 3) and whole.backdrop.any()
    path.write_bytes(old.to_bytes())
    command(*options)
    assert Appearance.read(path).backdrop is None
    path.unlink()
    command(*options)
    np.testing.assert_array_equal(Appearance.read(path).backdrop, whole.backdrop)
    path.write_bytes(old.to_bytes())
    command("--appearance", "--niter", "2", "--niter_decay", "0", "--continue_train")
    np.testing.assert_array_equal(Appearance.read(path).colours, whole.colours)


def test_pretrained_networks_and_bare_weights(command, datasets, tmp_path, capsys):
    """Several persons first, then one from there; a folder with weights alone is continued with a warning."""
    everybody = [a for a in base(datasets, tmp_path) if a not in ("--target_id", "Ann")]
    short = ["--niter_step", "9", "--niter", "1", "--niter_decay"]
    train.main([*everybody, *TINY, *short, "0"])
    pretrained = Run.open("fake", "head2head_fake", tmp_path / "checkpoints")
    assert read_run_options(pretrained)["identities"] == ["Ann", "Bob"]
    command("--load_pretrain", str(pretrained.checkpoints), "--lr", "1e-12", *short, "0")
    for label in NETWORKS:
        weights = state(pretrained)["average"]["network"] if label == "G" else state(pretrained)["networks"][label]
        for key, value in weights.items():
            torch.testing.assert_close(state(command.run)["networks"][label][key], value, rtol=0, atol=1e-6)
    with pytest.raises(UserError, match=r"was trained with other networks \(--ngf was 4, is 8\); use the same, or"):
        train.main([*base(datasets, tmp_path, "Bob"), *TINY, "--ngf", "8", "--load_pretrain", str(pretrained.checkpoints)])

    run = command.run
    run.state_path.unlink()
    run.network_path("D_T2").unlink()
    with pytest.raises(UserError, match="holds a trained generator; go on with --continue_train"):
        command()
    capsys.readouterr()
    command("--continue_train", *short, "1")
    said = capsys.readouterr()
    assert "no training state: the optimisers start afresh, at epoch 2" in said.err and "D_T2 starts from random weights" in said.out
    assert state(run)["progress"]["epoch"] == 2
    run.state_path.unlink()
    command("--continue_train", *short, "1")
    assert "trained to its end already (a schedule of 2 epochs); to go on: --continue_train --niter 2 or more" in capsys.readouterr().out


def test_newer_numbered_checkpoints_replace_older_ones(command, monkeypatch):
    """Of those that the schedule wrote; over an interruption; never files that were there before, nor those that were asked for."""
    run = command.run
    run.checkpoints.mkdir(parents=True)
    run.network_path("G", 9).write_bytes(b"mine")
    keep_two = ["--save_epoch_freq", "1", "--keep_checkpoints", "2"]
    with monkeypatch.context() as m:
        stop_after(m, 6)  # after two epochs
        assert command(*keep_two) == 130
    assert state(run)["progress"]["temporary"] == [1, 2]
    assert command(*keep_two) is None

    networks = state(run)["networks"]

    def numbered():
        return {(int(e), n) for e, n in (p.stem.split("_net_") for p in run.checkpoints.glob("*_net_*.pth")) if e != "latest"}

    assert numbered() == {(e, n) for e in (2, 3) for n in networks} | {(9, "G")} and run.network_path("G", 9).read_bytes() == b"mine"
    assert command("--continue_train", "--niter", "4", "--save_epoch_freq", "1") is None  # asked for: all are kept
    assert numbered() == {(e, n) for e in (2, 3, 4, 5) for n in networks} | {(9, "G")}
    assert command("--continue_train", "--niter", "6", *keep_two) is None
    assert numbered() == {(e, n) for e in (4, 5, 6, 7) for n in networks} | {(9, "G")}


def test_pretrained_run_of_another_face_model_is_refused_at_once(command, tmp_path):
    (tmp_path / "other").mkdir()
    save_weights(torch.nn.Linear(1, 1), tmp_path / "other" / "latest_net_G.pth")
    (tmp_path / "other" / "opt.txt").write_text(json.dumps({"face_model": {"name": "ict", "version": "1"}}))
    with pytest.raises(UserError, match="was trained with face model ict 1, but this dataset was fitted with mesh478"):
        command("--load_pretrain", str(tmp_path / "other"))
    assert not command.run.checkpoints.exists()


def test_vgg_is_left_out_with_one_warning_when_it_cannot_be_had(command, monkeypatch, capsys):
    monkeypatch.setattr("models.losses.find_vgg_weights", lambda: None)
    command("--vgg", "--niter", "1", "--niter_decay", "0")
    assert capsys.readouterr().err.count("without the VGG loss") == 1
    assert "G_VGG" not in command.run.log_path.read_text()


def test_flow_is_not_computed_when_nothing_uses_it(command, datasets, monkeypatch):
    monkeypatch.setattr("data.preparation.ensure_flows", lambda *a: pytest.fail("flow was computed"))
    command("--n_scales_temporal", "0", "--lambda_warp", "0", "--niter", "1", "--niter_decay", "0")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--target_id", "An"], "has no person 'An'; it has Ann, Bob"),
        (["--dataset_name", "nothing"], "run preprocessing/detect.py"),
        (["--gpu_ids", "0"], "0 usable CUDA GPU"),
        (["--gpu_ids", "x"], "neither auto nor a number"),
        (["--flow", "flownet2"], "use --flow dis"),
        (["--loadSize", "30"], "must be a multiple of 4"),
        (["--continue_train", "--which_epoch", "7"], "7_net_G.pth"),
    ],
)
def test_bad_input(command, options, message, monkeypatch):
    if options[:2] == ["--gpu_ids", "0"]:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=message):
        command(*options)
    assert not command.run.checkpoints.exists()


def test_moving_heads_says_what_it_needs(command, datasets, monkeypatch):
    monkeypatch.setattr("preprocessing.tracking.person_matte.create_person_mask", lambda: None)
    for kept in datasets.rglob("persons/*.rows"):
        kept.unlink()
    with pytest.raises(UserError, match=r"needs MediaPipe .* pip install --no-deps mediapipe.* or train with --move_heads 0"):
        command("--move_heads", "0.5")
    assert not command.run.checkpoints.exists()


def test_two_processes_equal_one_with_both_clips(command, datasets, tmp_path):
    """Really two processes, through torchrun; position, losses and weights are those of the same batches in one process.

    Adam blows rounding up (tests/test_distributed.py compares the gradients), so the weights are compared as a whole.
    """
    command("--batch_size", "2", "--niter", "1")
    alone = state(command.run)
    other = tmp_path / "two"
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(root() / "train.py")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*torchrun, *base(datasets, other), *TINY, "--niter", "1"], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("trained ") == 1  # the first process alone speaks
    run = Run.open("fake", "head2head_Ann", other / "checkpoints")
    together = state(run)
    assert together["progress"] | {"seconds": 0} == alone["progress"] | {"seconds": 0}
    for label in NETWORKS:
        want, got = (torch.cat([v.flatten() for v in s["networks"][label].values()]) for s in (alone, together))
        assert (got - want).norm() < 0.01 * want.norm(), label
    losses = [json.loads(r.log_path.read_text().splitlines()[-1])["losses"] for r in (command.run, run)]
    assert losses[0] == pytest.approx(losses[1], rel=0.01, abs=1e-3)


def test_two_processes_stop_together_and_go_on_as_one(datasets, tmp_path):
    """A signal that one process gets stops both, after the same clip; one process goes on from what they saved."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(root() / "train.py")]
    args = [*base(datasets, tmp_path), *TINY, "--niter", "100000"]
    run = Run.open("fake", "head2head_Ann", tmp_path / "checkpoints")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*torchrun, *args], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((run.web / "images").glob("*.jpg")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=100)
    saved = state(run)
    assert saved["progress"]["steps"] > 0 and not saved["finished"]
    train.main([*base(datasets, tmp_path), *TINY, "--continue_train", "--niter", str(saved["progress"]["epoch"] + 1)])
    assert state(run)["progress"]["steps"] > saved["progress"]["steps"] and state(run)["finished"]
