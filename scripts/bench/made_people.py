"""People who do not exist, as a prepared dataset: for scripts/bench/streaming.py, which needs more of them than anybody has videos of."""

from __future__ import annotations

import io
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, partial

import cv2
import numpy as np

from preprocessing.face_models.dense_points import DENSE_INDICES
from preprocessing.face_models.morphable import MorphableModel
from preprocessing.face_models.registry import load_face_model, model_version
from preprocessing.render import Renderer, create_renderer
from scripts.demo_clip.motion import make_motion
from util.caches.flow import STEPS, STEPS_PER_PIXEL, flow_key, write_flows
from util.caches.persons import MASK_SIDE, Persons, persons_key, write_persons
from util.cli import UserError, progress
from util.geometry import FRONTAL, Cameras, rotation_matrix
from util.image_io import write_bytes, write_image
from util.layout import Dataset, Record, write_camera, write_table
from util.workers import Died, map_on_workers

KIND = "mesh478"
PART = 50  # frames of a sequence, as detect.py cuts them
DRAWN = 25  # people that are drawn; more are copies of their files under other names, since drawing takes twenty times as long
GRAIN = 0.4  # grey levels, standard deviation of a camera's noise: files become as large as real crops' (75 kB at 256 pixels)
FACE_WIDTH = 0.45  # of the image's side, as detect.py crops
FLOW_NOISE_PX = 0.04  # of the flow, on a coarse grid: compressed it is then as large as that of real video (45 kB a frame at 256 pixels)
STEPS_DONE = ("detect", "landmarks70", "reconstruct")


@dataclass(frozen=True)
class Person:
    """What one made person is drawn from."""

    number: int
    frames: int
    size: int  # side of the frames, pixels
    flow: bool  # with cached optical flow


def name_of(number: int) -> str:
    return f"made{number:05d}"


def make_people(dataset: Dataset, count: int, frames: int, size: int, *, flow: bool, workers: int) -> list[str]:
    """Write the first `count` made people, but those that are there; returns their names.

    Each has images, NMFC images, landmarks, cameras, coefficients, a record, mattes and (with `flow`) optical flow, all with valid keys.
    Raises: UserError when a worker dies.
    """
    drawn, copied = range(min(count, DRAWN)), range(min(count, DRAWN), count)
    for numbers, work in ((drawn, make_person), (copied, copy_person)):
        missing = [Person(i, frames, size, flow) for i in numbers if dataset.read_record(name_of(i)) is None]
        own = partial(work, dataset)
        made = map_on_workers(own, missing, workers) if workers > 1 and len(missing) > 1 else ((p, own(p)) for p in missing)
        for person, result in progress(made, desc="making people", total=len(missing), unit="person") if missing else ():
            if isinstance(result, Died):
                raise UserError(f"{name_of(person.number)} could not be made: {result.reason}")
    return [name_of(i) for i in range(count)]


def copy_person(dataset: Dataset, person: Person) -> None:
    """Write one person as a copy of one of those that are drawn. Keys of caches say what was in the frames, so the copies' are valid."""
    original, name = name_of(person.number % DRAWN), name_of(person.number)
    for part, source in enumerate(dataset.sequences("train", original)):
        target = dataset.train_sequence(name, part)
        for kind in ("images", "nmfcs", "landmarks70", "exp_coeffs", "misc"):
            shutil.copytree(source.folder(kind), target.folder(kind), copy_function=shutil.copyfile, dirs_exist_ok=True)
        pairs = [(s.dense_landmarks_path, s.flow_path("dis", person.size)) for s in (source, target)]
        for old, new in zip(*pairs):
            if old.is_file():
                shutil.copyfile(old, new)
    for path in (partial(dataset.id_coeffs_path, "train"), dataset.persons_path):
        shutil.copyfile(path(original), path(name))
    dataset.write_record(_record(name, person))


def make_person(dataset: Dataset, person: Person) -> None:
    """Write one person; the record comes last, so that an interrupted one is made again."""
    cv2.setNumThreads(1)
    model, renderer = _tools(person.size)
    name, size, count = name_of(person.number), person.size, person.frames
    rng = np.random.default_rng(person.number)
    identity = rng.standard_normal(len(model.identity_basis))
    expression, cameras = _moving(model, person, rng)
    points = model.landmarks(identity, expression) @ (cameras.scale[:, None, None] * cameras.rotation).swapaxes(1, 2)
    points = points + cameras.translation[:, None]
    parts = [(dataset.train_sequence(name, i), range(a, min(a + PART, count))) for i, a in enumerate(range(0, count, PART))]
    sequence_of = {n: s for s, numbers in parts for n in numbers}
    look = _Look.of(rng, size)
    masks = []
    for n, vertices in enumerate(model.in_images(identity, expression, cameras)):
        image, mask = look.draw(rng, _move_of(cameras, n))
        sequence = sequence_of[n]
        write_image(sequence.path("images", n), image)
        write_image(sequence.path("nmfcs", n), renderer.draw(vertices))
        write_table(sequence.path("landmarks70", n), points[n][DENSE_INDICES, :2])
        write_table(sequence.path("exp_coeffs", n), expression[n][:, None])
        write_camera(sequence.path("misc", n), cameras.scale[n], cameras.rotation[n], cameras.translation[n])
        masks.append(mask)
    write_table(dataset.id_coeffs_path("train", name), identity[:, None])
    for sequence, numbers in parts:
        write_bytes(sequence.dense_landmarks_path, _npy(points[numbers.start : numbers.stop].astype(np.float32)))
        if person.flow:
            flows = _flows(rng, cameras, masks, numbers, size)
            write_flows(sequence, "dis", size, flow_key(sequence, "dis", size), flows)
    record = _record(name, person)
    background = np.dstack([look.background.astype(np.uint8), np.where(masks[0] > 0.5, 0, 255).astype(np.uint8)])
    small = [cv2.resize(np.uint8(255 * m), (MASK_SIDE, MASK_SIDE), interpolation=cv2.INTER_AREA) for m in masks]
    write_persons(dataset, name, persons_key(dataset, name, record), Persons(np.stack(small), background))
    dataset.write_record(record)


@cache
def _tools(size: int) -> tuple[MorphableModel, Renderer]:
    model = load_face_model(KIND)
    return model, create_renderer("cpu", model.triangles, model.nmfc_colours(), (size, size))


def _record(name: str, person: Person) -> Record:
    source = {"file": f"{name}.mp4", "sha256": f"{person.number:064x}", "frames": person.frames, "width": 512, "height": 512}
    return Record(
        name,
        Fraction(30),
        sources=[source],
        crop_box=[0, 0, 512, 512],
        crop_size=person.size,
        splits={"train": person.frames, "test": 0},
        source_start={"train": 0},
        face_model={"name": KIND, "version": model_version(KIND)},
        steps=dict.fromkeys(STEPS_DONE, {"made": 1}),
    )


def _moving(model: MorphableModel, person: Person, rng: np.random.Generator) -> tuple[np.ndarray, Cameras]:
    """Expressions [N, K] and cameras of someone who talks."""
    motion = make_motion(person.frames, seed=person.number)
    expression = np.zeros((person.frames, len(model.expression_names)))
    for name, curve in motion.expression.items():
        if name in model.expression_names:
            expression[:, model.expression_names.index(name)] = curve
    width = np.ptp(model.mean[:, 0])
    scale = FACE_WIDTH * person.size / width * motion.scale * rng.uniform(0.9, 1.1)
    turn = rotation_matrix(np.radians(motion.rotation_deg) * [1, 1, 1]) @ FRONTAL
    middle = person.size * rng.uniform(0.47, 0.53, 2)
    shift = middle + motion.translation * (person.size / 100)
    centre = np.einsum("n,nij,j->ni", scale, turn, model.mean.mean(0))
    return expression, Cameras(scale, turn, np.column_stack([shift - centre[:, :2], np.zeros(person.frames)]))


def _move_of(cameras: Cameras, n: int) -> np.ndarray:
    """How the person of frame n lies against frame 0, in the picture: float64 [2, 3]."""
    first, own = cameras.scale[0] * cameras.rotation[0, :2, :2], cameras.scale[n] * cameras.rotation[n, :2, :2]
    linear = own @ np.linalg.inv(first)
    return np.column_stack([linear, cameras.translation[n, :2] - linear @ cameras.translation[0, :2]])


@dataclass(frozen=True)
class _Look:
    """A person before a background, both of smooth noise; float32 [H, W, 3] in grey levels."""

    background: np.ndarray
    skin: np.ndarray
    mask: np.ndarray  # float32 [H, W], of frame 0
    grain: np.ndarray  # float32, larger than the picture, so that every frame cuts another piece

    @classmethod
    def of(cls, rng: np.random.Generator, size: int) -> _Look:
        y, x = np.mgrid[:size, :size] / size
        head = ((x - 0.5) / 0.3) ** 2 + ((y - 0.47) / 0.38) ** 2
        body = ((x - 0.5) / 0.48) ** 2 + ((y - 1.05) / 0.3) ** 2
        mask = np.clip((1 - np.minimum(head, body)) * 20 + 0.5, 0, 1).astype(np.float32)
        grain = GRAIN * rng.standard_normal((2 * size, 2 * size, 3)).astype(np.float32)
        return cls(_smooth_noise(rng, size), _smooth_noise(rng, size), mask, grain)

    def draw(self, rng: np.random.Generator, move: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A frame, uint8 [H, W, 3], and its mask, float32 [H, W]."""
        size = self.mask.shape[0]
        skin = cv2.warpAffine(self.skin, move, (size, size), borderMode=cv2.BORDER_REFLECT)
        mask = cv2.warpAffine(self.mask, move, (size, size), borderMode=cv2.BORDER_REPLICATE)
        a, b = rng.integers(0, size, 2)
        image = self.background + mask[..., None] * (skin - self.background) + self.grain[a : a + size, b : b + size]
        return np.clip(image, 0, 255).astype(np.uint8), mask


def _smooth_noise(rng: np.random.Generator, size: int) -> np.ndarray:
    """Noise of all coarseness, as pictures have: grey levels, float32 [size, size, 3]."""
    image = np.full((size, size, 3), rng.uniform(80, 170, 3), np.float32)
    for cells, strength in ((4, 40), (16, 14), (64, 3)):
        noise = strength * rng.standard_normal((cells, cells, 1)) + 0.3 * strength * rng.standard_normal((cells, cells, 3))
        image += cv2.resize(noise.astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 5, 250)


def _flows(rng: np.random.Generator, cameras: Cameras, masks: Sequence[np.ndarray], numbers: range, size: int) -> dict[int, np.ndarray]:
    """Flow as util.caches.flow holds it, of the person's motion, with the small errors that every method makes."""
    half = size // 2
    grid = np.stack(np.meshgrid(*[2 * np.arange(half) + 1.0] * 2)).reshape(2, -1).astype(np.float32)  # x, y of the cells' middles
    noise = [FLOW_NOISE_PX * rng.standard_normal((half // 2, half // 2)).astype(np.float32) for _ in range(8)]
    noise = [cv2.resize(n, (half, half), interpolation=cv2.INTER_CUBIC) for n in noise]
    flows, moves = {}, {n: _move_of(cameras, n) for n in numbers}
    for step in STEPS:
        flows[step] = np.zeros((max(len(numbers) - step, 0), 2, half, half), np.float16)
        for i, entry in enumerate(flows[step]):
            n = numbers.start + i
            earlier, later = moves[n], moves[n + step]
            linear = earlier[:, :2] @ np.linalg.inv(later[:, :2])  # from the later place of a point to the earlier one
            away = (linear - np.eye(2)) @ grid + (earlier[:, 2:] - linear @ later[:, 2:])
            mask = cv2.resize(masks[n + step], (half, half))
            for axis in (0, 1):
                exact = mask * away[axis].reshape(half, half) + noise[rng.integers(len(noise))]
                entry[axis] = np.round(exact * STEPS_PER_PIXEL) / STEPS_PER_PIXEL
    return flows


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()
