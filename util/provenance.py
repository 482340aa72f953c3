"""The note on synthetic content in the metadata of every video."""

from __future__ import annotations

from util import VERSION

# In the metadata of every video we write.
PROVENANCE = f"AI-generated: synthetic video made by Head2Head {VERSION}; it does not show a real recording"
