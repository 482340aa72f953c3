"""preprocessing/driving/conditioner.py: one frame and many frames give the same images, and all of them are handed on."""

import numpy as np
import pytest
from test_retarget import make_person

from preprocessing.driving.conditioner import Conditioner, draw_frames
from preprocessing.face_models.registry import load_face_model
from util.face.eye_gaze import draw_eye_gaze

SIZE = 256


@pytest.fixture(scope="module")
def model():
    return load_face_model("mesh478")


def test_one_frame_at_a_time_equals_the_batch(model):
    person = make_person(model)
    frames = slice(0, 40)
    drawn = {}
    draw_frames(model, person.identity, person.expression[frames], person.cameras[frames], (SIZE, SIZE), drawn.__setitem__, renderer="cpu")
    assert sorted(drawn) == list(range(40))
    conditioner = Conditioner(model, person.identity, SIZE, "cpu")
    for i in (0, 7, 39):
        nmfc, gaze = conditioner.step(person.expression[i], person.cameras[i], person.landmarks[i])
        assert nmfc.shape == (SIZE, SIZE, 3) and nmfc.dtype == np.uint8 and nmfc.any()
        assert (nmfc == drawn[i]).all(-1).mean() > 0.999  # sums of float32 may be rounded in another order
        np.testing.assert_array_equal(gaze, draw_eye_gaze(person.landmarks[i].astype(np.float32), SIZE))
    assert (drawn[0] != drawn[39]).any()


def test_an_exception_of_a_writer_is_raised(model):
    person = make_person(model)

    def write(i, picture):
        if i == 5:
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        draw_frames(model, person.identity, person.expression, person.cameras, (64, 64), write, renderer="cpu")


def test_non_finite_numbers_are_refused(model):
    person = make_person(model)
    conditioner = Conditioner(model, person.identity, SIZE, "cpu")
    with pytest.raises(ValueError):
        conditioner.step(person.expression[0] * np.nan, person.cameras[0], person.landmarks[0])
    with pytest.raises(ValueError, match="finite"):
        conditioner.step(person.expression[0], person.cameras[0], person.landmarks[0] * np.nan)
