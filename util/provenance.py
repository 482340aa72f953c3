"""What a result is and where it comes from: the note in the metadata of every video, and what its credentials say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from util import VERSION

# In the metadata of every video we write.
PROVENANCE = f"AI-generated: synthetic video made by Head2Head {VERSION}; it does not show a real recording"
NOT_STATED = "not stated"  # consent that nobody has told of


@dataclass(frozen=True)
class Provenance:
    """What the credentials of a result say beside the tool and the time (util.credentials). What is not known is left out of them.

    All are the user's own words and names, never paths.
    """

    target: str = ""  # the person whose head is shown
    driver: str = ""  # who or what moves it; with driver_kind "own frames", nobody else
    # "own frames", "identity" (another person's video), "arkit" or "template" (files of motion), "camera", "sliders"
    driver_kind: str = ""
    run: str = ""  # name of the trained run
    epoch: str = ""  # of its checkpoint, "latest" or a number
    checkpoint: str = ""  # SHA-256 of the generator's weights
    consent: str = NOT_STATED  # of the target
    driver_consent: str = ""  # of another person who drives
    composite: bool = False  # real pictures are in it as well: pasted back, or side by side
    originals: tuple[Path, ...] = ()  # recordings that it is made of, with what they say of themselves; only their content is used


def consent_in_run(options: Mapping[str, Any], name: str) -> str:
    """What a run's options (opt.txt) say of a person's consent; '' for runs of earlier versions."""
    known = options.get("consent")
    return str(known.get(name, "")) if isinstance(known, Mapping) else ""
