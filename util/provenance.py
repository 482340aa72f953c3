"""What every video that we write says about itself in its metadata."""

from __future__ import annotations

from typing import TYPE_CHECKING

from util import VERSION

if TYPE_CHECKING:
    pass


# In the metadata of every video we write.
PROVENANCE = f"AI-generated: synthetic video made by Head2Head {VERSION}; it does not show a real recording"
