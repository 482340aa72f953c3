"""Names of videos, and the identities that they become and are found by."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
from synthetic_videos import face_frame, write_video

from preprocessing import detect
from util.cli import UserError
from util.identities import find_identity, identity_name
from util.layout import Dataset, Record, root
from util.video.sources import find_videos


def files(folder, *names):
    for name in names:
        (folder / name).touch()
    return folder


def found(folder, **options):
    return {name: [p.name for p in paths] for name, paths in find_videos(folder, **options).items()}


def test_parts_are_joined_and_told(tmp_path, capsys):
    files(tmp_path, "Ann.mp4", "Ann_2.mp4", "Ann_10.MOV", "Bob_1.mp4", "Bob_2.mp4", "take_7.mp4", "Eve_02.mp4", "Eve.mp4")
    expected = {"Ann": ["Ann.mp4", "Ann_2.mp4", "Ann_10.MOV"], "Bob": ["Bob_1.mp4", "Bob_2.mp4"]}
    assert found(tmp_path) == {**expected, "take7": ["take_7.mp4"], "Eve02": ["Eve_02.mp4"], "Eve": ["Eve.mp4"]}
    out = capsys.readouterr().out
    assert "Ann: Ann.mp4 + Ann_2.mp4 + Ann_10.MOV" in out and "Bob: Bob_1.mp4 + Bob_2.mp4" in out
    files(tmp_path, "Bob.mp4")
    with pytest.raises(UserError, match="Bob.mp4 and Bob_1.mp4.*would both be part 1 of 'Bob'"):
        find_videos(tmp_path)


@pytest.mark.parametrize(
    "names",
    [("IMG_0412.MOV", "IMG_0413.MOV"), ("DSC_1234.mp4", "DSC_1235.mp4"), ("MVI_12.mp4", "MVI_13.mp4"), ("GX010012.MP4", "GX010013.MP4")],
)
def test_a_cameras_counter_is_no_part(tmp_path, capsys, names):
    files(tmp_path, *names)
    assert sorted(map(len, found(tmp_path).values())) == [1, 1]
    assert f"not joined, each an identity of its own: {', '.join(names)}; give --parts" in capsys.readouterr().out


def test_parts_by_order(tmp_path):
    files(tmp_path, "IMG_0413.MOV", "IMG_0412.MOV", "clip9.mp4", "clip10.mp4")
    assert found(tmp_path, parts=["IMG_0413.MOV", "IMG_0412.MOV"], name="ann") == {"ann": ["IMG_0413.MOV", "IMG_0412.MOV"]}
    assert found(tmp_path, parts=[]) == {"clip9": ["clip9.mp4", "clip10.mp4", "IMG_0412.MOV", "IMG_0413.MOV"]}
    with pytest.raises(UserError, match="there is no file .*no.mov; check --parts"):
        find_videos(tmp_path, parts=["no.mov"])


def test_kinds_that_are_taken_and_those_that_are_not(tmp_path, capsys):
    files(tmp_path, "a.MTS", "b.wmv", "c.3gp", "d.m2ts", "e.mpg", "f.flv", "notes.txt", "song.wav")
    assert sorted(found(tmp_path)) == ["a", "b", "c", "d", "e", "f"]
    assert "notes.txt, song.wav (no video by its name" in capsys.readouterr().err
    alone = files(tmp_path, "odd.xyz") / "odd.xyz"
    assert found(alone) == {"odd": ["odd.xyz"]}
    (tmp_path / "other").mkdir()
    files(tmp_path / "other", "x.wav")
    with pytest.raises(UserError, match=r"no video in .*, only x.wav; put one there \(.mp4"):
        find_videos(tmp_path / "other")


def test_names_that_differ_only_in_what_is_left_out_never_meet(tmp_path, capsys):
    files(tmp_path, "a_b.mp4", "a b.mp4", "ab.mp4", "-lead.mp4", "日本.mp4", "___.mp4", "x.y.mp4")
    first = found(tmp_path)
    assert first["ab"] == ["ab.mp4"] and first["ab-2"] == ["a b.mp4"] and first["ab-3"] == ["a_b.mp4"]
    assert (
        first["lead"] == ["-lead.mp4"] and first["日本"] == ["日本.mp4"] and first["video"] == ["___.mp4"] and first["x.y"] == ["x.y.mp4"]
    )
    out = capsys.readouterr().out
    assert "a b.mp4 is called 'ab-2', since 'ab' is made of ab" in out and "-lead.mp4 is called 'lead'" in out
    # over several runs: a_b came first
    data = Dataset.open("D", tmp_path / "data")
    data.write_record(Record("ab", Fraction(25), sources=[{"file": "/videos/a_b.mp4"}]))
    data.sequence("test", "ab").folder("images").mkdir(parents=True)
    again = found(tmp_path, dataset=data)
    assert again["ab"] == ["a_b.mp4"] and {tuple(again[n]) for n in ("ab-2", "ab-3")} == {("a b.mp4",), ("ab.mp4",)}
    data.write_record(Record("ab-2", Fraction(25), sources=[{"file": "/videos/ab.mp4"}]))
    data.sequence("test", "ab-2").folder("images").mkdir(parents=True)
    assert found(tmp_path, dataset=data)["ab-2"] == ["ab.mp4"]
    assert [find_identity(data, n) for n in ("ab", "a_b", "a_b.mp4", "ab-2", "ab.mp4", "none_such", None)] == [
        "ab",
        "ab",
        "ab",
        "ab-2",
        "ab-2",
        "nonesuch",
        None,
    ]


def test_identity_names():
    assert identity_name("caf\udce9") == "cafxe9" and identity_name("--x_ y") == "xy" and identity_name("a/b\\c\n\u200b") == "abc"
    assert identity_name("e\u0301") == "\u00e9" == identity_name("\u00e9")
    long = identity_name("ä" * 127)
    assert len(long.encode()) <= 120 and long != identity_name("ä" * 126)


def test_the_name_option_takes_either_name(tmp_path):
    files(tmp_path, "under_score.mp4", "other.mp4")
    for name in ("under_score", "underscore", "under_score.mp4"):
        assert list(found(tmp_path, name=name)) == ["underscore"]
    with pytest.raises(UserError, match="no video of 'none' in the folder; it holds: other, underscore"):
        find_videos(tmp_path, name="none")


def test_odd_names_go_through_the_command(tmp_path, capsys):
    """Bytes that are no UTF-8, a dash at the start, another script: detected, and found by either name."""
    still = write_video(tmp_path / "v.mp4", [face_frame((320, 320), (160, 150))] * 10)
    name = os.fsdecode(b"caf\xe9_1.mp4")
    for odd in (name, "-lead.mp4", "日_本.mp4"):
        (tmp_path / odd).write_bytes(still.read_bytes())
        assert detect.main(["--dataset_name", "D", "--datasets_dir", str(tmp_path), f"--original_videos_path={tmp_path / odd}"]) == 0
    data = Dataset.open("D", tmp_path)
    assert data.identities() == ["cafxe91", "lead", "日本"]
    assert [find_identity(data, n) for n in (name, "-lead", "日_本")] == ["cafxe91", "lead", "日本"]
    # the sentence of an error, in a terminal that knows no letters but ASCII
    command = [sys.executable, str(root() / "preprocessing/detect.py"), "--dataset_name", "D", "--datasets_dir", str(tmp_path)]
    (tmp_path / name).write_bytes(b"no video")
    done = subprocess.run(
        [*command, b"--original_videos_path=" + os.fsencode(tmp_path / name)],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert done.returncode == 1 and b"is not a readable video" in done.stderr and done.stderr.count(b"\n") == 1, done.stderr


def test_the_wrappers_pass_the_identity_on(tmp_path):
    """The shell scripts with a train.py that prints what it gets, from another folder."""
    home = tmp_path / "home"
    (home / "scripts").mkdir(parents=True)
    for part in ("util", "options"):
        (home / part).symlink_to(root() / part)
    for file in (root() / "scripts").iterdir():
        (home / "scripts" / file.name).symlink_to(file)
    (home / ".venv" / "bin").mkdir(parents=True)
    (home / ".venv" / "bin" / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (home / ".venv" / "bin" / "python").chmod(0o755)
    (home / "train.py").write_text("import sys; print('|'.join(sys.argv[1:]))")
    data = Dataset.open("D", tmp_path / "datasets")
    for name, file in (("underscore", "under_score.mp4"), ("lead", "-lead.mp4"), ("日本", "日本.mp4")):
        data.write_record(Record(name, Fraction(25), sources=[{"file": f"/v/{file}"}]))
        data.sequence("test", name).folder("images").mkdir(parents=True)
    script = Path(home / "scripts/train/train_on_target.sh")
    for given, identity in (("under_score", "underscore"), ("-lead", "lead"), ("日本.mp4", "日本")):
        done = subprocess.run(
            ["bash", str(script), given, "D", "--datasets_dir", str(tmp_path / "datasets")], capture_output=True, text=True, cwd=tmp_path
        )
        assert done.returncode == 0 and f"|--target_id|{identity}|--name|head2head_{identity}|" in "|" + done.stdout, done
