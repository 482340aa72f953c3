"""util/metrics.py and util/face/roi.py against known values and other implementations."""

import math

import numpy as np
import pytest
import skimage.metrics
import torch
from fake_dataset import draw_frame, face_landmarks
from skimage.metrics import peak_signal_noise_ratio
from torchmetrics.functional.image import structural_similarity_index_measure

from util.face.roi import scaled_size, window
from util.metrics import (
    MAX_DISTANCE,
    MEASURES,
    correlation,
    distance_from_real,
    expression_distance,
    eye_landmark_distance,
    face_mask,
    frame_measures,
    heatmap,
    identity_distance,
    mean_measures,
    pixel_distance,
    rotation_distance,
    second_difference,
)

SIZE = 256


@pytest.fixture(scope="module")
def frame():
    landmarks = face_landmarks(SIZE)
    image, nmfc = draw_frame(landmarks, SIZE)
    return image, nmfc, landmarks


def test_distance_of_black_and_white_is_the_largest():
    black, white = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    np.testing.assert_allclose(pixel_distance(black, white), MAX_DISTANCE, rtol=1e-6)
    assert MAX_DISTANCE == pytest.approx(441.673, abs=1e-3)
    np.testing.assert_allclose(pixel_distance(white, black), MAX_DISTANCE, rtol=1e-6)  # bytes do not wrap round


def test_equal_frames_are_perfect(frame):
    image, nmfc, landmarks = frame
    m = frame_measures(image, image.copy(), nmfc, landmarks)
    assert m["APD-L2"] == m["MAPD-L2"] == m["mouth-APD-L2"] == 0 and m["SSIM"] == pytest.approx(1) and m["PSNR"] == math.inf
    assert set(m) == set(MEASURES)


def test_each_measure_looks_at_its_own_pixels(frame):
    image, nmfc, landmarks = frame
    mask = face_mask(nmfc)
    change = np.array([3, 4, 12], np.uint8)  # a distance of 13
    fake = image.copy()
    fake[~mask] += change
    m = frame_measures(image, fake, nmfc, landmarks)
    assert m["APD-L2"] == pytest.approx(13 * (~mask).mean(), rel=1e-5) and m["MAPD-L2"] == 0

    left, top = window(landmarks, "mouth", 72, SIZE, SIZE)
    fake = image.copy()
    fake[top : top + 72, left : left + 72] += change
    m = frame_measures(image, fake, nmfc, landmarks)
    assert m["mouth-APD-L2"] == pytest.approx(13, rel=1e-5)
    assert m["APD-L2"] == pytest.approx(13 * 72 * 72 / SIZE**2, rel=1e-5)
    fake = image + change
    fake[top : top + 72, left : left + 72] = image[top : top + 72, left : left + 72]
    assert frame_measures(image, fake, nmfc, landmarks)["mouth-APD-L2"] == 0


def test_psnr_and_ssim_agree_with_libraries(frame):
    image, nmfc, landmarks = frame
    rng = np.random.default_rng(0)
    fake = np.clip(image + rng.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
    m = frame_measures(image, fake, nmfc, landmarks)
    assert m["PSNR"] == pytest.approx(peak_signal_noise_ratio(image, fake), abs=1e-4)
    a, b = (torch.from_numpy(x).permute(2, 0, 1)[None].double() for x in (image, fake))
    _, everywhere = structural_similarity_index_measure(b, a, data_range=255.0, return_full_image=True)
    inside = everywhere[..., 5:-5, 5:-5]  # where the window of 11 pixels does not leave the frame
    assert m["SSIM"] == pytest.approx(float(inside.mean()), abs=1e-5)
    how = {"channel_axis": 2, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    assert m["SSIM"] == pytest.approx(skimage.metrics.structural_similarity(image, fake, **how), abs=1e-12)


def test_an_empty_mask_gives_no_number_and_spoils_no_mean(frame):
    image, nmfc, landmarks = frame
    m = frame_measures(image, 255 - image, np.zeros_like(nmfc), landmarks)
    assert math.isnan(m["MAPD-L2"]) and m["APD-L2"] > 0
    means = mean_measures([m, {**m, "MAPD-L2": 4.0, "PSNR": math.inf}])
    assert means["MAPD-L2"] == 4 and means["PSNR"] == pytest.approx(m["PSNR"]) and means["APD-L2"] == pytest.approx(m["APD-L2"])
    assert math.isnan(mean_measures([m])["MAPD-L2"])


def test_images_of_other_kinds_are_refused(frame):
    image, nmfc, landmarks = frame
    for wrong in (image[:-1], image.astype(np.float32)):
        with pytest.raises(ValueError, match="uint8"):
            frame_measures(image, wrong, nmfc, landmarks)


def test_heatmap_goes_from_blue_to_red(frame):
    image, nmfc, _ = frame
    grey = np.full((8, 8, 3), 100, np.uint8)
    same, far = heatmap(grey, grey), heatmap(grey, grey + 100)
    assert same[0, 0].argmax() == 2 and same[0, 0, :2].sum() == 0 and far[0, 0].argmax() == 0 and far[0, 0, 1:].sum() == 0
    mask = face_mask(nmfc)
    masked = heatmap(image, 255 - image, mask)
    assert not masked[~mask].any() and masked[mask].any(axis=-1).all()
    np.testing.assert_array_equal(masked[mask], heatmap(image, 255 - image)[mask])


def test_windows_stay_inside_and_follow_the_median():
    rng = np.random.default_rng(1)
    landmarks = rng.uniform(-40, 300, (64, 70, 2))
    points = {"mouth": [*range(48, 68)], "eyes": [*range(36, 48), 68, 69]}
    for region, indices in points.items():
        corners = window(landmarks, region, 72, SIZE, 200)
        for corner, face in zip(corners, landmarks):
            for value, ordinates, limit in zip(corner, face[indices].T, (200 - 72, SIZE - 72)):
                middle = np.sort(ordinates)[[len(indices) // 2 - 1, len(indices) // 2]].mean()
                assert 0 <= value <= limit and (abs(value + 36 - middle) <= 0.5 or value in (0, limit))


def test_window_is_centred_and_scales():
    landmarks = face_landmarks(SIZE)
    np.testing.assert_allclose(window(landmarks, "mouth", 72, SIZE, SIZE) + 36, [128, 0.7 * SIZE], atol=1)
    np.testing.assert_allclose(window(landmarks, "eyes", 72, SIZE, SIZE) + 36, [128, 0.42 * SIZE], atol=1)
    assert [scaled_size(s) for s in (96, 128, 256, 512)] == [28, 36, 72, 144]
    assert scaled_size(256, 64) == 64 and scaled_size(32, 400) == 32


def test_second_differences_leave_out_what_changes_evenly():
    frame = np.random.default_rng(3).integers(40, 200, (6, 7, 3), np.uint8)
    assert not second_difference(frame, frame, frame).any() and not second_difference(frame - 30, frame, frame + 30).any()
    np.testing.assert_allclose(second_difference(frame, frame + np.array([3, 6, 0], np.uint8), frame), 6)  # 2 x the mean of 3, 6, 0
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    assert (second_difference(black, white, black) == 510).all() and (second_difference(white, black, white) == 510).all()


def test_twice_and_half_of_the_real_video_are_equally_far():
    assert distance_from_real(4, 4) == distance_from_real(0, 0) == 0
    assert distance_from_real(8, 4) == pytest.approx(distance_from_real(2, 4)) and distance_from_real(5, 4) < distance_from_real(2, 4)
    assert distance_from_real(0, 4) == math.inf  # frozen
    assert 0 < distance_from_real(0.1, 0) < distance_from_real(3, 0)  # beside a real video that is frozen itself


def test_distances_of_landmarks_and_parameters():
    points = np.random.default_rng(0).uniform(0, 256, (3, 70, 2))
    moved = points.copy()
    moved[:, [*range(36, 48), 68, 69]] += [3, 4]
    moved[:, :36] += 50  # no matter
    moved[2, 40] = np.nan
    np.testing.assert_allclose(eye_landmark_distance(points, moved), [5, 5, np.nan])
    assert identity_distance(np.array([1.0, -2, 0]), np.array([0.0, 1, 0])) == 4
    np.testing.assert_allclose(expression_distance(np.zeros((2, 3)), np.array([[0.1, 0.2, 0], [0, 0, -1]])), [0.3, 1])
    np.testing.assert_allclose(rotation_distance(np.array([[1.0, 2, 3], [179, 0, 0]]), np.array([[4.0, 2, 0], [-179, 0, 0]])), [2, 2 / 3])


def test_correlation_leaves_out_what_is_not_known():
    x = np.sin(np.arange(50) / 4)
    assert correlation(x, 3 * x + 1) == pytest.approx(1) and correlation(x, -x) == pytest.approx(-1)
    gaps = np.where(np.arange(50) % 7 == 0, np.nan, x)
    assert correlation(gaps, x) == pytest.approx(1)
    assert math.isnan(correlation(x, np.ones(50))) and math.isnan(correlation(x[:2], x[:2]))
