"""util/face/eye_gaze.py: the drawn lids and pupils have the places and sizes that the landmarks say."""

import cv2
import numpy as np
import pytest
from fake_dataset import face_landmarks

from util.face.eye_gaze import draw_eye_gaze
from util.face.landmarks import eye_openings


def red(image):
    """How much of each pixel is the pupil's red rather than black or white, 0..1."""
    return (image[..., 0].astype(float) - image[..., 1]) / 255


def centroid(weights):
    y, x = np.indices(weights.shape) + 0.5
    return np.array([(weights * x).sum(), (weights * y).sum()]) / weights.sum()


@pytest.mark.parametrize("size", [128, 256, 512])
def test_pupils_have_their_place_and_radius(size):
    landmarks = face_landmarks(size, lids=0.06)
    image = draw_eye_gaze(landmarks, size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    radius = eye_openings(landmarks).sum() / 4
    disc = red(image)
    for pupil, half in ((68, np.s_[:, : size // 2]), (69, np.s_[:, size // 2 :])):
        only = np.zeros_like(disc)
        only[half] = disc[half]
        np.testing.assert_allclose(centroid(only), landmarks[pupil], atol=0.15)
        assert np.sqrt(only.sum() / np.pi) == pytest.approx(radius, abs=0.2)
    assert image[int(landmarks[68, 1]), int(landmarks[68, 0])].tolist() == [255, 0, 0]


def test_radius_is_a_quarter_of_both_openings():
    landmarks = face_landmarks(256)
    landmarks[[37, 38], 1], landmarks[[40, 41], 1] = 90, 102  # 12 px open
    landmarks[[43, 44], 1], landmarks[[46, 47], 1] = 100, 104  # 4 px
    assert np.sqrt(red(draw_eye_gaze(landmarks, 256)).sum() / 2 / np.pi) == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize("size", [128, 256, 512])
def test_lids_are_two_pixels_wide_at_256(size):
    landmarks = face_landmarks(size, lids=0.06)
    landmarks[[68, 69]] = 3 * size  # out of the way
    landmarks[[37, 38], 1] = landmarks[36, 1]  # a straight, level upper lid
    column = draw_eye_gaze(landmarks, size)[: int(landmarks[40, 1]) - size // 64, int(landmarks[36:40, 0].mean()), 1] / 255
    assert column.sum() == pytest.approx(2 * size / 256, abs=0.3)
    assert (column * (np.arange(len(column)) + 0.5)).sum() / column.sum() == pytest.approx(landmarks[36, 1], abs=0.2)


def test_lids_pass_through_all_their_points():
    landmarks = face_landmarks(256, shift=(0.3, 0.6), lids=0.06)
    landmarks[[68, 69]] = 3 * 256
    image = draw_eye_gaze(landmarks, 256)
    for x, y in landmarks[36:48]:
        assert image[int(y), int(x)].tolist() == [255] * 3
    rows, columns = np.nonzero(image[..., 0])
    assert abs(columns.min() + 1 - landmarks[36, 0]) < 2 and abs(columns.max() - landmarks[45, 0]) < 2  # and no further


def test_drawing_follows_fractions_of_a_pixel():
    landmarks = face_landmarks(256)
    places = [centroid(draw_eye_gaze(landmarks + [d, -d / 2], 256).sum(-1).astype(float)) for d in (0, 0.25, 0.5, 0.75)]
    np.testing.assert_allclose(np.diff(places, axis=0), np.tile([0.25, -0.125], (3, 1)), atol=0.08)


def test_sizes_show_the_same_drawing():
    large = draw_eye_gaze(face_landmarks(512), 512)
    small = draw_eye_gaze(face_landmarks(256), 256).astype(int)
    assert np.abs(cv2.resize(large, (256, 256), interpolation=cv2.INTER_AREA) - small).mean() < 0.25


def test_a_closed_eye_shows_no_pupil():
    landmarks = face_landmarks(256, lids=0)
    image = draw_eye_gaze(landmarks, 256)
    assert red(image).max() == 0 and image.max() == 255


def test_eyes_outside_of_the_frame_draw_nothing_or_their_part():
    assert draw_eye_gaze(face_landmarks(256, shift=(0, -400)), 256).max() == 0
    assert draw_eye_gaze(face_landmarks(256, shift=(1e7, 1e7)), 256).max() == 0
    half = draw_eye_gaze(face_landmarks(256, shift=(-face_landmarks(256)[68, 0], 0)), 256)
    whole = draw_eye_gaze(face_landmarks(256), 256)
    assert 0 < (half > 0).sum() < (whole > 0).sum()


def test_frames_need_not_be_square():
    image = draw_eye_gaze(face_landmarks(256), (256, 300))
    assert image.shape == (256, 300, 3)
    np.testing.assert_array_equal(image[:, :256], draw_eye_gaze(face_landmarks(256), 256))


def test_landmarks_that_are_no_numbers_are_refused():
    landmarks = face_landmarks(256)
    landmarks[40] = np.nan
    with pytest.raises(ValueError, match="finite"):
        draw_eye_gaze(landmarks, 256)
