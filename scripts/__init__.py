"""Commands beside the main ones; a package so that they can share modules."""
