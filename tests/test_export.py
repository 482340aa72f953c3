"""scripts/export.py: a generator as a file that draws the same, with its description; whole or not at all."""

import json

import numpy as np
import pytest
import torch
from fake_run import SIZE, make_run

from models import export
from models.synthesis import load_synthesizer
from scripts.export import main
from util.cli import UserError
from util.face.appearance import CELLS, Appearance
from util.image_io import write_bytes

LEAN = {"prev_output": False, "conditioning_frames": 1, "appearance": True}


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def lean(tmp_path):
    run, _, options = make_run(tmp_path, **LEAN)
    rng = np.random.default_rng(1)
    appearance = Appearance(rng.integers(0, 256, (CELLS**3, 3), np.uint8), rng.integers(0, 256, (SIZE + 8, SIZE + 8, 3), np.uint8))
    write_bytes(run.appearance_path("Ann"), appearance.to_bytes())
    write_bytes(run.profile_path("Ann"), b"")  # only its name is read
    return run, options, appearance


def session_of(folder):
    """What draws with an exported file: inputs by name -> outputs in order."""
    facts = json.loads((folder / "generator.json").read_text())
    path = folder / facts["file"]
    if facts["file"].endswith(".onnx"):
        session = pytest.importorskip("onnxruntime").InferenceSession(path.read_bytes())
        return facts, lambda inputs: session.run(None, inputs)
    model = pytest.importorskip("openvino").Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return facts, lambda inputs: list(model(inputs).values())


@pytest.mark.parametrize("format", export.FORMATS)
def test_an_exported_generator_draws_the_same(lean, format, capsys):
    run, options, appearance = lean
    main([str(run.checkpoints), "--format", format])
    folder = run.checkpoints / "export" / format
    assert f"{folder / 'generator'}" in capsys.readouterr().out
    facts, draw = session_of(folder)
    assert facts["person"] == "Ann" and facts["difference_from_pytorch"]["largest"] <= 1
    assert [x["name"] for x in facts["inputs"]] == ["nmfc", "eye_gaze"] and [x["name"] for x in facts["outputs"]] == ["image"]
    assert "# A generator of Ann" in (folder / "README.md").read_text()
    nmfc, gaze = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), dtype=np.uint8)
    nmfc[: SIZE // 2] = 0  # no head: the backdrop is seen
    plain = load_synthesizer(run, options, appearance=appearance, backend="torch", gpu_ids="-1")
    (image,) = draw({"nmfc": nmfc[None], "eye_gaze": gaze[None]})
    assert np.abs(image.astype(int) - plain.step(nmfc, gaze)).max() <= 1


@pytest.mark.parametrize("format", export.FORMATS)
def test_a_generator_that_sees_its_past_is_run_as_its_description_says(tmp_path, format):
    run, _, options = make_run(tmp_path, conditioning_frames=2)
    folder = tmp_path / "elsewhere"
    main([str(run.checkpoints), "--format", format, "--output", str(folder), "--loadSize", "32"])
    facts, draw = session_of(folder)
    shapes = {x["name"]: x["shape"] for x in facts["inputs"]}
    assert shapes == {"nmfc": [2, 32, 32, 3], "eye_gaze": [2, 32, 32, 3], "previous": [1, 6, 32, 32]}
    plain = load_synthesizer(run, options, backend="torch", gpu_ids="-1")
    frames = np.random.default_rng(0).integers(0, 256, (4, 2, 32, 32, 3), dtype=np.uint8)
    previous = np.zeros(shapes["previous"], np.float32)
    for i, (nmfc, gaze) in enumerate(frames):
        before = frames[max(i - 1, 0)]
        image, previous = draw({"nmfc": np.stack([before[0], nmfc]), "eye_gaze": np.stack([before[1], gaze]), "previous": previous})
        assert np.abs(image.astype(int) - plain.step(nmfc, gaze)).max() <= 1


def test_an_earlier_export_is_replaced_and_nothing_else(lean, tmp_path, monkeypatch):
    run, *_ = lean
    folder = tmp_path / "export"
    arguments = [str(run.checkpoints), "--format", "openvino", "--output", str(folder)]
    main(arguments)
    (folder / "of before").touch()
    main(arguments)
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "generator.bin", "generator.json", "generator.xml"]
    monkeypatch.setattr(export, "_LARGEST_ERROR", -1)
    (folder / "of before").touch()
    with pytest.raises(UserError, match=r"differ from PyTorch's by up to \d grey levels, so nothing was written; try .*--format onnx"):
        main(arguments)
    assert (folder / "of before").is_file() and sorted(p.name for p in tmp_path.iterdir()) == ["checkpoints", "export"]
    (folder / "generator.json").unlink()
    with pytest.raises(UserError, match=r"export is there, and is no earlier export; choose another --output"):
        main(arguments)


def test_what_cannot_be_exported_is_said(lean, tmp_path, monkeypatch):
    run, *_ = lean
    for arguments, message in (
        ([tmp_path / "no"], "there is no trained run"),
        ([run.checkpoints, "--loadSize", "30"], "--loadSize 30 must be a multiple of 4"),
        ([run.checkpoints, "--which_epoch", "7"], r"there is no checkpoint .*7_net_G\.pth; take the latest"),
        ([run.checkpoints, "--target_id", "Bob"], r"Bob\.npz is missing: the generator needs the colours"),
    ):
        with pytest.raises(UserError, match=message):
            main([*map(str, arguments), "--format", "onnx"])
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="--format onnx needs the package onnx; install it with: pip install onnx"):
        main([str(run.checkpoints), "--format", "onnx"])
    assert not (run.checkpoints / "export").exists()
