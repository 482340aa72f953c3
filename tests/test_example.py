"""example.py: from a run's folder alone, copied elsewhere, and a video to a video."""

FRAMES = 40
