"""Reading of Content Credentials: who made a file, what it shows, and whether it was changed since."""

from __future__ import annotations

import hashlib
import json
import mimetypes
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from util.cli import UserError
from util.credentials.certificates import own_root
from util.credentials.sealing import FORMATS, LABEL, SETTINGS

UNCHANGED, CHANGED, MISSING = "unchanged", "changed", "missing"
FRAME_LIST, SIDECAR = ".sha256", ".c2pa"  # endings of a list of files with their digests, and of credentials beside a file
_LONGEST_TEXT = 600  # characters shown of what credentials say
_MOST_CREDENTIALS = 64 << 20  # bytes: ours have 4,000; a sidecar beyond this is none


@dataclass(frozen=True)
class Findings:
    """What the credentials of a file say, and whether they can be believed."""

    state: str  # UNCHANGED, CHANGED (or damaged), or MISSING: there are no credentials
    faults: list[str] = field(default_factory=list)  # of a changed file, in words
    signer: str = ""  # organisation and name of the certificate that sealed it
    signer_known: bool = False  # the certificate is this computer's, or of a root that the user trusts
    title: str = ""
    tool: str = ""
    when: str = ""  # ISO 8601, by the clock of the computer that sealed it
    source_type: str = ""  # of IPTC's vocabulary, "trainedAlgorithmicMedia"
    facts: dict[str, str] = field(default_factory=dict)  # util.provenance.Provenance's
    originals: int = 0  # recordings that it is made of
    files: int = 0  # of a list: how many files it vouches for


def read_findings(path: Path, trusted: Sequence[Path] = ()) -> Findings:
    """Check a file: a video or picture with credentials in it or beside it, a list of frames, or a frame that a list names.

    trusted: PEM files with root certificates of signers that are known, beside this computer's own.
    Raises: UserError when the file cannot be read.
    """
    if path.is_dir():
        path = path / "frames.sha256"
    if path.suffix == SIDECAR:
        path = next((p for p in sorted(path.parent.glob(f"{path.stem}.*")) if p.suffix != SIDECAR), path)
    try:
        if path.suffix == FRAME_LIST:
            return _read_list(path, None, trusted)
        frame_list = path.parent.parent / "frames.sha256"
        if path.suffix == ".png" and path.is_file() and frame_list.is_file():
            return _read_list(frame_list, path, trusted)
        return _read_file(path, trusted)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; give a video, a picture or a folder of results") from None
    except OSError as e:
        raise UserError(f"cannot read {path}: {e.strerror or e}; check its permissions") from None


def _read_list(path: Path, wanted: Path | None, trusted: Sequence[Path]) -> Findings:
    """A list of files and the files that it names. wanted: one of them alone."""
    found = _read_file(path, trusted)
    if found.state == MISSING:
        return found
    lines = [line.partition("  ") for line in path.read_text("utf-8", "replace").splitlines()]
    digests = {name: digest for digest, _, name in lines}
    if wanted is not None:
        name = wanted.relative_to(path.parent).as_posix()
        if name not in digests:
            return Findings(MISSING)
        digests = {name: digests[name]}
    faults = list(found.faults)
    for name, digest in digests.items():
        file = path.parent / name
        if not file.resolve().is_relative_to(path.parent.resolve()):
            faults.append(f"the list names {_plain(name)}, a file outside of its folder")
        elif not file.is_file():
            faults.append(f"{_plain(name)} is missing")
        elif hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            faults.append(f"{_plain(name)} was changed")
    return Findings(**{**vars(found), "state": CHANGED if faults else UNCHANGED, "faults": faults, "files": len(digests)})


def _read_file(path: Path, trusted: Sequence[Path]) -> Findings:
    import c2pa

    settings = {**SETTINGS, "verify": {**SETTINGS["verify"], "verify_trust": True}}
    if anchors := _anchors(trusted):
        settings["trust"] = {"user_anchors": anchors}
    beside = path.with_suffix(SIDECAR)
    credentials, kind = None, FORMATS.get(path.suffix.lower()) or mimetypes.guess_type(path.name)[0]
    if beside != path and beside.is_file() and beside.stat().st_size <= _MOST_CREDENTIALS:
        credentials, kind = beside.read_bytes(), kind or "text/plain"
    if path.suffix == FRAME_LIST:
        kind = "text/plain"
    with path.open("rb") as file, c2pa.Context.from_dict(settings) as context:
        try:
            with c2pa.Reader(kind or path.suffix.lstrip("."), file, credentials, context) as reader:
                return _findings(json.loads(reader.json()))
        except c2pa.C2paError as e:
            fault = _plain(str(e).partition("\n")[0])
            if any(word in fault for word in ("ManifestNotFound", "no JUMBF data found", "NotSupported", "UnsupportedType")):
                return Findings(MISSING)
            return Findings(CHANGED, [f"it cannot be read as what it should be ({fault})"])


def _anchors(trusted: Sequence[Path]) -> str:
    """PEM text of the roots that are known. Raises: UserError when one of the user's cannot be read."""
    texts = []
    with suppress(OSError):
        texts.append(own_root().read_text())
    for path in trusted:
        try:
            text = path.read_text()
        except (OSError, UnicodeDecodeError):
            text = ""
        if "BEGIN CERTIFICATE" not in text:
            raise UserError(f"{path} holds no root certificate; --trust takes PEM files, as the root.pem of the computer that sealed it")
        texts.append(text)
    return "\n".join(texts)


def _plain(value: Any) -> str:
    """A text of a stranger's for a terminal: one line, without control characters, of a length that can be read."""
    text = "".join(c if c.isprintable() else " " for c in str(value or ""))
    return text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "…"


def _findings(store: dict[str, Any]) -> Findings:
    """What c2pa reports, in our words."""
    manifest = store["manifests"][store["active_manifest"]]
    results = store.get("validation_results", {}).get("activeManifest", {})
    failures = results.get("failure", [])
    unknown = [f for f in failures if f["code"] == "signingCredential.untrusted"]
    valid = store.get("validation_state") in ("Valid", "Trusted")
    assertions = {a["label"]: a["data"] for a in manifest.get("assertions", [])}
    actions = next((d["actions"] for label, d in assertions.items() if label.startswith("c2pa.actions")), [])
    made = next((a for a in actions if a["action"] in ("c2pa.created", "c2pa.opened")), {})
    types = [a["digitalSourceType"] for a in actions if a.get("digitalSourceType")]
    tools = [f"{t.get('name', '')} {t.get('version', '')}".strip() for t in manifest.get("claim_generator_info", [])]
    signature = manifest.get("signature_info") or {}
    facts = assertions.get(LABEL, {})
    return Findings(
        UNCHANGED if valid else CHANGED,
        [] if valid else _faults([f for f in failures if f not in unknown]),
        _plain(", ".join(filter(None, (signature.get("common_name"), signature.get("issuer"))))),
        not unknown and any(f["code"] == "claimSignature.validated" for f in results.get("success", [])),
        _plain(manifest.get("title")),
        _plain(", ".join(filter(None, tools))),
        _plain(made.get("when") or signature.get("time")),
        _plain(types[0].rpartition("/")[2] if types else ""),
        {str(k): _plain(v) for k, v in facts.items()} if isinstance(facts, dict) else {},
        len(manifest.get("ingredients", [])),
    )


def _faults(failures: Sequence[dict[str, str]]) -> list[str]:
    """C2PA's codes of what failed, in words."""
    words = {
        "assertion.bmffHash.mismatch": "pictures, sound or metadata are not those that were sealed",
        "assertion.dataHash.mismatch": "its content is not what was sealed",
        "assertion.hashedURI.mismatch": "what the credentials say was changed",
        "claimSignature.mismatch": "the signature is not of these credentials",
        "signingCredential.expired": "the certificate had expired",
        "signingCredential.invalid": "the certificate is none that may sign",
    }
    told = [words.get(f["code"]) or _plain(f"{f['code']}: {f.get('explanation', '')}") for f in failures]
    return list(dict.fromkeys(told)) or ["not valid"]
