"""The files of a test run: results/<D>/<run>/<epoch>_epoch/<split>/<id>/ with frames, measures, videos, report.

{real,nmfc,eye_gaze,fake,heatmap,masked_heatmap}/<frame:06d>.png
metrics.json        measures: means, and of every frame
complete.json       written last: what the folder was made from; without it the folder counts as unfinished
frames.sha256       SHA-256 of every synthesised frame, as sha256sum writes and checks them
frames.c2pa         that list's Content Credentials (util.credentials)
<mode>.mp4          written by util.results.panels
paste_back.mp4      written by util.paste_back.writing
evaluation.json     written by scripts/evaluate.py
index.html          written by util.report.result_page
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from util.cli import UserError, writing
from util.image_io import write_bytes
from util.stored import has_type, load_json

KINDS = ("real", "nmfc", "eye_gaze", "fake", "heatmap", "masked_heatmap")
# output mode -> videos, each with its file's name and its panels from left to right
MODES: dict[str, dict[str, tuple[str, ...]]] = {
    "only_fake": {"only_fake": ("fake",)},
    "source_target": {"source_target": ("real", "fake")},
    "source_nmfc_target": {"source_nmfc_target": ("real", "nmfc", "fake")},
    "heatmap": {"heatmap": ("heatmap",)},
    "masked_heatmap": {"masked_heatmap": ("masked_heatmap",)},
    "all_heatmaps": {"all_heatmaps": ("real", "fake", "heatmap", "masked_heatmap")},
    "all": {"all": ("real", "nmfc", "eye_gaze", "fake")},
    "source_target_separate": {"source": ("real",), "target": ("fake",)},
}


@dataclass(frozen=True)
class Results:
    """The folder of one tested sequence."""

    folder: Path

    def path(self, kind: str, frame: int) -> Path:
        return self.folder / kind / f"{frame:06d}.png"

    def frames(self, kind: str) -> list[int]:
        """Frame numbers of a kind, ascending; [] when it was not written."""
        folder = self.folder / kind
        return sorted(int(p.stem) for p in folder.glob("*.png") if p.stem.isdigit()) if folder.is_dir() else []

    @property
    def page(self) -> Path:
        return self.folder / "index.html"

    def video(self, mode: str) -> Path:
        return self.folder / f"{mode}.mp4"

    @property
    def paste_back(self) -> Path:
        """The head in the target's full frames; written by util.paste_back.writing."""
        return self.folder / "paste_back.mp4"

    @property
    def evaluation(self) -> Path:
        """All measures; written by scripts/evaluate.py."""
        return self.folder / "evaluation.json"

    @property
    def frame_list(self) -> Path:
        """SHA-256 of every synthesised frame; written by util.results.origin."""
        return self.folder / "frames.sha256"

    @property
    def frame_credentials(self) -> Path:
        """The credentials of the list of frames, and so of the frames."""
        return self.folder / "frames.c2pa"

    @property
    def _mark(self) -> Path:
        return self.folder / "complete.json"

    @property
    def _metrics(self) -> Path:
        return self.folder / "metrics.json"

    def read(self) -> dict[str, Any] | None:
        """What complete.json says, or None when the folder is missing, unfinished, or has lost frames since."""
        try:
            facts = load_json(self._mark.read_text())
            first, last = facts["frames"]
            if not (has_type(facts["kinds"], list[str]) and set(facts["kinds"]) <= set(KINDS)):
                return None
            found = [self.frames(kind) for kind in facts["kinds"]]  # numbers of a damaged file may be a billion
            whole = all(len(f) == last + 1 - first and f == list(range(first, last + 1)) for f in found)
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return facts if whole else None

    def read_measures(self) -> tuple[dict[str, float], list[dict[str, float]]]:
        """Means and the measures of each frame, as write_measures got them (empty when there are none)."""
        try:
            data = load_json(self._metrics.read_text())
            per_frame = [{k: math.nan if v is None else v for k, v in m.items()} for m in data["per_frame"]]
            return {k: math.nan if v is None else v for k, v in data["mean"].items()}, per_frame
        except FileNotFoundError:
            return {}, []
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise UserError(f"{self._metrics} is damaged ({e}); delete {self._mark} and run test.py again") from None

    def write_measures(self, means: dict[str, float], per_frame: list[dict[str, float]], frames: list[int], units: dict[str, str]) -> None:
        """Write metrics.json; values that are not finite become null (JSON has none)."""

        def plain(values: dict[str, float]) -> dict[str, float | None]:
            return {k: round(v, 5) if math.isfinite(v) else None for k, v in values.items()}

        data = {"mean": plain(means), "units": units, "frames": frames, "per_frame": [plain(m) for m in per_frame]}
        write_bytes(self._metrics, (json.dumps(data) + "\n").encode())

    def begin(self) -> None:
        """Make the folder ready for a new run: what an earlier one wrote is removed, the completion mark first."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        self._mark.unlink(missing_ok=True)
        videos = [self.video(name) for videos in MODES.values() for name in videos]
        made = (self._metrics, self.page, self.paste_back, self.evaluation, self.frame_credentials, self.frame_list)
        for path in (*made, *videos):
            path.unlink(missing_ok=True)
        for kind in KINDS:
            for frame in self.frames(kind):
                self.path(kind, frame).unlink()

    def finish(self, facts: dict[str, Any]) -> None:
        """Mark the folder as complete. facts: JSON-able, with `frames` [first, last] and `kinds` that were written."""
        write_bytes(self._mark, (json.dumps(facts, indent=1) + "\n").encode())


def find_results(folder: Path) -> list[Results]:
    """All complete results in a folder and below it, sorted by path.

    Raises: UserError when there are none.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}; run test.py first")
    found = [Results(p.parent) for p in sorted(folder.rglob("complete.json"))]
    whole = [r for r in found if r.read() is not None]
    if not whole:
        raise UserError(f"{folder} holds no finished results; run test.py (again)")
    return whole
