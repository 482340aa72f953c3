"""Sealing of finished files: signed Content Credentials (C2PA) that say what they show and who made them. Needs no network."""

from __future__ import annotations

import io
import platform
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime, timezone
from functools import cache
from pathlib import Path
from typing import Any

from util import VERSION
from util.cli import UserError, warn_once
from util.credentials.certificates import NAMES, Identity, signing_identity
from util.provenance import Provenance

LABEL = "org.head2head.provenance"  # of the assertion with what Provenance says
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"  # IPTC's vocabulary, which C2PA takes
SYNTHETIC, COMPOSITE = "trainedAlgorithmicMedia", "compositeWithTrainedAlgorithmicMedia"
# Nothing is fetched from anywhere, not even what a recording asks for; no pictures of the file are put into its credentials.
SETTINGS: dict[str, Any] = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": False},
    "builder": {"thumbnail": {"enabled": False}, "bmff_hash_exclude_free_and_skip_boxes": False},  # nothing may be put into gaps
    # MB of a video that are held in memory; the rest goes to the folder for temporary files. Its default, 512, doubles the memory that long
    # videos take (1.1 GB to 0.6 GB: it hashes 256 MB at a time). Its hash tree (merkle_tree_chunk_size_in_kb) would take none, but does not
    # notice a change in the last, shorter piece of a file (c2pa-python 0.38.1).
    "core": {"backing_store_memory_threshold_in_mb": 64},
}
FORMATS = {".mp4": "video/mp4", ".m4v": "video/mp4", ".mov": "video/quicktime", ".avi": "video/avi"}  # of videos with credentials


def find_sealer() -> Sealer | None:
    """What seals the files of this process; None, with a warning, where there is no package for it.

    Raises: UserError when the user's certificate is of no use; call it before the work whose result is to be sealed.
    """
    try:
        import c2pa  # noqa: F401
    except (ImportError, OSError) as e:  # no wheel for this system, or a library that does not load
        system = f"{platform.system()} on {platform.machine()}"
        warn_once(f"c2pa-python cannot be used ({system}: {e}): files get no Content Credentials, only the note in their metadata")
        return None
    return _sealer(signing_identity())


@cache
def _sealer(identity: Identity) -> Sealer:
    return Sealer(identity)


class Sealer:
    """Seals files with one certificate."""

    def __init__(self, identity: Identity) -> None:
        """Raises: UserError when C2PA does not allow the certificate."""
        import c2pa

        self._identity = identity
        try:
            self._sign("text/plain", io.BytesIO(b"trial"), io.BytesIO(), _manifest("", Provenance()), embed=False)
        except c2pa.C2paError as e:
            raise UserError(
                f"C2PA does not allow the certificate that {NAMES} name ({e}); it needs the key usage digitalSignature, "
                "the extended key usage emailProtection or C2PA's own, both key identifiers, and an organisation"
            ) from None

    def seal_video(self, source: Path, sealed: Path, title: str, provenance: Provenance) -> None:
        """Write the .mp4 `source` once more as `sealed`, with its credentials. Raises: UserError; OSError when it cannot be written."""
        import c2pa

        with source.open("rb") as file, _Output(sealed) as output:
            try:
                self._sign("video/mp4", file, output, _manifest(title, provenance), provenance.originals)
            except c2pa.C2paError as e:
                raise output.error or UserError(f"cannot seal {title} ({e}); make the video again") from None

    def seal_beside(self, content: bytes, title: str, provenance: Provenance) -> bytes:
        """The credentials of any file's content, to be kept beside it (.c2pa)."""
        return self._sign("text/plain", io.BytesIO(content), io.BytesIO(), _manifest(title, provenance), embed=False)

    def _sign(
        self, kind: str, source: Any, output: Any, manifest: dict[str, Any], originals: tuple[Path, ...] = (), embed: bool = True
    ) -> bytes:
        import c2pa

        key = self._identity
        info = c2pa.C2paSignerInfo(key.algorithm.encode(), key.chain, key.key, None)
        with c2pa.Context.from_dict(SETTINGS) as context, c2pa.Signer.from_info(info) as signer, c2pa.Builder(manifest, context) as builder:
            if not embed:
                builder.set_no_embed()
            _add_originals(builder, originals)
            return builder.sign(signer, kind, source, output)


def _add_originals(builder: Any, originals: tuple[Path, ...]) -> None:
    """Add recordings that the file is made of; those that are sealed themselves bring their credentials along."""
    import c2pa

    for number, path in enumerate(originals):
        with suppress(c2pa.C2paError, OSError), path.open("rb") as file:  # a format without credentials
            ingredient = {"title": "original recording", "relationship": "componentOf", "label": f"original{number}"}
            builder.add_ingredient(ingredient, FORMATS.get(path.suffix.lower(), path.suffix.lower()), file)
            builder.add_action({"action": "c2pa.placed", "parameters": {"ingredientIds": [f"original{number}"]}})


def _manifest(title: str, provenance: Provenance) -> dict[str, Any]:
    tool = {"name": "Head2Head", "version": VERSION}
    made = {
        "action": "c2pa.created",
        "when": datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "softwareAgent": tool,
        "digitalSourceType": SOURCE_TYPE + (COMPOSITE if provenance.composite or provenance.originals else SYNTHETIC),
    }
    facts = asdict(provenance)
    del facts["originals"], facts["composite"]
    return {
        "claim_generator_info": [tool],
        "title": title,
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [made]}},
            {"label": LABEL, "data": {name: value for name, value in facts.items() if value}},
        ],
    }


class _Output(io.FileIO):
    """A file that remembers why it could not be written: c2pa does not pass that on."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "w+")
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as e:
            self.error = e
            raise
