"""Measures of results: synthesised frames compared with the real or the driving ones."""
