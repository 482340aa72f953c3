"""The note on synthetic content in the metadata of every video."""

from __future__ import annotations

from typing import TYPE_CHECKING

from util import VERSION

if TYPE_CHECKING:
    pass


# In the metadata of every video we write.
PROVENANCE = f"AI-generated: synthetic video made by Head2Head {VERSION}; it does not show a real recording"
