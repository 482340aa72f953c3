"""Say who made a file, what it shows, when, and whether it was changed since: by its Content Credentials (C2PA).

    python scripts/verify.py results/D/head2head_T/latest_epoch/test/T/all.mp4
    python scripts/verify.py results/D/head2head_T/latest_epoch/test/T          all synthesised frames of a folder of results
    python scripts/verify.py film.mp4 --trust root.pem                          sealed on another computer, whose root.pem you were given

Takes videos, pictures, folders of results, and single frames in them. The exit code is 0 when every file is as it was sealed, else 1.
That a signer is known means that the certificate is this computer's, or comes from one given with --trust; anybody can make another.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

if __package__ in (None, ""):  # run as a file: make the repository's packages importable
    sys.path[0] = str(Path(__file__).resolve().parents[1])
    import util.environment  # noqa: F401  (says what to do where packages are missing)

from util.cli import run, say
from util.credentials.reading import CHANGED, MISSING, UNCHANGED, Findings, read_findings

KINDS = {
    "trainedAlgorithmicMedia": "AI-generated: synthesised by a trained network",
    "compositeWithTrainedAlgorithmicMedia": "real pictures together with AI-generated ones",
    "compositeSynthetic": "a composite of synthetic pictures",
    "digitalCapture": "recorded by a camera",
}
DRIVERS = {
    "own frames": "driven by the person's own frames that were kept back from training",
    "identity": "driven by {driver}, another person's video",
    "arkit": "driven by {driver}, a file of blendshapes",
    "template": "driven by {driver}, a file of motion",
    "camera": "driven by a camera",
    "sliders": "posed by sliders",
}


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="videos, pictures, folders of results")
    parser.add_argument(
        "--trust",
        nargs="+",
        type=Path,
        default=[],
        metavar="PEM",
        help="root certificates of signers that you know; with it, a file of any other signer fails",
    )
    options = parser.parse_args(argv)
    good = True
    for path in options.files:
        found = read_findings(path, options.trust)
        say("\n".join(describe(path, found)))
        good &= found.state == UNCHANGED and (found.signer_known or not options.trust)
    return 0 if good else 1


def describe(path: Path, found: Findings) -> list[str]:
    """The findings as lines of text."""
    if found.state == MISSING:
        note = metadata_note(path)
        lines = [f"{path}: no Content Credentials: not sealed by Head2Head, or they were removed since (as by another program's export)"]
        return lines + ([f"  its metadata still says: {note}"] if note else [])
    if found.state == CHANGED:
        lines = [f"{path}: NOT VALID, it was changed since it was sealed, or is damaged: {'; '.join(found.faults[:8])}"]
        if not found.signer:
            return lines
        lines.append("  What it said when it was sealed, and may not be true of what it is now:")
    else:
        several = f", {found.files} frames" if found.files > 1 else ""
        lines = [f"{path}: unchanged since it was sealed{several}"]
    facts = found.facts
    run_name = facts.get("run", "") + (f", checkpoint {facts['epoch']}" if "epoch" in facts else "")
    digest = f" (SHA-256 {facts['checkpoint'][:16]}…)" if facts.get("checkpoint") else ""
    driver = DRIVERS.get(facts.get("driver_kind", ""), "").format(driver=facts.get("driver") or "somebody")
    known = "a certificate that is known here" if found.signer_known else "a certificate that is not known here: anybody can make one"
    rows = {
        "what": KINDS.get(found.source_type, found.source_type),
        "title": found.title,
        "shows": ", ".join(filter(None, (facts.get("target"), driver))),
        "made of": f"{found.originals} other recording{'s' * (found.originals > 1)}" if found.originals else "",
        "consent": facts.get("consent", ""),
        "consent of the driver": facts.get("driver_consent", ""),
        "when": found.when.replace("T", " ").replace("Z", " UTC") + (" by the clock of the computer that made it" if found.when else ""),
        "made by": found.tool,
        "trained run": run_name + digest,
        "sealed by": f"{found.signer}; {known}" if found.signer else "",
    }
    return lines + [f"  {name:22s}{text}" for name, text in rows.items() if text]


def metadata_note(path: Path) -> str:
    """What a video's own metadata says of where it comes from; '' if that is nothing."""
    import av

    with suppress(OSError, ValueError, av.FFmpegError), av.open(str(path)) as container:
        return container.metadata.get("comment", "")
    return ""


if __name__ == "__main__":
    run(main)
