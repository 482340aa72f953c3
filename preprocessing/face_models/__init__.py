"""Morphable face models behind one interface, and the index sets of their landmarks."""
