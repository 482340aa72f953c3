"""preprocessing/fitting/photometric.py: what landmarks get wrong, the skin's texture sets right."""

import cv2
import numpy as np
import pytest

from preprocessing.face_models.registry import load_face_model
from preprocessing.fitting.frame import FrameFit
from preprocessing.fitting.live_refinement import SIDE, HeadRegion, LiveRefiner
from preprocessing.fitting.photometric import refine
from preprocessing.fitting.textured_head import TexturedHead, surface_points
from preprocessing.fitting.video import Fit, fit_video
from preprocessing.render import create_renderer
from util.geometry import FRONTAL, Cameras, angle_between_deg, rotation_matrix

SIZE, FRAMES = 256, 40
POINTS = np.arange(478)


@pytest.fixture(scope="module")
def model():
    return load_face_model("mesh478")


def paint_of(model):
    x, y, z = model.mean[model.triangles].mean(1).T
    paint = [128 + 60 * np.sin(3 * x) * np.cos(2 * y), 128 + 60 * np.sin(2 * y + z), 128 + 60 * np.cos(2 * x - y)]
    return np.clip(np.stack(paint, 1) + np.random.default_rng(0).normal(0, 25, (len(x), 3)), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def video(model):
    """A painted face that turns about in front of a wall: the true fit, and its frames."""
    time = np.linspace(0, 2 * np.pi, FRAMES)
    turn = np.stack([0.12 * np.sin(2 * time), 0.2 * np.sin(time), 0.05 * np.cos(time)], 1)
    shift = np.stack([128 + 8 * np.sin(time), 120 + 5 * np.cos(2 * time), 0 * time], 1)
    cameras = Cameras(np.full(FRAMES, 9.5), rotation_matrix(turn) @ FRONTAL, shift)
    expression = np.zeros((FRAMES, len(model.expression_names)))
    expression[:, model.expression_names.index("jawOpen")] = 0.3 * np.sin(3 * time) ** 2
    truth = Fit(np.zeros(len(model.identity_basis)), expression, cameras)
    drawer = create_renderer("cpu", model.triangles, paint_of(model), (SIZE, SIZE))
    wall = np.random.default_rng(1).integers(90, 110, (SIZE, SIZE, 3), dtype=np.uint8)
    frames = []
    for vertices in model.in_image(truth.identity, expression, cameras):
        picture = drawer.draw(vertices)
        frames.append(np.where(drawer.draw_ids(vertices)[..., None] >= 0, picture, wall))
    return truth, frames


def detected(model, truth):
    """Landmarks as a detector gives them that takes every head for turned by 3 degrees less, or more, than it is; and their fit."""
    wrong = np.radians(3) * np.sin(np.linspace(0, 6 * np.pi, FRAMES))
    cameras = Cameras(
        truth.cameras.scale, rotation_matrix(np.stack([0 * wrong, wrong, 0 * wrong], 1)) @ truth.cameras.rotation, truth.cameras.translation
    )
    seen = cameras.project(model.landmarks(truth.identity, truth.expression))[..., :2]
    joined = np.arange(FRAMES) > 0
    return seen, joined, fit_video(model, seen, POINTS, joined, truth.identity)


def test_a_wrong_pose_is_set_right(model, video):
    truth, frames = video
    seen, joined, fit = detected(model, truth)
    refined = refine(model, fit, seen, POINTS, joined, frames.__getitem__)
    before, after = (angle_between_deg(f.cameras.rotation, truth.cameras.rotation) for f in (fit, refined))
    assert before.mean() > 1.5 and after.mean() < before.mean() * 2 / 3
    np.testing.assert_array_equal(refined.identity, fit.identity)
    # vertices of the upper face, in pixels
    upper = model.mean[:, 1] > model.landmark_model[0][2, 1]
    places = [model.in_image(f.identity, f.expression, f.cameras)[:, upper, :2] for f in (truth, fit, refined)]
    errors = [np.linalg.norm(x - places[0], axis=-1).mean() for x in places[1:]]
    assert errors[1] < errors[0] * 2 / 3


def test_larger_frames_are_looked_at_smaller(model, video):
    truth, frames = video
    seen, joined, fit = detected(model, truth)
    c = fit.cameras
    twice = Fit(fit.identity, fit.expression, Cameras(2 * c.scale, c.rotation, 2 * c.translation))
    large = [cv2.resize(f, (2 * SIZE, 2 * SIZE), interpolation=cv2.INTER_NEAREST) for f in frames]
    refined = refine(model, twice, 2 * seen, POINTS, joined, large.__getitem__)
    assert angle_between_deg(refined.cameras.rotation, truth.cameras.rotation).mean() < 1.2
    np.testing.assert_allclose(refined.cameras.scale, 2 * truth.cameras.scale, rtol=0.03)


def test_frames_that_show_no_steady_texture_change_nothing(model, video):
    truth, _ = video
    seen, joined, fit = detected(model, truth)
    noise = np.random.default_rng(2).integers(0, 255, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    refined = refine(model, fit, seen, POINTS, joined, noise.__getitem__)
    assert angle_between_deg(refined.cameras.rotation, fit.cameras.rotation).max() == 0


def test_frames_without_a_face_are_borne(model, video):
    truth, frames = video
    seen, joined, fit = detected(model, truth)
    seen = seen.copy()
    seen[7:9] = np.nan
    refined = refine(model, fit, seen, POINTS, joined, frames.__getitem__)
    assert np.isfinite(refined.cameras.rotation).all() and np.isfinite(refined.expression).all()


def test_points_are_on_the_upper_face(model):
    chosen = surface_points(model, np.ones(len(model.triangles)) + np.arange(len(model.triangles)))
    middles = model.mean[model.triangles[chosen]].mean(1)
    assert len(set(chosen.tolist())) == len(chosen) > 50
    assert (middles[:, 1] > model.landmark_model[0][2, 1]).all()


def test_a_head_that_is_not_in_the_frames_stays_as_it_is(model, video):
    truth, frames = video
    seen, joined, fit = detected(model, truth)
    c = fit.cameras
    outside = Fit(fit.identity, fit.expression, Cameras(c.scale, c.rotation, c.translation + [4 * SIZE, 0, 0]))
    assert refine(model, outside, seen, POINTS, joined, frames.__getitem__) is outside


def test_what_stands_off_the_surface_is_found_by_how_it_slides(model):
    head = TexturedHead(model, np.zeros(len(model.identity_basis)), (SIZE, SIZE))
    head.tracked = model.triangles[:3]
    turn = np.radians(np.linspace(-12, 12, 30))
    cameras = Cameras(np.full(30, 10.0), rotation_matrix(np.stack([0 * turn, turn, 0 * turn], 1)) @ FRONTAL, np.zeros((30, 3)))
    slide = -10 * np.sin(turn)  # pixels a centimetre, of what is nearer to the camera
    flow = np.zeros((30, 3, 2))
    flow[:, 0, 0], flow[:, 1, 0] = 2 * slide, -1 * slide
    flow[:, :, 1] = 1e-9  # seen, and not moved
    head.offset_points(cameras, flow)
    depth = head.offsets @ [0, 0, 1]
    assert 1.8 < depth[0] < 2 and -1 < depth[1] < -0.9 and abs(depth[2]) < 0.01


def test_only_what_is_seen_is_drawn(model, video):
    truth, _ = video
    head = TexturedHead(model, truth.identity, (SIZE, SIZE))
    vertices = list(head.vertices(truth))
    shown = head.shown(vertices)
    assert 0.3 < shown.mean() < 1
    black = np.zeros(model.triangles.shape, np.uint8)
    all_of_it, seen = (create_renderer("cpu", model.triangles[x], black[x], (SIZE, SIZE)) for x in (slice(None), shown))
    for v in vertices[::10]:
        ids = seen.draw_ids(v)
        np.testing.assert_array_equal(np.where(ids >= 0, np.flatnonzero(shown)[ids], -1), all_of_it.draw_ids(v))


# ---- frame by frame ----


def one_fit(fit, i):
    return FrameFit(fit.cameras[i], fit.expression[i], tracked=True)


def followed(model, truth, frames, seen, causal, learnt, colours=None):
    """Angles in degrees from the truth, and cameras, of the frames after those that were learnt from."""
    regions = [HeadRegion.of(frame, dense) for frame, dense in zip(frames, seen)]
    refiner = LiveRefiner(model, truth.identity, regions[:learnt], [one_fit(causal, i) for i in range(learnt)], colours)
    fits = [refiner.step(one_fit(causal, i), regions[i], seen[i], i / 30) for i in range(learnt, len(frames))]
    cameras = Cameras(*(np.stack([getattr(f.camera, key) for f in fits]) for key in ("scale", "rotation", "translation")))
    return angle_between_deg(cameras.rotation, truth.cameras.rotation[learnt:]), cameras


@pytest.mark.parametrize("known", [False, True])
def test_a_stream_is_set_right_as_well(model, video, known):
    """Without a look ahead, by colours of the first frames or by known ones, the detector's wrong turns are taken away."""
    truth, frames = video
    seen, joined, fit = detected(model, truth)
    colours = paint_of(model) if known else None
    after, cameras = followed(model, truth, frames, seen, fit, 16, colours)
    before = angle_between_deg(fit.cameras.rotation, truth.cameras.rotation)[16:]
    # with colours learnt from wrong frames, the head stays turned by what was usual in them
    assert before.mean() > 1.5 and after.mean() < before.mean() * (2 / 3 if known else 0.8)
    np.testing.assert_allclose(cameras.scale, truth.cameras.scale[16:], rtol=0.02)


def test_regions_keep_their_place(model, video):
    """A head at the frame's edge, in large and small frames: the region's pixels are where its camera says."""
    truth, frames = video
    seen = truth.cameras.project(model.landmarks(truth.identity, truth.expression))[0, :, :2]
    for factor, shift in ((1, 0), (3, 0), (1, -90), (0.4, 0)):
        frame = cv2.resize(frames[0], None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_NEAREST)
        frame, dense = frame[:, max(-shift, 0) :], seen * factor + [shift, 0]
        region = HeadRegion.of(frame, dense)
        assert region.image.shape == (SIDE, SIDE, 3)
        inside = (dense - region.origin) * region.factor
        np.testing.assert_allclose(region.in_frame(inside), dense)
        # the frame, taken at the region's pixels, is the region
        x, y = np.meshgrid(*[(np.arange(SIDE) + 0.5) / region.factor + region.origin[i] - 0.5 for i in (0, 1)])
        soft = cv2.GaussianBlur(frame, (0, 0), max(0.5 / region.factor, 0.3))
        again = cv2.remap(soft, x.astype(np.float32), y.astype(np.float32), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        assert np.abs(again.astype(int) - region.image).mean() < 12
    for far in ((4000, 0), (0, -4000), (-300, 4000)):  # wherever a tracker may say that a head is
        assert HeadRegion.of(frames[0], seen + far).image.shape == HeadRegion.of(frames[0], seen * 1e4).image.shape == (SIDE, SIDE, 3)
    camera = region.camera(Cameras(np.float64(2), FRONTAL, np.array([30.0, 40, 0])))
    assert camera.scale == 2 * region.factor and np.allclose(region.in_frame(camera.translation[None, :2]), [[30, 40]])


@pytest.mark.parametrize("factor", [0.4, 1.7, 3, 5])
def test_regions_are_taken_without_a_shift(model, video, factor):
    """Whatever a region is shrunk or enlarged by, a slope keeps its values, to a grey level."""
    truth, _ = video
    dense = factor * truth.cameras.project(model.landmarks(truth.identity, truth.expression))[0, :, :2]
    side = round(factor * SIZE)
    slope = np.linspace(20, 230, side)
    frame = np.stack(np.broadcast_arrays(slope, slope[:, None], 128), -1).round().astype(np.uint8)
    region = HeadRegion.of(frame, dense)
    places = region.in_frame(np.repeat(np.arange(SIDE)[:, None] + 0.5, 2, 1)) - 0.5  # middles of its pixels
    inside = ((places > 0) & (places < side - 1)).all(1)
    for axis, line in enumerate((region.image[SIDE // 2, :, 0], region.image[:, SIDE // 2, 1])):
        expected = np.interp(places[:, axis], np.arange(side), slope)
        assert inside.sum() > SIDE / 2 and np.abs(line - expected)[inside].max() < 1.1


def test_too_little_of_a_head_is_not_learnt_from(model, video):
    truth, frames = video
    seen, _, fit = detected(model, truth)
    away = FrameFit(fit.cameras[0], fit.expression[0], tracked=True)
    beside = HeadRegion.of(frames[0], seen[0] + 4 * SIZE)
    with pytest.raises(ValueError, match="too little of the head"):
        LiveRefiner(model, truth.identity, [beside], [away])
