"""Every parser of ours on damaged files: a value or a sentence, never another exception, a hang, or gigabytes.

A few dozen inputs each, always the same; FUZZ_SECONDS=90 tries others for so long (pytest -n 0 -s tells how many).
"""

import io
import json
import sys
import warnings
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st
from test_motion import ARKIT

if sys.platform != "linux":
    pytest.skip("memory is bounded as Linux does it", allow_module_level=True)

from fuzzing import ODD, damaged, damaged_json, damaged_npz, fuzz

from live.sources import FileSource
from models.checkpoints import PUBLISHED_OPTIONS, read_iteration, read_run_options, read_tensors, save_weights
from models.networks import build_generator
from options.presets import SETTINGS
from options.train_options import parse as parse_training
from preprocessing.driving.clock import read_clock, time_unit
from preprocessing.driving.edits import check_edits, parse_edits
from preprocessing.driving.motion_files import read_arkit, read_template, save_template, template_origin
from preprocessing.driving.profile import TargetProfile
from preprocessing.driving.tables import read_table as read_dialect
from preprocessing.face_models.registry import load_face_model
from preprocessing.steps.landmarks70 import read_track
from preprocessing.steps.reconstruction import read_dense
from preprocessing.tracking.follower import parse_face
from scripts.verify import describe
from util.caches.digests import file_digests
from util.caches.frame_file import has_rows, read_rows, write_rows
from util.caches.keyed_file import read_keyed
from util.cli import UserError
from util.credentials.reading import read_findings
from util.face.appearance import CELLS, Appearance
from util.geometry import Cameras
from util.image_io import encode_image, read_image
from util.layout import Dataset, Pair, Record, Run, continues, read_camera, read_table, write_camera, write_table
from util.report.training_page import read_log, training_facts
from util.results.evaluation import read_evaluation
from util.results.folder import Results
from util.video.reading import probe

pytestmark = pytest.mark.filterwarnings("ignore")
NAMES = load_face_model("mesh478").expression_names
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Warnings of a thousand files are not kept."""
    monkeypatch.setattr("util.cli._quiet", True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def written(path, parse):
    """A parser of bytes, by way of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)

    def check(data):
        path.write_bytes(data)
        return parse(path)

    return check


# ---- motion ----

TIMES = ("00:00:0{i}:{f:02}", "{s:.4f}", "2024-05-03T10:00:0{i}.{f:03}Z", "00:00:0{i};{f:02}", "17000000{i}{f:02}000")


def take(separator=",", time=TIMES[0], header="Timecode,BlendshapeCount", more=""):
    """A short take of all blendshapes."""
    rows = [",".join([header, *ARKIT, "HeadYaw", "HeadPitch", "HeadRoll"])]
    for k in range(8):
        cells = [time.format(i=k // 4, f=15 * (k % 4), s=k / 4), "61", *(f"{v:.3f}" for v in RNG.random(len(ARKIT) + 3))]
        rows.append(",".join(cells))
    return (more + "\n".join(rows)).replace(",", separator).encode()


TAKES = [take(), take(";", TIMES[1], "seconds;n"), take("\t", TIMES[2]), take(more="# fps: 30\n"), take(time=TIMES[3]), take(time=TIMES[4])]
TAKES += [take().decode().encode("utf-16"), take(";").replace(b".", b",")]


def test_tables_of_blendshapes(tmp_path):
    read = written(tmp_path / "take.csv", lambda path: read_arkit(path, NAMES, Fraction(30)))

    def check(data):
        motion = read(data)
        assert len(motion) and all(np.isfinite(v).all() for v in (motion.rotation, motion.zoom, motion.shift, motion.expression))

    fuzz(damaged(TAKES), check, UserError)


def test_dialects_of_tables(tmp_path):
    def parse(path):
        table = read_dialect(path, str.isalpha, 2)
        assert len(table.rows) == len(table.lines) and all(len(row) <= len(table.names) for row in table.rows)

    fuzz(damaged([b"# a\nx,y,z\n1,2,3\n4,5\n", *TAKES[:2]]), written(tmp_path / "t.csv", parse), ValueError, examples=80)


def test_clocks():
    cells = st.sampled_from(["", "nan", "1e308", "-1e308", "9" * 400, "0", "x", "1:2", "99:99:99:99", "0:0;0", "1.5", "-5"])
    stamps = st.integers(-5, 40).flatmap(
        lambda n: st.lists(
            st.one_of(
                cells,
                st.floats().map(str),
                st.integers(-(10**20), 10**20).map(str),
                st.tuples(*[st.integers(0, 70)] * 4).map(lambda t: "{}:{}:{}:{}".format(*t)),
                st.text("0123456789:;.,-TZ ", max_size=14),
            ),
            min_size=2,
            max_size=max(2, n),
        )
    )
    steady = st.tuples(st.floats(-1e6, 1e6), st.floats(-10, 1e5), st.integers(2, 40)).map(
        lambda t: [f"{t[0] + t[1] * i}" for i in range(t[2])]
    )
    units = st.sampled_from([None, "s", "ms", "us", "ns", "ticks", "frames"])

    def check(given):
        stamps, unit, rate = given
        seconds, keep, _ = read_clock(stamps, range(1, len(stamps) + 1), unit, rate)
        assert np.isfinite(seconds).all() and (np.diff(seconds[keep]) > 0).all()
        for stamp in stamps:
            time_unit(stamp, stamp)

    fuzz(st.tuples(stamps | steady, units, st.none() | st.floats(1, 1000)), check, ValueError, examples=100)


def motion_template(path):
    from test_motion import make_motion

    save_template(path, make_motion(NAMES, 5), NAMES, "mesh478 1", "Ann", "signed")
    return json.loads(path.read_text())


def test_templates(tmp_path):
    whole = motion_template(tmp_path / "whole.json")

    def parse(path):
        motion = read_template(path, NAMES)
        assert all(np.isfinite(v).all() for v in (motion.rotation, motion.expression, motion.shift, motion.zoom))
        template_origin(path)

    fuzz(damaged_json(whole), written(tmp_path / "m.json", parse), UserError)


def test_edits_and_faces():
    words = damaged([b"jawOpen=+0.2,mouthSmile_L=0.3,yaw=10", b"left", b"120.5,88", b"yaw=nan", b"roll=1e400"])

    words = words.map(lambda data: data.decode("utf-8", "surrogateescape"))

    def check(text):
        edits = parse_edits(text)
        check_edits(edits, NAMES)
        assert all(np.isfinite(e.value) for e in edits)

    def face(text):
        found = parse_face(text)
        assert isinstance(found, str) or np.isfinite(found).all()

    fuzz(words, check, UserError, examples=100)
    fuzz(words, face, UserError, examples=100)


# ---- what belongs to a trained run ----


def test_profiles():
    from test_retarget import make_person

    model = load_face_model("mesh478")
    data = TargetProfile.of(model, make_person(model, 1), "Ann", [10, -5, 310, 295]).to_bytes()
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file)

    def check(data):
        profile = TargetProfile.from_bytes(data, "ann.npz")
        assert (
            isinstance(profile.name, str) and isinstance(profile.size, int) and profile.size > 0 and profile.fps > 0 and profile.scale > 0
        )
        assert len(profile.cameras) and profile.covered_zoom and profile.identity.ndim == 1
        profile.load_model()

    fuzz(damaged_npz(arrays), check, UserError, examples=80)


def test_appearances():
    arrays = {"format": np.array("head2head colours 1"), "colours": np.zeros((CELLS**3, 3), np.uint8)}

    def check(data):
        assert Appearance.from_bytes(data, "ann.npz").image(np.zeros((2, 2, 3), np.uint8)).shape == (2, 2, 3)

    fuzz(damaged_npz(arrays), check, UserError, examples=20)


def test_options_of_runs(tmp_path):
    run = Run(tmp_path / "run", tmp_path / "run")
    ours = {**PUBLISHED_OPTIONS, "loadSize": 64, "ngf": 2, "n_blocks": 1, "consent": {"Ann": "yes"}}
    theirs = b"------------ Options -------------\nloadSize: 256\nngf: 8\nn_blocks: 9\nno_prev_output: False\nno_eye_gaze: True\n"

    def parse(path):
        options = read_run_options(run)
        if options["ngf"] << options["n_downsample_G"] <= 64 and options["n_blocks"] < 20:  # others take seconds
            build_generator(options)
        read_iteration(run)

    fuzz(damaged_json(ours) | damaged([theirs]), written(run.options_path, parse), UserError, examples=80)


def test_logs_of_trainings(tmp_path):
    run = Run(tmp_path / "run", tmp_path / "run")
    line = {"step": 3, "epoch": 1, "seconds": 2.5, "losses": {"G": 1.0}, "loss_window": 5}

    def parse(path):
        read_log(run)
        training_facts(run, {"preset": "preview"}, "1")

    fuzz(damaged_json(line).map(lambda text: json.dumps(line).encode() + b"\n" + text), written(run.log_path, parse))


def test_checkpoints(tmp_path):
    save_weights(build_generator({**PUBLISHED_OPTIONS, "ngf": 2, "n_blocks": 1, "n_downsample_G": 1}), tmp_path / "whole.pth")
    fuzz(damaged([(tmp_path / "whole.pth").read_bytes()]), written(tmp_path / "g.pth", read_tensors), UserError)


# ---- a dataset's files ----


def test_records(tmp_path):
    data = Dataset(tmp_path)
    record = Record(
        "Ann",
        Fraction(25),
        [{"file": "/x/ann.mp4", "sha256": "ab", "frames": 9, "width": 5, "height": 5}, {"file": "b.mp4", "frames": 3}],
        [0, 0, 9, 9],
        256,
        {"train": 8, "test": 4},
        {"train": 0, "test": 8},
        {"name": "mesh478", "version": "1"},
        {"detect": {"a": 1}},
        0,
        [4],
        {"detect": [[0, 2, "dark"], [5, 5, "lost"]]},
        [{"kind": "turn"}],
        "signed",
    )

    def parse(path):
        found = data.read_record("Ann")
        frames = [(data.sequence("test", "Ann"), n) for n in range(12)]
        found.states(range(12)), found.tell_bad_frames(range(12)), found.is_done("detect", {"a": 1})
        found.sound_source("test", data), continues(frames, found), found.with_step("x", {}), found.consent.strip()
        for source in found.sources:
            data.find_video(source)
        assert found.fps > 0

    fuzz(damaged_json({**asdict(record), "fps": "25"}), written(data.record_path("Ann"), parse), UserError, examples=100)


def test_pairs(tmp_path):
    data = Dataset(tmp_path)
    pair = Pair("Ann", "Bob", "head", Fraction(25), [3, 5], {"kind": "identity", "split": "test"}, "train", [0, 1, 2], {"people": {}}, True)

    def parse(path):
        found = data.read_pair("Ann", "Bob")
        range(found.frames[0], found.frames[1] + 1), sorted(found.target_frames), found.driver.get("kind")
        assert found.target_is_profile in (True, False) and found.mode in ("head", "face") and found.fps > 0

    fuzz(damaged_json({**asdict(pair), "fps": "25"}), written(data.pair_path("Ann", "Bob"), parse), UserError, examples=100)


def test_tables_of_numbers(tmp_path):
    write_table(tmp_path / "t.txt", RNG.random((70, 2)))
    write_camera(tmp_path / "c.txt", 2.0, np.eye(3), np.ones(3))
    tables = [(tmp_path / "t.txt").read_bytes(), (tmp_path / "c.txt").read_bytes(), b"# a\n1 2\n"]

    def table(path):
        assert read_table(path).ndim == 2

    def camera(path):
        scale, rotation, shift = read_camera(path)
        assert rotation.shape == (3, 3) and shift.shape == (3,)
        assert len(Cameras(np.array([scale]), rotation[None], shift[None])) == 1

    fuzz(damaged(tables), written(tmp_path / "x.txt", table), UserError, examples=80)
    fuzz(damaged(tables), written(tmp_path / "y.txt", camera), UserError, examples=80)


def test_meshes_and_tracks(tmp_path):
    data = Dataset(tmp_path)
    sequence = data.sequence("test", "Ann")
    for frame in range(2):
        sequence.path("images", frame).parent.mkdir(parents=True, exist_ok=True)
        sequence.path("images", frame).touch()
    file = io.BytesIO()
    np.save(file, RNG.random((2, 478, 3)).astype(np.float32))
    whole = file.getvalue()
    bombs = [whole, whole.replace(b"(2, 478, 3), }", b"(9999999999,)}")]
    fuzz(damaged(bombs), written(sequence.dense_landmarks_path, lambda path: read_dense(sequence)), UserError)
    track = {"numbers": np.arange(3), "boxes": RNG.random((3, 4)).astype(np.float32)}
    fuzz(damaged_npz(track), written(data.track_path("Ann"), lambda path: read_track(data, "Ann", range(3))))


def test_caches_by_rows(tmp_path):
    write_rows(tmp_path / "whole.rows", "key", flow=RNG.random((4, 2, 3, 3)).astype(np.float16), masks=np.ones((4, 5, 5), np.uint8))
    whole = (tmp_path / "whole.rows").read_bytes()
    length = int.from_bytes(whole[8:12], "little")
    header, rows = json.loads(whole[12 : 12 + length]), whole[12 + length :]

    def with_header(text):
        return whole[:8] + len(text).to_bytes(4, "little") + text + rows

    def parse(path):
        found = read_rows(path, {"flow": slice(1, 3), "masks": slice(None)})
        assert found is None or set(found) == {"flow", "masks"}
        has_rows(path, ("flow",), "key")

    bombs = [whole, whole[:8] + b"\xff\xff\xff\xff" + whole[12:]]
    fuzz(damaged(bombs) | damaged_json(header).map(with_header), written(tmp_path / "x.rows", parse), examples=150)


def test_caches_with_a_key(tmp_path):
    arrays = {"key": np.array("k"), "a": RNG.random((3, 2)), "b": np.arange(4)}
    fuzz(damaged_npz(arrays), written(tmp_path / "c.npz", lambda path: read_keyed(path, ("a", "b"), "k")), examples=80)


def test_digests(tmp_path):
    sequence = Dataset(tmp_path).sequence("test", "Ann")
    sequence.path("images", 0).parent.mkdir(parents=True)
    sequence.path("images", 0).write_bytes(b"x")
    file_digests(sequence, "images")
    path = sequence.digests_path("images")
    from util.caches.digests import _stamp

    stamp, _ = _stamp(sequence, "images")
    whole = {"stamp": stamp, "digests": {"0": "ab" * 16}}

    def parse(path):
        assert all(isinstance(own, bytes) for own in file_digests(sequence, "images").values())

    fuzz(damaged_json(whole), written(path, parse))


def test_pictures(tmp_path):
    image = RNG.integers(0, 256, (8, 8, 3), np.uint8)
    pictures = [encode_image(image), encode_image(image, ".jpg")]

    def parse(path):
        found = read_image(path)
        assert found.ndim == 3 and found.dtype == np.uint8

    fuzz(damaged(pictures), written(tmp_path / "a.png", parse), UserError, examples=80)


# ---- results ----


def test_results(tmp_path):
    results = Results(tmp_path / "r")
    results.folder.mkdir()
    facts = {"frames": [0, 1], "kinds": [], "dataset_name": "D", "target": "Ann", "source": None}
    measures = {"mean": {"L1": 0.5}, "units": {}, "frames": [0], "per_frame": [{"L1": None}]}
    value = {"value": 1.0, "nearest_training_frame": 2.0, "real_video": None}
    evaluation = {"version": None, "target": "Ann", "source": None, "frames": 3, "size": 64, "measures": {"L1": value}}
    from util.results.evaluation import VERSION

    evaluation |= {"per_frame": {"L1": [1.0, None]}, "skipped": {}, "notes": [], "version": VERSION}
    fuzz(damaged_json(facts), written(results._mark, lambda path: results.read()))
    fuzz(damaged_json(measures), written(results._metrics, lambda path: results.read_measures()), UserError)
    fuzz(damaged_json(evaluation), written(results.evaluation, lambda path: read_evaluation(results.folder)), UserError, examples=80)


def test_videos_and_their_credentials(tmp_path):
    from util.provenance import Provenance
    from util.video.writing import VideoWriter

    with VideoWriter(tmp_path / "whole.mp4", Fraction(10), provenance=Provenance("Ann", "Bob", "identity", "run")) as writer:
        for _ in range(3):
            writer.write(np.zeros((32, 32, 3), np.uint8))
    inputs = damaged([(tmp_path / "whole.mp4").read_bytes()])

    def verify(path):
        describe(path, read_findings(path))

    def play(path):
        probe(path)
        for _ in FileSource(path, as_fast_as_possible=True):
            pass

    fuzz(inputs, written(tmp_path / "a.mp4", verify), UserError)
    fuzz(inputs, written(tmp_path / "b.mp4", play), UserError)


# ---- words of a command line ----


def test_settings():
    values = st.sampled_from([str(v)[:50] for v in ODD] + ["None", "true", "1e400", "1e-400", " 3 ", "٣", "1_000"]) | st.text(max_size=6)
    words = st.tuples(st.sampled_from([*SETTINGS, "NGF", "", "x" * 300]), values)

    def check(pairs):
        parse_training(
            ["--target_id", "Ann", "--dataset_name", "D", "--set", *(f"{name}={value}" for name, value in pairs if name != "help")]
        )

    def quiet(pairs):
        try:
            check(pairs)
        except SystemExit as e:  # argparse: a usage line, or `help`
            assert e.code in (0, 2)

    fuzz(st.lists(words, min_size=1, max_size=3), quiet, UserError, examples=150)


def test_names_are_no_paths(tmp_path):
    """What is given as a name never leads out of a dataset's folder."""
    from options.base_options import BaseOptions  # noqa: F401

    def check(name):
        data = Dataset.open(name, tmp_path)
        assert Path(data.home).resolve().is_relative_to(tmp_path.resolve())
        assert data.home.resolve() != tmp_path.resolve()

    fuzz(st.text("./\\ a-é\0\n~", max_size=5) | st.sampled_from(["..", ".", "../x", "a/../b", "~", "-x"]), check, UserError, examples=150)
