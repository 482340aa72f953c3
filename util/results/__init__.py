"""Results on disk: frames, videos and measures."""
