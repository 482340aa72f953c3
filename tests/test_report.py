"""util/report: the pages hold what they should and need nothing from elsewhere."""

import json
import math
import re
import threading
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from fake_dataset import make_dataset
from fake_run import make_run, run_test

from util.layout import Dataset, Run
from util.metrics import MEASURES
from util.report.charts import line_chart, number, ticks
from util.report.coverage import Shown, to_record
from util.report.result_page import write_report
from util.report.training_page import Visualizer, read_log, training_facts
from util.report.web_page import duration
from util.results.folder import Results
from util.video.reading import probe


class References(HTMLParser):
    """Collects files that a page refers to, and checks that tags are closed."""

    VOID = {"meta", "link", "img", "br", "line", "polyline"}

    def __init__(self, text):
        super().__init__()
        self.files, self.open, self.text = [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.files += [values[k] for k in ("src", "href", "poster") if k in values and values[k] != "data:,"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.files += [v for k, v in attributes if k in ("src", "href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def loss_run(root):
    return Run.open("fake", "head2head_Ann", root / "checkpoints", root / "results")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("report")
    make_dataset(root, test_frames=9)
    run, _, _ = make_run(root, preset="preview", device="one GPU")
    log = Visualizer(run)
    for step in range(5):
        log.log(step, 0, {"G_GAN_D": 2.0 / (step + 1), "<odd> & name": 1.0}, step)
    log.finish()
    run_test(root)
    return root, Results(run.test_folder("Ann"))


def test_report_shows_what_was_measured(report):
    _, results = report
    page = References(results.page.read_text())
    text = " ".join(page.text)
    means, _ = results.read_measures()
    for name, value in means.items():
        assert name in text and (f"{value:.3f}" if abs(value) < 10 else f"{value:.2f}") in text
    for words in (
        "self reenactment",
        "AI-generated",
        "G_GAN_D",
        "mesh478 1",
        "30000/1001 per second",
        "CPU",
        "n_downsample_G",
        "mean RGB distance",
    ):
        assert words in text
    assert "<odd>" in text and "<odd>" not in results.page.read_text()  # escaped


def test_report_needs_nothing_from_elsewhere(report):
    _, results = report
    source = results.page.read_text()
    assert not re.search(r"https?://|//cdn|@import|url\(", source)
    files = References(source).files
    assert "all.mp4" in files and len(files) == len(set(files))  # no frame twice, with three pictures each
    assert 1 + 6 * 3 <= len(files) <= 1 + 9 * 3 and len(files) % 3 == 1
    for file in files:
        assert not file.startswith(("/", "..", "file:")) and (results.folder / file).is_file()
    info = probe(results.video("all"))
    assert (info.width, info.height, info.frames) == (4 * 256, 286, 9)


def test_report_says_where_the_networks_come_from(report):
    """Run, preset, length of training, checkpoint; of results without that record, what their own run tells, and nothing of another."""
    root, results = report
    origin = "run head2head_Ann preset preview trained 4 s , epoch 0, step 4 trained on one GPU checkpoint latest, of 20"

    def shown():
        return " ".join(" ".join(References(results.page.read_text()).text).split()).replace("4 s,", "4 s ,")

    assert origin in shown() and "synthesised on CPU, " in shown() and "normalised mean face coordinates" in shown()
    facts = json.loads((results.folder / "complete.json").read_text())
    assert facts["training"]["preset"] == "preview" and facts["training"]["seconds"] == 4
    try:
        results.finish({k: v for k, v in facts.items() if k != "training"})
        run_test(root)
        assert origin in shown()
        results.finish({k: v for k, v in facts.items() if k != "training"} | {"key": {**facts["key"], "checkpoint": "0" * 64}})
        run, options = loss_run(root), {"preset": "preview"}
        write_report(results, run, options, root)
        assert "preset not recorded trained not recorded trained on not recorded checkpoint latest synthesised" in shown()
    finally:
        results.finish(facts)
        run_test(root)


def test_a_numbered_checkpoint_was_trained_until_its_epoch(tmp_path):
    run = loss_run(tmp_path)
    log = Visualizer(run)
    for step in range(1, 7):
        log.log(step * 10, step, {"G": 1.0}, step * 60)
    log.finish()
    assert training_facts(run, {"preset": "default"}, "4") == {
        "preset": "default", "device": None, "epoch": 4, "step": 40, "seconds": 240, "checkpoint_made": None
    }  # fmt: skip
    assert training_facts(run, {})["step"] == 60 and training_facts(Run.open("fake", "none", tmp_path), {})["seconds"] is None


def test_worst_frames_have_their_numbers(report):
    """The worst by APD-L2 first, with number and value; each measure is shown once."""
    _, results = report
    source = results.page.read_text()
    _, per_frame = results.read_measures()
    first = json.loads((results.folder / "complete.json").read_text())["frames"][0]
    worst = max(range(len(per_frame)), key=lambda i: per_frame[i]["APD-L2"])
    value = f"{per_frame[worst]['APD-L2']:.2f}"
    numbers = re.findall(r"<figcaption>frame (\d+), APD-L2 ([\d.]+): real<", source)
    assert numbers[0] == (str(first + worst), value) and len(numbers) == 3
    assert [float(v) for _, v in numbers] == sorted((float(v) for _, v in numbers), reverse=True)
    assert f">{value} in frame {first + worst}<" in source
    for name in MEASURES:
        assert source.count(f"<th scope=row>{name}<") == source.count(f"<figcaption>{name}<") == 1
    assert "9 to 13" in source and "scripts/evaluate.py" in source


def test_report_shows_what_the_video_shows(report):
    """Where the dataset knows it: each item with its figure and its verdict, and what to film."""
    root, results = report
    assert "What the video shows" not in results.page.read_text()
    dataset = Dataset.open("fake", root)
    record = dataset.read_record("Ann")
    shown = [Shown("open mouth", "not", "hardly ever", "say A E I O U"), Shown("smile", "well", "plain", "smile")]
    try:
        dataset.write_record(replace(record, coverage=to_record(shown)))
        write_report(results, loss_run(root), {}, root)
        source = results.page.read_text()
        text = " ".join(" ".join(References(source).text).split())
        assert "What the video shows of the person" in text and "To make it better, film: say A E I O U." in text
        assert "<dt>open mouth</dt><dd>hardly ever<span class='shown not' title='lacking'>" in source
        assert "<dt>smile</dt><dd>plain<span class='shown well' title='good'>" in source
    finally:
        dataset.write_record(record)
        run_test(root)


def test_report_is_written_again_for_kept_results(report):
    root, results = report
    before = results.page.read_text()
    results.page.unlink()
    run_test(root)
    assert results.page.read_text() == before


def test_a_run_without_a_log_is_reported_too(tmp_path):
    make_dataset(tmp_path, test_frames=1)  # and so is a single frame
    run, _, _ = make_run(tmp_path)
    run_test(tmp_path)
    assert "trained elsewhere" in Results(run.test_folder("Ann")).page.read_text()


def test_log_lines_come_back(tmp_path):
    run = loss_run(tmp_path)
    log = Visualizer(run)
    log.log(10, 0, {"G": np.float32(1.5), "D": math.nan}, 3.25)
    log.log(20, 1, {"G": torch.tensor(0.5)}, 6)
    assert read_log(run) == [
        {"step": 10, "epoch": 0, "seconds": 3.25, "losses": {"G": 1.5, "D": None}},
        {"step": 20, "epoch": 1, "seconds": 6, "losses": {"G": 0.5}},
    ]
    log.finish()
    with run.log_path.open("a") as f:
        f.write('(epoch: 1, iters: 2) G: 1.0\n{"step": 30, "epo')  # the original's form; a line cut off
    assert [e["step"] for e in read_log(run)] == [10, 20]


def test_a_resumed_run_forgets_what_came_after_its_checkpoint(tmp_path):
    run = loss_run(tmp_path)
    picture = np.zeros((8, 8, 3), np.uint8)
    log = Visualizer(run)
    for step in (10, 20, 30):
        log.log(step, 0, {"G": step}, step)
        log.images(step, {"real": picture})
    log.finish()
    log = Visualizer(run, start_step=20)
    log.log(25, 0, {"G": 1}, 1)
    assert [e["step"] for e in read_log(run)] == [10, 20, 25]
    assert sorted(p.name for p in (run.web / "images").iterdir()) == ["0000000010_real.jpg", "0000000020_real.jpg"]
    log.finish()
    assert "0000000010_real" in (run.web / "status.js").read_text()


def status(run):
    text = (run.web / "status.js").read_text()
    return json.loads(re.fullmatch(r"show\((.*)\)\n", text, re.S)[1])


def test_training_page(tmp_path):
    run = loss_run(tmp_path)
    log = Visualizer(run)
    assert not status(run)["finished"]
    for step in range(40):
        log.images(step * 10, {"real": np.full((8, 8, 3), step, np.uint8), "fake image": np.zeros((8, 8, 3), np.uint8)})
    log.log(390, 3, {"G_GAN": 0.25}, 7000)
    log.finish()
    page = References((run.web / "index.html").read_text())
    assert page.files == [] and "head2head_Ann" in " ".join(page.text)
    now = status(run)
    assert now["finished"] and "epoch 3" in now["lead"] and "1 h 57 min" in now["lead"] and "G_GAN" in now["charts"]
    shown = References(now["samples"]).files + References(now["history"]).files
    assert sorted(f.removeprefix("images/") for f in shown) == sorted(p.name for p in (run.web / "images").iterdir())
    steps = sorted({int(f[7:17]) for f in shown})
    assert len(steps) == 24 and steps[0] == 0 and steps[-4:] == [360, 370, 380, 390]
    assert max(np.diff(steps)) <= 40  # an even spread


def test_readers_never_see_half_a_page(tmp_path):
    run = loss_run(tmp_path)
    log = Visualizer(run)
    stop, bad = threading.Event(), []

    def read():
        while not stop.is_set():
            try:
                status(run)
            except (TypeError, ValueError, OSError) as e:
                bad.append(e)

    reader = threading.Thread(target=read)
    reader.start()
    for step in range(60):
        log.images(step, {"real": np.zeros((4, 4, 3), np.uint8)})
    stop.set()
    reader.join()
    log.finish()
    assert not bad


def coordinates(chart, style):
    return [
        np.array([[float(v) for v in p.split(",")] for p in points.split()])
        for points in re.findall(rf'<polyline class="?{style}"? points="([^"]*)"', chart)
    ]


def test_charts_place_their_points():
    (line,) = coordinates(line_chart([0, 10, 20], [0, 1, 0.5], title="t"), "line")
    x, y = line.T
    assert x[1] - x[0] == pytest.approx(x[2] - x[1], abs=0.2) and y[1] < y[2] < y[0]  # SVG's y points down
    assert (y[0] - y[2]) / (y[0] - y[1]) == pytest.approx(0.5, abs=0.01)
    assert len(coordinates(line_chart([0, 1, 2, 3, 4], [0, 1, math.nan, 2, 3], title="t"), "line")) == 2  # a gap
    assert "no values yet" in line_chart([0], [math.nan], title="t")
    assert coordinates(line_chart([5], [2], title="t"), "line")
    steady = line_chart([0, 1], [3, 3], title="t")
    assert np.ptp(coordinates(steady, "line")[0][:, 1]) == 0


def test_charts_of_many_points_stay_small_and_keep_the_mean():
    rng = np.random.default_rng(0)
    chart = line_chart(np.arange(20000), rng.normal(5, 1, 20000), title="t", smooth=True)
    assert len(chart) < 20000 and len(coordinates(chart, "faint")[0]) == 240
    line = coordinates(chart, "line")[0]
    assert np.ptp(line[:, 1]) < np.ptp(coordinates(chart, "faint")[0][:, 1])


def test_ticks_are_round_and_enclose():
    assert ticks(0, 10, 5) == [0, 2, 4, 6, 8, 10] and ticks(0.13, 0.49, 4) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    for low, high in ((-3, 17), (1e-5, 2e-5), (1e6, 1e6 + 1), (4, 4), (0, 0)):
        t = ticks(low, high, 4)
        assert len(t) >= 2 and t[0] <= low + 1e-9 and t[-1] >= high - 1e-9
    assert [number(v) for v in (0, 0.5, 12345, 2_500_000, 0.00012)] == ["0", "0.5", "12.35k", "2.5M", "0.00012"]
    assert [number(v, [0, 2.5, 5]) for v in (0, 2.5, 5)] == ["0.0", "2.5", "5.0"]
    assert [number(v, [20, 40]) for v in (20, 40)] == ["20", "40"]
    assert [duration(s) for s in (42, 420, 11100)] == ["42 s", "7 min", "3 h 05 min"]
