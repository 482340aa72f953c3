"""Every back end draws what PyTorch draws in float32; auto, the cache of converted generators, and errors."""

import builtins
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from fake_run import SIZE, make_run

from data.augmentation.head_motion import look_up
from models.backends import choice, int8, openvino_engine
from models.backends.network import FrameNetwork, Inputs
from models.backends.openvino_engine import has_bf16
from models.synthesis import load_synthesizer
from util.cli import UserError
from util.face.appearance import CELLS, Appearance
from util.layout import root
from util.user_cache import cached_bytes, user_cache

LEAN = {"prev_output": False, "conditioning_frames": 1, "appearance": True, "margin": 8}
RUNS = {
    "lean": LEAN,
    "published": {},
    "half": {**LEAN, "half": True},
    "two frames": {"prev_output": False, "conditioning_frames": 2, "eye_gaze": False},
    "past and colours": {"conditioning_frames": 1, "appearance": True, "half": True},
}
ENGINES = ("openvino", "onnx")
# grey levels that a frame may differ from float32 in the mean; of bfloat16, with random weights and noise for pictures
CLOSE, CLOSE_BF16 = 0.01, 3.0


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HEAD2HEAD_CACHE", str(tmp_path / "cache"))
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # other tests run beside
    yield user_cache("generators")
    torch.set_num_threads(before)


def load(place, backend, precision="fp32", **how):
    run, options, appearance = place
    return load_synthesizer(run, options, appearance=appearance, backend=backend, precision=precision, gpu_ids="-1", **how)


def place_of(root, changes):
    run, _, options = make_run(root, **changes)
    rng = np.random.default_rng(1)
    appearance = Appearance(rng.integers(0, 256, (CELLS**3, 3), np.uint8), rng.integers(0, 256, (2 * SIZE, 2 * SIZE, 3), np.uint8))
    return run, options, appearance if options["appearance"] else None


def pictures(count=4, height=SIZE, width=SIZE):
    """NMFC and gaze images, without a head in their upper thirds."""
    made = np.random.default_rng(0).integers(0, 256, (count, 2, height, width, 3), dtype=np.uint8)
    made[:, :, : height // 3] = 0
    return list(made)


def difference(a, b):
    return np.abs(np.asarray(a, int) - np.asarray(b, int))


@pytest.mark.parametrize("backend, name", [*(("openvino", name) for name in RUNS), ("onnx", "lean"), ("onnx", "published")])
def test_an_engine_draws_what_pytorch_draws(tmp_path, name, backend):
    pytest.importorskip({"onnx": "onnxruntime"}.get(backend, backend))
    place = place_of(tmp_path, RUNS[name])
    plain, engine = load(place, "torch"), load(place, backend)
    assert (plain.backend, engine.backend) == ("torch fp32", f"{backend} fp32") and engine.precision == "float32"
    for height, width in ((SIZE, SIZE), (SIZE // 2, SIZE + 4))[: 1 + (backend == "openvino")]:  # converting to ONNX takes long
        given = pictures(4, height, width)
        for synthesizer in (plain, engine):
            synthesizer.reset()
        expected = [plain.step(*pair) for pair in given]
        made = [engine.step(*pair) for pair in given]
        assert made[0].shape == (height, width, 3) and made[0].dtype == np.uint8 and np.std(made) > 10
        assert difference(made, expected).max() <= 1 and difference(made, expected).mean() < CLOSE
        engine.reset()
        assert np.array_equal(engine.step(*given[0]), made[0])  # nothing is remembered
    if RUNS[name].get("conditioning_frames", 3) > 1:
        engine.step(*given[1])
        assert difference(engine.step(*given[0]), made[0]).mean() > 0.1  # whereas here earlier frames are seen


@pytest.mark.parametrize("height, width", [(SIZE, SIZE), (2 * SIZE, 2 * SIZE), (SIZE // 2, SIZE + 4)])
def test_what_the_generator_sees_of_the_person_is_what_it_saw_in_training(tmp_path, height, width):
    """Colours by the NMFC image, and around the head the backdrop, at the size of the pictures; black in runs that have none."""
    run, options, appearance = place_of(tmp_path, RUNS["lean"])
    (nmfc, gaze), *_ = pictures(1, height, width)
    seen = []

    class Probe(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))

        def forward(self, conditioning, previous):
            seen.append((conditioning[0, -3:] * 255).round().byte().permute(1, 2, 0))
            return conditioning[:, :3]

    tensor = torch.from_numpy(nmfc)[None, None]
    backdrop = torch.from_numpy(appearance.backdrop_of_size(height, width))[None]
    for looks, around in ((appearance, backdrop), (Appearance(appearance.colours), torch.zeros_like(backdrop))):
        FrameNetwork(Probe(), Inputs.of(options), looks).of_size(height, width)(torch.from_numpy(nmfc)[None], torch.from_numpy(gaze)[None])
        expected = look_up(torch.from_numpy(appearance.colours)[None], tensor, around)[0, 0]
        if looks.backdrop is None:
            expected[: height // 3] = torch.from_numpy(appearance.colours[0])
        assert torch.equal(seen.pop(), expected)
    assert torch.equal(expected[height // 3 :], torch.from_numpy(appearance.image(nmfc))[height // 3 :])


@pytest.mark.parametrize("name", ["lean", "published"])
@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_bfloat16_is_near(tmp_path, name, backend):
    pytest.importorskip(backend)
    place = place_of(tmp_path, RUNS[name])
    if backend == "openvino" and not has_bf16():
        with pytest.raises(UserError, match="OpenVINO on this processor does not compute in bf16"):
            load(place, backend, "bf16")
        return
    plain, half = load(place, "torch"), load(place, backend, "bf16")
    assert half.backend == f"{backend} bf16" and half.precision == "bfloat16"
    steps = [(plain.step(*pair), half.step(*pair)) for pair in pictures()]
    assert 0 < difference(*zip(*steps)).mean() < CLOSE_BF16


@pytest.mark.parametrize("name", ["lean", "half", "two frames"])
def test_integers_are_near(tmp_path, name):
    pytest.importorskip("openvino")
    place = place_of(tmp_path, RUNS[name])
    plain, whole = load(place, "torch", "fp32"), load(place, "openvino", "auto", examples=pictures)
    assert whole.backend == "openvino int8" and whole.precision == "int8"
    steps = [(plain.step(*pair), whole.step(*pair)) for pair in pictures()]
    assert 0 < difference(*zip(*steps)).mean() < CLOSE_BF16
    # what sees its earlier frames would see their errors; who asks for a precision gets it
    assert load(place_of(tmp_path / "other", RUNS["published"]), "openvino", "auto", examples=pictures).precision != "int8"
    assert load(place, "openvino", "fp32", examples=pictures).precision == "float32"


def test_integers_that_would_be_seen_are_not_taken(tmp_path, monkeypatch, capsys):
    pytest.importorskip("openvino")
    monkeypatch.setattr(int8, "MAX_DIFFERENCE", 0.01)
    made = load(place_of(tmp_path, RUNS["lean"]), "openvino", "auto", examples=pictures)
    assert made.precision != "int8" and made.step(*pictures()[0]).std() > 10
    assert "does not compute this generator in integers: in integers its frames are" in capsys.readouterr().err


def test_a_frame_is_its_callers_own(tmp_path):
    """What was drawn stays when more is drawn, in every back end."""
    place = place_of(tmp_path, RUNS["published"])
    for backend in filter(choice.is_installed, ("torch", *ENGINES)):
        synthesizer = load(place, backend)
        first = synthesizer.step(*pictures()[0])
        kept = first.copy()
        for pair in pictures()[1:]:
            synthesizer.step(*pair)
        assert np.array_equal(first, kept), backend


def test_mirrored_pictures_are_taken_as_they_are(tmp_path):
    place = place_of(tmp_path, RUNS["lean"])
    nmfc, gaze = pictures()[0][:, :, ::-1]
    made = [load(place, backend).step(nmfc, gaze) for backend in filter(choice.is_installed, ("torch", "openvino"))]
    assert np.array_equal(made[0], load(place, "torch").step(nmfc.copy(), gaze.copy())) and difference(made[0], made[-1]).max() <= 1


def test_auto_takes_what_is_fast_and_says_why(tmp_path):
    pytest.importorskip("openvino")
    synthesizer = load(place_of(tmp_path, RUNS["published"]), "auto", precision="auto")
    assert synthesizer.backend in ("openvino bf16", "openvino fp32", "torch fp32")
    assert synthesizer.reason.startswith(f"{synthesizer.backend}, ") and "ms a frame of 64x64 on this processor (" in synthesizer.reason
    assert synthesizer.step(*pictures()[0]).std() > 10


def test_auto_does_without_packages_that_are_missing(tmp_path, monkeypatch):
    place = place_of(tmp_path, RUNS["lean"])
    monkeypatch.setattr(choice, "is_installed", lambda kind: False)
    synthesizer = load(place, "auto")
    assert synthesizer.backend == "torch fp32" and synthesizer.reason.endswith("ms a frame of 64x64 on this processor")
    for backend, package in (("openvino", "openvino"), ("onnx", "onnxruntime")):
        with pytest.raises(UserError, match=f"--backend {backend} needs the package {package}; install it with: pip install"):
            load(place, backend)


def test_auto_goes_on_without_a_package_that_fails(tmp_path, monkeypatch, capsys):
    place = place_of(tmp_path, RUNS["lean"])
    real = builtins.__import__

    def broken(name, *rest):
        if name == "openvino":
            raise ImportError("libtbb.so.12: cannot open shared object file")
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", broken)
    monkeypatch.setattr(choice, "is_installed", lambda kind: kind == "openvino")
    assert load(place, "auto").backend == "torch fp32"
    assert "openvino does not work here (ImportError: libtbb.so.12: cannot open" in capsys.readouterr().err


@pytest.mark.parametrize(
    "backend, gpu_ids, precision, message",
    [
        ("fastest", None, "auto", "there is no back end 'fastest'; there are auto, cuda, openvino, onnx, torch"),
        ("cuda", "-1", "auto", "--backend cuda needs a CUDA GPU"),
        ("openvino", "0", "auto", "--backend openvino runs on the processor, not on GPU 0"),
        ("onnx", None, "bf16", "ONNX Runtime does not compute in bf16"),
    ],
)
def test_what_cannot_be_is_said(tmp_path, backend, gpu_ids, precision, message):
    run, options, appearance = place_of(tmp_path, RUNS["lean"])
    with pytest.raises(UserError, match=message):
        load_synthesizer(run, options, appearance=appearance, backend=backend, gpu_ids=gpu_ids, precision=precision)


def test_other_faults(tmp_path):
    run, options, _ = place_of(tmp_path, RUNS["lean"])
    with pytest.raises(ValueError, match="needs the person's appearance"):
        load_synthesizer(run, options)
    synthesizer = load(place_of(tmp_path, RUNS["published"]), "torch")
    with pytest.raises(ValueError, match="30x64 is no multiple of 4"):
        synthesizer.step(*pictures(1, 30, 64)[0])


def test_what_was_compiled_is_used_again_and_made_anew_when_damaged(tmp_path, cache, monkeypatch):
    pytest.importorskip("openvino")
    conversions, convert = [], openvino_engine.convert
    monkeypatch.setattr(openvino_engine, "convert", lambda *a: conversions.append(a) or convert(*a))
    place = place_of(tmp_path, RUNS["lean"])
    first = load(place, "openvino").step(*pictures()[0])
    (file,) = cache.glob("*.openvino")
    for threads in (None, 1):
        assert difference(load(place, "openvino", threads=threads).step(*pictures()[0]), first).max() <= 1 and len(conversions) == 1
    file.write_bytes(b"damaged" * 100)
    assert np.array_equal(load(place, "openvino").step(*pictures()[0]), first) and len(conversions) == 2
    assert np.array_equal(load(place, "openvino").step(*pictures()[0]), first) and len(conversions) == 2
    other = make_run(tmp_path, seed=1, **RUNS["lean"])[0], *place[1:]  # another checkpoint in its place
    assert difference(load(other, "openvino").step(*pictures()[0]), first).mean() > 1 and len(conversions) == 3


def test_a_cache_keeps_what_was_used_last(tmp_path):
    folder = tmp_path / "cache"
    for i in range(4):
        assert cached_bytes(folder, f"{i}.x", lambda i=i: bytes([i]), 3) == bytes([i])
        os.utime(folder / f"{i}.x", (i, i))
        if i == 2:
            assert cached_bytes(folder, "0.x", bytes, 3) == b"\0"
    assert sorted(p.name for p in folder.iterdir()) == ["0.x", "2.x", "3.x"]
    assert cached_bytes(folder, "0.x", lambda: b"new", 3, anew=True) == b"new" == (folder / "0.x").read_bytes()
    (tmp_path / "file").write_bytes(b"")
    assert cached_bytes(tmp_path / "file" / "no folder", "0.x", lambda: b"made", 3) == b"made"


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")


@needs_gpu
@pytest.mark.parametrize("name", RUNS)
def test_the_recorded_graph_draws_what_pytorch_draws(tmp_path, name):
    place = place_of(tmp_path, RUNS[name])
    run, options, appearance = place
    plain = load(place, "torch")
    for precision, close in (("fp32", 0.5), ("bf16", CLOSE_BF16)):
        graph = load_synthesizer(run, options, appearance=appearance, backend="auto", precision=precision)
        assert graph.backend == f"cuda {precision}" and "GPU" in graph.reason
        for _ in range(2):
            for synthesizer in (plain, graph):
                synthesizer.reset()
            steps = [(plain.step(*pair), graph.step(*pair)) for pair in pictures()]
            assert difference(*zip(*steps)).mean() < close
            for k in range(1, 4):  # what was given back is not overwritten
                assert (steps[k][1] != steps[0][1]).any()


def test_ctrl_c_is_borne_after_generators_are_gone(tmp_path):
    """Also when the one that was loaded first goes first: each of OpenVINO's cores leaves a stack for signals behind."""
    pytest.importorskip("openvino")
    code = """
import gc, os, signal
import numpy as np
from openvino import Model, opset13 as ops
from models.backends.openvino_core import openvino_core
from models.backends.openvino_engine import has_bf16

def compiled(size):
    given = ops.parameter([1, size], np.float32)
    return openvino_core().compile_model(Model([ops.relu(given)], [given]), "CPU").create_infer_request()

has_bf16()
first, second = compiled(4), compiled(5)
for _ in range(2):
    del first
    gc.collect()
    first, second = second, compiled(6)
del first, second
gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGINT)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=root(), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n"), done.stderr
