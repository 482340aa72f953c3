"""live/view.py: what is shown, and the mark on it."""

from types import SimpleNamespace

import numpy as np
import pytest

from live.pipeline import Figures
from live.view import View, fit, put_table


def frame(image, driver=None, state="driving"):
    driver = np.full((48, 64, 3), 60, np.uint8) if driver is None else driver
    return SimpleNamespace(image=image, driver=driver, state=state, time_s=10.0, done_s=10.048)


def changed(before, after):
    """Top, bottom, left, right of what differs, ends excluded."""
    rows, columns = np.nonzero((before != after).any(2))
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


@pytest.mark.parametrize("height", [128, 256, 512, 1080])
@pytest.mark.parametrize("grey", [0, 120, 255])
def test_the_mark_is_small_in_the_corner_and_legible(height, grey):
    image = np.full((height, height, 3), grey, np.uint8)
    shown = View().compose(frame(image))
    assert (image == grey).all(), "the frame itself is not marked"
    top, bottom, left, right = changed(image, shown)
    assert top > 0.85 * height and bottom < height and left > 0.55 * height and right < height
    assert (bottom - top) < max(16, 0.06 * height)
    patch = shown[top:bottom, left:right, 0].astype(int)
    ground = np.median(patch)
    assert patch.max() - ground > 120, "white letters on dark ground"
    assert ((patch - ground) > 60).mean() > 0.08


def test_no_mark_no_overlay_is_the_frame():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    shown = View(mark=False).compose(frame(image))
    assert np.array_equal(shown, image) and shown is not image


def test_side_by_side_has_the_driver_at_the_left_at_the_same_height():
    driver = np.zeros((300, 400, 3), np.uint8)
    driver[:, 200:, 1] = 200
    image = np.full((96, 96, 3), 90, np.uint8)
    shown = View(side_by_side=True).compose(frame(image, driver))
    assert shown.shape == (96, 128 + 96, 3)
    assert (shown[:, :63] == 0).all() and (shown[:, 66:127] == (0, 200, 0)).all()
    _, _, left, _ = changed(np.pad(image, ((0, 0), (128, 0), (0, 0))), np.pad(shown[:, 128:], ((0, 0), (128, 0), (0, 0))))
    assert left >= 128, "the mark is on the person"
    assert (shown[:60, 128:] == 90).all()


def test_the_overlay_changes_with_what_it_tells():
    image = np.full((256, 256, 3), 90, np.uint8)
    view = View(overlay=True, mark=False)
    pictures = [
        view.compose(frame(image)),
        view.compose(frame(image, state="lost")),
        view.compose(frame(image), Figures(29.7, 41.2, 60.0, {}, 0)),
        view.compose(frame(image), "12 fps"),
    ]
    assert all(changed(image, p)[1] < 0.1 * 256 and changed(image, p)[2] < 10 for p in pictures)
    assert all((a != b).any() for a, b in zip(pictures, pictures[1:]))


def test_text_that_does_not_fit_is_cut():
    for shape in ((8, 8, 3), (12, 200, 3)):
        image = np.full(shape, 90, np.uint8)
        assert View(overlay=True, side_by_side=True).compose(frame(image)).shape[0] == shape[0]
        put_table(image, (("a", "one"), ("b", "a longer line")))


def test_fit_keeps_the_shape_on_black():
    image = np.full((40, 80, 3), 200, np.uint8)
    assert fit(image, 80, 40) is image
    out = fit(image, 100, 100)
    assert out.shape == (100, 100, 3) and (out[:25] == 0).all() and (out[25:75] == 200).all() and (out[75:] == 0).all()
    assert fit(image, 20, 10).mean() == 200
