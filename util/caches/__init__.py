"""Caches of values that are computed once per video, on disk and in memory."""
