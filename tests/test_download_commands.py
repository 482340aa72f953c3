"""scripts/download_dataset.py and download_checkpoints.py: archives good, cut, split and evil, mirrors, places; against a local server."""

import os
import pickle
import shutil
import signal
import stat
import struct
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from fake_dataset import make_dataset
from file_server import serving
from synthetic_videos import face_frame, write_video

from models.flownet2_pytorch import FlowNet2
from scripts import download_checkpoints, download_dataset
from util.cli import DiskFull, UserError
from util.downloads import sources
from util.downloads.archives import collect_parts, unpack
from util.downloads.fetching import Absent
from util.downloads.manifest import DATASETS, Entry
from util.layout import Dataset

ROOT = Path(__file__).resolve().parents[1]
D = "head2headDataset"
NOISE = np.random.default_rng(0).bytes(1 << 20)


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """Path below dataset/ -> bytes, of a small dataset of the original system."""
    folder = tmp_path_factory.mktemp("made")
    dataset = make_dataset(folder, record=False)
    make_dataset(folder, "Zoë", parts=1, part_length=4, test_frames=0, size=16, record=False)
    return {p.relative_to(dataset.folder).as_posix(): p.read_bytes() for p in dataset.folder.rglob("*") if p.is_file()}


def pack(path, content, top="dataset/", method=zipfile.ZIP_STORED, extra=()):
    """A zip archive of path -> bytes below the folder `top`, and of further entries (name or ZipInfo, bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in content.items():
            archive.writestr(top + name, data)
        for entry, data in extra:
            archive.writestr(entry, data)
    return path


def entries(path):
    """Of a zip archive's files: where their headers and where their entries in the directory begin; and where the directory ends."""
    with zipfile.ZipFile(path) as archive:
        headers, at, data = [info.header_offset for info in archive.infolist()], archive.start_dir, path.read_bytes()
    own = []
    for _ in headers:
        own.append(at)
        at += 46 + sum(struct.unpack_from("<3H", data, at + 28))
    return headers, own, at


def unmark(path):
    """Take away what says that names are UTF-8, as many programs do."""
    headers, own, _ = entries(path)
    data = bytearray(path.read_bytes())
    for at in [header + 7 for header in headers] + [entry + 9 for entry in own]:
        data[at] &= ~8
    path.write_bytes(data)


def split(path, volume, zip64=False):
    """Turn x.zip into a split archive as the standard has it: x.z01, x.z02, ..., x.zip; places count from the beginning of each part."""
    headers, own, end = entries(path)
    data = bytearray(path.read_bytes())
    for header, entry in zip(headers, own):
        struct.pack_into("<H", data, entry + 34, header // volume)
        struct.pack_into("<L", data, entry + 42, header % volume)
    count, n, length = (own[0] - 1) // volume, len(own), end - own[0]
    last = data[count * volume : end]
    place = own[0] - count * volume
    if zip64:
        last += struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, count, count, n, n, length, place)
        last += struct.pack("<4sLQL", b"PK\6\7", count, place + length, count + 1)
        last += struct.pack("<4s4H2LH", b"PK\5\6", *[0xFFFF] * 4, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    else:
        last += struct.pack("<4s4H2LH", b"PK\5\6", count, count, n, n, length, place, 0)
    for k in range(count):
        path.with_suffix(f".z{k + 1:02}").write_bytes(data[k * volume : (k + 1) * volume])
    path.write_bytes(last)


def cut(path, volume, labels):
    data = path.read_bytes()
    path.unlink()
    for k, start in enumerate(range(0, len(data), volume)):
        path.with_name(path.name + labels[k]).write_bytes(data[start : start + volume])


def files_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.fixture
def fetch(tmp_path, capsys):
    """The command, into the folder `out`; gives what it printed, and checks that nothing is left of its work."""

    def run(*arguments, dataset=D):
        try:
            download_dataset.main(["--dataset", dataset, "--datasets_dir", str(tmp_path / "out"), *map(str, arguments)])
        finally:
            home = tmp_path / "out" / dataset
            assert not home.exists() or {p.name for p in home.iterdir()} <= {"dataset", "original_videos", "dataset.zip"}
        printed = capsys.readouterr()
        return printed.out + "".join(line for line in printed.err.splitlines(True) if "warning" in line)

    return run


@pytest.fixture
def server():
    with serving() as running:
        yield running


# ---- datasets ----


@pytest.mark.parametrize("top", ["", "dataset/", "head2headDataset/dataset/", "a/b c/ü/"])
def test_a_dataset_is_found_by_its_content_and_is_ready_to_train(content, tmp_path, fetch, top):
    mirror = pack(tmp_path / "mirror" / D / "dataset.zip", content, top)
    before = mirror.read_bytes()
    said = fetch("--mirror", tmp_path / "mirror")
    assert files_of(tmp_path / "out" / D) == {f"dataset/{name}": data for name, data in content.items()}
    assert "Ann (16 training and 6 test frames), Zoë (4 training and 0 test frames)" in said and "warning" not in said
    assert f"next: bash scripts/train/train_on_target.sh Ann {D} --datasets_dir {tmp_path / 'out'}\n" in said
    said = fetch("--mirror", "/nowhere")
    assert "already there, so nothing is downloaded" in said and "Ann (16 training" in said
    assert mirror.read_bytes() == before


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_archives_of_other_systems_and_programs(content, tmp_path, fetch):
    """Backslashes, UTF-8 without a mark, the files of file managers, a file twice, bzip2 and LZMA."""
    extra = [("dataset\\metadata\\a\\b.txt", b"x"), ("__MACOSX/dataset/._x", b"1"), ("dataset/.DS_Store", b"1"), ("dataset/empty/", b"")]
    twice = next(iter(content))
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        mirror = pack(tmp_path / "dataset.zip", content, method=method, extra=[*extra, (f"dataset/{twice}", content[twice])])
        unmark(mirror)
        with zipfile.ZipFile(mirror) as archive:
            assert not any("Zoë" in name for name in archive.namelist())
        fetch("--mirror", mirror)
        assert files_of(tmp_path / "out" / D / "dataset") == {**content, "metadata/a/b.txt": b"x"}
        shutil.rmtree(tmp_path / "out")


LABELS = {
    "001": [f".{k:03}" for k in range(1, 99)],
    "part": [f".part{k}" for k in range(1, 99)],
    "partaa": [f".part{a}{b}" for a in "abc" for b in "abcdefghijklmnopqrstuvwxyz"],
}


@pytest.mark.parametrize(
    ("place", "kind"),
    [
        *(("folder", kind) for kind in ("split", "split zip64", *LABELS)),
        *(("file", kind) for kind in ("split", "001")),
        *(("address", kind) for kind in ("split", "001", "partaa")),
    ],
)
def test_archives_in_parts(content, tmp_path, fetch, server, place, kind):
    path = pack(tmp_path / "mirror" / "dataset.zip", content)
    volume = path.stat().st_size // (12 if kind == "001" else 30)  # more than 26 of them
    split(path, volume, "64" in kind) if "split" in kind else cut(path, volume, LABELS[kind])
    parts = sorted((tmp_path / "mirror").iterdir())
    assert len(parts) > 11
    if place == "address":
        server.files.update({f"/m/{D}/{part.name}": part.read_bytes() for part in parts})
        server.how[f"/m/{D}/{parts[3].name}"] = "reset once"
    fetch("--mirror", {"folder": tmp_path / "mirror", "file": parts[0], "address": f"{server.url}/m/"}[place])
    assert files_of(tmp_path / "out" / D / "dataset") == content
    if place == "folder":
        missing = parts[5] if "split" in kind else parts[-1]
        missing.unlink()
        shutil.rmtree(tmp_path / "out")
        words = rf"its part {missing.name} is missing" if "split" in kind else rf"or parts behind {parts[-2].name} are missing"
        with pytest.raises(UserError, match=words):
            fetch("--mirror", tmp_path / "mirror")
        assert not (tmp_path / "out").exists() and set(parts) - {missing} == set((tmp_path / "mirror").iterdir())


@pytest.mark.skipif(not shutil.which("zip"), reason="the program zip is not here")
def test_what_the_program_zip_splits(tmp_path):
    for k in range(30):
        (tmp_path / "in" / f"ä{k}").mkdir(parents=True)
        (tmp_path / "in" / f"ä{k}" / "x.bin").write_bytes(NOISE[k * 9000 : k * 9000 + 9000])
    subprocess.run(["zip", "-q", "-r", "-s", "64k", "x.zip", "in"], cwd=tmp_path, check=True)

    def get(name):
        if (tmp_path / name).is_file():
            return tmp_path / name
        raise Absent(name)

    parts = collect_parts("x.zip", get)
    assert [p.name for p in parts] == ["x.z01", "x.z02", "x.z03", "x.z04", "x.zip"]
    unpack(parts, tmp_path / "out")
    assert files_of(tmp_path / "out" / "in") == files_of(tmp_path / "in")


def special(kind):
    info = zipfile.ZipInfo("dataset/x")
    info.create_system, info.external_attr = 3, (kind | 0o777) << 16
    return info


EVIL = {
    "../x": "'../x' in it would be written outside of its folder",
    "dataset/../../x": "would be written outside",
    "/x": "would be written outside",
    "C:/x": "would be written outside",
    "c:x": "would be written outside",
    "..\\x": "would be written outside",
    "\\\\host\\x": "would be written outside",
    "link": "'dataset/x' in it is a link",
    "device": "'dataset/x' in it is a device or the like",
    "fifo": "'dataset/x' in it is a device or the like",
    "two": "holds two different files 'dataset/a'",
    "file and folder": "holds 'dataset/a' both as a file and as a folder",
    "bomb": r"has .* kB but would unpack to 7[0-9.]+ MB, so it is no dataset",
    "encrypted": r"is encrypted \('x'\), and there is nowhere to give a password",
    "deflate64": "is compressed with Deflate64, which Python cannot unpack",
    "lies about its size": "cut off or damaged",
    "flipped": "cut off or damaged",
    "cut off": "is no zip archive, cut off or damaged",
    "text": "is no zip archive",
    "empty archive": "holds no files",
    "nothing in it": "is no zip archive",
    "name too long": "in it has no name that a file can have",
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("kind", EVIL)
def test_evil_archives_are_refused_and_leave_nothing(content, tmp_path, fetch, server, kind):
    """From a local mirror, whose file stays, and from an address, whose download goes."""
    image = "train/images/Ann_000000/000000.png"
    inside = {
        "link": [(special(stat.S_IFLNK), b"/etc")],
        "device": [(special(stat.S_IFCHR), b"")],
        "fifo": [(special(stat.S_IFIFO), b"")],
        "two": [("dataset/a", b"1"), ("dataset/a", b"2")],
        "file and folder": [("dataset/a", b"1"), ("dataset/a/b/c", b"2")],
        "name too long": [("dataset/" + "x" * 300, b"")],
    }
    path = tmp_path / "mirror" / "dataset.zip"
    pack(path, {} if kind == "empty archive" else content, extra=inside.get(kind, [(kind, b"x")] if set(kind) & set("\\/:") else []))
    if kind == "bomb":
        with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive, archive.open("dataset/zeros", "w") as file:
            for _ in range(70):
                file.write(bytes(1_000_000))
    data = bytearray(path.read_bytes())
    if kind in ("encrypted", "deflate64"):
        pack(path, content, extra=[("dataset/x", b"secret")])
        data = bytearray(path.read_bytes())
        entry = data.rindex(b"PK\1\2")
        data[entry + (8 if kind == "encrypted" else 10)] = 1 if kind == "encrypted" else 9
    elif kind == "lies about its size":
        entry = data.rindex(b"PK\1\2")
        struct.pack_into("<2L", data, entry + 20, 5, 5)
    elif kind == "flipped":
        data[data.index(content[image]) + 20] ^= 1
    elif kind == "cut off":
        del data[-30:]
    elif kind in ("text", "nothing in it"):
        data = b"not an archive" * (kind == "text")
    path.write_bytes(data)
    above = set(tmp_path.iterdir())
    with pytest.raises(UserError, match=EVIL[kind]) as e:
        fetch("--mirror", path)
    assert "\n" not in str(e.value) and set(tmp_path.iterdir()) == above and path.read_bytes() == data
    if kind == "nothing in it":
        return
    server.files["/dataset.zip"] = bytes(data)
    with pytest.raises(UserError, match=EVIL[kind] + r".*; it was deleted, run again or take a copy with --mirror"):
        fetch("--mirror", f"{server.url}/dataset.zip")
    assert set(tmp_path.iterdir()) == above


def test_what_is_no_dataset_is_kept_and_said(content, tmp_path, fetch, server):
    other = {"photos/a.png": b"1", "readme.txt": b"2"}
    server.files["/dataset.zip"] = pack(tmp_path / "m" / "dataset.zip", other, "").read_bytes()
    with pytest.raises(UserError, match=r"dataset\.zip is not a dataset of this layout.*it holds photos/a\.png, readme\.txt; unpack it"):
        fetch("--mirror", tmp_path / "m")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=f"^{tmp_path / 'out' / D / 'dataset.zip'} is not a dataset"):
        fetch("--mirror", f"{server.url}/dataset.zip")
    assert files_of(tmp_path / "out" / D) == {"dataset.zip": server.files["/dataset.zip"]}
    with zipfile.ZipFile(tmp_path / "m" / "dataset.zip", "w") as archive:
        for top in ("one", "two"):
            for name, data in content.items():
                archive.writestr(f"{top}/{name}", data)
    with pytest.raises(UserError, match=r"holds 2 datasets \(one, two\)"):
        fetch("--mirror", tmp_path / "m")
    with pytest.raises(UserError, match="holds no videos"):
        fetch("--mirror", tmp_path / "m" / "dataset.zip", "--original_videos")


def test_what_cannot_be_trained_on_and_what_is_left_out_is_said(content, tmp_path, fetch):
    part = {name: data for name, data in content.items() if not name.startswith("train/nmfcs/Ann_000001")}
    pack(tmp_path / "m" / "dataset.zip", part, "x/dataset/", extra=[("x/LICENSE", b"1")])
    said = fetch("--mirror", tmp_path / "m")
    assert "warning: Ann cannot be trained on: Ann_000001 has no nmfcs" in said and "train_on_target.sh 'Zoë'" in said
    assert "warning: left out of dataset.zip, as it is beside x/dataset: x/LICENSE" in said


def test_what_is_there_is_never_touched(content, tmp_path, fetch):
    pack(tmp_path / "m" / "dataset.zip", content)
    mine = tmp_path / "out" / D / "dataset" / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match="is not a dataset of this layout.*move it away and run again"):
        fetch("--mirror", tmp_path / "m")
    assert files_of(tmp_path / "out" / D) == {"dataset/mine.txt": b"mine"}
    mine.unlink()  # an empty folder is no obstacle
    fetch("--mirror", tmp_path / "m")
    assert files_of(tmp_path / "out" / D / "dataset") == content


def test_original_videos(tmp_path, fetch):
    pack(tmp_path / "m" / D / "original_videos.zip", {"Ann.mp4": b"1", "train/Bob.MOV": b"2"}, "x/original_videos/")
    said = fetch("--mirror", tmp_path / "m", "--original_videos")
    assert files_of(tmp_path / "out" / D) == {"original_videos/Ann.mp4": b"1", "original_videos/train/Bob.MOV": b"2"}
    videos = tmp_path / "out" / D / "original_videos"
    assert f"next: python scripts/preprocess.py {videos} --dataset_name {D} --datasets_dir {tmp_path / 'out'}\n" in said
    assert f"next: python scripts/preprocess.py {videos / 'train'} --dataset_name" in said


def test_addresses_are_tried_in_order(content, tmp_path, fetch, server, monkeypatch):
    data = pack(tmp_path / "dataset.zip", content).read_bytes()
    paths = [f"/s/{k}/dataset.zip" for k in range(4)]
    server.files.update({path: data for path in paths[1:]})
    server.how.update({paths[1]: "page", paths[2]: "circle", paths[3]: "cut once"})
    monkeypatch.setattr(sources, "fetch", lambda *a, **k: fetching_fetch(*a, pauses_s=(0.0,), **k))
    monkeypatch.setitem(DATASETS[D], "dataset", Entry("dataset.zip", tuple(f"{server.url}{path}?dl=1" for path in paths[:3])))
    with pytest.raises(UserError) as e:
        fetch()
    for words in ("404", "'Dropbox - File Deleted'", "in a circle", "a copy can be given with --mirror", "put your own videos into"):
        assert words in str(e.value)
    monkeypatch.setitem(DATASETS[D], "dataset", Entry("dataset.zip", tuple(f"{server.url}{path}?dl=1" for path in paths), size=len(data)))
    fetch()
    assert files_of(tmp_path / "out" / D / "dataset") == content


fetching_fetch = sources.fetch


def test_a_killed_download_and_unpacking_go_on(content, tmp_path, server, fetch):
    """The real command, killed while it downloads; then one with what a killed unpacking leaves."""
    server.files["/dataset.zip"] = pack(tmp_path / "dataset.zip", {**content, "metadata/noise": NOISE}).read_bytes()
    server.how["/dataset.zip"] = "slow once"
    command = [sys.executable, ROOT / "scripts" / "download_dataset.py", "--mirror", f"{server.url}/dataset.zip"]
    part = tmp_path / "out" / D / ".dataset.download" / "dataset.zip.part"
    process = subprocess.Popen([*command, "--datasets_dir", tmp_path / "out"], stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not (part.exists() and part.stat().st_size >= 300_000):
            time.sleep(0.02)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert part.stat().st_size == 300_000
    leftover = part.parent / "unpacked" / "dataset" / "train" / "images" / "Eve_000000" / "000000.png"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    fetch("--mirror", f"{server.url}/dataset.zip")
    assert files_of(tmp_path / "out" / D / "dataset") == {**content, "metadata/noise": NOISE}
    assert [asked for _, asked in server.log] == [None, "bytes=300000-"]


def test_space_is_looked_for_before(content, tmp_path, server, capsys):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        server.files["/dataset.zip"] = pack(tmp_path / "dataset.zip", {**content, "metadata/noise": NOISE + NOISE}).read_bytes()
        for mirror, words in (
            (f"{server.url}/dataset.zip", "4.2 MB are needed, but its disk has only 3.15 MB free; free some"),  # packed and unpacked
            (pack(tmp_path / "m.zip", {"a": NOISE * 4}), "4.19 MB are needed"),
        ):
            with pytest.raises(DiskFull, match=words.replace("4.2 MB", "4.[0-9]+ MB").replace("3.15", "[0-9.]+")):
                download_dataset.main(["--mirror", str(mirror), "--datasets_dir", str(disk)])
            assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", disk], check=True)


def test_the_commands_say_what_to_do_in_one_sentence(tmp_path, fetch):
    with pytest.raises(UserError, match="is neither a folder nor a file; check --mirror"):
        fetch("--mirror", tmp_path / "absent")
    with pytest.raises(UserError, match="holds no dataset.zip, whole or in parts"):
        fetch("--mirror", tmp_path)
    with pytest.raises(UserError, match="goes with --dataset faceforensicspp"):
        fetch("--from", tmp_path)
    with pytest.raises(UserError, match="no address of published checkpoints is known to work.*--mirror.*--flow dis"):
        download_checkpoints.main([])
    command = [sys.executable, ROOT / "scripts" / "download_dataset.py", "--dataset", "faceforensicspp"]
    done = subprocess.run([*command, "--datasets_dir", tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: FaceForensics++ is given out by its authors on request")
    assert done.stderr.count("\n") == 1 and not list(tmp_path.iterdir())


# ---- FaceForensics++ ----


def test_faceforensics_videos_are_linked_in_the_best_quality(tmp_path, fetch, monkeypatch):
    youtube = tmp_path / "ff" / "original_sequences" / "youtube"
    for quality, numbers in {"c40": (0, 1, 2, 3), "c23": (0, 1, 2), "raw": (0,)}.items():
        for number in numbers:
            path = youtube / quality / "videos" / f"{number:03}.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{quality} {number}" * (quality != "c23" or number != 2))  # one is empty
    (tmp_path / "ff" / "manipulated_sequences" / "Deepfakes" / "c23" / "videos").mkdir(parents=True)
    (tmp_path / "ff" / "manipulated_sequences" / "Deepfakes" / "c23" / "videos" / "000_003.mp4").write_text("no")
    ours = tmp_path / "out" / "faceforensicspp" / "original_videos"
    ours.mkdir(parents=True)
    (ours / "003.mp4").write_text("my own")
    (ours / "001.mp4").symlink_to(tmp_path / "gone")
    expected = {"000.mp4": b"raw 0", "001.mp4": b"c23 1", "002.mp4": b"c40 2", "003.mp4": b"my own"}
    for folder in (tmp_path / "ff", youtube):  # twice: the second changes nothing
        said = fetch("--from", folder, "--original_videos", dataset="faceforensicspp")
        assert files_of(ours) == expected and (ours / "000.mp4").samefile(youtube / "raw" / "videos" / "000.mp4")
        assert f"next: python scripts/preprocess.py {ours} --dataset_name faceforensicspp --datasets_dir" in said
        assert "4 of the 1000 videos; missing: 004.mp4" in said and "1 raw, 1 c23, 2 c40" in said
        assert "1 files in" in said and "are other ones and stay: 003.mp4" in said

    def refuse(*_):
        raise OSError

    monkeypatch.setattr(os, "link", refuse)  # another disk
    (ours / "000.mp4").unlink()
    fetch("--from", tmp_path / "ff", "--original_videos", dataset="faceforensicspp")
    assert (ours / "000.mp4").is_symlink() and files_of(ours) == expected
    monkeypatch.setattr(os, "symlink", refuse)
    (ours / "000.mp4").unlink()
    fetch("--from", tmp_path / "ff", "--original_videos", dataset="faceforensicspp")
    assert not (ours / "000.mp4").is_symlink() and files_of(ours) == expected


def test_faceforensics_from_a_plain_folder_and_from_none(tmp_path, fetch):
    (tmp_path / "ff").mkdir()
    with pytest.raises(UserError, match="holds no videos, neither in original_sequences"):
        fetch("--from", tmp_path / "ff", "--original_videos", dataset="faceforensicspp")
    with pytest.raises(UserError, match="is not a folder; give the one"):
        fetch("--from", tmp_path / "none", dataset="faceforensicspp")
    (tmp_path / "ff" / "talk.mp4").write_text("1")
    said = fetch("--from", tmp_path / "ff", "--original_videos", dataset="faceforensicspp")
    assert files_of(tmp_path / "out") == {"faceforensicspp/original_videos/talk.mp4": b"1"} and "missing" not in said


def test_faceforensics_is_taken_through_preprocessing(tmp_path, fetch):
    folder = tmp_path / "ff" / "original_sequences" / "youtube" / "c23" / "videos"
    folder.mkdir(parents=True)
    for number in range(2):
        write_video(folder / f"{number:03}.mp4", (face_frame((128, 112), (62 + number + t / 4, 58), 0.45) for t in range(12)))
    (folder / "002.mp4").write_bytes(b"no video")
    command = ["--dataset", "faceforensicspp", "--datasets_dir", str(tmp_path / "out"), "--from", str(tmp_path / "ff"), "--workers", "1"]
    assert download_dataset.main(command) == 1  # one video cannot be read
    dataset = Dataset.open("faceforensicspp", tmp_path / "out")
    assert dataset.identities() == ["000", "001"]
    assert all(set(dataset.read_record(name).steps) == {"detect", "landmarks70", "reconstruct"} for name in dataset.identities())
    with pytest.raises(UserError, match="--workers and --ray are of the preprocessing of --from DIR"):
        fetch("--workers", "2")


# ---- checkpoints ----


def weights(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"a.weight": torch.ones(2, 3)}, path)
    return path


@pytest.fixture(scope="module")
def flownet2(tmp_path_factory):
    """FlowNet2's weights as published, all alike: the file is small, as one number serves them all."""
    with torch.device("meta"):
        shapes = {name: tensor.shape for name, tensor in FlowNet2().state_dict().items()}
    path = tmp_path_factory.mktemp("flownet2") / "f"
    torch.save({"epoch": 0, "state_dict": {name: torch.zeros(()).expand(shape) for name, shape in shapes.items()}}, path)
    return path


@pytest.fixture
def checkpoints(tmp_path, capsys):
    def run(mirror, *arguments):
        places = ["--checkpoints_dir", tmp_path / "runs", "--flownet2_dir", tmp_path / "flownet2"]
        try:
            download_checkpoints.main(list(map(str, ["--mirror", mirror, *places, *arguments])))
        finally:
            assert not [p for p in tmp_path.glob("runs/**/.*")] + list(tmp_path.glob("flownet2/.*"))
        printed = capsys.readouterr()
        return printed.out

    return run


def test_checkpoints_from_a_folder(tmp_path, checkpoints, flownet2):
    mirror = tmp_path / "mirror"
    weights(mirror / "checkpoints" / "D2" / "head2head_Ann" / "latest_net_G.pth")
    (mirror / "checkpoints" / "D2" / "head2head_Ann" / "opt.txt").write_text("{}")
    weights(mirror / "head2head_Bob" / "40_net_G.pth")
    (mirror / "deep").mkdir()
    shutil.copy(flownet2, mirror / "deep" / "FlowNet2_checkpoint.pth.tar")
    weights(mirror / "FlowNet2_checkpoint.pth_faceflow.tar")  # of another network
    with pytest.raises(UserError, match=r"1 of 4 downloads failed \(.*pth_faceflow\.tar; see above\)"):
        checkpoints(mirror)
    expected = {"runs/D2/head2head_Ann/latest_net_G.pth", "runs/D2/head2head_Ann/opt.txt", f"runs/{D}/head2head_Bob/40_net_G.pth"}
    made = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file() and mirror not in p.parents}
    assert made == {*expected, "flownet2/FlowNet2_checkpoint.pth.tar"}
    (mirror / "FlowNet2_checkpoint.pth_faceflow.tar").unlink()
    (tmp_path / "runs" / "D2" / "head2head_Ann" / "opt.txt").write_text("mine")
    assert checkpoints(mirror).count("already there, so it stays") == 3
    assert (tmp_path / "runs" / "D2" / "head2head_Ann" / "opt.txt").read_text() == "mine"


def test_checkpoints_from_an_address(tmp_path, checkpoints, flownet2, server):
    run = weights(tmp_path / "x" / "latest_net_G.pth").read_bytes()
    server.files["/m/checkpoints.zip"] = pack(tmp_path / "c.zip", {"latest_net_G.pth": run}, "head2head_Ann/").read_bytes()
    server.files["/m/FlowNet2_checkpoint.pth_faceflow.tar"] = flownet2.read_bytes()
    said = checkpoints(f"{server.url}/m/", "--dataset", "head2headDatasetv2")
    assert (tmp_path / "flownet2" / "FlowNet2_checkpoint.pth_faceflow.tar").read_bytes() == flownet2.read_bytes()
    assert (tmp_path / "runs" / "head2headDatasetv2" / "head2head_Ann" / "latest_net_G.pth").read_bytes() == run
    assert "next: bash scripts/test/test_self_reenactment_on_target.sh Ann head2headDatasetv2" in said
    with pytest.raises(UserError, match=r"holds none of FlowNet2_checkpoint\.pth_faceflow\.tar, .*checkpoints\.zip, nor folders"):
        checkpoints(f"{server.url}/other")


class Code:
    def __reduce__(self):
        return os.system, ("touch pwned",)


def test_checkpoints_that_are_none_are_refused(tmp_path, checkpoints, server):
    run = tmp_path / "m" / "D2" / "head2head_Ann"
    whole = weights(run / "latest_net_G.pth").read_bytes()
    for fault, words in (
        (whole[:-40], "is cut off or damaged"),
        (pickle.dumps(Code()), r"contains code \(posix\.system\)"),
        (b"<html>", "holds something else than a checkpoint"),
        (b"", "is empty"),
    ):
        (run / "latest_net_G.pth").write_bytes(fault)
        with pytest.raises(UserError, match=words):
            checkpoints(tmp_path / "m")
        assert not (tmp_path / "runs").exists() and (run / "latest_net_G.pth").read_bytes() == fault
    server.files["/FlowNet2_checkpoint.pth.tar"] = b"<html>".ljust(100)
    with pytest.raises(UserError, match="it gives a web page|holds something else"):
        checkpoints(f"{server.url}/FlowNet2_checkpoint.pth.tar?dl=1")
    server.files["/FlowNet2_checkpoint.pth.tar"] = whole
    with pytest.raises(UserError, match="does not fit FlowNet2.*fetch it again"):
        checkpoints(f"{server.url}/FlowNet2_checkpoint.pth.tar?dl=1")
    server.files["/x/checkpoints.zip"] = pack(tmp_path / "c.zip", {"readme.txt": b"1"}).read_bytes()
    with pytest.raises(UserError, match="nor folders head2head_<T>"):
        checkpoints(f"{server.url}/x")
    server.files["/checkpoints.zip"] = pack(tmp_path / "c.zip", {"latest_net_G.pth": whole}, "../head2head_Eve/").read_bytes()
    with pytest.raises(UserError, match="would be written outside of its folder; get it again"):
        checkpoints(f"{server.url}/checkpoints.zip")
    with suppress(FileNotFoundError):
        assert not list((tmp_path / "runs").iterdir())
    assert not (tmp_path / "head2head_Eve").exists()
