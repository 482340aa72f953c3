"""The wrappers of the original's README, word for word, in a checkout of its own, on datasets and checkpoints in the original's layout."""

import json
import os
import shutil
import subprocess
import sys
from fractions import Fraction

import pytest
import torch
from fake_dataset import make_original
from fake_run import ROOT
from test_credentials import certificate

from models.checkpoints import PUBLISHED_OPTIONS, read_weights, save_weights
from models.networks import build_generator
from util import VERSION
from util.credentials.reading import read_findings
from util.image_io import read_image
from util.layout import Dataset, Run
from util.video.reading import probe, read_frames

# What makes a training small; the commands themselves are the original's.
TINY = "--preset preview --loadSize 64 --ngf 4 --n_blocks 1 --ndf 4 --ema 0 --move_heads 0 --no_tensorboard --niter 1 --niter_decay 0"
TEST_FRAMES = ["000016", "000017", "000018"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """The repository's files, an interpreter, datasets/head2headDataset (Ann, Bob, Bob driving Ann) and datasets/faceforensicspp."""
    home = tmp_path_factory.mktemp("wrappers") / "my checkout"
    listed = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file() and not name.startswith(("tests/", "docs/")):
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, home / name)
    python = home / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    make_original(home / "datasets", dataset="head2headDataset", test_frames=len(TEST_FRAMES))
    make_original(home / "datasets", ("000", "071"), dataset="faceforensicspp", test_frames=1)
    return home


def call(folder, line, code=0):
    """Run a command line, its words divided by blanks, in a folder; returns what it printed."""
    environment = {**os.environ, "CDPATH": "."}  # makes `cd` print where it goes
    done = subprocess.run(line.split(), cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    return done.stdout + done.stderr


def files_of(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def open_run(checkout, dataset, name):
    return Run.open(dataset, name, checkout / "checkpoints", checkout / "results")


def networks(run):
    return {p.name.removeprefix("latest_net_").removesuffix(".pth") for p in run.checkpoints.glob("*.pth")}


def difference(a, b):
    """The largest difference of two runs' generators."""
    a, b = (read_weights(run.network_path("G")) for run in (a, b))
    assert a.keys() == b.keys()
    return max((a[k].float() - b[k].float()).abs().max().item() for k in a if k.endswith(("weight", "bias")))


def test_the_wrappers_are_executable_files_in_git():
    listed = subprocess.run(["git", "ls-files", "-s", "scripts/*.sh"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    modes = {line.split("\t")[1]: line.split()[0] for line in listed.splitlines()}
    wrappers = {
        *(f"scripts/train/{name}.sh" for name in ("train_on_target", "train_faceforensicspp", "finetune_on_target")),
        *(f"scripts/test/test_{name}.sh" for name in ("self_reenactment_on_target", "reenactment_from_source_to_target")),
        "scripts/test/test_face_reenactment_from_source_to_target.sh",
    }
    assert wrappers <= modes.keys() and set(modes.values()) == {"100755"}


def test_train_on_target(checkout):
    data = Dataset.open("head2headDataset", checkout / "datasets")
    before = files_of(data.home)
    # a temporal discriminator and the warp loss: flow between the original's frames is computed as well
    call(checkout, f"./scripts/train/train_on_target.sh Bob head2headDataset {TINY} --n_scales_temporal 1 --lambda_warp 10")
    run = open_run(checkout, "head2headDataset", "head2head_Bob")
    assert networks(run) == {"G", "D", "Dm", "De", "D_T0"}
    assert all((run.checkpoints / name).is_file() for name in ("opt.txt", "iter.txt", "loss_log.txt", "web/index.html"))
    options = json.loads(run.options_path.read_text())
    assert options["identities"] == ["Bob"] and options["face_model"] is None and options["head2head"] == VERSION
    generator = build_generator({**PUBLISHED_OPTIONS, **options})
    generator.load_state_dict(read_weights(run.network_path("G")))
    after = files_of(data.home)
    assert {p: after[p] for p in before} == before  # what the original made stays as it is
    new = {p.relative_to(data.folder / "train").parts[0] for p in after.keys() - before.keys()}
    assert new - {"digests"} == {"flows", "appearances"}  # digests: of files older than seconds


def test_finetune_on_target_starts_from_faceforensicspp(checkout):
    for options, runs in (("", f"{checkout}/checkpoints"), (" --checkpoints_dir mine", "mine")):
        said = call(checkout / "scripts", f"bash train/finetune_on_target.sh 071 faceforensicspp{options}", code=1)
        named = f"error: there are no networks to start from in {runs}/faceforensicspp/head2head_faceforensicspp; train them with"
        assert said.startswith(named) and said.count("\n") == 1

    call(checkout, f"./scripts/train/train_faceforensicspp.sh {TINY}")
    start = open_run(checkout, "faceforensicspp", "head2head_faceforensicspp")
    assert networks(start) == {"G", "D", "Dm", "De"}
    assert json.loads(start.options_path.read_text())["identities"] == ["000", "071"]

    said = call(checkout, f"./scripts/train/finetune_on_target.sh 071 faceforensicspp {TINY} --ngf 8", code=1)
    assert f"{start.checkpoints} was trained with other networks (--ngf was 4, is 8); use the same, or leave" in said

    # moves no weight by more than the learning rate a step
    call(checkout, f"./scripts/train/finetune_on_target.sh 071 faceforensicspp {TINY} --seed 5 --lr 1e-9")
    tuned = open_run(checkout, "faceforensicspp", "head2head_071")
    assert json.loads(tuned.options_path.read_text())["identities"] == ["071"] and networks(tuned) == networks(start)
    assert difference(start, tuned) < 1e-6
    torch.manual_seed(5)
    fresh = build_generator({**PUBLISHED_OPTIONS, **json.loads(tuned.options_path.read_text())}).state_dict()
    trained = read_weights(tuned.network_path("G"))
    assert max((fresh[k] - trained[k]).abs().max() for k in fresh if k.endswith("weight")) > 0.01


def test_a_published_checkpoint_is_tested(checkout, tmp_path):
    """Nothing but latest_net_G.pth and the original's opt.txt, the networks at their full depth; and the conditioning images of the
    original for Bob driving Ann, since nothing here can draw others from its coefficients."""
    run = open_run(checkout, "head2headDataset", "head2head_Ann")
    run.checkpoints.mkdir(parents=True)
    torch.manual_seed(0)
    save_weights(build_generator({**PUBLISHED_OPTIONS, "ngf": 8}), run.network_path("G"))
    options = "".join(f"{name}: {value}\n" for name, value in (("loadSize", 64), ("ngf", 8), ("no_prev_output", False)))
    run.options_path.write_text(f"------------ Options -------------\n{options}-------------- End ----------------\n")
    data = Dataset.open("head2headDataset", checkout / "datasets")
    before = files_of(data.folder / "test")

    seal = f"--certificate {tmp_path / 'studio.pem'} --key={tmp_path / 'studio_key.pem'} --no_report"  # images_to_video.py writes all.mp4
    certificate(tmp_path)
    call(checkout, f"./scripts/test/test_self_reenactment_on_target.sh Ann head2headDataset {seal}")
    folder = checkout / "results" / "head2headDataset" / "head2head_Ann" / "latest_epoch" / "test" / "Ann"
    assert {read_findings(p).signer for p in (folder, folder / "all.mp4")} == {"Studio signer, Studio Ltd"}

    assert "MAPD-L2" in call(checkout, "./scripts/test/test_self_reenactment_on_target.sh Ann head2headDataset")
    folder = check_results(checkout, "Ann", {"real", "fake", "nmfc", "eye_gaze", "heatmap", "masked_heatmap"})
    truth = read_image(data.sequence("test", "Ann").path("images", int(TEST_FRAMES[0])))
    assert (read_image(folder / "real" / f"{TEST_FRAMES[0]}.png") == truth).all()

    for mode in ("", "face_"):
        said = call(checkout, f"./scripts/test/test_{mode}reenactment_from_source_to_target.sh Bob Ann head2headDataset")
        assert "the conditioning images that are there are kept" in said
        folder = check_results(checkout, "Ann_Bob", {"real", "fake", "nmfc", "eye_gaze"})
    nmfc = data.pair("Ann", "Bob").path("source_nmfcs", int(TEST_FRAMES[0]))
    assert (read_image(folder / "nmfc" / f"{TEST_FRAMES[0]}.png") == read_image(nmfc)).all()
    assert files_of(data.folder / "test") == before


def check_results(checkout, name, kinds):
    """The folder, files and pictures of a result, its video and its page; returns the folder."""
    folder = checkout / "results" / "head2headDataset" / "head2head_Ann" / "latest_epoch" / "test" / name
    assert {p.name for p in folder.iterdir() if p.is_dir()} == kinds
    for kind in kinds:
        assert sorted(p.stem for p in (folder / kind).iterdir()) == TEST_FRAMES
        assert read_image(folder / kind / f"{TEST_FRAMES[0]}.png").shape == (64, 64, 3)
    assert read_image(folder / "fake" / f"{TEST_FRAMES[0]}.png").std() > 5
    facts = json.loads((folder / "complete.json").read_text())
    assert facts["head2head"] == VERSION and f"Head2Head {VERSION}" in (folder / "index.html").read_text()
    assert probe(folder / "all.mp4").fps == Fraction(25) and len(list(read_frames(folder / "all.mp4"))) == len(TEST_FRAMES)
    return folder
