"""Random expressions for training frames: what a driver's face may do and the person's never did in the video."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Expression shapes by ARKit's names (_L and _R move together); the share of the clips that they change in; and the lowest and highest
# weight that is added. Below zero a face that does it already does it less. Mouths are what drivers move most.
_CHANGES = (
    ("jawOpen", 0.75, -0.4, 0.8),
    ("mouthLowerDown", 0.35, -0.3, 0.6),
    ("mouthUpperUp", 0.35, -0.3, 0.5),
    ("mouthFunnel", 0.25, 0.0, 0.6),
    ("mouthPucker", 0.2, -0.3, 0.6),
    ("mouthSmile", 0.4, -0.5, 0.7),
    ("cheekSquint", 0.2, 0.0, 0.5),
    ("mouthStretch", 0.15, 0.0, 0.4),
    ("mouthFrown", 0.15, 0.0, 0.5),
    ("mouthPress", 0.15, 0.0, 0.4),
    ("mouthRollLower", 0.1, 0.0, 0.4),
    ("mouthShrugLower", 0.1, 0.0, 0.4),
    ("browInnerUp", 0.3, -0.3, 0.7),
    ("browOuterUp", 0.3, -0.3, 0.7),
    ("browDown", 0.3, -0.3, 0.7),
    ("eyeSquint", 0.2, -0.2, 0.4),
    ("eyeBlink", 0.25, -0.3, 0.9),
    ("noseSneer", 0.1, 0.0, 0.4),
)
_UNEVEN = 0.15  # part of the added weight by which left and right may differ, either way
_PERIOD = 10, 60  # frames in which an added weight comes and goes: from a syllable to a slow smile


def random_expressions(rng: np.random.Generator, names: Sequence[str], bounds: np.ndarray, expression: np.ndarray) -> np.ndarray:
    """Expressions with random changes that come and go smoothly.

    names: the face model's K expression shapes. bounds: [K, 2]. expression: [N, K] of consecutive frames. Returns: float64 [N, K].
    """
    place = {name: k for k, name in enumerate(names)}
    time, out = np.arange(len(expression)), expression.astype(np.float64)
    for shape, share, low, high in _CHANGES:
        amount, period, phase, chosen = rng.uniform(low, high), rng.uniform(*_PERIOD), rng.uniform(0, 2 * np.pi), rng.random() < share
        uneven = rng.uniform(-_UNEVEN, _UNEVEN)
        if not chosen:
            continue
        curve = amount * (0.5 - 0.5 * np.cos(phase + 2 * np.pi * time / period))
        for name, part in ((shape, 1.0), (f"{shape}_L", 1 + uneven), (f"{shape}_R", 1 - uneven)):
            if name in place:
                out[:, place[name]] += part * curve
    # what the fit itself found stays possible, also beyond the bounds
    low, high = np.minimum(bounds[:, 0], expression), np.maximum(bounds[:, 1], expression)
    return np.clip(out, low, high)
