"""A small prepared dataset of a moving drawn face, for tests that need files but no real person."""

import shutil
from dataclasses import replace
from fractions import Fraction

import cv2
import numpy as np

from util.image_io import write_image
from util.layout import Dataset, Record, write_camera, write_table

FACE_MODEL = {"name": "mesh478", "version": "1"}
STEPS = {"detect": {}, "landmarks70": {}, "reconstruct": {}}


def face_landmarks(size, shift=(0.0, 0.0), mouth=0.02, lids=0.03):
    """70 landmarks in the usual places of a face that fills the image; float64 [70, 2] pixels."""
    angle = np.linspace(np.pi, 0, 17)
    points = np.zeros((70, 2))
    points[:17] = np.stack([0.5 + 0.3 * np.cos(angle), 0.45 + 0.4 * np.sin(angle)], 1)
    points[17:27] = np.stack([np.r_[np.linspace(0.28, 0.45, 5), np.linspace(0.55, 0.72, 5)], np.full(10, 0.33)], 1)
    points[27:36] = np.stack([np.r_[np.full(4, 0.5), np.linspace(0.44, 0.56, 5)], np.r_[np.linspace(0.4, 0.52, 4), np.full(5, 0.56)]], 1)
    for first, pupil, x in ((36, 68, 0.37), (42, 69, 0.63)):
        dx = np.array([-0.06, -0.02, 0.02, 0.06, 0.02, -0.02])
        dy = np.array([0, -1, -1, 0, 1, 1]) * lids / 2
        points[first : first + 6] = np.stack([x + dx, 0.42 + dy], 1)
        points[pupil] = [x, 0.42]
    turn = np.arange(12) * 2 * np.pi / 12 + np.pi
    points[48:60] = np.stack([0.5 + 0.1 * np.cos(turn), 0.7 + (0.03 + mouth / 2) * np.sin(turn)], 1)
    turn = np.arange(8) * 2 * np.pi / 8 + np.pi
    points[60:68] = np.stack([0.5 + 0.07 * np.cos(turn), 0.7 + mouth / 2 * np.sin(turn)], 1)
    return points * size + np.asarray(shift)


def draw_frame(landmarks, size):
    """A picture and an NMFC image for landmarks in pixels; each uint8 [size, size, 3]."""
    image = np.full((size, size, 3), (70, 110, 160), np.uint8)
    nmfc = np.zeros((size, size, 3), np.uint8)
    hull = np.rint(landmarks[:27]).astype(np.int32)
    cv2.fillConvexPoly(image, cv2.convexHull(hull), (220, 180, 150))
    face = np.zeros((size, size), np.uint8)
    cv2.fillConvexPoly(face, cv2.convexHull(hull), 1)
    y, x = np.mgrid[:size, :size]
    middle = landmarks[30]
    nmfc[..., 0] = np.clip(128 + (x - middle[0]) * 256 / size, 1, 255)
    nmfc[..., 1] = np.clip(128 - (y - middle[1]) * 256 / size, 1, 255)
    nmfc[..., 2] = 200
    nmfc *= face[..., None]
    cv2.fillPoly(image, [np.rint(landmarks[48:60]).astype(np.int32)], (150, 40, 50))
    for pupil in np.rint(landmarks[68:70]).astype(int).tolist():
        cv2.circle(image, pupil, max(1, size // 32), (40, 30, 20), cv2.FILLED)
    return image, nmfc


def make_dataset(root, name="Ann", parts=2, part_length=8, test_frames=6, size=64, fps=Fraction(30000, 1001), record=True, dataset="fake"):
    """Write datasets/<dataset> with one more identity: train parts, and test frames that go on from them."""
    data = Dataset.open(dataset, root)
    plan = [(data.train_sequence(name, i), i * part_length, part_length) for i in range(parts)]
    if test_frames:
        plan.append((data.sequence("test", name), parts * part_length, test_frames))
    for sequence, first, count in plan:
        for frame in range(first, first + count):
            landmarks = moving_landmarks(frame, size)
            image, nmfc = draw_frame(landmarks, size)
            write_image(sequence.path("images", frame), image)
            write_image(sequence.path("nmfcs", frame), nmfc)
            write_table(sequence.path("landmarks70", frame), landmarks)
    if record:
        splits = {"train": parts * part_length, "test": test_frames}
        data.write_record(Record(name, fps, splits=splits, face_model=FACE_MODEL, crop_size=size, steps=STEPS))
    return data


def fit_of(frames):
    """Identity [K_id], expression [N, K] and cameras of mesh478 for a head that turns and speaks, as files of 6 or 8 digits keep them."""
    from preprocessing.face_models import mesh478
    from util.geometry import FRONTAL, Cameras, rotation_matrix

    model, time = mesh478.load(), np.asarray(frames, float)
    expression = np.zeros((len(time), len(model.expression_names)))
    expression[:, model.expression_names.index("jawOpen")] = 0.15 + 0.15 * np.sin(time)
    identity = np.random.default_rng(0).normal(0, 0.5, len(model.identity_basis))
    turns = np.stack([0.1 * np.cos(time / 5), 0.2 * np.sin(time / 4), 0 * time], 1)
    rotation = (FRONTAL @ rotation_matrix(turns)).round(8)
    middle = (model.mean.min(0) + model.mean.max(0)) / 2
    shift = np.array([0.5, 0.5, 0]) - 0.04 * (rotation @ middle) * [1, 1, 0]  # of a picture of side 1
    return model, identity.round(6), expression.round(6), Cameras(np.full(len(time), 0.04), rotation, shift)


def make_fitted(root, name="Ann", parts=2, part_length=8, size=64, **changes):
    """make_dataset with what the face model mesh478 found in training frames, and its NMFC images; pictures are smooth in their colours.

    Every NMFC image is the one of the files' coefficients, and every picture is `texture` of it before grey.
    """
    from preprocessing.driving.landmarks import mesh_landmarks
    from preprocessing.render.cpu import CpuRenderer
    from util.geometry import Cameras

    data = make_dataset(root, name, parts, part_length, size=size, **changes)
    model, identity, expression, cameras = fit_of(range(parts * part_length))
    cameras = Cameras(size * cameras.scale, cameras.rotation, (size * cameras.translation).round(6))
    renderer = CpuRenderer(model.triangles, model.nmfc_colours(), (size, size))
    vertices, landmarks = model.in_image(identity, expression, cameras), mesh_landmarks(model, identity, expression, cameras)
    write_table(data.id_coeffs_path("train", name), identity[:, None])
    for frame in range(parts * part_length):
        sequence, nmfc = data.train_sequence(name, frame // part_length), renderer.draw(vertices[frame])
        write_image(sequence.path("nmfcs", frame), nmfc)
        write_image(sequence.path("images", frame), np.where(nmfc.any(-1, keepdims=True), texture(nmfc / 255), np.uint8(90)))
        write_table(sequence.path("landmarks70", frame), landmarks[frame])
        write_table(sequence.path("exp_coeffs", frame), expression[frame][:, None])
        write_camera(sequence.path("misc", frame), cameras.scale[frame], cameras.rotation[frame], cameras.translation[frame])
    record = data.read_record(name)
    data.write_record(replace(record, face_model={"name": model.name, "version": model.version}))
    return data


def texture(places):
    """A smooth skin: uint8 RGB [..., 3] of places on the mean face, 0..1."""
    return np.rint(128 + 80 * np.sin(np.array([7.0, 6, 5]) * places + np.array([0, 1, 2]))).astype(np.uint8)


def make_original(root, names=("Ann", "Bob"), dataset="fake", **changes):
    """Write persons with everything that the original system wrote, and no record: images, NMFCs, landmarks, cameras, coefficients of
    LSFM's number; and the second one driving the first. changes: of make_dataset."""
    rng = np.random.default_rng(0)
    for name in names:
        data = make_dataset(root, name, record=False, dataset=dataset, **changes)
        for split in ("train", "test"):
            write_table(data.id_coeffs_path(split, name), rng.standard_normal((157, 1)))
            for s in data.sequences(split, name):
                for frame in s.frames():
                    write_table(s.path("exp_coeffs", frame), rng.standard_normal((30, 1)))
                    write_camera(s.path("misc", frame), 2e-4, np.diag([1.0, -1, -1]), np.array([32.0, 32, 0]))
    pair, driver = data.pair(*names), data.sequence("test", names[1])
    for frame in driver.frames():
        for kind in ("images", "nmfcs", "landmarks70"):
            copy = pair.path(f"source_{kind}", frame)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(driver.path(kind, frame), copy)
    return data


def moving_landmarks(frame, size):
    """The landmarks that make_dataset gives a frame."""
    return face_landmarks(size, (size * 0.04 * np.sin(frame / 4), size * 0.02 * np.cos(frame / 5)), 0.04 + 0.03 * np.sin(frame), 0.03)
