"""What is sealed is valid; what was changed, cut or exported by another program is not; who sealed it, with which certificate."""

import datetime
import os
import stat
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import c2pa
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from fake_dataset import make_dataset
from fake_run import load_command, make_run, run_test

from scripts.images_to_video import main as images_to_video
from scripts.make_demo_video import main as make_demo_video
from scripts.paste_back import main as paste_back
from scripts.verify import main as verify
from util import VERSION
from util.cli import UserError
from util.credentials import certificates, sealing
from util.credentials.certificates import own_root, signing_identity
from util.credentials.reading import CHANGED, MISSING, UNCHANGED, read_findings
from util.provenance import PROVENANCE, Provenance
from util.results.folder import find_results
from util.video.reading import read_frames
from util.video.writing import VideoWriter

ROOT = Path(__file__).resolve().parents[1]
SHOWN = Provenance(
    "Ann", "Bob", "identity", "head2head_Ann", "latest", "ab" * 32, consent="signed form of 3 May", driver_consent="not stated"
)


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    """A computer where nothing was sealed before."""
    monkeypatch.setenv("HEAD2HEAD_CACHE", str(tmp_path / "cache"))
    for name in (certificates.CERTIFICATE, certificates.KEY):
        monkeypatch.setenv(name, "")


def film(path, provenance=SHOWN, frames=5):
    with VideoWriter(path, 25, title="Head2Head: Ann driven by Bob", provenance=provenance) as writer:
        for i in range(frames):
            writer.write(np.random.default_rng(i).integers(0, 255, (48, 64, 3), np.uint8))
    return path


def manifest(path):
    with c2pa.Reader(str(path)) as reader:
        return reader.get_active_manifest()


def test_a_video_says_what_it_is_and_who_made_it(tmp_path, capsys):
    path = film(tmp_path / "v.mp4")
    found = read_findings(path)
    assert (found.state, found.faults, found.signer_known) == (UNCHANGED, [], True)
    assert found.source_type == "trainedAlgorithmicMedia" and found.tool.startswith(f"Head2Head {VERSION}")
    made = datetime.datetime.fromisoformat(found.when.replace("Z", "+00:00"))
    assert abs(made - datetime.datetime.now(datetime.timezone.utc)) < datetime.timedelta(minutes=10)
    assert found.facts == {
        "target": "Ann",
        "driver": "Bob",
        "driver_kind": "identity",
        "run": "head2head_Ann",
        "epoch": "latest",
        "checkpoint": "ab" * 32,
        "consent": "signed form of 3 May",
        "driver_consent": "not stated",
    }
    assert verify([str(path)]) == 0
    text = capsys.readouterr().out
    for part in ("unchanged since it was sealed", "AI-generated", "Ann, driven by Bob", "signed form of 3 May", "is known here"):
        assert part in text
    assert len(list(read_frames(path))) == 5  # and it is still a video, with its note
    with av.open(str(path)) as container:
        assert container.metadata["comment"] == PROVENANCE


def test_the_index_is_still_in_front(tmp_path):
    data = film(tmp_path / "v.mp4").read_bytes()
    assert 0 < data.index(b"moov") < data.index(b"mdat")


def test_a_video_of_which_nothing_is_known_is_sealed_too(tmp_path):
    found = read_findings(film(tmp_path / "v.mp4", Provenance()))
    assert found.state == UNCHANGED and found.facts == {"consent": "not stated"}


def test_a_flipped_byte_of_the_film_shows(tmp_path, capsys):
    path = film(tmp_path / "v.mp4")
    whole = path.read_bytes()
    for place in (whole.index(b"moov") + 40, whole.index(PROVENANCE.encode()) + 2, whole.index(b"mdat") + 10, len(whole) - 1):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        found = read_findings(path)
        assert found.state == CHANGED and found.faults
        assert verify([str(path)]) == 1
        assert "NOT VALID" in capsys.readouterr().out


def test_what_is_appended_shows(tmp_path):
    path = film(tmp_path / "v.mp4")
    path.write_bytes(path.read_bytes() + (24).to_bytes(4, "big") + b"free" + b"sixteen bytes ..")
    assert read_findings(path).state == CHANGED


def test_a_flipped_byte_of_the_credentials_shows_or_changes_nothing_that_they_say(tmp_path):
    path = film(tmp_path / "v.mp4")
    whole, said = path.read_bytes(), read_findings(path)
    states = []
    for place in range(40, whole.index(b"moov") - 4, 23):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 64]) + whole[place + 1 :])
        found = read_findings(path)
        assert found == said or found.state in (CHANGED, MISSING)
        states.append(found.state)
    assert states.count(CHANGED) > 0.7 * len(states)


@pytest.mark.parametrize("share", [0.05, 0.5, 0.99])
def test_a_cut_file_shows(tmp_path, share):
    path = film(tmp_path / "v.mp4")
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert read_findings(path).state == CHANGED and verify([str(path)]) == 1


def test_another_programs_export_has_lost_them_and_verify_says_so(tmp_path, capsys):
    path = film(tmp_path / "v.mp4")
    with av.open(str(path)) as source, av.open(str(tmp_path / "w.mp4"), "w") as copy:
        copy.metadata.update(source.metadata)
        stream = copy.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.dts is not None:
                packet.stream = stream
                copy.mux(packet)
    assert read_findings(tmp_path / "w.mp4").state == MISSING
    assert verify([str(tmp_path / "w.mp4")]) == 1
    text = capsys.readouterr().out
    assert "no Content Credentials" in text and PROVENANCE in text


def test_credentials_of_another_film_do_not_fit(tmp_path):
    a, b = (film(tmp_path / f"{n}.mp4", frames=n).read_bytes() for n in (3, 4))
    mixed = a[: a.index(b"moov") - 4] + b[b.index(b"moov") - 4 :]
    (tmp_path / "c.mp4").write_bytes(mixed)
    assert read_findings(tmp_path / "c.mp4").state == CHANGED


def test_the_key_is_the_owners_alone_and_is_made_once(tmp_path):
    first = signing_identity()
    path = own_root().with_name("identity.pem")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert signing_identity() == first and first.algorithm == "es256"
    assert b"PRIVATE" not in own_root().read_bytes()
    leaf, root = x509.load_pem_x509_certificates(first.chain)
    leaf.verify_directly_issued_by(root)
    usage = leaf.extensions.get_extension_for_class(x509.KeyUsage)
    assert usage.critical and usage.value.digital_signature and not usage.value.key_cert_sign
    assert ExtendedKeyUsageOID.EMAIL_PROTECTION in leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert leaf.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)


def test_two_processes_make_one_certificate(tmp_path):
    code = "from util.credentials.certificates import signing_identity as s; import hashlib; print(hashlib.sha256(s().key).hexdigest())"
    running = [subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    keys = {process.communicate()[0].strip() for process in running}
    assert len(keys) == 1 and len(keys.pop()) == 64
    assert not list(own_root().parent.glob("*.part"))


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "cache").mkdir(mode=0o500)
    assert read_findings(film(tmp_path / "v.mp4")).state == UNCHANGED


def test_a_file_in_place_of_the_folder_costs_no_video(tmp_path, capsys):
    (tmp_path / "cache").write_text("a file")
    found = read_findings(film(tmp_path / "v.mp4"))
    assert found.state == UNCHANGED and not found.signer_known
    assert "a certificate of this run alone" in capsys.readouterr().err


def test_a_damaged_certificate_is_an_error_before_the_work(tmp_path):
    own_root().parent.mkdir(parents=True)
    own_root().with_name("identity.pem").write_text("nothing")
    with pytest.raises(UserError, match=r"identity\.pem cannot sign .*; delete it"):
        VideoWriter(tmp_path / "v.mp4", 25)


# ---- the user's own certificate ----


def certificate(folder, key=None, usages=(ExtendedKeyUsageOID.EMAIL_PROTECTION,), password=None):
    """Write a chain of root and leaf of an organisation, and the leaf's key; returns their paths and the root's."""
    root_key, key = ec.generate_private_key(ec.SECP384R1()), key or ec.generate_private_key(ec.SECP384R1())
    names = [
        x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Studio Ltd"), x509.NameAttribute(NameOID.COMMON_NAME, n)])
        for n in ("Studio root", "Studio signer")
    ]
    root = certificates._certificate(
        names[0], root_key, names[0], root_key, x509.BasicConstraints(True, 0), certificates._usage(key_cert_sign=True)
    )
    leaf = certificates._certificate(
        *(names[1], key, names[0], root_key, x509.BasicConstraints(False, None), certificates._usage(digital_signature=True)),
        *([x509.ExtendedKeyUsage(usages)] if usages else []),
    )
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    paths = [folder / name for name in ("studio.pem", "studio_key.pem", "studio_root.pem")]
    paths[0].write_bytes(leaf.public_bytes(Encoding.PEM) + root.public_bytes(Encoding.PEM))
    paths[1].write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    paths[2].write_bytes(root.public_bytes(Encoding.PEM))
    return paths


def use(monkeypatch, chain, key):
    monkeypatch.setenv(certificates.CERTIFICATE, str(chain))
    monkeypatch.setenv(certificates.KEY, str(key))


@pytest.mark.parametrize("make_key", [None, lambda: rsa.generate_private_key(65537, 2048)], ids=["P-384", "RSA"])
def test_the_users_certificate_signs(tmp_path, monkeypatch, make_key):
    chain, key, root = certificate(tmp_path, make_key() if make_key else None)
    use(monkeypatch, chain, key)
    path = film(tmp_path / "v.mp4")
    found = read_findings(path)
    assert found.state == UNCHANGED and found.signer == "Studio signer, Studio Ltd" and not found.signer_known
    assert not (tmp_path / "cache").exists()  # no other was made
    assert read_findings(path, [root]).signer_known
    assert verify([str(path)]) == 0 and verify([str(path), "--trust", str(root)]) == 0
    (tmp_path / "other").mkdir()
    assert verify([str(path), "--trust", str(certificate(tmp_path / "other")[2])]) == 1  # of another signer


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no key", "only one of HEAD2HEAD_CERTIFICATE and HEAD2HEAD_KEY is set"),
        ("missing", "cannot read .*nowhere.pem"),
        ("of another", "the key is another certificate's"),
        ("encrypted", "is encrypted"),
        ("usage", "C2PA does not allow the certificate"),
        ("no text", "cannot sign"),
    ],
)
def test_a_certificate_of_no_use_is_told_before_the_work(tmp_path, monkeypatch, fault, message):
    chain, key, _ = certificate(
        tmp_path,
        usages=[ExtendedKeyUsageOID.CLIENT_AUTH] if fault == "usage" else [ExtendedKeyUsageOID.EMAIL_PROTECTION],
        password=b"secret" if fault == "encrypted" else None,
    )
    use(monkeypatch, chain, key)
    if fault == "no key":
        monkeypatch.delenv(certificates.KEY)
    elif fault == "missing":
        monkeypatch.setenv(certificates.CERTIFICATE, str(tmp_path / "nowhere.pem"))
    elif fault == "of another":
        (tmp_path / "b").mkdir()
        monkeypatch.setenv(certificates.KEY, str(certificate(tmp_path / "b")[1]))
    elif fault == "no text":
        chain.write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match=message):
        VideoWriter(tmp_path / "v.mp4", 25)
    assert not list(tmp_path.glob("*.mp4"))


def demo(words):
    return load_command("demo.py").parse(words)


OF_COMMANDS = {
    "test.py": (lambda words: run_test(Path(words[0]), "--target_id", "Ann", *words[1:])),
    "images_to_video.py": (lambda words: images_to_video(["--results_dir", *words])),
    "paste_back.py": (lambda words: paste_back(["--results_dir", *words])),
    "make_demo_video.py": (lambda words: make_demo_video(["--output", words[0] + "/d.mp4", "--frames", "1", "--size", "64", *words[1:]])),
    "demo.py": (lambda words: demo([words[0], "--output", words[0] + "/o.mp4", *words[1:]])),
    "demo.py --web": (lambda words: demo(["--web", *words[1:]])),
}


@pytest.mark.parametrize("command", OF_COMMANDS)
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no key", "--certificate and --key belong together"),
        ("missing", r"cannot read .*nowhere.pem \(No such file or directory\), which --certificate and --key, or HEAD2HEAD_CERT"),
        ("usage", "C2PA does not allow the certificate that --certificate and --key"),
        ("environment", r"cannot read .*nowhere.pem"),
    ],
)
def test_every_command_tries_the_certificate_first(tmp_path, monkeypatch, command, fault, message):
    chain, key, _ = certificate(tmp_path, usages=[ExtendedKeyUsageOID.CLIENT_AUTH])
    words = [f"--certificate={tmp_path / 'nowhere.pem' if fault == 'missing' else chain}", f"--key={key}"]
    if fault == "environment":
        use(monkeypatch, tmp_path / "nowhere.pem", key)
        words = []
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=message) as refusal:  # although there is neither run nor result
        OF_COMMANDS[command]([str(tmp_path), *(words[:1] if fault == "no key" else words)])
    assert "\n" not in str(refusal.value) and sorted(tmp_path.rglob("*")) == before


def test_the_certificate_of_the_options_seals(tmp_path, monkeypatch):
    """Files are found from where the command is called, whatever the environment says."""
    chain, key, root = certificate(tmp_path)
    use(monkeypatch, "nowhere.pem", "nowhere.pem")
    monkeypatch.chdir(tmp_path)
    make_dataset(tmp_path, fps=Fraction(25))
    make_run(tmp_path)
    run_test(tmp_path, "--target_id", "Ann", "--certificate", chain.name, "--key", key.name)
    (results,) = find_results(tmp_path / "results")
    files = [results.folder, results.video("all")]
    demo([str(tmp_path), "--output", "o.mp4", f"--certificate={chain}", f"--key={key}"])
    files.append(film(tmp_path / "recording.mp4"))
    monkeypatch.chdir("/")  # what is opened later, and processes that are started elsewhere
    files.append(film(tmp_path / "later.mp4"))
    for path in files:
        found = read_findings(path, [root])
        assert (found.state, found.signer, found.signer_known) == (UNCHANGED, "Studio signer, Studio Ltd", True)
    assert not (tmp_path / "cache").exists()


# ---- results ----


@pytest.fixture
def results(tmp_path):
    make_dataset(tmp_path, fps=Fraction(25))
    make_run(tmp_path)
    run_test(tmp_path, "--target_id", "Ann")
    (found,) = find_results(tmp_path / "results")
    return found


def test_frames_of_results_are_sealed_by_their_list(results, capsys):
    found = read_findings(results.folder)
    assert (found.state, found.files, found.facts["target"], found.facts["driver_kind"]) == (UNCHANGED, 6, "Ann", "own frames")
    assert len(found.facts["checkpoint"]) == 64 and found.facts["run"] == "head2head_Ann"
    frame = results.path("fake", results.frames("fake")[2])
    assert verify([str(results.folder), str(results.frame_credentials), str(frame)]) == 0
    assert "6 frames" in capsys.readouterr().out
    checked = subprocess.run(["sha256sum", "-c", "--quiet", "frames.sha256"], cwd=results.folder)
    assert checked.returncode == 0
    data = bytearray(frame.read_bytes())
    data[len(data) // 2] ^= 1
    frame.write_bytes(data)
    assert read_findings(results.folder).faults == [f"fake/{frame.name} was changed"]
    assert read_findings(frame).state == CHANGED
    assert read_findings(results.path("fake", results.frames("fake")[0])).state == UNCHANGED  # the others are as they were
    frame.unlink()
    assert read_findings(results.folder).faults == [f"fake/{frame.name} is missing"]


def test_a_list_that_was_changed_vouches_for_nothing(results):
    frame = results.path("fake", results.frames("fake")[0])
    text = results.frame_list.read_text()
    results.frame_list.write_text(text.replace("fake/", "real/"))
    assert read_findings(results.folder).state == CHANGED
    results.frame_list.write_text("0" * 64 + "  ../../../x.png\n" + text)
    found = read_findings(results.folder)
    assert found.state == CHANGED and "outside of its folder" in "".join(found.faults)
    assert read_findings(results.path("real", results.frames("real")[0])).state == MISSING  # real pictures are not ours to seal
    results.frame_credentials.unlink()
    assert read_findings(results.folder).state == read_findings(frame).state == MISSING


def test_no_place_of_this_computer_is_in_the_credentials(results, tmp_path):
    """And what stands beside real pictures is called a composite."""
    images_to_video(["--results_dir", str(results.folder), "--output_mode", "only_fake"])
    for name, kind in (("all", "compositeWithTrainedAlgorithmicMedia"), ("only_fake", "trainedAlgorithmicMedia")):
        video = results.video(name)
        assert read_findings(video).source_type == kind
        text = str(manifest(video)) + results.frame_credentials.read_bytes().decode("latin-1") + video.read_bytes().decode("latin-1")
        for place in (tmp_path.name, str(tmp_path), str(ROOT), str(Path.home()) + "/", "/tmp/", "/home/"):
            assert place not in text


def test_control_characters_do_not_reach_the_terminal(tmp_path, capsys):
    path = film(tmp_path / "v.mp4", Provenance("\x1b[31mAnn\r\n  sealed by: all", consent="yes" * 1000))
    verify([str(path)])
    text = capsys.readouterr().out
    assert "\x1b" not in text and "\r" not in text and "\n  sealed by: all" not in text and len(text) < 2000


def test_originals_bring_their_own_credentials_along(tmp_path):
    recording = film(tmp_path / "private name.mp4")
    (tmp_path / "plain.mkv").write_bytes(b"no video")
    path = film(tmp_path / "v.mp4", Provenance("Ann", composite=True, originals=(recording, tmp_path / "plain.mkv", tmp_path / "gone.mp4")))
    found = read_findings(path)
    assert (found.state, found.source_type) == (UNCHANGED, "compositeWithTrainedAlgorithmicMedia") and found.originals >= 1
    store = manifest(path)
    assert "private name" not in str(store) and store["ingredients"][0]["active_manifest"]
    assert any(a["action"] == "c2pa.placed" for s in store["assertions"] if "actions" in s["label"] for a in s["data"]["actions"])


def test_without_the_package_the_note_stays(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "c2pa", None)
    path = film(tmp_path / "v.mp4")
    monkeypatch.undo()
    assert "c2pa-python cannot be used" in capsys.readouterr().err
    assert read_findings(path).state == MISSING
    with av.open(str(path)) as container:
        assert container.metadata["comment"] == PROVENANCE


def test_a_full_disk_while_sealing_leaves_nothing(tmp_path, monkeypatch):
    def full(self, data):
        self.error = OSError(28, "No space left on device", str(tmp_path))
        raise self.error

    monkeypatch.setattr(sealing._Output, "write", full)
    with pytest.raises(UserError, match="the disk is full"):
        film(tmp_path / "v.mp4")
    assert [p.name for p in tmp_path.iterdir()] == ["cache"]


def test_verify_says_what_it_cannot_read(tmp_path):
    with pytest.raises(UserError, match="there is no file"):
        verify([str(tmp_path / "v.mp4")])
    (tmp_path / "a.txt").write_text("text")
    assert read_findings(tmp_path / "a.txt").state == MISSING
    with pytest.raises(UserError, match="holds no root certificate"):
        verify([str(film(tmp_path / "v.mp4")), "--trust", str(tmp_path / "a.txt")])
