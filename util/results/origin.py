"""Where results come from, for their credentials; and the credentials of the single frames."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from util.credentials.sealing import find_sealer
from util.hashing import sha256_of
from util.image_io import write_bytes
from util.layout import Dataset, Run
from util.provenance import NOT_STATED, Provenance, consent_in_run
from util.results.folder import Results


def provenance_of(facts: dict[str, Any], dataset: Dataset, composite: bool = False, originals: tuple[Path, ...] = ()) -> Provenance:
    """What is known of results: complete.json's facts, and what the dataset says of consent now (it may be moved or gone).

    composite, originals: as of Provenance.
    """
    target, source = facts["target"], facts["source"]
    kind = facts.get("driver_kind") or ("identity" if source else "own frames")
    known = facts.get("consent", {})
    return Provenance(
        target=target,
        driver=source or target,
        driver_kind=kind,
        run=Path(facts.get("run", "")).name,
        epoch=str(facts.get("which_epoch", "")),
        checkpoint=facts.get("key", {}).get("checkpoint", ""),
        consent=dataset.consent(target) or known.get("target") or NOT_STATED,
        driver_consent=((dataset.consent(source) if kind == "identity" else "") or known.get("driver") or NOT_STATED) if source else "",
        composite=composite,
        originals=originals,
    )


def provenance_of_run(
    run: Run, options: Mapping[str, Any], target: str, driver: str, driver_kind: str, *, epoch: str = "latest", composite: bool = False
) -> Provenance:
    """What is known of a trained run alone, without a dataset: for a person who is driven by a video or a camera at once.

    options: the run's (opt.txt). target: the person. driver, driver_kind: as of Provenance; a camera needs no name.
    """
    checkpoint = run.network_path("G", epoch)
    return Provenance(
        target=target,
        driver=driver,
        driver_kind=driver_kind,
        run=run.checkpoints.absolute().name,
        epoch=epoch,
        checkpoint=sha256_of(checkpoint) if checkpoint.is_file() else "",
        consent=consent_in_run(options, target) or NOT_STATED,
        driver_consent=NOT_STATED,
        composite=composite,
    )


def seal_frames(results: Results, facts: dict[str, Any], dataset: Dataset) -> None:
    """Write the list of the synthesised frames with its credentials: one signature for all of them, which leaves the files as they are."""
    sealer = find_sealer()
    if sealer is None:
        return
    paths = [results.path("fake", number) for number in results.frames("fake")]
    lines = "".join(f"{sha256_of(path)}  {path.relative_to(results.folder).as_posix()}\n" for path in paths)
    title = f"Head2Head: frames of {facts['target']} driven by {facts['source'] or 'own held-out frames'}"
    write_bytes(results.frame_list, lines.encode())
    write_bytes(results.frame_credentials, sealer.seal_beside(lines.encode(), title, provenance_of(facts, dataset)))
