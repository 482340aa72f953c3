"""What is said of consent: asked once on a terminal, kept with the person, shown with every result."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fake_dataset import make_dataset
from fake_run import make_run, run_test
from synthetic_videos import write_video
from test_detect import moving_face

from preprocessing.detect import main as detect
from preprocessing.steps.consent import find_consent, keep_consent
from util.cli import UserError
from util.credentials.reading import read_findings
from util.layout import Dataset
from util.provenance import consent_in_run
from util.results.folder import find_results

ROOT = Path(__file__).resolve().parents[1]
ASK = """
import sys
from preprocessing.steps.consent import find_consent
from util.layout import Dataset
print("said:", repr(find_consent(Dataset.open("fake", sys.argv[1]), ["Ann"], None)), file=sys.stderr)
"""


def test_detect_keeps_what_was_said_of_this_video(tmp_path):
    video = tmp_path / "ann.mp4"
    write_video(video, moving_face(30), 25)

    def run(*options):
        detect(["--original_videos_path", str(video), "--dataset_name", "d", "--datasets_dir", str(tmp_path), *options])
        return Dataset.open("d", tmp_path).consent("ann")

    assert run() == ""  # nobody was asked: there is no terminal
    assert run("--consent", "  it is\nme ") == "it is me"  # also when the frames are complete
    assert run() == run("--consent", "not stated") == "it is me"
    assert run("--margin", "80") == "it is me"  # frames of other options, of the same video
    assert run("--consent", "withdrawn") == "withdrawn"
    write_video(video, moving_face(30, start=(200, 150)), 25)
    assert run() == ""  # of another video nothing was said
    with pytest.raises(UserError, match="501 characters; say it in 500"):
        run("--consent", "y" * 501)


def test_records_of_before_are_read(tmp_path):
    dataset = make_dataset(tmp_path)
    path = dataset.record_path("Ann")
    fields = json.loads(path.read_text())
    del fields["consent"]
    path.write_text(json.dumps(fields))
    assert dataset.consent("Ann") == dataset.consent("nobody") == ""


@pytest.mark.skipif(os.name == "nt", reason="no pseudo-terminals")
def test_whoever_sits_at_a_terminal_is_asked_once(tmp_path):
    import pty

    dataset = make_dataset(tmp_path)

    def ask(answer):
        """What the question and the answer were, on a terminal."""
        master, slave = pty.openpty()
        process = subprocess.Popen([sys.executable, "-c", ASK, str(tmp_path)], cwd=ROOT, stdin=slave, stderr=slave, stdout=slave)
        os.close(slave)
        os.write(master, answer)
        text = b""
        try:
            while part := os.read(master, 1024):
                text += part
        except OSError:  # the other end is closed
            pass
        process.wait()
        os.close(master)
        return text.decode()

    text = ask("signed form of 3 May, Jörg\n".encode())
    assert "agree that their heads are learned" in text and "said: 'signed form of 3 May, Jörg'" in text
    assert "said: ''" in ask(b"\n")
    keep_consent(dataset, "Ann", "it is me")
    assert "agree" not in ask(b"")


def test_an_answer_replaces_nothing_that_was_given(tmp_path):
    dataset = make_dataset(tmp_path)
    keep_consent(dataset, "Ann", "answer", given=False)
    keep_consent(dataset, "Ann", "other answer", given=False)
    assert dataset.consent("Ann") == "answer"
    keep_consent(dataset, "Ann", "option")
    keep_consent(dataset, "Ann", "")
    assert dataset.consent("Ann") == "option"
    assert find_consent(dataset, ["Ann", "Bob"], None) == ""


def test_it_is_shown_with_every_result(tmp_path, monkeypatch):
    monkeypatch.setenv("HEAD2HEAD_CACHE", str(tmp_path / "cache"))
    dataset = make_dataset(tmp_path)
    make_run(tmp_path, consent={"Ann": "signed <form>"})
    run_test(tmp_path, "--target_id", "Ann", "--report")
    (results,) = find_results(tmp_path / "results")
    assert results.read()["consent"] == {"target": "signed <form>"}
    for made in (results.video("all"), results.folder):
        assert read_findings(made).facts["consent"] == "signed <form>"
    assert "consent of Ann" in results.page.read_text() and "signed &lt;form&gt;" in results.page.read_text()
    # said later, after training: the dataset knows better
    dataset.write_record(replace(dataset.read_record("Ann"), consent="both of us"))
    results.video("all").unlink()
    run_test(tmp_path, "--target_id", "Ann", "--report")
    assert read_findings(results.video("all")).facts["consent"] == "both of us"


def test_runs_of_before_say_nothing():
    assert consent_in_run({}, "Ann") == consent_in_run({"consent": "text"}, "Ann") == consent_in_run({"consent": {"Bob": "x"}}, "Ann") == ""
