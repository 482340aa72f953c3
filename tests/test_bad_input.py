"""Bad input through the real commands: one sentence with the fix, the right exit code, the user's files untouched, nothing half-made.

docs/robustness.md has a row for each; `BAD_INPUT=FILE pytest tests/test_bad_input.py -n 0` writes what the commands said.
"""

import json
import os
import resource
import shutil
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_dataset import make_fitted
from fake_run import load_command, make_run
from live_runs import FPS, driver_frames, make_live_run
from synthetic_videos import write_video

from models.checkpoints import save_weights
from models.networks import build_generator
from preprocessing.face_models.registry import load_face_model
from util.cli import run
from util.image_io import write_image

REPORT = os.environ.get("BAD_INPUT")
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0

TEST = "test.py --dataset_name fake --target_id Ann --gpu_ids -1 --backend torch @places"
TRAIN = "train.py --dataset_name fake --target_id Ann --name new --gpu_ids -1 --preset preview --max_minutes 1 @runs"
DEMO = "demo.py {p}/live --source {p}/driver.mp4 --output {p}/out.mp4 --no_window --gpu_ids -1"
EXPORT = "scripts/export.py {p}/live --format onnx"
DATA = "--dataset_name fake --datasets_dir {p}"
REENACT = f"preprocessing/reenact.py {DATA} --target_id Ann"


@dataclass(frozen=True)
class Case:
    name: str
    command: str  # {p}: the place of work
    says: str  # part of the sentence
    damage: Any = None  # done to the place before
    code: int = 1


def put(name, data=b""):
    """Damage: a file with this content instead of what is there."""

    def damage(place):
        path = place / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)

    return damage


def gone(*names):
    def damage(place):
        for name in names:
            shutil.rmtree(place / name) if (place / name).is_dir() else (place / name).unlink()

    return damage


def cut(name, part=0.5):
    """Damage: a file cut off."""

    def damage(place):
        data = (place / name).read_bytes()
        (place / name).write_bytes(data[: int(part * len(data))])

    return damage


def option(name, **changes):
    """Damage: other options in a run's opt.txt."""

    def damage(place):
        path = place / name / "opt.txt"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def record(**changes):
    def damage(place):
        path = place / "fake/dataset/metadata/Ann/dataset.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def weights(name, **options):
    """Damage: the weights of another network."""

    def damage(place):
        from models.checkpoints import read_run_options
        from util.layout import Run

        own = read_run_options(Run(place / name, place / name))
        save_weights(build_generator({**own, **options}), place / name / "latest_net_G.pth")

    return damage


def npz(name, **arrays):
    def damage(place):
        with np.load(place / name) as file:
            whole = dict(file)
        np.savez(place / name, **{**whole, **arrays})

    return damage


def facts(**changes):
    """Damage: other facts in the profile of the live run."""

    def damage(place):
        with np.load(place / "live/profiles/untrained.npz") as file:
            whole = dict(file)
        text = json.dumps({**json.loads(str(whole.pop("facts"))), **changes})
        np.savez(place / "live/profiles/untrained.npz", facts=text, **whole)

    return damage


def picture(name, *size):
    return lambda place: write_image(place / name, np.zeros((*size, 3), np.uint8))


FRAME = "fake/dataset/train/images/Ann_000000/000003.png"
NMFC = "fake/dataset/test/nmfcs/Ann/000018.png"
LANDMARKS = "fake/dataset/test/landmarks70/Ann/000018.txt"
PROFILE = "live/profiles/untrained.npz"
COLOURS = "live/appearances/untrained.npz"
G, ANN = "checkpoints/fake/head2head_Ann/latest_net_G.pth", "checkpoints/fake/head2head_Ann"
RECORD = "fake/dataset/metadata/Ann/dataset.json"
CSV = "--drive {p}/take.csv"

CASES = [
    # demo.py
    Case(
        "no run in the folder",
        "demo.py {p}/empty --source {p}/driver.mp4 --no_window --output {p}/o.mp4",
        "does not hold one target profile",
        lambda p: (p / "empty").mkdir(),
    ),
    Case("a target without a dataset", "demo.py ann", "give a run's folder"),
    Case(
        "a run that is not there", "demo.py bob --dataset_name fake --datasets_dir {p} --checkpoints_dir {p}/checkpoints", "there is no run"
    ),
    Case("a person that the run does not have", DEMO + " --target_id bob", "there is no target profile"),
    Case("a person with ../ in the name", DEMO + " --target_id ../../x", "no usable name"),
    Case(
        "a run with ../ in the name",
        "demo.py --dataset_name fake --name ../fake/head2head_Ann --checkpoints_dir {p}/checkpoints --no_window --output {p}/o.mp4",
        "no usable name",
    ),
    Case("a dataset called ..", "demo.py ann --dataset_name ..", "not usable as a dataset's name"),
    Case("the output is no .mp4", DEMO.replace("out.mp4", "out.avi"), "ends in .mp4"),
    Case("nothing to show", "demo.py {p}/live --source {p}/driver.mp4 --no_window", "nothing would be shown"),
    Case("the source is not there", DEMO.replace("driver.mp4", "nothing.mp4"), "no"),
    Case("the source is empty", DEMO, "driver.mp4", put("driver.mp4")),
    Case("the source is text", DEMO, "driver.mp4", put("driver.mp4", b"hello" * 100)),
    Case("the source is a folder", DEMO.replace("driver.mp4", ""), "folder"),
    Case("exaggerate 0", DEMO + " --exaggerate 0", "must be above 0"),
    Case("exaggerate nan", DEMO + " --exaggerate nan", "--exaggerate nan"),
    Case("exaggerate 1e9", DEMO + " --exaggerate 1e9", "--exaggerate 1e+09"),
    Case("an unknown back end", DEMO + " --backend tensorrt", "no back end 'tensorrt'"),
    Case("back end cuda without a GPU", DEMO.replace(" --gpu_ids -1", "") + " --backend cuda", "needs a CUDA GPU"),
    Case("GPU 7", DEMO.replace("--gpu_ids -1", "--gpu_ids 7"), "this machine has"),
    Case("GPU x", DEMO.replace("--gpu_ids -1", "--gpu_ids x"), "neither auto nor a number"),
    Case("GPU 7 and OpenVINO", DEMO.replace("--gpu_ids -1", "--gpu_ids 7") + " --backend openvino", "runs on the processor"),
    Case("the target's video is lost", DEMO + " --paste_back", "--target_video"),
    Case(
        "the target's video is smaller than the one learnt from",
        DEMO + " --paste_back --target_video {p}/small.mp4",
        "was cut from a larger video",
        lambda p: write_video(p / "small.mp4", [np.zeros((64, 64, 3), np.uint8)] * 3, 20),
    ),
    Case("no opt.txt: taken for the published networks", DEMO, "does not fit", gone("live/opt.txt")),
    Case("opt.txt cut off", DEMO, "opt.txt is damaged", cut("live/opt.txt")),
    Case("opt.txt: ngf is a word", DEMO, "ngf cannot be 'many'", option("live", ngf="many")),
    Case("opt.txt: ngf is a billion", DEMO, "ngf cannot be '1000000000'", option("live", ngf=10**9)),
    Case("opt.txt: another size of network", DEMO, "does not fit Generator", option("live", ngf=8)),
    Case("opt.txt: `half` turned round", DEMO, "does not fit Generator", option("live", half=False)),
    Case("opt.txt: without the colours", DEMO, "does not fit Generator", option("live", appearance=False)),
    Case("weights of another architecture", DEMO, "does not fit Generator", weights("live", n_blocks=4)),
    Case("weights without `half`", DEMO, "does not fit Generator", weights("live", half=False)),
    Case("weights cut off", DEMO, "latest_net_G.pth is cut off or damaged", cut("live/latest_net_G.pth")),
    Case("weights are a web page", DEMO, "latest_net_G.pth", put("live/latest_net_G.pth", b"<html>404</html>")),
    Case("weights missing", DEMO, "there is no checkpoint", gone("live/latest_net_G.pth")),
    Case("profile cut off", DEMO, "is damaged or of another version", cut(PROFILE)),
    Case("profile missing", DEMO, "does not hold one target profile", gone(PROFILE)),
    Case("profile of another face model's version", DEMO, "was made with version 0 of the face model", facts(face_model_version="0")),
    Case("profile of another face model", DEMO, "is damaged or of another", facts(face_model=3)),
    Case("profile of an unknown face model", DEMO, "flame", facts(face_model="flame")),
    Case("profile: other number of coefficients", DEMO, "are not of the face model", npz(PROFILE, identity=np.zeros(7))),
    Case("profile: a size of -1", DEMO, "is damaged", facts(size=-1)),
    Case("profile: 1e999999999 frames/s", DEMO, "the frame rate is", facts(fps="1e999999999")),
    Case("profile with values that are no numbers", DEMO, "no numbers", npz(PROFILE, offsets=np.full((70, 3), np.nan))),
    Case("profile with a pickle", DEMO, "is damaged", npz(PROFILE, offsets=np.array([print], object))),
    Case("colours missing", DEMO, "is missing", gone(COLOURS)),
    Case("colours of another shape", DEMO, "is damaged or of another version", npz(COLOURS, colours=np.zeros((8, 3), np.uint8))),
    Case("colours cut off", DEMO, "is damaged", cut(COLOURS)),
    # scripts/export.py
    Case("export: a run that is not there", "scripts/export.py {p}/nothing --format onnx", "there is no trained run"),
    Case("export: a person that the run does not have", EXPORT + " --target_id bob", "bob.npz is missing"),
    Case("export: ../ in the person's name", EXPORT + " --target_id ../../x", "no usable name"),
    Case("export: something else in the folder", EXPORT + " --output {p}/live", "no earlier export"),
    Case("export: output below a file", EXPORT + " --output {p}/driver.mp4/x", "is not a folder"),
    Case("export: size 63", EXPORT + " --loadSize 63", "must be a multiple of"),
    Case("export: size -64", EXPORT + " --loadSize -64", "must be a multiple of"),
    Case("export: size of a million", EXPORT + " --loadSize 1048576", "--loadSize 1048576"),
    Case("export: epoch 9", EXPORT + " --which_epoch 9", "take the latest"),
    Case("export: epoch ../../x", EXPORT + " --which_epoch ../x", "neither 'latest' nor"),
    Case("export: weights of another architecture", EXPORT, "does not fit Generator", weights("live", ngf=8)),
    # scripts/verify.py
    Case("verify: no such file", "scripts/verify.py {p}/nothing.mp4", "there is no file"),
    Case("verify: a video without credentials", "scripts/verify.py {p}/driver.mp4", "no Content Credentials"),
    Case("verify: an empty file", "scripts/verify.py {p}/driver.mp4", "driver.mp4", put("driver.mp4")),
    Case("verify: text", "scripts/verify.py {p}/notes.txt", "notes.txt", put("notes.txt", b"x")),
    Case("verify: an empty folder", "scripts/verify.py {p}/empty", "frames.sha256", lambda p: (p / "empty").mkdir()),
    Case("verify: --trust is no certificate", "scripts/verify.py {p}/driver.mp4 --trust {p}/take.csv", "holds no root certificate"),
    # test.py
    Case("test: a frame missing", TEST, "18", gone(NMFC)),
    Case("test: NMFC image cut off", TEST, "is not a readable image", cut(NMFC)),
    Case("test: NMFC image of another size", TEST, "where 64x64 are expected", picture(NMFC, 32, 32)),
    Case("test: NMFC image with a line less", TEST, "where 64x64 are expected", picture(NMFC, 63, 64)),
    Case("test: landmarks are words", TEST, "is not a table of numbers", put(LANDMARKS, b"a b\n" * 70)),
    Case("test: 69 landmarks", TEST, "does not hold 70 points", put(LANDMARKS, b"1 2\n" * 69)),
    Case("test: landmarks nan", TEST, "does not hold 70 points", put(LANDMARKS, b"nan 2\n" * 70)),
    Case("test: dataset.json cut off", TEST, "dataset.json is damaged", cut(RECORD)),
    Case("test: dataset.json empty", TEST, "dataset.json is damaged", put(RECORD)),
    Case("test: dataset.json nested without end", TEST, "nested too deeply", put(RECORD, b"[" * 100_000)),
    Case("test: dataset.json with a word for a number", TEST, "splits is", record(splits="many")),
    Case("test: 1/0 frames/s", TEST, "the frame rate is '1/0'", record(fps="1/0")),
    Case("test: a source of 5,000 letters", TEST, "a source's file is none", record(sources=[{"file": "9" * 5000, "frames": 9}])),
    Case("test: bad_frames are words", TEST, "bad_frames is", record(bad_frames={"detect": [["a", "b", "dark"]]})),
    Case("test: another face model than trained with", TEST, "face model", record(face_model={"name": "ict", "version": "9"})),
    Case("test: weights of another architecture", TEST, "does not fit Generator", weights(ANN, ngf=8)),
    Case("test: weights of `half`", TEST, "does not fit Generator", weights(ANN, half=True)),
    Case("test: no weights", TEST, "there is no checkpoint", gone(G)),
    Case("test: opt.txt: 99 halvings", TEST, "n_downsample_G cannot be '99'", option(ANN, n_downsample_G=99)),
    Case("test: size 65", TEST + " --loadSize 65", "must be a multiple of"),
    Case("test: size of a million", TEST + " --loadSize 1048576", "--loadSize 1048576"),
    Case("test: GPU 7", TEST.replace("--gpu_ids -1 --backend torch", "--gpu_ids 7"), "this machine has"),
    Case("test: back end cuda without a GPU", TEST.replace("torch", "cuda"), "needs a CUDA GPU"),
    Case("test: person ..", TEST.replace("Ann", ".."), "no usable name"),
    Case("test: run ..", TEST + " --name ..", "no usable name"),
    Case("test: driver ..", TEST + " --source_id ..", "no usable name"),
    Case("test: dataset ..", TEST.replace("_name fake", "_name .."), "not usable as a dataset's name"),
    Case("test: epoch -1", TEST + " --which_epoch -1", "neither 'latest' nor"),
    Case("test: 0 frames", TEST + " --how_many 0", "must be at least 1"),
    Case("test: results are a file", TEST, "is not a folder", put("results", b"x")),
    # train.py
    Case("train: a picture cut off", TRAIN, "is not a readable image", cut(FRAME)),
    Case("train: a picture of another size", TRAIN, "have several sizes, one is 32x64 pixels", picture(FRAME, 64, 32)),
    Case("train: ngf of a million", TRAIN + " --ngf 1000000", "--ngf 1000000"),
    Case("train: size of a million", TRAIN + " --loadSize 1048576", "--loadSize 1048576"),
    Case("train: learning rate nan", TRAIN + " --set lr=nan", "must be a number"),
    Case("train: a setting that is none", TRAIN + " --set ngff=3", "did you mean ngf"),
    Case("train: batch of a million", TRAIN + " --batch_size 1000000", "--batch_size 1000000"),
    Case("train: 99 halvings", TRAIN + " --n_downsample_G 99", "99"),
    Case("train: GPU 7", TRAIN.replace("--gpu_ids -1", "--gpu_ids 7"), "this machine has"),
    Case("train: run ..", TRAIN.replace("new", ".."), "no usable name"),
    Case("train: --load_pretrain of another architecture", TRAIN + " --load_pretrain {p}/live", "live"),
    Case("train: checkpoints are a file", TRAIN, "is not a folder", lambda p: (gone("checkpoints")(p), put("checkpoints")(p))),
    # preprocessing
    Case("detect: no video there", f"preprocessing/detect.py {DATA} --original_videos_path {{p}}/nothing.mp4", "nothing.mp4"),
    Case(
        "detect: an empty video", f"preprocessing/detect.py {DATA} --original_videos_path {{p}}/driver.mp4", "driver.mp4", put("driver.mp4")
    ),
    Case(
        "detect: a crop of 0 pixels",
        f"preprocessing/detect.py {DATA} --original_videos_path {{p}}/driver.mp4 --cropped_image_size 0",
        "--cropped_image_size 0",
    ),
    Case(
        "detect: a crop of a million pixels",
        f"preprocessing/detect.py {DATA} --original_videos_path {{p}}/driver.mp4 --cropped_image_size 1000000",
        "--cropped_image_size 1000000",
    ),
    Case(
        "detect: --face nan,nan", f"preprocessing/detect.py {DATA} --original_videos_path {{p}}/driver.mp4 --face nan,nan", "--face nan,nan"
    ),
    Case(
        "detect: dataset ..",
        "preprocessing/detect.py --dataset_name .. --original_videos_path {p}/driver.mp4",
        "not usable as a dataset's name",
    ),
    Case("landmarks: ../ in the name", f"preprocessing/detect_landmarks70.py {DATA} --name ../x", "there is no identity"),
    Case(
        "reconstruct: before the landmarks",
        f"preprocessing/reconstruct.py {DATA} --face_model mesh478",
        "run preprocessing/detect_landmarks70.py",
        gone("fake/dataset/test/landmarks70"),
    ),
    Case("prepare: size 1000000", f"scripts/prepare_training.py {DATA} --loadSize 1000000", "--loadSize 1000000"),
    Case(
        "reenact: a template nested without end", f"{REENACT} --drive {{p}}/m.json", "nested too deeply", put("m.json", b'{"a":' * 100_000)
    ),
    Case("reenact: a file that is not there", f"{REENACT} --drive {{p}}/nothing.csv", "there is no file"),
    Case("reenact: edits of nan", f"{REENACT} {CSV} --edit jawOpen=nan", "is not name=number"),
    Case("reenact: exaggerate nan", f"{REENACT} {CSV} --exaggerate nan", "--exaggerate nan"),
    Case("paste back: nothing there", "scripts/paste_back.py --results_dir {p}/nothing", "nothing"),
    Case("evaluate: nothing there", "scripts/evaluate.py {p}/nothing", "nothing"),
    Case(
        "paste back: complete.json nested without end",
        "scripts/paste_back.py --results_dir {p}/r",
        "r",
        put("r/complete.json", b"[" * 100_000),
    ),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A dataset and a run of Ann, a run of somebody for live use, and a driver's video."""
    home = tmp_path_factory.mktemp("whole")
    make_fitted(home, "Ann")
    model = load_face_model("mesh478")
    make_run(home, "Ann", face_model={"name": model.name, "version": model.version})
    (home / "made").mkdir()
    shutil.move(make_live_run(home / "made"), home / "live")
    shutil.rmtree(home / "made")
    write_video(home / "driver.mp4", driver_frames(3), FPS)
    (home / "take.csv").write_text("seconds,jawOpen\n0,1\n1,1\n")
    return home


@contextmanager
def small_files(size=64 << 20):
    """No file that is written may become larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def call(command, place, capsys):
    """Call a command as the shell does: its exit code, and what it printed."""
    command = command.replace("@places", "@runs --results_dir {p}/results").replace(
        "@runs", "--datasets_dir {p} --checkpoints_dir {p}/checkpoints"
    )
    file, *words = [word.replace("{p}", str(place)) for word in command.split()]
    with pytest.raises(SystemExit) as ended:
        run(load_command(file).main, words)
    out, err = capsys.readouterr()
    return ended.value.code or 0, out, err


def files_of(place):
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(place.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_bad_input(case, whole, tmp_path, capsys):
    if "without a GPU" in case.name and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    place = tmp_path / "p"
    shutil.copytree(whole, place)
    if case.damage:
        case.damage(place)
    before = files_of(place)
    with small_files():
        code, out, err = call(case.command, place, capsys)
    lines = [line for line in err.splitlines() if line.strip() and "%|" not in line and "it/s]" not in line]
    if REPORT:
        with Path(REPORT).open("a") as file:
            said = next((line for line in reversed([*out.splitlines(), *lines]) if line.strip()), "")
            file.write(json.dumps([case.name, case.command, said.replace(str(place), "."), code]) + "\n")
    assert code == case.code, err
    assert "Traceback" not in err
    message = lines[-1] if lines else out
    assert case.says in message, message
    after = files_of(place)
    assert all(after.get(path) == state for path, state in before.items()), "the user's files were changed"
    made = sorted(path.relative_to(place).as_posix() for path in after.keys() - before.keys())
    kept = ("digests", "flows", "persons", "head_shapes", "appearances", "lock", "profiles", "landmarks478")
    assert not [name for name in made if not any(k in name for k in kept)], made


if sys.platform == "win32":
    pytest.skip("limits of files are POSIX's", allow_module_level=True)
