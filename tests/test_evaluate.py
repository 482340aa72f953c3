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
from preprocessing.measures.motion import find_in
from preprocessing.measures.pictures import flicker, nearest_frames, pixels
from scripts import evaluate
from util.cli import UserError
from util.image_io import read_image, write_image
from util.layout import Dataset, read_table
from util.metrics import frame_measures
from util.results import perceptual
from util.results.evaluation import (
    Evaluation,
    Skip,
    comparison_table,
    read_evaluation,
    spread,
    table,
    unequal,
    winners,
    write_comparison,
    write_evaluation,
)
from util.results.folder import Results
from util.results.frames import open_frames
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
    for name in ("flicker-person", "flicker-background"):  # it darkens in every other frame
        assert found.values[name] > found.real[name] + 5 and np.isnan([found.per_frame[name][0], found.per_frame[name][-1]]).all()
        assert found.real[name] == pytest.approx(np.nanmean(found.real_per_frame[name]), abs=1e-4)
    assert found.values["roll-correlation"] > 0.99

    assert set(found.nearest) == {"APD-L2", "MAPD-L2", "mouth-APD-L2", "PSNR", "SSIM"} and 1 < found.nearest["APD-L2"] < 100
    assert {"LPIPS", "FID", "identity-similarity"} <= set(found.skipped)
    assert "eye-landmarks" in printed and "without LPIPS: the weights of AlexNet are not on this machine" in printed
    page = results.page.read_text()
    assert "nearest training frame" in page and "eye landmarks" in page and "without LPIPS" in page and "shakier" in page
    for measure in ("APD-L2", "SSIM", "eye landmarks", "jitter"):  # once in the table, once at most over time
        assert page.count(f"<th scope=row>{measure}<") == 1 and page.count(f"<figcaption>{measure}<") <= 1
    written = json.loads(results.evaluation.read_text())["measures"]
    assert "ratio" not in written["PSNR"] and "ratio" not in written["SSIM"]  # decibels have none
    assert written["PSNR"]["difference"] == pytest.approx(written["PSNR"]["value"] - written["PSNR"]["nearest_training_frame"], abs=1e-4)
    assert written["flicker-person"]["better"] == "nearer" and written["flicker-person"]["difference"] > 5
    entry = written["APD-L2"]
    assert (
        entry["unit"].startswith("grey")
        and entry["better"] == "lower"
        and entry["ratio"] == pytest.approx(entry["value"] / entry["nearest_training_frame"], abs=1e-4)
    )


def test_equal_frames_have_no_distance(prepared):
    results = results_of(prepared, "equal")
    evaluate.main([str(results.folder), "--checkpoints_dir", str(prepared)])
    values = read_evaluation(results.folder).values
    zero = ("APD-L2", "MAPD-L2", "mouth-APD-L2", "eye-landmarks", "DAI-L1", "AED-L1", "ARD-L1")
    assert [values[name] for name in zero] == [0] * len(zero) and values["SSIM"] == pytest.approx(1)
    assert values["jitter-ratio"] == 1 and all(v == 1 for k, v in values.items() if k.endswith("-correlation"))


def test_a_driven_person(prepared):
    """The synthesised frames follow the driver exactly; then they stand still."""
    results = results_of(prepared, "driven", "Bob")
    evaluate.main([str(results.folder), "--checkpoints_dir", str(prepared)])
    found = read_evaluation(results.folder)
    assert found.source == "Bob" and found.values["roll-correlation"] == 1 and "APD-L2" not in found.values
    assert "there is no truth" in found.skipped["flicker"] and not found.nearest
    moving = found
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
    still = read_evaluation(results.folder)
    assert still.values["roll-correlation"] < 0.6
    assert still.values["movement-ratio"] < 0.5 and moving.values["movement-ratio"] == 1
    assert winners("jitter-ratio", [still, moving]) == winners("movement-ratio", [still, moving]) == [False, True]


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

    for module in ("tracker", "person_matte"):
        monkeypatch.setattr(f"preprocessing.tracking.{module}.load_solutions", missing)
    evaluate.main([str(results.folder), "--checkpoints_dir", str(prepared)])
    found = read_evaluation(results.folder)
    assert {"APD-L2", "mouth-APD-L2"} <= set(found.values) and "eye-landmarks" not in found.values and found.nearest
    assert "MediaPipe" in found.skipped["flicker"] and sum("MediaPipe" in reason for reason in found.skipped.values()) == 2
    facts = json.loads((results.folder / "complete.json").read_text())
    results.finish(facts | {"datasets_dir": str(prepared / "none")})
    evaluate.main([str(results.folder), "--datasets_dir", str(prepared / "none"), "--checkpoints_dir", str(prepared)])
    found = read_evaluation(results.folder)
    assert "APD-L2" not in found.values and not found.nearest  # no landmarks for the mouth's window


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
    np.testing.assert_equal(spread(example(), [9.0, math.nan, 11.0], 4, 8), [math.nan, 9, math.nan, 11, math.nan])
    with pytest.raises(UserError, match="html"):
        write_comparison(tmp_path / "x.txt", {"a": example()})


def of(name, *values, real=()):
    """Evaluations with one measure, and its value in the real video."""
    reals = [{name: real}] * len(values) if real != () else [{}] * len(values)
    return [Evaluation("Ann", None, [0, 2], 64, {name: v}, real=r) for v, r in zip(values, reals)]


def test_the_best_of_several():
    assert winners("SSIM", of("SSIM", 1.0)) == [False] and winners("SSIM", of("SSIM", 0.5, math.nan, 0.7)) == [False, False, True]
    assert winners("APD-L2", of("APD-L2", 3, 4)) == [True, False] and winners("APD-L2", of("APD-L2", 3, 3)) == [True, True]
    assert winners("identity-distance-source", of("identity-distance-source", 3, 4)) == [False, False]  # for information
    for name in ("flicker-person", "flicker-background", "jitter-ratio"):
        for frozen in (0.0, 0.2):  # and blurred: below the real video's
            assert winners(name, of(name, frozen, 5.4, 9.0, real=5.0)) == [False, True, False]
            assert winners(name, of(name, frozen, 4.9, 5.3, real=5.0)) == [False, True, False]
        assert winners(name, of(name, 0.0, 0.0, real=5.0)) == [False, False]
        assert winners(name, of(name, 5.5, 5.52, 6.0, real=5.0)) == [True, True, False]  # equally near
        frozen, moving = of(name, 4.9, 6.0, real=5.0)  # the tracker's own noise may be as large as the jitter of a steady driver
        frozen.values["movement-ratio"], moving.values["movement-ratio"] = 0.3, 1.1
        assert winners(name, [frozen, moving]) == [False, True] and winners("movement-ratio", [frozen, moving]) == [False, True]
    assert winners("flicker-person", of("flicker-person", 4.0, 5.0)) == [False, False]  # not known in the real video
    assert winners("jitter-ratio", of("jitter-ratio", 0.3, 1.1, 1.6)) == [False, True, False]  # written before the rule was this


def test_a_measure_beside_what_it_is_judged_by(tmp_path):
    values = {
        "APD-L2": 10.0,
        "PSNR": 26.5,
        "SSIM": 0.8,
        "flicker-person": 4.0,
        "flicker-background": 2.01,
        "jitter-ratio": 1.5,
        "movement-ratio": 0.3,
    }
    real = {"flicker-person": 5.0, "flicker-background": 2.0}
    evaluation = Evaluation("Ann", None, [5, 7], 64, values, {"APD-L2": 20.0, "PSNR": 20.25, "SSIM": 0.9}, real=real)
    lines = {line.split()[0]: " ".join(line.split()[1:]) for line in table(evaluation).splitlines()}
    assert lines["APD-L2"].startswith("10.00 nearest training frame 20.00: 0.500 times that grey levels, 0-441, lower is better")
    assert lines["PSNR"].startswith("26.50 nearest training frame 20.25: +6.250 dB") and "frame 0.900: -0.100 " in lines["SSIM"]
    assert "real video 5.000: -1.000, steadier" in lines["flicker-person"] and "as steady" in lines["flicker-background"]
    assert "real video 1.000: -0.700, moves less" in lines["movement-ratio"]
    assert "real video 1.000: +0.500, shakier" in lines["jitter-ratio"] and "nearer to the real video's" in lines["jitter-ratio"]
    write_evaluation(tmp_path, evaluation)
    written = json.loads((tmp_path / "evaluation.json").read_text())["measures"]
    assert written["flicker-person"]["real_video"] == 5 and written["flicker-person"]["difference"] == -1
    assert {n for n in written if "ratio" in written[n]} == {"APD-L2"} and written["PSNR"]["difference"] == 6.25


def test_evaluations_of_earlier_versions_are_compared(tmp_path, capsys):
    """With flicker as warp errors, a ratio of decibels, and nothing of the real video."""
    for folder, jitter in (("a", 0.2), ("b", 1.2)):
        measures = {"flicker": {"value": 1.7, "unit": "grey levels", "better": "lower", "meaning": ""}}
        measures["PSNR"] = {"value": 26.0, "unit": "dB", "better": "higher", "nearest_training_frame": 20.0, "ratio": 1.3}
        measures["jitter-ratio"] = {"value": jitter, "unit": "ratio", "better": "lower"}
        data = {"version": 1, "target": "Ann", "source": None, "frames": [0, 1], "size": 64, "measures": measures, "skipped": {}}
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "evaluation.json").write_text(json.dumps(data | {"notes": [], "per_frame": {"flicker": [None, 1.7]}}))
    evaluate.main(["--compare", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "c.html")])
    printed = capsys.readouterr().out
    (line,) = (line for line in printed.splitlines() if line.startswith("jitter-ratio"))
    assert "0.200 " in line and "1.200*" in line and "real video 1.000" in line
    assert "a was evaluated by an earlier version: flicker cannot be compared; --redo evaluates it again" in printed
    assert "earlier version" in (tmp_path / "c.html").read_text()


def flicker_of(results, **changes):
    with open_frames(results.folder) as frames:
        frames = replace(frames, **changes)
        evaluation = Evaluation(frames.target, frames.source, [frames.numbers[0], frames.numbers[-1]], frames.size)
        flicker(evaluation, frames)
    return evaluation


def test_flicker_tells_frozen_and_blurred_from_steady(prepared):
    """Whatever lies below the real video's value is as wrong as what lies above it; the nearest wins."""
    first, rng = [], np.random.default_rng(0)

    def frozen(image, k):
        first.append(image)
        return first[0]

    def noisy(image, k, strength=8):
        return np.clip(image + rng.normal(0, strength, image.shape), 0, 255).astype(np.uint8)

    def shaken(image, k):
        return np.roll(image, k % 2, axis=1)

    def blurred(image, k):
        return cv2.GaussianBlur(image, (0, 0), 4)

    def slightly(image, k):
        return cv2.GaussianBlur(image, (0, 0), 0.4)

    changes = {"equal": None, "frozen": frozen, "blurred": blurred, "noisy": noisy, "shaken": shaken, "slightly": slightly}
    found = {name: flicker_of(results_of(prepared, f"flicker/{name}", change=change)) for name, change in changes.items()}
    real = found["equal"].real["flicker-person"]
    person = {name: e.values["flicker-person"] for name, e in found.items()}
    assert person["equal"] == real > 0.5 and person["frozen"] == 0 and person["blurred"] < 0.7 * real
    assert person["noisy"] > 1.5 * real and person["shaken"] > 1.2 * real and all(e.real["flicker-person"] == real for e in found.values())
    background = {name: e.values["flicker-background"] for name, e in found.items()}
    assert background["noisy"] > background["equal"] + 5 and background["frozen"] == 0
    names = [name for name in found if name != "equal"]
    best = winners("flicker-person", [found[name] for name in names])
    assert [name for name, wins in zip(names, best) if wins] == ["slightly"]

    # only the background flickers: only its measure says so
    def left_edge(image, k):
        return np.hstack([noisy(image[:, :6], k, 30), image[:, 6:]])

    corner = results_of(prepared, "flicker/corner", change=left_edge)
    there = flicker_of(corner).values
    assert there["flicker-background"] > background["equal"] + 1 and there["flicker-person"] == pytest.approx(real, rel=0.05)


def test_frames_that_do_not_count(prepared):
    """Wrong frames that are left out change no measure; few frames in a row have no flicker."""
    numbers = Dataset.open("d", prepared).sequence("test", "Ann").frames()

    def spoilt(image, k):
        return 255 - image if k in (10, 11) else shifted(image, k)

    found = []
    for name, change, left_out in (("clean", shifted, ()), ("spoilt", spoilt, numbers[10:12])):
        with open_frames(results_of(prepared, f"left_out/{name}", change=change).folder) as frames:
            frames = replace(frames, left_out=frozenset(left_out))
            evaluation = Evaluation("Ann", None, [numbers[0], numbers[-1]], frames.size, left_out=sorted(frames.left_out))
            pixels(evaluation, frames)
            flicker(evaluation, frames)
            assert np.flatnonzero(find_in(frames, "fake", "landmarks").missed).tolist() == [numbers.index(n) for n in left_out]
        write_evaluation(frames.folder, evaluation)
        found.append(read_evaluation(frames.folder))
    one, two = found
    assert two.left_out == numbers[10:12] and "note: 2 of " in table(two) and "left out" not in table(one)
    for name, curve in two.per_frame.items():
        gone = np.isin(np.arange(len(numbers)), [9, 10, 11, 12, 0, len(numbers) - 1] if name.startswith("flicker") else [10, 11])
        assert np.isnan(np.array(curve)[gone]).all()
        np.testing.assert_array_equal(np.array(curve)[~gone], np.array(one.per_frame[name])[~gone])
        assert two.values[name] == pytest.approx(np.nanmean(curve), abs=1e-5)
    with pytest.raises(Skip, match="fewer than three"):
        flicker_of(Results(frames.folder), left_out=frozenset(numbers[::2]))


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
