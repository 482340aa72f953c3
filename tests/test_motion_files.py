"""preprocessing/driving: motion_files.py, arkit.py, tables.py, clock.py: files of motion in any dialect, with faults, damaged."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from test_motion import ARKIT, make_motion, write_csv

from preprocessing.driving.clock import read_clock
from preprocessing.driving.motion import to_angles
from preprocessing.driving.motion_files import read_arkit, read_template, save_template
from preprocessing.face_models.registry import load_face_model
from util.cli import UserError

REAL = Path(__file__).resolve().parents[2] / "shared" / "cases" / "livelinkface_face_lost.csv"
RATE, ROWS = 60, 180
CURVES = {
    "JawOpen": lambda t: 0.3 + 0.2 * np.sin(2 * t),
    "EyeBlinkRight": lambda t: 0.4 + 0.3 * np.cos(3 * t),
    "MouthSmileLeft": lambda t: t / 5,
    "HeadYaw": lambda t: 0.35 * np.sin(t),
    "HeadPitch": lambda t: -0.2 + 0 * t,
    "HeadRoll": lambda t: 0.1 * t,
}
AT = np.arange(ROWS // 2) / 30  # of the frames that are read at 30 frames/s
JAW = CURVES["JawOpen"](AT)


@pytest.fixture(scope="module")
def names():
    return load_face_model("mesh478").expression_names


@pytest.fixture(scope="module")
def take(tmp_path_factory):
    """The lines of an ordinary take, as cells."""
    path = write_csv(tmp_path_factory.mktemp("take") / "take.csv", ROWS, RATE, **CURVES)
    return [line.split(",") for line in path.read_text().splitlines()]


@pytest.fixture
def read(tmp_path, names, capsys):
    """Write a file and read it at 30 frames/s: the motion and the warnings."""

    def read(data, name="take.csv", fps=30):
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        capsys.readouterr()
        motion = read_arkit(path, names, Fraction(fps))
        return motion, capsys.readouterr().err

    return read


@pytest.fixture(scope="module")
def plain(take, names, tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "take.csv"
    path.write_text(text(take))
    return read_arkit(path, names, Fraction(30))


@pytest.fixture
def check(read, plain):
    """Read a file that means the same as the ordinary take; its warnings."""

    def check(data, name="take.csv", tolerance=1e-3):
        motion, warnings = read(data, name)
        assert abs(len(motion) - len(plain)) <= 1
        count = min(len(motion), len(plain))
        np.testing.assert_allclose(motion.expression[:count], plain.expression[:count], atol=tolerance)
        np.testing.assert_allclose(motion.rotation[:count], plain.rotation[:count], atol=tolerance)
        return warnings

    return check


def text(rows, mark=",", end="\n"):
    return end.join(mark.join(row) for row in rows) + end


def renamed(take, change):
    return [[change(name) for name in take[0]], *take[1:]]


def timed(take, name, stamp):
    """The take with another column of times; stamp is a function of a row's number."""
    return [[name, *take[0][1:]], *([stamp(k), *row[1:]] for k, row in enumerate(take[1:]))]


def comma(cell):
    return cell.replace(".", ",")


# ---- dialects ----


@pytest.mark.parametrize(
    "change",
    {
        "semicolons, decimal commas": lambda t: text([[r[0], *map(comma, r[1:])] for r in t], ";"),
        "tabs, decimal commas": lambda t: text([list(map(comma, r)) for r in t], "\t"),
        "bars": lambda t: text(t, "|"),
        "spaces": lambda t: text(t, " "),
        "quoted, decimal commas": lambda t: text([[f'"{comma(c)}"' for c in r] for r in t]),
        "UTF-8 with a mark": lambda t: text(t).encode("utf-8-sig"),
        "UTF-16 with a mark": lambda t: text(t, "\t").encode("utf-16"),
        "UTF-16 little, no mark": lambda t: text(t).encode("utf-16-le"),
        "UTF-16 big, no mark": lambda t: text(t).encode("utf-16-be"),
        "UTF-16 big, mark": lambda t: b"\xfe\xff" + text(t).encode("utf-16-be"),
        "latin-1": lambda t: "# Aufnahme für Zoë\n".encode("latin-1") + text(t).encode(),
        "CR LF": lambda t: text(t, end="\r\n"),
        "CR": lambda t: text(t, end="\r"),
        "comments, one with a quote": lambda t: '# take 7\n//"unbalanced, by me\n\n' + text(t[:50]) + "# a pause\n\n" + text(t[50:]),
        "names in a comment": lambda t: "# " + text(t),
        "a comment that speaks of names": lambda t: "# shapes, " + text(t[:1]) + text(t),
        "title": lambda t: "Take 7;session 4\nNotes,none\n" + text(t),
        "Excel's hint": lambda t: "sep=;\n" + text(t, ";"),
        "blank lines": lambda t: text(t, end="\n\n"),
        "trailing commas": lambda t: text(t, end=",\n"),
        "trailing commas of rows": lambda t: text(t[:1]) + text(t[1:], end=",,\n"),
        "empty last column": lambda t: text(t[:1], end=",Comment\n") + text(t[1:], end=",\n"),
        "last column left out": lambda t: text(t[:1], end=",Comment\n") + text(t[1:]),
        "names repeated": lambda t: text(t[:1]) + text(t),
        "row of units": lambda t: text([t[0], ["HH:MM:SS:FF", "", *("rad" if "Head" in n else "0..1" for n in t[0][2:])], *t[1:]]),
        "rows numbered under no name": lambda t: text([t[0], *([f'"{k}"', *r] for k, r in enumerate(t[1:]))]),
        "an exporter's index and prefix": lambda t: text(
            [
                ["", "timeCode", *("blendShapes." + n for n in t[0][2:])],
                *([str(k), f"{k / RATE:.6f}", *r[2:]] for k, r in enumerate(t[1:])),
            ]
        ),
    }.items(),
    ids=lambda item: item[0],
)
def test_a_table_of_any_dialect_is_read_without_a_word(check, take, change):
    assert check(change[1](take)) == ""


@pytest.mark.parametrize("prefix", ["ARKit_", "face.", "bs:", "Blendshapes.Head.", "mesh|", "arkit"])
def test_prefixes_of_names_do_not_count(check, take, prefix):
    assert check(text(renamed(take, lambda n: prefix + n if n in ARKIT or n.startswith("Head") else n))) == ""


def test_names_in_other_spellings(check, take):
    sided = [n for n in ARKIT if n.endswith(("Left", "Right")) and n not in ("JawLeft", "JawRight", "MouthLeft", "MouthRight")]
    for spelling in (
        str.lower,
        str.upper,
        lambda n: n[0].lower() + n[1:],
        lambda n: n[0].lower() + n.replace("Left", "_L").replace("Right", "_R")[1:] if n in sided else n,
        lambda n: n.replace("Head", "head_").lower(),
        lambda n: n.replace("Head", "Head ") + " (rad)" if n.startswith("Head") else n,
        lambda n: n.replace("Head", "headRotation"),
    ):
        assert check(text(renamed(take, spelling))) == ""


def test_a_second_column_for_a_shape_is_left_out(check, take):
    twice = [[*row, "raw.JawOpen" if k == 0 else "0.9"] for k, row in enumerate(take)]
    assert "a shape's second column is left out: raw.JawOpen (column 64)" in check(text(twice))


@pytest.mark.parametrize(
    "data, words",
    [
        (b"", "it is empty; export the take as CSV"),
        (b" \r\n\r\n", "it is empty"),
        (b"PK\x03\x04" + bytes(200), "it is an Excel workbook or a zip file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "it is a picture"),
        (b"\0\0\0\x20ftypisom" + bytes(range(256)) * 20, "it is no text"),
        (b'{"format": "head2head motion"}', "it is a JSON file; if it is a motion template"),
        (b'[{"eyeBlinkLeft": 0.5}]', "it is a JSON file"),
        (b"<html><body>Not found</body></html>", "it is a web page"),
        (b"Dear Ann,\nhere is the take.\n", "names only 0 ARKit blendshapes"),
        (b"# nothing\n# else\n", "names only 0 ARKit blendshapes"),
    ],
)
def test_other_files_are_named(read, data, words):
    with pytest.raises(UserError, match=words):
        read(data)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: text(t[1:]), "line 1 holds numbers, and no line above it names the columns"),
        (lambda t: text([t[0], *([r[0], *map(comma, r[1:])] for r in t[1:])]), "line 2 has 124 cells, but 63 columns are named; write"),
        (lambda t: text(t[:1]), "holds 0 frames in which a face was seen"),
        (lambda t: text(t[:2]), "holds 1 frames in which a face was seen"),
        (lambda t: text([*t[:9], [*t[9][:20], "o.1", *t[9][21:]], *t[10:]]), "other than numbers: 'o.1' in line 10, column"),
        (lambda t: text([t[0], *([*r[:2], *(str(255 * float(c)) for c in r[2:54]), *r[54:]] for r in t[1:])]), "neither within 0..1 nor"),
        (lambda t: text(timed(t, "seconds", lambda k: f"{k / 60:.4f}" if k < 50 else "soon")), "column seconds: 'soon' in line 52 is no"),
        (lambda t: text(timed(t, "seconds", lambda k: "7")), "column seconds: the time does not go on"),
        (lambda t: text(timed(t, "seconds", lambda k: str(9 - k / 60))), "column seconds: the time does not go on"),
    ],
)
def test_what_cannot_be_understood_is_refused_with_its_line(read, take, change, words):
    with pytest.raises(UserError, match=words):
        read(change(take))


# ---- the clock ----


def stamp(form, start_s=61199.5, rate=RATE):
    """A function of a row's number that writes its time of day."""

    def write(k):
        whole, frame = divmod(round(start_s * rate) + k, rate)
        parts = {"h": whole // 3600 % 24, "m": whole // 60 % 60, "s": whole % 60, "f": frame}
        return form.format(**parts, ms=int(1000 * frame / rate), us=int(1e6 * frame / rate))

    return write


@pytest.mark.parametrize(
    "form, words",
    [
        ("{h:02}:{m:02}:{s:02}.{ms:03}", ""),
        ("{h:02}:{m:02}:{s:02}:{ms:03}", ""),
        ("{h:02}:{m:02}:{s:02},{ms:03}", ""),  # unquoted in a file separated by commas
        ("{h}:{m:02}:{s:02}:{f}", ""),
        ("{h:02}:{m:02}:{s:02};{f:02}", ""),
        ("{h:02};{m:02};{s:02};{f:02}.000", ""),
        ("{m:02}:{s:02}.{us:06}", ""),
        ("2026-05-01T{h:02}:{m:02}:{s:02}.{us:06}Z", ""),
        ("2026-05-01 {h:02}:{m:02}:{s:02}.{ms:03}+02:00", ""),
        ("{h:02}:{m:02}:{s:02}.{f:02}", "taken as frames, because it stays below 60"),
        ("{m:02}:{s:02}:{f:02}", "taken as minutes:seconds:frames"),
        ("{h:02}:{m:02}:{s:02}", "stands still in 176 rows"),
    ],
)
def test_times_of_day(check, take, form, words):
    warnings = check(text(timed(take, "Timecode", stamp(form))), tolerance=5e-3)  # drop frame: 59.94 frames/s
    assert words in warnings and warnings.count("\n") == bool(words)
    assert check(text(timed(take, "Timecode", stamp(form, 86398.5))), tolerance=5e-3).count("\n") == bool(words)  # over midnight


@pytest.mark.parametrize("rate, dropped", [(30, 2), (60, 4)])
def test_drop_frame_timecodes_run_evenly(rate, dropped):
    def code(n):
        tens, rest = divmod(n, 600 * rate - 9 * dropped)
        n += 9 * dropped * tens + (dropped * ((rest - dropped) // (60 * rate - dropped)) if rest >= dropped else 0)
        return f"{n // (3600 * rate):02}:{n // (60 * rate) % 60:02}:{n // rate % 60:02};{n % rate:02}"

    codes = [code(n) for n in range(59 * rate, 61 * rate)] + [code(n) for n in range(61 * rate, 700 * rate, 7)]
    assert codes[rate - 1] == f"00:00:59;{rate - 1}" and codes[rate] == f"00:01:00;0{dropped}"
    times, keep, notes = read_clock(codes, range(len(codes)))
    assert keep.all() and notes == []
    steps = np.r_[np.ones(2 * rate), np.full(len(codes) - 2 * rate - 1, 7)] * 1.001 / rate
    np.testing.assert_allclose(np.diff(times), steps, atol=1e-6)


@pytest.mark.parametrize(
    "name, scale, start, words",
    [
        ("seconds", 1, 0, ""),
        ("Time (s)", 1, 1.7e9, ""),
        ("timestamp", 1, 1.7e9, ""),
        ("timestamp", 1e3, 1.7e12, "taken as milliseconds"),
        ("timestamp", 1e6, 1.7e15, "taken as microseconds"),
        ("timestamp", 1e9, 1.7e18, "taken as nanoseconds"),
        ("Time", 1e7, 6.38e17, "taken as units of 100 ns"),
        ("time", 1e3, 250, "taken as milliseconds"),
        ("timestamp_ms", 1e3, 1.7e12, ""),
        ("Elapsed [us]", 1e6, 0, ""),
        ("unix_time_ns", 1e9, 1.7e18, ""),
        ("seconds", 1e3, 0, "taken as milliseconds, whatever the name of their column says"),
        ("frame", 60, 17, "60 frames/s are assumed"),
        ("", 60, 0, "60 frames/s are assumed"),
        ("Frame Number", 60, 1, "60 frames/s are assumed"),
        ("frames", 60, 0, "60 frames/s are assumed"),
        ("Unnamed: 0", 60, 0, "60 frames/s are assumed"),
        ("s", 1, 0, ""),
        ("t", 1, 0, ""),
    ],
)
def test_numbers_in_any_unit(check, take, name, scale, start, words):
    digits = 6 if scale == 1 else 0
    warnings = check(text(timed(take, name, lambda k: f"{start + scale * k / RATE:.{digits}f}")), tolerance=3e-3)
    assert words in warnings and warnings.count("\n") == bool(words)


def test_the_rate_of_numbered_frames_may_stand_above(read, take):
    for title in ("# fps: 24\n", "Frame Rate,24\n", "// 24 fps\n"):
        motion, warnings = read(title + text(timed(take, "frame", str)), fps=24)
        assert len(motion) == ROWS and warnings == ""


def test_steps_below_what_numbers_tell_apart(read, take):
    with pytest.raises(UserError, match="the time does not go on"):
        read(text(timed(take, "seconds", lambda k: "1" if k == 0 else f"{k}e-250")))


def test_of_several_times_one_that_goes_on_is_taken(check, take):
    stuck = [[*row, "seconds" if k == 0 else f"{k / RATE:.5f}"] for k, row in enumerate(timed(take, "Timecode", lambda k: "00:00:00:00"))]
    assert "column Timecode: the time does not go on" in check(text(stuck))
    both = [["frame" if k == 0 else str(k), *row] for k, row in enumerate(take)]
    assert check(text(both)) == ""


def moved(rows, by):
    def change(times):
        times[rows] += by

    return change


def late_once_then_a_day_on(times):
    times[90] -= 0.5
    times[91:] += 86400


def stood(rows):
    def change(times):
        times[rows] = times[rows.start]

    return change


@pytest.mark.parametrize(
    "change, words",
    [
        (moved(slice(90, None), 3600), "the clock jumps forward by 3600.02 s at line 92; the motion goes on without a gap"),
        (moved(slice(60, None), 25), "jumps forward by 25.0167 s at line 62"),
        (moved(slice(90, None), -1.4), "jumps back by 1.38333 s at line 92"),
        (moved(slice(90, None), -1.5), "jumps back by 1.48333 s at line 92"),
        (moved(slice(90, 96), -0.1), "jumps back by 0.1 s at line 92"),
        (moved(slice(90, 93), 500), "jumps forward by 500 s at line 92"),
        (late_once_then_a_day_on, "jumps forward by 86400.5 s at line 93"),  # not spread over half a day of frames
        (moved(slice(0, 1), 99), "jumps back by 98.9833 s at line 3"),
        (stood(slice(90, 95)), "the clock stands still in 4 rows (first: line 93)"),
        (stood(slice(90, 120)), "the clock stands still in 29 rows (first: line 93)"),
    ],
)
def test_a_clock_that_jumps_is_put_right(check, take, change, words):
    times = np.arange(ROWS) / RATE
    change(times)
    assert words in check(text(timed(take, "seconds", lambda k: f"{times[k]:.5f}")))


def test_rows_out_of_order_and_without_a_time(check, take):
    assert check(text([*take[:50], take[51], take[50], *take[52:]])) == ""  # swapped
    assert check(text([*take[:50], take[49], *take[50:]])) == ""  # written twice
    warnings = check(text(timed(take, "seconds", lambda k: "" if k in (5, 6) else "late" if k == 50 else f"{k / RATE:.5f}")))
    assert "rows without a readable time: 3 (first: line 7)" in warnings
    counts = {50: "1e308", 60: "-1e308"}
    warnings = check(text(timed(take, "seconds", lambda k: counts.get(k, f"{k / RATE:.5f}"))))
    assert "rows without a readable time: 2 (first: line 52)" in warnings
    hours = {50: "9" * 30}  # with them nothing else has an exact time
    warnings = check(text(timed(take, "Timecode", lambda k: f"{hours.get(k, '00')}:00:{k // RATE:02}:{k % RATE:02}")))
    assert "rows without a readable time: 1 (first: line 52)" in warnings


# ---- weights and cells ----


def test_percent(check, take):
    for sign in ("", "%"):
        rows = [[*row[:2], *(f"{100 * float(c):.4f}{sign}" for c in row[2:54]), *row[54:]] for row in take[1:]]
        assert "weights up to 70 are taken as percent" in check(text([take[0], *rows]))
    small = [[*row[:2], *(f"{float(c):.6f}" for c in row[2:54]), *row[54:]] for row in take[1:]]
    assert check(text([take[0], *small])) == ""


def test_weights_beyond_the_usual(read, take, names):
    column = take[0].index("JawOpen")
    rows = [list(row) for row in take]
    for row in rows[1:]:
        row[column] = f"{4 * float(row[column]) - 0.5:.4f}"
    motion, warnings = read(text(rows))
    assert "weights up to 1.5 are taken as they are" not in warnings
    np.testing.assert_allclose(motion.expression[:, names.index("jawOpen")], 4 * JAW - 0.5, atol=2e-3)  # kept, limited later
    for row in rows[1:]:
        row[column] = f"{1.5 * float(row[column]):.4f}"
    assert "are taken as they are, though 1 is the whole shape" in read(text(rows))[1]


def test_single_cells_are_filled(check, take):
    rows = [list(row) for row in take]
    rows[50][20], rows[51][20], rows[60][30], rows[70][-9], rows[80][5], rows[90][7] = "", "nan", "N/A", "", "7.5", "inf"
    assert "cells without a usable number: 6 (first: line 51); filled from the rows around them" in check(text(rows), tolerance=0.01)


def test_rows_of_another_length(check, take):
    assert "line 51 has 64 cells, but 63 columns are named; it is left out" in check(text([*take[:50], [*take[50], "0.3"], *take[51:]]))
    assert "line 51 has 126 cells" in check(text([*take[:50], take[50] + take[51], *take[52:]]))
    assert "rows without a face: 1 (first: line 181)" in check(text([*take[:-1], [*take[-1][:30], "0."]]))  # cut off


# ---- rows without a face ----


@pytest.mark.parametrize(
    "lost",
    [
        lambda row: [row[0], "0"],
        lambda row: [row[0]],
        lambda row: [row[0], "0", *[""] * 61],
        lambda row: [row[0], "0", *["nan"] * 61],
        lambda row: [row[0], "0", *["0.000"] * 61],
        lambda row: [],
    ],
)
def test_over_a_gap_the_face_stands_still_then_blends_back(read, take, names, lost):
    first, end = 41, 101
    motion, warnings = read(text([lost(row) if first <= k < end else row for k, row in enumerate(take)]), fps=60)
    jaw, yaw = motion.expression[:, names.index("jawOpen")], to_angles(motion.rotation)[0]
    full = CURVES["JawOpen"](np.arange(len(jaw)) / 60)
    assert np.ptp(jaw[first - 2 : end]) < 1e-9 and np.ptp(yaw[first - 2 : end]) < 1e-9
    np.testing.assert_allclose(jaw[: first - 1], full[: first - 1], atol=1e-5)
    np.testing.assert_allclose(jaw[end + 15 :], full[end + 15 :], atol=1e-5)
    assert np.abs(np.diff(jaw)).max() < 0.04 and np.abs(np.diff(yaw)).max() < 1  # no jump
    assert "no face for 1.02 s after line 41: the expression and pose of before are held, then blended back in 0.25 s" in warnings


def test_a_short_gap_is_interpolated_and_the_ends_are_held(read, check, take, names):
    def without(rows):
        return text([[row[0], "0"] if k in rows else row for k, row in enumerate(take)])

    assert "rows without a face: 5 (first: line 41)" in check(without(range(40, 45)), tolerance=5e-3)
    for rows, held in ((range(1, 61), slice(0, 31)), (range(121, 181), slice(60, None))):
        motion, warnings = read(without(rows))
        assert len(motion) == ROWS // 2 and np.ptp(motion.expression[held], axis=0).max() < 1e-9
        assert f"rows without a face: 60 (first: line {rows[0] + 1})" in warnings and "held" not in warnings


@pytest.mark.skipif(not REAL.exists(), reason=f"no real capture in {REAL.parent}")
def test_a_real_capture_that_lost_the_face(read, names):
    motion, warnings = read(REAL.read_bytes())
    assert len(motion) == 425 and np.allclose(motion.rotation, np.eye(3))
    assert np.ptp(motion.expression[53:181], axis=0).max() < 1e-9 and np.abs(np.diff(motion.expression[170:195], axis=0)).max() < 0.2
    assert "no face for 4.37 s after line 53" in warnings and "rows without a face: 129 (first: line 54)" in warnings


# ---- angles ----


def with_angles(take, yaw, pitch=lambda t: 0 * t, form="{:.6f}", unit="", eye=None):
    rows = renamed(take, lambda n: n + unit if n.startswith("Head") else n)
    y, e = take[0].index("HeadYaw"), take[0].index("LeftEyeYaw")
    for k, row in enumerate(rows[1:]):
        t = k / RATE
        new = [form.format(yaw(t)), form.format(pitch(t)), form.format(0), f"{eye(t):.6f}" if eye else row[e]]
        rows[k + 1] = [*row[:y], *new, *row[e + 1 :]]
    return text(rows)


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    "angles, degrees, words",
    [
        ({"yaw": lambda t: 2.5 * np.sin(2 * t)}, 2.5, "up to 2.5 are taken as degrees (in radians, the head would turn by 143 degrees)"),
        ({"yaw": lambda t: 1.8 * np.sin(2 * t)}, 1.8, "up to 1.8 are taken as degrees"),
        ({"yaw": lambda t: 30 * np.sin(2 * t)}, 30, ""),
        ({"yaw": lambda t: 0.5 * np.sin(2 * t)}, np.rad2deg(0.5), ""),
        ({"yaw": lambda t: 1.2 * np.sin(2 * t)}, np.rad2deg(1.2), "up to 1.2 are taken as radians, 69 degrees"),
        ({"yaw": lambda t: 1.2 * np.sin(2 * t), "eye": lambda t: 0.3 * np.sin(t)}, np.rad2deg(1.2), ""),
        ({"yaw": lambda t: 0.9 * np.sin(2 * t), "eye": lambda t: 12 * np.sin(t)}, 0.9, "are taken as degrees"),
        ({"yaw": lambda t: 0.9 * np.sin(2 * t), "form": "{:.2f}"}, 0.9, "are taken as degrees"),
        ({"yaw": lambda t: 0.9 * np.sin(2 * t), "unit": " (deg)"}, 0.9, ""),
        ({"yaw": lambda t: 0.9 * np.sin(2 * t), "unit": "_degrees"}, 0.9, ""),
        ({"yaw": lambda t: 0.9 * np.sin(2 * t), "unit": " [\N{DEGREE SIGN}]"}, 0.9, ""),
        ({"yaw": lambda t: 2 * np.sin(2 * t), "unit": " (rad)"}, np.rad2deg(2), ""),
        ({"yaw": lambda t: 10 * np.sin(2 * t) % 360}, 10, ""),
        ({"yaw": lambda t: 0.3 * np.sin(2 * t) % (2 * np.pi)}, np.rad2deg(0.3), ""),
        ({"yaw": lambda t: np.sin(2 * t) + 0.08 * RNG.normal()}, 1.2, "degrees/s); write the unit behind the names"),
    ],
)
def test_radians_and_degrees_are_told_apart(read, take, angles, degrees, words):
    motion, warnings = read(with_angles(take, **angles))
    yaw = to_angles(motion.rotation)[0]
    assert abs(yaw.max() - degrees) < 0.01 * degrees + 0.15 and abs(yaw.min() + degrees) < 0.01 * degrees + 0.15
    assert np.abs(np.diff(yaw)).max() < max(0.1 * degrees, 0.6)
    assert words in warnings and warnings.count("\n") == bool(words)


def test_angles_of_other_names_are_pointed_out(read, take):
    for names in (("headRotation.x", "headRotation.y", "headRotation.w"), ("Yaw", "Pitch", "Roll")):
        new = dict(zip(("HeadYaw", "HeadPitch", "HeadRoll"), names))
        motion, warnings = read(text(renamed(take, lambda n, new=new: new.get(n, n))))
        assert np.allclose(motion.rotation, np.eye(3)) and f"not read, as signs and units are not known: {', '.join(names)};" in warnings
    motion, warnings = read(text(renamed(take, lambda n: n.replace("HeadRoll", "Tilt"))))
    assert "it has no HeadRoll; 0 is taken" in warnings and to_angles(motion.rotation)[0].max() > 15


# ---- templates ----


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda s: "", "it is empty"),
        (lambda s: s[: len(s) // 2], "it is damaged or no JSON"),
        (lambda s: "[1, 2]", "it holds a list or a single value"),
        (lambda s: "[" * 100000, "not a motion template"),
        (lambda s: s.replace('"fps":"30000/1001"', '"fps":"1/0"'), "fps 1/0 is no frame rate"),
        (lambda s: s.replace('"fps":"30000/1001"', '"fps":1e300'), "fps 1e.300 is no frame rate"),
        (lambda s: s.replace('"fps":"30000/1001"', '"fps":[30]'), r"fps \[30\] is no frame rate"),
        (lambda s: s.replace('"fps"', '"rate"'), "'fps' is missing"),
        (lambda s: s.replace('"version":1', '"version":7'), "version 7.*of another program or version"),
        (lambda s: changed(s, "lips", lambda v: v[:-1]), r"lips has the size \[19\] instead of \[20\]"),
        (lambda s: changed(s, "expression", lambda v: [row[1:] for row in v]), r"expression has the size \[20, \d+\] instead of"),
        (lambda s: changed(s, "pupils", lambda v: [*v[:5], v[5][:3], *v[6:]]), "pupils is no table of numbers"),
        (lambda s: changed(s, "shift", lambda v: [*v[:7], [1e30, 0], *v[8:]]), "shift of frame 7 is 1e.30"),
        (lambda s: changed(s, "rotation", lambda v: [*v[:3], [float("nan"), 0, 0], *v[4:]]), "rotation of frame 3 is nan"),
        (lambda s: changed(s, "rotation", lambda v: [[10**400, 0, 0], *v[1:]]), "rotation is no table of numbers"),
        (lambda s: changed(s, "zoom", lambda v: [*v[:4], 0, *v[5:]]), "zoom of frame 4 is 0"),
        (lambda s: changed(s, "rotation", lambda v: []), "no frames"),
        (lambda s: s.encode("utf-16"), "it is no text"),
    ],
)
def test_a_damaged_template_says_what_is_wrong(tmp_path, names, change, words):
    path = tmp_path / "m.json"
    save_template(path, make_motion(names), names, "mesh478 2")
    new = change(path.read_text())
    path.write_bytes(new if isinstance(new, bytes) else new.encode())
    with pytest.raises(UserError, match=words) as e:
        read_template(path, names)
    assert "not a motion template" in str(e.value) and "\n" not in str(e.value) and len(str(e.value)) < 400


def changed(template, key, change):
    fields = json.loads(template)
    fields[key] = change(fields[key])
    return json.dumps(fields)
