"""The synthesised head put back into the full original frames: the target's video with another motion of its head.

Memory does not grow with length: frames pass through one by one.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from util.ahead import map_ahead
from util.caches.persons import PersonMask
from util.cli import UserError, progress
from util.image_io import read_image
from util.paste_back.blender import Blender
from util.paste_back.plan import Plan, make_plan, original_frames
from util.results.folder import Results
from util.results.origin import provenance_of
from util.results.panels import find_dataset
from util.video.writing import VideoWriter


def write_paste_back(
    results: Results,
    datasets_dir: str | Path | None = None,
    audio: str = "source",
    person: PersonMask | None = None,
    path: Path | None = None,
) -> Path:
    """Write paste_back.mp4 beside finished results: the synthesised head in the target's original frames, with sound.

    datasets_dir: where the dataset lies, if not where test.py found it.
    audio: 'source', the sound of the video that drives (in self reenactment the target's own); 'target'; or 'none'.
    person: tells which pixels show a person, so that the mask takes no background around the hair.
    path: another name for the video.
    Returns: the video's path.
    Raises: UserError when the results are unfinished, the source video is missing or changed, or the dataset does not say where the
        crops come from.
    """
    facts = results.read()
    if facts is None:
        raise UserError(f"{results.folder} holds no finished results; run test.py (again)")
    plan = make_plan(facts, datasets_dir, audio)
    path = path or results.paste_back
    who = f"{facts['target']} driven by {facts['source'] or 'own held-out frames'}"
    sound, start_s = plan.sound or (None, 0.0)
    box, blender = plan.target.crop_box, None
    recordings = tuple(Path(plan.target.sources[part]["file"]) for part in plan.parts)
    origin = provenance_of(facts, find_dataset(facts, datasets_dir), composite=True, originals=recordings)
    with VideoWriter(path, plan.fps, audio_from=sound, audio_start_s=start_s, title=f"Head2Head: {who}", provenance=origin) as video:
        pictures = zip(original_frames(plan.target, plan.originals), _read_ahead(results, plan))
        for frame, (fake, nmfc, own) in progress(pictures, desc=path.name, total=len(plan.numbers)):
            if blender is None:
                blender = Blender(box, frame.shape[:2], float(plan.fps), plan.aligned, person)
            video.write(blender(frame, fake, nmfc, own))
    return path


def _read_ahead(results: Results, plan: Plan) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
    """Synthesised frame, its NMFC image, and that of the target's own head there (None when it is aligned), read on threads."""

    def read(i: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        own = read_image(plan.own_nmfcs[i]) if plan.own_nmfcs else None
        return read_image(results.path("fake", plan.numbers[i])), read_image(results.path("nmfc", plan.numbers[i])), own

    return map_ahead(read, range(len(plan.numbers)))
