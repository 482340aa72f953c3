"""test.py end to end with a tiny generator: every frame is what the generator makes of its past, and folders are whole or redone."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from fake_dataset import make_dataset
from fake_run import ROOT, SIZE, make_run, run_test

from models.checkpoints import write_tensors
from models.head2head_model import Head2HeadModel, ModelOptions
from models.synthesis import load_synthesizer
from util.cli import UserError
from util.face.appearance import CELLS, Appearance
from util.face.eye_gaze import draw_eye_gaze
from util.image_io import read_image, write_bytes, write_image
from util.layout import read_table
from util.metrics import MEASURES, frame_measures, heatmap
from util.results.folder import KINDS, Results
from util.tensors import to_image
from util.video.reading import read_frames

FRAMES = list(range(16, 22))  # after two parts of 8


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def place(tmp_path):
    data = make_dataset(tmp_path, "Ann")
    run, generator, options = make_run(tmp_path)
    return tmp_path, data, run, generator


def results_of(run, id="Ann", epoch="latest"):
    return Results(run.test_folder(id, epoch))


def expected_frames(sequence, generator, frames=FRAMES, gaze=True):
    """What the generator contract says, written out frame by frame."""
    conditioning = []
    for f in frames:
        images = [read_image(sequence.path("nmfcs", f))]
        if gaze:
            images.append(draw_eye_gaze(read_table(sequence.path("landmarks70", f)), SIZE))
        conditioning.append(torch.from_numpy(np.concatenate(images, -1)).permute(2, 0, 1).float() / 255)
    made = [torch.zeros(3, SIZE, SIZE)] * 2
    with torch.no_grad():
        for i in range(len(frames)):
            A = torch.cat([conditioning[max(i - 2, 0)], conditioning[max(i - 1, 0)], conditioning[i]])
            made.append(generator(A[None], torch.cat(made[-2:])[None])[0])
    return [np.rint((m.permute(1, 2, 0).numpy() + 1) * 127.5).astype(np.uint8) for m in made[2:]]


def test_self_reenactment(place, capsys):
    root, data, run, generator = place
    run_test(root, "--target_id", "Ann")
    results = results_of(run)
    sequence = data.sequence("test", "Ann")
    assert all(results.frames(kind) == FRAMES for kind in KINDS)
    for f, expected in zip(FRAMES, expected_frames(sequence, generator)):
        fake, real, nmfc = (read_image(results.path(k, f)) for k in ("fake", "real", "nmfc"))
        assert np.abs(fake.astype(int) - expected).max() <= 1  # rounding
        np.testing.assert_array_equal(real, read_image(sequence.path("images", f)))
        np.testing.assert_array_equal(nmfc, read_image(sequence.path("nmfcs", f)))
        np.testing.assert_array_equal(read_image(results.path("heatmap", f)), heatmap(real, fake))
        masked = read_image(results.path("masked_heatmap", f))
        assert not masked[~nmfc.any(-1)].any() and (masked[nmfc.any(-1)] == heatmap(real, fake)[nmfc.any(-1)]).all()
    fakes = [read_image(results.path("fake", f)) for f in FRAMES]
    assert len({f.tobytes() for f in fakes}) == len(FRAMES) and np.std(fakes[0]) > 10

    means, per_frame = results.read_measures()
    for f, measures in zip(FRAMES, per_frame):
        images = (read_image(results.path(k, f)) for k in ("real", "fake", "nmfc"))
        assert measures == pytest.approx(frame_measures(*images, read_table(sequence.path("landmarks70", f))), abs=1e-4)
    assert means == pytest.approx({k: np.mean([m[k] for m in per_frame]) for k in MEASURES}, abs=1e-4)
    printed = capsys.readouterr().out
    assert all(name in printed and f"{value:.3f}" in printed for name, value in means.items())
    assert results.page.is_file()
    video = list(read_frames(results.video("all")))  # made beside the frames; now from their files
    results.video("all").unlink()
    run_test(root, "--target_id", "Ann")
    assert len(video) == len(FRAMES) and all(map(np.array_equal, video, read_frames(results.video("all"))))


def test_complete_results_are_kept_and_others_redone(place, capsys):
    root, _, run, _ = place
    results = results_of(run)
    picture = results.path("fake", FRAMES[0])

    def again(*options):
        before = picture.stat().st_mtime_ns if picture.exists() else 0
        capsys.readouterr()
        run_test(root, "--target_id", "Ann", "--no_report", *options)
        assert ("already complete" in capsys.readouterr().out) == (picture.stat().st_mtime_ns == before)
        return picture.stat().st_mtime_ns != before

    assert again()
    assert not results.page.exists()
    assert not again()
    results.path("heatmap", FRAMES[2]).unlink()  # lost since
    assert again() and results.frames("heatmap") == FRAMES
    assert again("--how_many", "3") and results.frames("fake") == FRAMES[:3] == results.frames("masked_heatmap")
    assert again()
    (results.folder / "complete.json").unlink()
    assert again()
    first = picture.read_bytes()
    make_run(root, seed=1)  # trained further
    assert again() and picture.read_bytes() != first
    nmfc = run_nmfc = make_dataset(root, "Ann").sequence("test", "Ann").path("nmfcs", FRAMES[1])
    assert not again()  # the same frames, written again
    write_image(run_nmfc, 255 - read_image(nmfc))
    assert again()


def test_a_run_that_failed_half_way_is_not_taken_for_whole(place):
    root, data, run, generator = place
    results = results_of(run)
    run_test(root, "--target_id", "Ann", "--no_report")
    broken = data.sequence("test", "Ann").path("nmfcs", FRAMES[4])
    good = broken.read_bytes()
    broken.write_bytes(good[:60])
    with pytest.raises(UserError, match="000020.png is not a readable image"):
        run_test(root, "--target_id", "Ann")
    assert results.read() is None and not results.page.exists()
    broken.write_bytes(good)
    (results.folder / "notes.txt").write_text("mine")
    run_test(root, "--target_id", "Ann", "--no_report")
    assert results.read() and results.frames("fake") == FRAMES and (results.folder / "notes.txt").exists()
    assert np.abs(read_image(results.path("fake", 21)).astype(int) - expected_frames(data.sequence("test", "Ann"), generator)[5]).max() <= 1


@pytest.mark.parametrize("images", [True, False])
def test_another_person_drives(place, images):
    root, data, run, _ = place
    make_dataset(root, "Bob", test_frames=4)
    for kind in ("images", "nmfcs", "landmarks70") if images else ("nmfcs", "landmarks70"):
        shutil.copytree(data.sequence("test", "Bob").folder(kind), data.folder / "test" / f"source_{kind}" / "Ann_Bob")
    run_test(root, "--target_id", "Ann", "--source_id", "Bob")
    results = results_of(run, "Ann_Bob")
    kinds = {"fake", "nmfc", "eye_gaze", *(["real"] if images else [])}
    assert {k for k in KINDS if results.frames(k)} == kinds and results.frames("fake") == FRAMES[:4]
    assert results.read_measures() == ({}, [])  # there is no truth
    page = results.page.read_text()
    assert "driven by Bob" in page and "Measures" not in page
    assert results_of(run).read() is None  # self reenactment has its own folder


def test_runs_of_other_designs(tmp_path):
    data = make_dataset(tmp_path, "Ann", test_frames=3, size=96)
    _, generator, _ = make_run(tmp_path, eye_gaze=False, prev_output=False)
    run = make_run(tmp_path, eye_gaze=False, prev_output=False)[0]
    run_test(tmp_path, "--no_report")  # the only person needs no naming
    results = results_of(run)
    assert not results.frames("eye_gaze") and read_image(results.path("fake", 16)).shape == (SIZE, SIZE, 3)
    run_test(tmp_path, "--no_report", "--loadSize", "96")
    sequence = data.sequence("test", "Ann")
    A = torch.cat([torch.from_numpy(read_image(sequence.path("nmfcs", 16))).permute(2, 0, 1) / 255] * 3)[None]
    with torch.no_grad():
        expected = generator(A)[0].permute(1, 2, 0).numpy()
    assert np.abs(read_image(results.path("fake", 16)) - (expected + 1) * 127.5).max() <= 1


VARIANTS = [
    {},
    {"conditioning_frames": 1, "appearance": True},
    {"conditioning_frames": 2, "margin": 8},
    {"appearance": True, "eye_gaze": False, "prev_output": False},
]


@pytest.mark.parametrize("changes", VARIANTS, ids=" ".join)
def test_synthesizer_draws_what_the_model_in_training_generates(tmp_path, changes):
    run, generator, run_options = make_run(tmp_path, **changes)
    rng = np.random.default_rng(0)
    nmfcs, gazes = (rng.integers(0, 256, (4, SIZE, SIZE, 3), dtype=np.uint8) for _ in range(2))
    appearance = Appearance(rng.integers(0, 256, (CELLS**3, 3), dtype=np.uint8)) if changes.get("appearance") else None
    synthesizer = load_synthesizer(run, run_options, appearance=appearance, backend="torch", gpu_ids="-1")
    drawn = [synthesizer.step(nmfc, gaze) for nmfc, gaze in zip(nmfcs, gazes)]

    names = ("ngf", "n_downsample_G", "n_blocks", *VARIANTS[1], *VARIANTS[2], *VARIANTS[3])
    model = Head2HeadModel(ModelOptions(**{name: run_options[name] for name in names}, ndf=4), torch.device("cpu"))
    model.G.load_state_dict(generator.state_dict())
    images = {"nmfc": nmfcs, "gaze": gazes}
    if appearance:
        images["appearance"] = np.stack([appearance.image(nmfc) for nmfc in nmfcs])
    # a clip that begins with its first frame: that frame's conditioning stands for those before it
    batch = {k: torch.from_numpy(np.concatenate([v[:1], v[:1], v]))[None] for k, v in images.items()}
    conditioning = model.to_clip({**batch, "image": None, "corners": {}}).conditioning.movedim(-1, 2) / 255
    with torch.no_grad():
        made = model.generate(model.generator_input(conditioning, conditioning.shape[1] - 2), torch.zeros(1, 0, 3, SIZE, SIZE))[0]
    for a, b in zip(drawn, made):
        assert np.abs(a.astype(int) - to_image(b)).max() <= 1
    assert np.std(drawn[-1]) > 10


def test_a_run_that_sees_the_persons_colours(tmp_path):
    make_dataset(tmp_path, "Ann", test_frames=2)
    run, _, run_options = make_run(tmp_path, appearance=True)
    with pytest.raises(UserError, match=r"Ann\.npz is missing: the generator needs the colours of the person it draws"):
        run_test(tmp_path, "--no_report")
    with pytest.raises(ValueError, match="needs the person's appearance"):
        load_synthesizer(run, run_options)
    pictures = []
    for seed in (0, 1):  # other colours: results are made again, and differ
        colours = np.random.default_rng(seed).integers(0, 256, (CELLS**3, 3), dtype=np.uint8)
        write_bytes(run.appearance_path("Ann"), Appearance(colours).to_bytes())
        run_test(tmp_path, "--no_report")
        pictures.append(read_image(results_of(run).path("fake", 16)))
    assert (pictures[0] != pictures[1]).any()


def test_another_back_end(place, monkeypatch):
    pytest.importorskip("openvino")
    root, data, run, generator = place
    monkeypatch.setenv("HEAD2HEAD_CACHE", str(root / "cache"))
    run_test(root, "--target_id", "Ann", "--no_report", "--backend", "openvino", "--precision", "fp32")
    results = results_of(run)
    facts = results.read()
    assert facts["backend"] == "openvino fp32" and facts["precision"] == "float32"
    assert facts["frames_per_s"] >= facts["frames_per_s_written"] > 0
    for f, expected in zip(FRAMES, expected_frames(data.sequence("test", "Ann"), generator)):
        assert np.abs(read_image(results.path("fake", f)).astype(int) - expected).max() <= 1
    run_test(root, "--target_id", "Ann", "--no_report", "--precision", "fp32")
    assert results.read()["backend"] == "torch fp32"  # made again


def test_an_epoch_has_its_own_folder(place):
    root, _, run, _ = place
    run.network_path("G", 40).write_bytes(run.network_path("G").read_bytes())
    run_test(root, "--name", "head2head_Ann", "--which_epoch", "40", "--no_report")
    assert results_of(run, epoch=40).read()["which_epoch"] == "40" and results_of(run).read() is None


def test_a_run_that_was_moved(place):
    root, _, run, _ = place
    (root / "far" / "fake").mkdir(parents=True)
    run.checkpoints.rename(root / "far" / "fake" / "Ann-1")
    with pytest.raises(UserError, match=r"no checkpoint .*say where the run is now: --checkpoints_dir, --name"):
        run_test(root, "--target_id", "Ann")
    run_test(root, "--target_id", "Ann", "--checkpoints_dir", str(root / "far"), "--name", "Ann-1", "--no_report", "--how_many", "1")
    assert (root / "results/fake/Ann-1/latest_epoch/test/Ann/complete.json").is_file()


def damage(run):
    """Numbered generators beside a damaged one."""
    for epoch in (3, 40):
        shutil.copy(run.network_path("G"), run.network_path("G", epoch))
    run.network_path("G").write_bytes(b"PK\3\4 cut")


@pytest.mark.parametrize(
    "arguments, prepare, words",
    [
        (["--target_id", "Bob"], None, "no person 'Bob'; it has Ann"),
        (["--which_epoch", "7"], None, "no checkpoint .*7_net_G.pth; take the latest, without --which_epoch"),
        (["--source_id", "Bob"], None, r"no conditioning images for Bob driving Ann .*reenact\.py"),
        (["--source_id", "../Bob"], None, "without slashes"),
        (["--loadSize", "62"], None, "--loadSize 62 must be a multiple of 4"),
        (["--how_many", "0"], None, "--how_many 0 must be at least 1"),
        ([], lambda root, data, run: shutil.rmtree(data.folder / "test"), "no test frames of Ann"),
        ([], lambda root, data, run: make_dataset(root, "Bob"), r"several persons \(Ann, Bob\); say which with --target_id"),
        ([], lambda root, data, run: run.network_path("G").write_bytes(b"PK\3\4 cut"), "is cut off or damaged; train again"),
        ([], lambda root, data, run: damage(run), r"damaged; take the checkpoint of another epoch, --which_epoch 40 \(there: 3, 40"),
        (
            [],
            lambda root, data, run: (damage(run), write_tensors(run.state_path, {})),
            "is cut off or damaged; run the training command of this run again, which writes it anew from latest_state.pt, or take",
        ),
        ([], lambda root, data, run: run.options_path.write_text('{"ngf": 4, "lo'), "opt.txt is damaged, and no latest_state.pt here"),
        (
            [],
            lambda root, data, run: run.options_path.write_text(run.options_path.read_text().replace('"ngf": 4', '"ngf": 8')),
            "does not fit",
        ),
        (
            [],
            lambda root, data, run: data.write_record(replace(data.read_record("Ann"), face_model={"name": "ict", "version": "2"})),
            "trained on NMFCs of the face model mesh478 1, but Ann's are now of ict 2; .*--face_model mesh478",
        ),
    ],
)
def test_mistakes_are_said(place, arguments, prepare, words):
    root, data, run, _ = place
    if prepare:
        prepare(root, data, run)
    if "--target_id" not in arguments and words.startswith(("no ", "--", "without")):
        arguments = ["--target_id", "Ann", *arguments]
    with pytest.raises(UserError, match=words):
        run_test(root, *arguments)
    assert not any((root / "results").rglob("*.png"))


def test_mistakes_on_the_command_line_take_one_line_and_no_traceback(tmp_path):
    wrapper = ["bash", str(ROOT / "scripts/test/test_self_reenactment_on_target.sh")]
    usage = subprocess.run([*wrapper, "Ann"], capture_output=True, text=True)
    assert usage.returncode == 2 and "usage:" in usage.stderr
    missing = [sys.executable, str(ROOT / "test.py"), "--dataset_name", "none", "--datasets_dir", str(tmp_path)]
    wrong = subprocess.run(missing, capture_output=True, text=True)
    assert wrong.returncode == 1 and wrong.stderr.startswith("error: dataset none has no frames") and wrong.stderr.count("\n") == 1
