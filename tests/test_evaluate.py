"""scripts/evaluate.py and preprocessing/compute_*.py on a small clip that the real commands prepared (a portrait of NASA's that moves)."""

import json
import math
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from synthetic_videos import face_frame, write_video

from preprocessing import (
    compute_distances,
    compute_eye_landmarks_distance,
    compute_pixel_distance,
    detect,
    detect_landmarks70,
    reconstruct,
    reenact,
)
from preprocessing.measures.pictures import nearest_frames
from scripts import evaluate
from util.cli import UserError
from util.image_io import read_image, write_image
from util.layout import Dataset, read_table
from util.metrics import frame_measures
from util.results import perceptual
from util.results.evaluation import (
    Evaluation,
    best,
    comparison_table,
    read_evaluation,
    spread,
    table,
    unequal,
    write_comparison,
    write_evaluation,
)
from util.results.folder import Results
from util.results.network_measures import face_box

COUNT = 60


def clip(phase, count=COUNT):
    """The portrait, nodding to and fro in the plane of the picture."""
    for k in range(count):
        image = face_frame((320, 240), (160 + 12 * np.sin(k / 7 + phase), 120 + 8 * np.sin(k / 5 + phase)), 1.2 + 0.05 * np.sin(k / 9))
        turn = cv2.getRotationMatrix2D((160, 130), 8 * math.sin(k / 6 + phase), 1.0)
        yield cv2.warpAffine(image, turn, (320, 240), borderMode=cv2.BORDER_REPLICATE)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    root = tmp_path_factory.mktemp("evaluate")
    videos = root / "videos"
    videos.mkdir()
    write_video(videos / "Ann.mp4", clip(0), 25)
    write_video(videos / "Bob.mp4", clip(2, 40), 25)
    common = ["--dataset_name", "d", "--datasets_dir", str(root)]
    detect.main([*common, "--original_videos_path", str(videos), "--cropped_image_size", "128", "--train_seq_length", "20"])
    detect_landmarks70.main(common)
    reconstruct.main([*common, "--face_model", "mesh478", "--renderer", "cpu"])
    reenact.main([*common, "--source_id", "Bob", "--target_id", "Ann", "--no_scale_or_translation_adaptation", "--renderer", "cpu"])
    return root


def results_of(root, name, source=None, change=None, kinds=("real", "fake", "nmfc")):
    """Results whose synthesised frames are the driving ones, changed."""
    data = Dataset.open("d", root)
    sequence = data.pair("Ann", source) if source else data.sequence("test", "Ann")
    images, nmfcs = ("source_images", "source_nmfcs") if source else ("images", "nmfcs")
    results = Results(root / "results" / name)
    results.begin()
    numbers = sequence.frames(nmfcs)
    for k, n in enumerate(numbers):
        image = read_image(sequence.path(images, n))
        pictures = {"real": image, "fake": change(image, k) if change else image, "nmfc": read_image(sequence.path(nmfcs, n))}
        for kind in kinds:
            write_image(results.path(kind, n), pictures[kind])
    facts = {"dataset_name": "d", "datasets_dir": str(root), "target": "Ann", "source": source, "size": 128, "run": "head2head_Ann"}
    facts |= {"which_epoch": "latest", "key": {"checkpoint": "0" * 64}, "face_model": "mesh478 1", "device": "CPU", "precision": "float32"}
    facts |= {"frames_per_s": 1.0, "torch": "2", "made": "today", "frames": [numbers[0], numbers[-1]], "kinds": list(kinds)}
    results.finish(facts)
    return results


def shifted(image, k):
    """Two pixels to the right, and darker in every other frame."""
    moved = cv2.warpAffine(image, np.array([[1.0, 0, 2], [0, 1, 0]]), image.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    return (moved * (0.9 if k % 2 else 1.0)).astype(np.uint8)


def test_everything_at_once(prepared, capsys):
    results = results_of(prepared, "shifted", change=shifted)
    evaluate.main([str(results.folder), "--checkpoints_dir", str(prepared)])
    printed = capsys.readouterr().out
    found = read_evaluation(results.folder)
    data = Dataset.open("d", prepared)
    sequence = data.sequence("test", "Ann")
    numbers = sequence.frames()
    assert found.frames == [numbers[0], numbers[-1]] and found.count == len(numbers) and not found.notes

    for i, n in enumerate(numbers):
        pictures = (read_image(results.path(kind, n)) for kind in ("real", "fake", "nmfc"))
        for name, value in frame_measures(*pictures, read_table(sequence.path("landmarks70", n))).items():
            assert found.per_frame[name][i] == pytest.approx(value, abs=1e-4)
    assert found.values["APD-L2"] == pytest.approx(np.mean(found.per_frame["APD-L2"]), abs=1e-4)
    assert found.values["eye-landmarks"] == pytest.approx(2, abs=0.3)  # pixels to the right
    assert found.values["ARD-L1"] < 1 and found.values["AED-L1"] < 2 and found.values["faces-found"] == 1
    assert found.values["flicker"] > 5 and found.per_frame["flicker"][1] > 5 and math.isnan(found.per_frame["flicker"][0])
    assert found.values["flicker"] == pytest.approx(found.values["warp-error"] - found.values["warp-error-real"], abs=1e-4)
    assert found.values["roll-correlation"] > 0.99

    assert set(found.nearest) == {"APD-L2", "MAPD-L2", "mouth-APD-L2", "PSNR", "SSIM"} and 1 < found.nearest["APD-L2"] < 100
    assert {"LPIPS", "FID", "identity-similarity"} <= set(found.skipped)
    assert "eye-landmarks" in printed and "without LPIPS: the weights of AlexNet are not on this machine" in printed
    page = results.page.read_text()
    assert "Evaluation" in page and "nearest training frame" in page and "eye landmarks" in page and "without LPIPS" in page
    entry = json.loads(results.evaluation.read_text())["measures"]["APD-L2"]
    assert (
        entry["unit"].startswith("grey")
        and entry["better"] == "lower"
        and entry["ratio"] == pytest.approx(entry["value"] / entry["nearest_training_frame"], abs=1e-4)
    )


def test_equal_frames_have_no_distance(prepared):
    results = results_of(prepared, "equal")
    evaluate.main([str(results.folder), "--checkpoints_dir", str(prepared)])
    values = read_evaluation(results.folder).values
    zero = ("APD-L2", "MAPD-L2", "mouth-APD-L2", "flicker", "eye-landmarks", "DAI-L1", "AED-L1", "ARD-L1")
    assert [values[name] for name in zero] == [0] * len(zero) and values["SSIM"] == pytest.approx(1)
    assert values["jitter-ratio"] == 1 and all(v == 1 for k, v in values.items() if k.endswith("-correlation"))


def test_a_driven_person(prepared):
    """The synthesised frames follow the driver exactly; then they stand still."""
    results = results_of(prepared, "driven", "Bob")
    evaluate.main([str(results.folder), "--checkpoints_dir", str(prepared)])
    found = read_evaluation(results.folder)
    assert found.source == "Bob" and found.values["roll-correlation"] == 1 and "APD-L2" not in found.values
    assert "there is no truth" in found.skipped["flicker"] and not found.nearest
    assert found.values["identity-distance-source"] < 5 and found.values["identity-distance-target"] < 8  # both are the same person
    data = Dataset.open("d", prepared)
    pair = data.read_pair("Ann", "Bob")
    data.write_pair(replace(pair, mode="face", target_frames=[0] * len(pair.target_frames)))  # Ann's pose, which stands still there
    evaluate.main([str(results.folder), "--checkpoints_dir", str(prepared)])
    data.write_pair(pair)
    found = read_evaluation(results.folder)
    assert "roll-correlation" not in found.values and any("roll" in name for name in found.skipped)
    still = read_image(data.pair("Ann", "Bob").path("source_images", data.pair("Ann", "Bob").frames("source_images")[0]))
    rng = np.random.default_rng(0)
    results = results_of(prepared, "still", "Bob", change=lambda image, k: cv2.add(still, rng.integers(0, 3, still.shape, np.uint8)))
    evaluate.main([str(results.folder), "--checkpoints_dir", str(prepared)])
    assert read_evaluation(results.folder).values["roll-correlation"] < 0.6


def test_the_single_commands_agree(prepared, capsys):
    results = results_of(prepared, "single", change=shifted)
    evaluate.main([str(results.folder), "--checkpoints_dir", str(prepared)])
    values = read_evaluation(results.folder).values
    capsys.readouterr()
    for command in (compute_pixel_distance, compute_distances, compute_eye_landmarks_distance):
        command.main(["--results_dir", str(results.folder)])
    printed = dict(line.split()[:2] for line in capsys.readouterr().out.splitlines() if line.startswith("  "))
    assert set(printed) == {"APD-L2", "MAPD-L2", "mouth-APD-L2", "PSNR", "SSIM", "DAI-L1", "AED-L1", "ARD-L1", "eye-landmarks"}
    for name, value in printed.items():
        assert float(value) == pytest.approx(values[name], abs=6e-4)


def test_a_machine_without_mediapipe_or_dataset(prepared, monkeypatch):
    """What can not be had is left out with its reason; the rest is there."""
    results = results_of(prepared, "bare", change=shifted)

    def missing():
        raise UserError("MediaPipe cannot be used (No module named 'mediapipe')")

    monkeypatch.setattr("preprocessing.tracking.tracker.load_solutions", missing)
    evaluate.main([str(results.folder), "--checkpoints_dir", str(prepared)])
    found = read_evaluation(results.folder)
    assert {"APD-L2", "mouth-APD-L2", "flicker"} <= set(found.values) and "eye-landmarks" not in found.values and found.nearest
    assert any("MediaPipe" in reason for reason in found.skipped.values())
    facts = json.loads((results.folder / "complete.json").read_text())
    results.finish(facts | {"datasets_dir": str(prepared / "none")})
    evaluate.main([str(results.folder), "--datasets_dir", str(prepared / "none"), "--checkpoints_dir", str(prepared)])
    found = read_evaluation(results.folder)
    assert "flicker" in found.values and "APD-L2" not in found.values and not found.nearest  # no landmarks for the mouth's window


def test_runs_side_by_side(prepared, tmp_path, capsys):
    one, two = (
        results_of(prepared, "side/a", change=shifted),
        results_of(prepared, "side/b", change=lambda image, k: image[::-1, ::-1].copy()),
    )
    places = ["--checkpoints_dir", str(prepared), "--output", str(tmp_path / "c.html")]
    evaluate.main(["--compare", str(one.folder), str(two.folder), *places])
    printed = capsys.readouterr().out
    line = next(line for line in printed.splitlines() if line.startswith("APD-L2  ") and "*" in line)
    assert f"{read_evaluation(one.folder).values['APD-L2']:.2f}*" in line or f"{read_evaluation(one.folder).values['APD-L2']:.3f}*" in line
    page = (tmp_path / "c.html").read_text()
    assert ">a</th>" in page and ">b</th>" in page and "line2" in page
    before = one.evaluation.stat().st_mtime_ns
    evaluate.main(["--compare", str(one.folder), str(two.folder), *places])
    assert one.evaluation.stat().st_mtime_ns == before  # what is known is not computed again
    with pytest.raises(UserError, match="twice"):
        evaluate.main(["--compare", str(one.folder), str(one.folder), *places])
    with pytest.raises(UserError, match="either a results' folder"):
        evaluate.main([])


# ---- parts ----


def test_nearest_frames_are_near_in_pose_and_expression():
    rng = np.random.default_rng(0)
    known = rng.normal(0, [0.2, 0.2, 0.1, 0.02, 0.5, 0.5], (200, 6)), rng.uniform(0, 1, (200, 20)) * np.linspace(0.01, 1, 20)
    order = rng.permutation(200)
    noisy = tuple(k[order] + rng.normal(0, 1e-3, k.shape) for k in known)
    assert (nearest_frames(known, noisy) == order).all()
    turned = known[0].copy()
    turned[:, :3] = 0
    assert nearest_frames((turned, known[1]), noisy).tolist() == order.tolist()  # the expression tells


def test_names_without_what_they_share():
    assert evaluate.short_names(["/r/D/a/latest_epoch/test/T", "/r/D/b/latest_epoch/test/T"]) == ["a", "b"]
    assert evaluate.short_names(["/r/a", "/r/a/b"]) == ["a", "b"] or evaluate.short_names(["/r/a", "/r/a/b"])[1] == "b"


def example(**changes):
    values = {"APD-L2": 10.0, "SSIM": 0.8, "PSNR": math.nan}
    return Evaluation("Ann", None, [5, 7], 64, values, {"APD-L2": 20.0}, {"APD-L2": [9.0, math.nan, 11.0]}, {"FID": "no"}, ["n"], **changes)


def test_evaluations_are_kept_and_shown(tmp_path):
    write_evaluation(tmp_path, example())
    back = read_evaluation(tmp_path)
    np.testing.assert_equal(back.__dict__, example().__dict__)
    shown = table(back)
    assert "0.500" in shown and "without FID: no" in shown and "note: n" in shown
    (tmp_path / "evaluation.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        read_evaluation(tmp_path)
    assert read_evaluation(tmp_path / "none") is None
    other = example()
    other.values = {"APD-L2": 12.0, "SSIM": 0.9}
    other.frames = [6, 8]
    compared = comparison_table({"a": example(), "b": other})
    assert "10.00*" in compared and "0.900*" in compared and "different frames" in compared
    assert unequal({"a": example(), "b": example()}) == []
    assert math.isnan(best("SSIM", [1.0])) and best("SSIM", [0.5, math.nan, 0.7]) == 0.7 and best("APD-L2", [3, 4]) == 3
    np.testing.assert_equal(spread(example(), "APD-L2", 4, 8), [math.nan, 9, math.nan, 11, math.nan])
    with pytest.raises(UserError, match="html"):
        write_comparison(tmp_path / "x.txt", {"a": example()})


def test_networks_without_weights_are_named(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for name in perceptual.WEIGHTS:
        with pytest.raises(UserError, match=f"the weights of {name} are not on this machine; put https://"):
            perceptual.find_weights(name, False)
    place = tmp_path / "checkpoints" / Path(perceptual.WEIGHTS["FaceNet"]).name
    place.parent.mkdir()
    place.write_bytes(b"x")
    assert perceptual.find_weights("FaceNet", False) == place


def test_networks_with_weights_in_the_cache(monkeypatch, tmp_path):
    """Not trained ones (those cannot be had here), but files of the right form where PyTorch keeps them."""
    torch = pytest.importorskip("torch")
    from facenet_pytorch import InceptionResnetV1
    from torchvision.models import alexnet

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    files = {name: folder / Path(url).name for name, url in perceptual.WEIGHTS.items()}
    torch.save(alexnet(weights=None).state_dict(), files["AlexNet"])
    face = InceptionResnetV1(pretrained=None, classify=False)
    torch.save({**face.state_dict(), "logits.weight": torch.zeros(3, 512), "logits.bias": torch.zeros(3)}, files["FaceNet"])
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (64, 64, 3), np.uint8) for _ in range(3)]
    others = [255 - i for i in images]
    cpu = torch.device("cpu")
    assert perceptual.lpips_distances(images, images, cpu) == pytest.approx([0, 0, 0], abs=1e-6)
    assert all(v > 1e-4 for v in perceptual.lpips_distances(iter(images), iter(others), cpu))
    network = perceptual.load_facenet(cpu)
    boxes = [np.array([10, 12, 50, 52])] * 3
    embeddings = perceptual.face_embeddings(network, images, boxes, cpu)
    assert embeddings.shape == (3, 512)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, rtol=1e-4)
    files["FaceNet"].write_bytes(files["AlexNet"].read_bytes())
    with pytest.raises(UserError, match="does not hold FaceNet's weights"):
        perceptual.load_facenet(cpu)
    for file in files.values():
        file.unlink(missing_ok=True)  # hundreds of megabytes


def test_the_face_is_cut_out_where_the_box_is():
    image = np.zeros((100, 120, 3), np.uint8)
    image[30:70, 40:80] = 255
    face = perceptual.cut_face(image, np.array([40, 30, 80, 70]))
    edge = 160 * perceptual._FACE_MARGIN / (1 + 2 * perceptual._FACE_MARGIN)
    white = np.flatnonzero(face[80, :, 0] > 127)
    assert face.shape == (160, 160, 3) and abs(white[0] - edge) <= 1 and abs(white[-1] - (159 - edge)) <= 1
    nmfc = np.zeros((100, 100, 3), np.uint8)
    nmfc[10:95, 30:70] = 9
    left, top, right, bottom = face_box(nmfc)
    assert (left, right) == (30, 70) and bottom - top == 40 and 10 <= top
    assert face_box(np.zeros((100, 100, 3), np.uint8)).tolist() == [25, 25, 75, 75]
