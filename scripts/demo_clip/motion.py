"""How the person of the built-in demo clip moves: head, speech, blinks, gaze and brows as curves over time, and a voice to match.

Everything follows from a seed. Times are in seconds, angles in degrees, expression weights are those of the face models
(names of ARKit, 0 is relaxed, 1 is full).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import PchipInterpolator
from scipy.ndimage import gaussian_filter1d

from util.numeric import smoothstep

# What the lips do in the middle of a vowel; the jaw's weight is its mean, stress varies it.
VOWELS = {
    "a": {"jawOpen": 0.54, "mouthLowerDown": 0.25, "mouthUpperUp": 0.06},
    "e": {"jawOpen": 0.36, "mouthStretch": 0.22, "mouthSmile": 0.15, "mouthLowerDown": 0.22, "mouthUpperUp": 0.06},
    "i": {"jawOpen": 0.19, "mouthStretch": 0.25, "mouthSmile": 0.30, "mouthLowerDown": 0.20, "mouthUpperUp": 0.06},
    "o": {"jawOpen": 0.40, "mouthFunnel": 0.22, "mouthPucker": 0.40},
    "u": {"jawOpen": 0.20, "mouthFunnel": 0.10, "mouthPucker": 0.75},
    "schwa": {"jawOpen": 0.28, "mouthLowerDown": 0.18, "mouthUpperUp": 0.04},
}
# What they do before it: lips shut (b, m, p), lower lip to the teeth (f, v), tongue sounds (d, n, s, ...).
CONSONANTS = {
    "labial": {"jawOpen": 0.02, "mouthPress": 0.20},
    "labiodental": {"jawOpen": 0.05, "mouthRollLower": 0.32, "mouthUpperUp": 0.10},
    "lingual": {"jawOpen": 0.11, "mouthLowerDown": 0.10},
}
_FORMANTS_HZ = {"a": (850, 1400), "e": (530, 2100), "i": (310, 2700), "o": (500, 950), "u": (330, 850), "schwa": (560, 1650)}
GAZE_STAYS = 0.6  # share of a turn of the head that the eyes make good; the rest of the look goes along
_SIDED = ("mouthLowerDown", "mouthUpperUp", "mouthStretch", "mouthSmile", "mouthPress")  # have a _L and a _R


@dataclass(frozen=True)
class Motion:
    """Curves of N frames.

    rotation_deg: [N, 3] pitch (chin up +), yaw (face to the picture's right +), roll (clockwise +), relative to the portrait.
    translation: [N, 2] of the head, in percent of the picture's width, x right, y down. scale: [N].
    expression: name -> [N], weights of the face model; blinks are `eyeBlink_R`, `eyeBlink_L`.
    gaze_deg: [N, 2] of the eyes in the head: yaw (picture's right +), pitch (up +).
    sway: [N, 2] of the torso, camera: [N, 2] of the whole picture, both in percent of the picture's width.
    syllables: (start_s, end_s, vowel, consonant, stress) of every syllable spoken.
    """

    fps: int
    rotation_deg: np.ndarray
    translation: np.ndarray
    scale: np.ndarray
    expression: dict[str, np.ndarray]
    gaze_deg: np.ndarray
    sway: np.ndarray
    camera: np.ndarray
    syllables: list[tuple[float, float, str, str, float]]

    def __len__(self) -> int:
        return len(self.rotation_deg)


def make_motion(frames: int, fps: int = 30, seed: int = 0) -> Motion:
    """A person who talks in phrases, looks about, nods and blinks. Starts and ends with a closed mouth."""
    rng = np.random.default_rng(seed)
    times = np.arange(frames) / fps
    duration_s = frames / fps
    syllables = _phrases(rng, duration_s)
    expression = _speech(rng, times, syllables)

    # Nods with the stressed syllables ride on the slow moves of the head.
    stress = np.zeros(frames)
    for start, end, _, _, strength in syllables:
        stress += max(strength - 0.9, 0) * np.exp(-0.5 * ((times - (start + end) / 2 - 0.05) / 0.09) ** 2)
    pitch = _moves(rng, times, 6.5) - 4.0 * stress
    rotation = np.stack([pitch, _moves(rng, times, 13.0), _moves(rng, times, 4.3)], 1)
    rotation += _tremor(rng, times, 3, 0.25)
    rotation = np.clip(rotation, [-8, -14, -5], [8, 14, 5])

    gaze, shifts = _gaze(rng, times, rotation)
    blink = _blinks(rng, times, shifts)
    expression |= {"eyeBlink_R": blink, "eyeBlink_L": blink}
    up, down = np.maximum(gaze[:, 1], 0) / 25, np.maximum(-gaze[:, 1], 0) / 25
    right, left = np.maximum(gaze[:, 0], 0) / 30, np.maximum(-gaze[:, 0], 0) / 30
    brow = np.clip(_moves(rng, times, 0.35) + 0.45 * gaussian_filter1d(stress, 2), 0, 0.8)
    for side in "RL":
        expression |= {f"eyeLookUp_{side}": up, f"eyeLookDown_{side}": down, f"browInnerUp_{side}": brow, f"browOuterUp_{side}": 0.6 * brow}
    # The subject's left is the picture's right.
    expression |= {"eyeLookOut_L": right, "eyeLookIn_R": right, "eyeLookOut_R": left, "eyeLookIn_L": left}
    return Motion(
        fps=fps,
        rotation_deg=rotation,
        translation=np.stack([_moves(rng, times, 1.2), _moves(rng, times, 0.7)], 1) + _tremor(rng, times, 2, 0.06),
        scale=1 + _moves(rng, times, 0.02),
        expression=expression,
        gaze_deg=gaze,
        sway=np.stack([_moves(rng, times, 0.7), _moves(rng, times, 0.3)], 1) + _tremor(rng, times, 2, 0.05),
        camera=_tremor(rng, times, 2, 0.10),
        syllables=syllables,
    )


def _moves(rng: np.random.Generator, times: np.ndarray, size: float) -> np.ndarray:
    """A curve [N] that rests, moves on smoothly and rests again, as heads do; reaches about +-size, starts at 0."""
    keys, values = [0.0, 0.3], [0.0, 0.0]
    while keys[-1] < times[-1] + 1:
        target = size * rng.uniform(0.35, 1) * (-1 if values[-1] > 0 else 1) if rng.random() < 0.7 else size * rng.uniform(-1, 1)
        move_s = rng.uniform(0.5, 1.0)
        rest_s = rng.uniform(0.2, 0.9)
        keys += [keys[-1] + move_s, keys[-1] + move_s + rest_s]
        values += [target, target + 0.15 * size * rng.normal()]
    curve = np.interp(np.arange(0, keys[-1], 0.01), keys, values)
    curve = gaussian_filter1d(curve, 12, mode="nearest")  # 0.12 s: as fast as a head turns without haste
    return np.clip(np.interp(times, np.arange(len(curve)) * 0.01, curve - curve[0]), -size, size)


def _tremor(rng: np.random.Generator, times: np.ndarray, channels: int, size: float) -> np.ndarray:
    """Small unrest [N, channels] of standard deviation `size` that no living head is without, starting at 0."""
    step_s = 0.05
    noise = gaussian_filter1d(rng.normal(size=(int(times[-1] / step_s) + 40, channels)), 6, axis=0)
    noise *= size / noise.std(0)
    curve = PchipInterpolator(np.arange(len(noise)) * step_s, noise)(times)
    return curve - curve[0]


def _phrases(rng: np.random.Generator, duration_s: float) -> list[tuple[float, float, str, str, float]]:
    """Syllables of 0.16 to 0.30 s in phrases with pauses between them."""
    vowels, consonants = list(VOWELS), list(CONSONANTS)
    syllables = []
    now = 0.4
    while True:
        count = int(rng.integers(5, 12))
        phrase = []
        for i in range(count):
            last = i == count - 1
            length_s = rng.uniform(0.17, 0.25) * (1.3 if last else 1)
            vowel = str(rng.choice(vowels, p=[0.24, 0.18, 0.16, 0.15, 0.11, 0.16]))
            consonant = str(rng.choice(consonants, p=[0.28, 0.12, 0.60]))
            stress = rng.uniform(1.0, 1.25) if rng.random() < 0.4 else rng.uniform(0.6, 0.9)
            phrase.append((now, now + length_s, vowel, consonant, stress))
            now += length_s
        phrase = [s for s in phrase if s[1] < duration_s - 0.35]
        syllables += phrase
        if len(phrase) < count:
            return syllables
        now += rng.uniform(0.35, 0.9)


def _speech(rng: np.random.Generator, times: np.ndarray, syllables: list[tuple[float, float, str, str, float]]) -> dict[str, np.ndarray]:
    """Mouth and jaw weights, name -> [N], through the key postures of all syllables."""
    names = sorted({n for posture in [*VOWELS.values(), *CONSONANTS.values()] for n in posture})
    keys: list[tuple[float, dict[str, float]]] = [(-1.0, {}), (syllables[0][0] - 0.12, {}) if syllables else (0.0, {})]
    smiles = [(-1.0, 0.25)]
    for i, (start, end, vowel, consonant, stress) in enumerate(syllables):
        keys.append((start + 0.02, CONSONANTS[consonant]))
        middle = start + 0.58 * (end - start)
        posture = {n: w * (stress if n == "jawOpen" else 0.5 + 0.5 * stress) * rng.uniform(0.9, 1.1) for n, w in VOWELS[vowel].items()}
        keys.append((middle, posture))
        if i + 1 == len(syllables) or syllables[i + 1][0] > end + 0.1:  # the phrase ends
            keys.append((end + 0.10, {}))
            if i + 1 < len(syllables):
                keys.append((syllables[i + 1][0] - 0.10, {"jawOpen": 0.06}))  # breathes in
            pause_s = (syllables[i + 1][0] if i + 1 < len(syllables) else times[-1] + 1) - end
            smiles += [(end - 0.2, 0.12), (end + 0.25, 0.25 + rng.uniform(0.1, 0.5) * min(pause_s, 0.8)), (end + pause_s, 0.12)]
    keys.append((max(keys[-1][0], times[-1]) + 1.0, {}))
    at = np.array([k for k, _ in keys])
    smiles.append((max(smiles[-1][0], times[-1]) + 1.0, 0.25))
    smile_at, smile = np.array(smiles).T
    slow_smile = gaussian_filter1d(np.interp(times, smile_at, smile), 3)
    curves = {n: np.clip(PchipInterpolator(at, [p.get(n, 0.0) for _, p in keys])(times), 0, 1) for n in names}
    curves["mouthSmile"] = np.clip(curves["mouthSmile"] + slow_smile, 0, 1)
    for name in _SIDED:
        curve = curves.pop(name)
        lean = 0.08 * rng.uniform(-1, 1)  # nobody's mouth is quite even
        curves |= {f"{name}_L": np.clip(curve * (1 + lean), 0, 1), f"{name}_R": np.clip(curve * (1 - lean), 0, 1)}
    return curves


def _gaze(rng: np.random.Generator, times: np.ndarray, rotation_deg: np.ndarray) -> tuple[np.ndarray, list[float]]:
    """Eyes in the head [N, 2] and the times of their shifts: fixations, joined by saccades, of points that stand still in the room.

    As the points (nearly) stand still, the eyes turn against the head.
    """
    target = np.zeros_like(rotation_deg[:, :2])
    shifts = []
    now, here = 0.0, np.zeros(2)
    while now < times[-1]:
        fixation_s = rng.uniform(0.5, 1.8)
        # most of the time into the camera, in small hops; else past it
        there = rng.normal(0, 1.0, 2) if rng.random() < 0.6 else rng.uniform([-10, -4], [10, 4])
        saccade_s = 0.02 + 0.0025 * np.linalg.norm(there - here)  # the main sequence of saccades (Bahill 1975)
        share = np.clip((times - now) / saccade_s, 0, 1)[:, None]
        target += (there - here) * share * share * (3 - 2 * share)
        if np.linalg.norm(there - here) > 6:
            shifts.append(now)
        here = there
        now += fixation_s
    eyes = target - GAZE_STAYS * rotation_deg[:, [1, 0]]
    return np.clip(eyes, [-20, -9], [20, 9]), shifts


def _blinks(rng: np.random.Generator, times: np.ndarray, shifts: list[float]) -> np.ndarray:
    """Closing of the lids [N], 0 open to 1 shut: 190 to 250 ms each, every 1.6 to 3 s, often with a shift of gaze, sometimes double."""
    curve = np.zeros(len(times))
    now = rng.uniform(0.6, 1.4)
    while now < times[-1]:
        near = [s for s in shifts if abs(s - now) < 0.5]
        start = near[0] if near else now
        for _ in range(2 if rng.random() < 0.25 else 1):
            # A lid falls in a third of the time that it takes to rise again.
            fall_s, shut_s, rise_s = rng.uniform(0.05, 0.06), rng.uniform(0.05, 0.07), rng.uniform(0.09, 0.12)
            knots = np.cumsum([start, fall_s, shut_s, rise_s])
            lid = np.interp(times, knots, [0, 1, 1, 0], left=0, right=0)
            curve = np.maximum(curve, smoothstep(lid))
            start = knots[-1] + rng.uniform(0.08, 0.15)
        now += rng.uniform(1.6, 3.0)
    return curve


def make_voice(motion: Motion, rate: int = 24000, seed: int = 0) -> np.ndarray:
    """A babbling voice in time with the mouth, float32 [samples] in -1..1: a glottal pulse train through two formants a vowel.

    Source-filter synthesis (Fant 1960), with a breath of noise for the consonants.
    """
    from scipy.signal import lfilter

    rng = np.random.default_rng(seed)
    samples = int(len(motion) / motion.fps * rate)
    times = np.arange(samples) / rate
    voiced, hiss, pitch_hz = np.zeros(samples), np.zeros(samples), np.full(samples, 200.0)
    formants = np.array([_FORMANTS_HZ["schwa"]] * samples, float)
    for start, end, vowel, consonant, stress in motion.syllables:
        length_s = end - start
        i, j = (int(t * rate) for t in (start, min(end, times[-1])))
        phase = np.linspace(0, 1, j - i)
        voiced[i:j] = np.clip(np.minimum((phase - 0.15) / 0.25, (1 - phase) / 0.2), 0, 1) * (0.5 + 0.5 * stress)
        formants[i:j] = _FORMANTS_HZ[vowel]
        pitch_hz[i:j] = 195 + 35 * (stress - 0.8) - 12 * phase
        if consonant != "labial":
            hiss[i : i + int(0.25 * length_s * rate)] = 0.06
    smooth_samples = 0.02 * rate
    pitch_hz = gaussian_filter1d(pitch_hz, smooth_samples)
    formants = gaussian_filter1d(formants, smooth_samples, axis=0)
    cycle = np.cumsum(pitch_hz / rate) % 1
    source = np.where(cycle < 0.6, np.sin(np.pi * cycle / 0.6) ** 2, 0)  # opening and closing of the glottis
    source = np.diff(source, prepend=0) * gaussian_filter1d(voiced, 0.004 * rate)
    sound = np.zeros(samples)
    block = rate // 100
    states = [np.zeros(2), np.zeros(2)]
    for i in range(0, samples, block):  # resonators, retuned every 10 ms
        piece = source[i : i + block]
        for n, bandwidth_hz in enumerate((90, 120)):
            radius = np.exp(-np.pi * bandwidth_hz / rate)
            b = [1 - radius]
            a = [1, -2 * radius * np.cos(2 * np.pi * formants[i, n] / rate), radius**2]
            out, states[n] = lfilter(b, a, piece, zi=states[n])
            sound[i : i + block] += out * (1.0, 0.6)[n]
    noise = np.diff(rng.normal(size=samples), prepend=0) * gaussian_filter1d(hiss, 0.008 * rate)
    sound = 0.5 * sound / max(np.abs(sound).max(), 1e-9) + 0.3 * noise
    return np.clip(sound, -1, 1).astype(np.float32)
