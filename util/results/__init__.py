"""Results on disk: frames, videos, measures."""
