"""Names of videos, and the identities that they become and are found by."""

import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from fake_checkout import fake_checkout
from synthetic_videos import face_frame, write_video

from preprocessing import detect
from util.cli import UserError
from util.identities import find_identity, identities_with_frames, identity_name
from util.layout import Dataset, Record, root
from util.video.reading import probe
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
    data.write_record(Record("ab", Fraction(25), sources=[{"file": "/videos/a_b.mp4", "frames": 1}]))
    data.sequence("test", "ab").folder("images").mkdir(parents=True)
    again = found(tmp_path, dataset=data)
    assert again["ab"] == ["a_b.mp4"] and {tuple(again[n]) for n in ("ab-2", "ab-3")} == {("a b.mp4",), ("ab.mp4",)}
    data.write_record(Record("ab-2", Fraction(25), sources=[{"file": "/videos/ab.mp4", "frames": 1}]))
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


def add_identity(data, name, *sources):
    data.write_record(Record(name, Fraction(25), sources=[{"file": str(source), "frames": 1} for source in sources]))
    data.sequence("test", name).folder("images").mkdir(parents=True)


def test_a_linked_video_keeps_its_identity(tmp_path):
    """dataset.json names what a link leads to."""
    data = Dataset.open("D", tmp_path / "data")
    (tmp_path / "my_video.mp4").symlink_to(files(tmp_path, "3f2a") / "3f2a")
    for _ in range(2):
        assert list(find_videos(tmp_path / "my_video.mp4", data)) == ["myvideo"]
        add_identity(data, "myvideo", tmp_path / "3f2a") if not data.identities() else None
    assert list(find_videos(files(tmp_path, "myvideo.mp4") / "myvideo.mp4", data)) == ["myvideo-2"]


def test_a_file_is_never_taken_for_another(tmp_path):
    data = Dataset.open("D", tmp_path)
    add_identity(data, "ab", "/v/a_b.mp4")
    add_identity(data, "ann", "/v/ann_1.mp4", "/v/ann_2.mp4")
    add_identity(data, "Old_Name")  # of the original system
    assert [find_identity(data, n) for n in ("a b", "ann_2.mp4", "ann_1", "ann.mp4")] == ["ab", "ann", "ann", "ann"]
    assert not {find_identity(data, n) for n in ("ab.mp4", "a__b.mp4", "/elsewhere/ab.MOV")} & set(data.identities())
    # whom only a run knows keeps the name
    (tmp_path / "runs/D/head2head_Ann_B").mkdir(parents=True)
    assert find_identity(data, "Ann_B", tmp_path / "runs") == "Ann_B" and find_identity(data, "Ann_C", tmp_path / "runs") == "AnnC"
    with pytest.raises(UserError, match=r"no identity 'ahn' .* it holds: Old_Name, ab, ann \(did you mean ann\?\)"):
        identities_with_frames(data, "ahn")


def test_parts_never_take_the_place_of_another(tmp_path):
    data = Dataset.open("D", tmp_path / "data")
    files(tmp_path, "IMG_0412.MOV", "IMG_0413.MOV")
    add_identity(data, "ann", "/v/ann.mp4")
    with pytest.raises(UserError, match="'ann' is already made of ann.mp4 in .*; give another --name"):
        find_videos(tmp_path, data, parts=[], name="ann")
    add_identity(data, "bob", tmp_path / "IMG_0412.MOV")
    assert found(tmp_path, dataset=data, parts=[], name="bob") == {"bob": ["IMG_0412.MOV", "IMG_0413.MOV"]}


def test_a_file_is_in_one_identity(tmp_path):
    files(tmp_path, "Ann.mp4", "Ann_2.mp4", "Ann_2_2.mp4")
    assert found(tmp_path) == {"Ann": ["Ann.mp4", "Ann_2.mp4"], "Ann22": ["Ann_2_2.mp4"]}


KINDS = {  # suffix: container, codec
    ".mts": ("mpegts", "mpeg2video"),
    ".M2TS": ("mpegts", "libx264"),
    ".ts": ("mpegts", "libx264"),
    ".wmv": ("asf", "wmv2"),
    ".asf": ("asf", "msmpeg4"),
    ".3gp": ("3gp", "mpeg4"),
    ".3g2": ("3g2", "mpeg4"),
    ".mpg": ("mpeg", "mpeg1video"),
    ".vob": ("vob", "mpeg2video"),
    ".flv": ("flv", "flv"),
    ".mxf": ("mxf", "mpeg2video"),
    ".gif": ("gif", "gif"),
    ".m2v": ("mpeg2video", "mpeg2video"),
    ".qt": ("mov", "mjpeg"),
}


@pytest.mark.parametrize("suffix", KINDS)
def test_kinds_of_files_are_read(tmp_path, suffix):
    path = tmp_path / f"clip{suffix}"
    kind, codec = KINDS[suffix]
    with av.open(str(path), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 176, 144, {"gif": "rgb8", "mjpeg": "yuvj420p"}.get(codec, "yuv420p")
        for k in range(10):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((144, 176, 3), 20 * k, np.uint8), format="rgb24")))
        container.mux(stream.encode(None))
    info = probe(find_videos(tmp_path)["clip"][0])
    assert (info.width, info.height) == (176, 144) and 8 <= info.frames <= 11


@pytest.mark.parametrize("name", ["12:30.mp4", "http:x.mp4", "-lead.mp4", "it's $HOME;`x` [a]*.mp4", "a\nb.mp4", "%03d.mp4", "no_suffix"])
def test_ffmpeg_takes_no_name_for_something_else(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "plain.avi", [np.zeros((48, 64, 3), np.uint8)] * 3).rename(name)
    assert probe(Path(name)).frames == 3


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
    (home / "train.py").write_text("import sys; sys.stdout.reconfigure(encoding='utf-8'); print('|'.join(sys.argv[1:]))")
    data = Dataset.open("D", tmp_path / "datasets")
    for name, file in (("underscore", "under_score.mp4"), ("lead", "-lead.mp4"), ("日本", "日本.mp4")):
        data.write_record(Record(name, Fraction(25), sources=[{"file": f"/v/{file}"}]))
        data.sequence("test", name).folder("images").mkdir(parents=True)
    script = Path(home / "scripts/train/train_on_target.sh")
    for given, identity in (("under_score", "underscore"), ("-lead", "lead"), ("日本.mp4", "日本")):
        done = subprocess.run(
            ["bash", str(script), given, "D", "--datasets_dir", str(tmp_path / "datasets")],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={**os.environ, "PYTHONIOENCODING": "ascii"},
        )
        assert done.returncode == 0 and f"|--target_id|{identity}|--name|head2head_{identity}|" in "|" + done.stdout, done


def test_the_quickstart_goes_on_with_the_same_identity(tmp_path):
    """The script, with commands that print what they get and the real find_identity.py; run again, it names nobody anew."""
    home = fake_checkout(tmp_path / "home", detect='echo "$@"', train='echo "$@"')  # datasets/ lies in it
    data = Dataset.open("quickstart", home / "datasets")
    for given, identity in (("a_b.mp4", "ab"), ("ab.mp4", "ab-2"), ("-日 本.mp4", "日本"), ("no_suffix", "nosuffix"), ("a_b.mp4", "ab")):
        (tmp_path / given).touch()
        done = subprocess.run(
            ["bash", str(home / "scripts/quickstart.sh"), given, "--minutes", "1"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        assert f" --name {identity} --original_videos_path {tmp_path / given} " in done.stdout
        assert f" --target_id {identity} --name head2head_{identity} " in done.stdout
        if identity not in data.identities():
            add_identity(data, identity, tmp_path / given)
