"""Fitting a face model to landmarks: a whole video, one frame after the other, and by the skin."""
