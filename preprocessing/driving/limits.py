"""Ease rather than tear: what goes beyond the target's own frames goes over softly into a limit, frame by frame, without looking ahead.

Networks learn heads and faces somewhat beyond what was filmed (data/augmentation); further out they tear. So turns, size and place
of the head are exactly the driver's up to a margin beyond the covered range, and never go further than a limit. Mouths and lids may
open and shut as far as the face model can; other expressions are compressed beyond the covered range (`soft_limit`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from preprocessing.driving.motion import from_angles, to_angles

FREE_DEG, MOST_DEG = 8.0, 20.0  # beyond the covered turns: that much is left alone; never further (training turns heads that far)
FREE_SIZE, MOST_SIZE = 0.05, 0.15  # likewise of the head's size, as parts of its mean (training scales heads by 0.05)
FREE_PLACE, MOST_PLACE = 2.0, 3.0  # from the mean place, in standard deviations of the target's: nearly all of its frames; all of them
LIMIT_MARGIN = 0.25  # scale of the compression of expressions, as a part of the range that the face model allows (0..1.2: 0.3)
FREE_EXPRESSION = 0.1  # beyond the covered range of an expression, as the same part: left alone, too little to be seen
OPEN_SHARE = 0.75  # of what the face model can do: up to there mouths and lids are left alone
FREE_LIPS_CM, MOST_LIPS_CM = 0.2, 0.6  # where the mouth is held: beyond the widest gap of the lips that was seen; not to be seen; a word's
# Shapes that open and shut mouth and lids. Training opens every mouth, so they are not held to what was filmed.
OPENING_SHAPES = ("jawOpen", "mouthClose", "mouthFunnel", "mouthPucker", "mouthLowerDown", "mouthUpperUp", "mouthRoll", "eyeBlink")


def ease(values: np.ndarray, low: np.ndarray | float, high: np.ndarray | float, room: np.ndarray | float) -> np.ndarray:
    """Values that stay as they are in [low, high] and never leave [low - room, high + room].

    Beyond a limit, a distance d becomes room * tanh(d / room): without a corner or a bend at the limit, and always rising.
    """
    room = np.maximum(room, 1e-9)
    above, below = np.maximum(values - high, 0), np.maximum(low - values, 0)
    return np.clip(values, low, high) + room * (np.tanh(above / room) - np.tanh(below / room))


def ease_turns(rotation: np.ndarray, covered_deg: np.ndarray) -> np.ndarray:
    """Head rotations [N, 3, 3] whose yaw, pitch and roll are eased; those inside stay the same to the bit.

    covered_deg: [3, 2], least and largest yaw, pitch and roll of the target.
    """
    angles = np.stack(to_angles(rotation), 1)
    eased = ease(angles, covered_deg[:, 0] - FREE_DEG, covered_deg[:, 1] + FREE_DEG, MOST_DEG - FREE_DEG)
    inside = (eased == angles).all(1)
    if inside.all():
        return rotation
    return np.where(inside[:, None, None], rotation, from_angles(*eased.T))


def ease_size(zoom: np.ndarray, covered: tuple[float, float]) -> np.ndarray:
    """Sizes [N] of a head, its mean taken as 1, eased. covered: least and largest of the target."""
    return ease(zoom, covered[0] - FREE_SIZE, covered[1] + FREE_SIZE, MOST_SIZE - FREE_SIZE)


def ease_place(shift: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Places [N, 2] of a head less their mean, eased. spread: [2], standard deviation of the target's; the same unit."""
    return ease(shift, -FREE_PLACE * spread, FREE_PLACE * spread, (MOST_PLACE - FREE_PLACE) * spread)


def ease_lips(gap: np.ndarray, widest: float) -> np.ndarray:
    """Gaps [N] between the lips, eased. widest: the target's, the same unit (cm); infinity: as they are."""
    return ease(gap, -np.inf, widest + FREE_LIPS_CM, MOST_LIPS_CM - FREE_LIPS_CM)


def soft_limit(values: np.ndarray, low: np.ndarray, high: np.ndarray, margin: np.ndarray) -> np.ndarray:
    """Compress what lies beyond [low, high] and leave the rest: [N, K] with [K] each.

    Beyond a limit, a distance d becomes margin * log(1 + d / margin): its slope is 1 at the limit and falls steadily, so that order
    and shape of a motion remain and nothing is cut off.
    """
    above, below = np.maximum(values - high, 0), np.maximum(low - values, 0)
    return np.clip(values, low, high) + margin * (np.log1p(above / margin) - np.log1p(below / margin))


def opening_shapes(names: Sequence[str]) -> np.ndarray:
    """Which expression shapes open and shut mouth and lids: bool [K]."""
    return np.array([name.startswith(OPENING_SHAPES) for name in names])


def limit_expression(expression: np.ndarray, covered: np.ndarray, bounds: np.ndarray, opening: np.ndarray) -> np.ndarray:
    """Expressions [N, K] kept softly to a covered range [2, K]; bounds [K, 2] are the face model's.

    opening: bool [K], shapes that are held to the face model's bounds alone (`opening_shapes`).
    """
    (low, high), (least, most) = covered, bounds.T
    free = FREE_EXPRESSION * (most - least)
    held = soft_limit(expression, low - free, high + free, LIMIT_MARGIN * (most - least))
    end = np.minimum(np.maximum(high + free, OPEN_SHARE * most), most)
    return np.clip(np.where(opening, ease(expression, least, end, most - end), held), least, most)
