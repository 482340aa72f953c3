"""The folder of what this program keeps for a user between runs: compiled libraries, the certificate that signs videos."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def user_cache() -> Path:
    """$HEAD2HEAD_CACHE, else head2head/ in the user's cache folder; not made here."""
    if given := os.environ.get("HEAD2HEAD_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "head2head"
