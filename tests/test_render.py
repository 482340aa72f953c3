"""Both renderers on geometry whose picture is known, against each other, and the choice between them."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_dilation
from scipy.spatial import Delaunay

from preprocessing.render import create_renderer
from util.cli import UserError

ROOT = Path(__file__).resolve().parents[1]
NO_DRIVER = {"VK_ICD_FILENAMES": os.devnull, "VK_DRIVER_FILES": os.devnull}


def vulkan_or_skip(triangles, colours, size):
    try:
        return create_renderer("vulkan", triangles, colours, size)
    except UserError as e:
        pytest.skip(f"no Vulkan here: {e}")


@pytest.fixture(params=["cpu", pytest.param("vulkan", marks=pytest.mark.vulkan)])
def make(request):
    """make(triangles, size, colours=...) -> Renderer, of each kind."""

    def make(triangles, size, colours=None):
        triangles = np.asarray(triangles)
        if colours is None:
            colours = np.random.default_rng(0).integers(1, 256, triangles.shape, np.uint8)
        return vulkan_or_skip(triangles, colours, size) if request.param == "vulkan" else create_renderer("cpu", triangles, colours, size)

    return make


def sphere(rows, columns, top=0.0, bottom=np.pi):
    """A unit sphere, or the zone of it between two polar angles: vertices [V, 3] and outward triangles [F, 3]."""
    polar, around = np.meshgrid(np.linspace(top, bottom, rows + 1), np.linspace(0, 2 * np.pi, columns, endpoint=False), indexing="ij")
    vertices = np.stack([np.sin(polar) * np.cos(around), -np.cos(polar), np.sin(polar) * np.sin(around)], -1).reshape(-1, 3)
    row, column = (index.ravel() for index in np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"))
    a, b = row * columns + column, row * columns + (column + 1) % columns
    return vertices, np.concatenate([np.stack([a, a + columns, b], 1), np.stack([b, a + columns, b + columns], 1)])


def head():
    """A head-like mesh of 53,000 triangles: open at the neck, with a nose, ears, and eyeballs that cut through the skin."""
    skin, skin_triangles = sphere(150, 150, bottom=0.8 * np.pi)
    nose = np.exp(-(((skin[:, :2] - [0, 0.1]) / [0.1, 0.2]) ** 2).sum(1)) * (skin[:, 2] < 0)
    ears = np.exp(-(((skin[:, 1:] - [0, 0.1]) / [0.15, 0.06]) ** 2).sum(1))
    skin = skin * [0.75, 1, 0.9] + np.stack([0.25 * ears * np.sign(skin[:, 0]), 0 * nose, -0.3 * nose], 1)
    parts, triangles = [skin], [skin_triangles]
    for side in (-1, 1):
        eye, eye_triangles = sphere(45, 44)
        triangles.append(eye_triangles + sum(map(len, parts)))
        parts.append(eye * 0.16 + [0.28 * side, -0.1, -0.75])
    return np.concatenate(parts), np.concatenate(triangles)


def turned(vertices, yaw, pitch, scale, centre):
    yaw, pitch = np.radians([yaw, pitch])
    about_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]])
    return (scale * vertices @ (about_x @ about_y).T + [*centre, 0]).astype(np.float32)


def depth_at(vertices, triangles, ids, rows, columns):
    """The depth of triangle ids[k] at the centre of pixel (rows[k], columns[k])."""
    a, b, c = (vertices[triangles[ids, k]].astype(np.float64) for k in range(3))
    normal = np.cross(b - a, c - a)
    return a[:, 2] - (normal[:, 0] * (columns + 0.5 - a[:, 0]) + normal[:, 1] * (rows + 0.5 - a[:, 1])) / normal[:, 2]


# --- coverage


@pytest.mark.parametrize("triangle", [[0, 1, 2], [0, 2, 1]], ids=["clockwise", "counterclockwise"])
def test_covers_the_pixels_whose_centre_is_inside(make, triangle):
    renderer = make([triangle], (10, 12), np.array([[10, 200, 255]], np.uint8))
    picture = renderer.draw(np.array([[1, 1, 0], [9, 1, 0], [1, 9, 0]], np.float32))
    row, column = np.mgrid[:10, :12]
    inside = (row >= 1) & (column >= 1) & (row + column < 9)  # centres on the slanted edge belong to the other side
    assert picture.shape == (10, 12, 3) and picture.dtype == np.uint8
    assert (picture[inside] == [10, 200, 255]).all() and not picture[~inside].any()


def test_pixel_centres_are_at_one_half(make):
    renderer = make([[0, 1, 2]], (4, 4))
    speck = np.array([[-0.1, -0.1, 0], [0.1, -0.1, 0], [0, 0.1, 0]], np.float32)
    assert (renderer.draw_ids(speck + [2.5, 1.5, 0]) >= 0).nonzero() == (1, 2)
    assert (renderer.draw_ids(speck + [2, 1.5, 0]) < 0).all()  # between two centres


def test_neighbours_share_their_edges_without_gap_or_overlap(make):
    rng = np.random.default_rng(1)
    frame = np.array([[0, 0], [64, 0], [0, 48], [64, 48]])  # pixel centres lie on edges of the inner points, too
    points = np.concatenate([frame, rng.integers(1, 48, (40, 2)) + 0.5, rng.uniform(1, 47, (60, 2))])
    points = np.round(points * 256) / 256
    triangles = Delaunay(points).simplices
    for k in range(0, len(triangles), 2):
        triangles[k] = triangles[k, ::-1]
    one = make([[0, 1, 2]], (48, 64))
    vertices = np.column_stack([points, rng.uniform(-5, 5, len(points))]).astype(np.float32)
    drawn = sum((one.draw_ids(vertices[corners]) >= 0).astype(int) for corners in triangles)
    assert (drawn == 1).all()


def test_sphere_covers_its_disc_and_shows_its_front(make):
    vertices, triangles = sphere(80, 120)
    vertices = turned(vertices, 20, 30, 40.0, (50.25, 60.5))
    ids = make(triangles, (128, 110)).draw_ids(vertices)
    row, column = np.mgrid[:128, :110] + 0.5
    distance = np.hypot(column - 50.25, row - 60.5)
    assert (ids[distance < 39.8] >= 0).all() and (ids[distance > 40.01] < 0).all()
    a, b, c = (vertices[triangles[ids[ids >= 0], k]] for k in range(3))
    assert (np.cross(b - a, c - a)[:, 2] < 0).all()  # outward triangles that look at the camera


def test_parts_outside_the_picture_are_cut_off(make):
    renderer = make([[0, 1, 2]], (6, 8))
    column = np.mgrid[:6, :8][1]
    large = np.array([[3, -5000, 0], [90000, 3, 0], [3, 5000, 0]], np.float32)
    np.testing.assert_array_equal(renderer.draw_ids(large) == 0, column >= 3)
    for away in ([100, 0, 0], [-100, 0, 0], [0, 100, 0], [0, -100, 0]):
        assert (renderer.draw_ids(np.array([[1, 1, 0], [5, 1, 0], [1, 5, 0]], np.float32) + away) == -1).all()


def test_triangles_without_area_draw_nothing(make):
    renderer = make([[0, 1, 2], [0, 0, 3], [3, 3, 3]], (8, 8))
    assert (renderer.draw_ids(np.array([[0.5, 0.5, 0], [4.5, 4.5, 1], [7.5, 7.5, 2], [0.5, 7, 0]], np.float32)) == -1).all()


# --- depth

SQUARES = [[0, 1, 2], [2, 1, 3], [4, 5, 6], [6, 5, 7]]  # two squares of two triangles


def square(left, z_left, z_right):
    return [[left, 0, z_left], [left + 8, 0, z_right], [left, 8, z_left], [left + 8, 8, z_right]]


@pytest.mark.parametrize("offset", [0.0, -5000.0, 5000.0])
@pytest.mark.parametrize("near, far", [(0, 1), (1, 0)])
def test_the_nearer_is_seen_in_any_order_and_at_any_distance(make, near, far, offset):
    depths = {near: -3.0 + offset, far: 3.0 + offset}
    vertices = np.array([*square(0, depths[0], depths[0]), *square(4, depths[1], depths[1])], np.float32)
    seen = make(SQUARES, (8, 12)).draw_ids(vertices) // 2
    assert (seen[:, 4:8] == near).all() and (seen[:, :4] == 0).all() and (seen[:, 8:] == 1).all()


def test_squares_that_cross_are_cut_where_they_cross(make):
    vertices = np.array([*square(0, 0, 8), *square(0, 6, 2)], np.float32)  # depths x and 6 - x/2 meet at x = 4
    seen = make(SQUARES, (8, 8)).draw_ids(vertices) // 2
    assert (seen[:, :4] == 0).all() and (seen[:, 4:] == 1).all()


def test_the_first_wins_at_equal_depth(make):
    vertices = np.array([*square(0, 1, 3), *square(0, 1, 3)], np.float32)
    assert (make(SQUARES, (8, 8)).draw_ids(vertices) < 2).all()


# --- the two against each other


@pytest.mark.vulkan
@pytest.mark.parametrize("size", [(256, 256), (200, 333)])
@pytest.mark.parametrize("yaw, pitch", [(0, 0), (35, -20), (-80, 10), (180, 40)])
def test_both_renderers_draw_the_same_head(size, yaw, pitch):
    vertices, triangles = head()
    unit = (vertices - vertices.min(0)) / np.ptp(vertices, axis=0)
    colours = (unit[triangles].mean(1) * 255).round().astype(np.uint8)
    gpu = vulkan_or_skip(triangles, colours, size)
    cpu = create_renderer("cpu", triangles, colours, size)
    moved = turned(vertices, yaw, pitch, 0.45 * size[0], (size[1] / 2 + 0.3, size[0] / 2 - 0.7))
    ours, theirs = cpu.draw(moved), gpu.draw(moved)
    assert (ours > 0).any(-1).mean() > 0.2
    first, second = cpu.draw_ids(moved), gpu.draw_ids(moved)
    different = (ours != theirs).any(-1) | (first != second)
    assert different.mean() <= 0.005
    # each difference is at a silhouette, or where two surfaces meet at the same depth
    covered = first >= 0
    silhouette = binary_dilation(covered, iterations=2) & binary_dilation(~covered, iterations=2)
    rows, columns = (different & ~silhouette).nonzero()
    if len(rows):
        ids = first[rows, columns], second[rows, columns]
        depths = [depth_at(moved, triangles, seen, rows, columns) for seen in ids]
        np.testing.assert_allclose(depths[0], depths[1], atol=1e-3)


# --- many frames, threads, kinds of input


def test_many_frames_come_in_order_and_are_read_only_a_little_ahead(make):
    renderer = make([[0, 1, 2]], (16, 80))
    speck = np.array([[0, 0, 0], [4, 0, 0], [0, 4, 0]], np.float32)
    read = []

    def frames():
        for k in range(60):
            read.append(k)
            yield speck + [k, 3, 0]

    pictures = renderer.draw_many(frames())
    first = next(pictures)
    assert len(read) <= 20  # a video does not pile up in memory
    for k, picture in enumerate([first, *pictures]):
        np.testing.assert_array_equal(picture, renderer.draw(speck + [k, 3, 0]))
    assert k == 59
    with pytest.raises(ValueError, match="NaN"):
        list(renderer.draw_many(np.stack([speck, speck * np.nan, speck])))


def test_one_renderer_serves_several_threads(make):
    vertices, triangles = sphere(20, 30)
    renderer = make(triangles, (64, 64))
    frames = [turned(vertices, 7 * k, 0, 25.0, (32, 32)) for k in range(24)]
    with ThreadPoolExecutor(4) as pool:
        for frame, picture in zip(frames, pool.map(renderer.draw, frames)):
            np.testing.assert_array_equal(picture, renderer.draw(frame))


def test_any_float_array_may_hold_the_vertices(make):
    renderer = make([[0, 1, 2]], (8, 8))
    vertices = np.array([[1, 1, 0], [7, 1, 0], [1, 7, 0], [4, 4, 0]], np.float32)  # the last is of no triangle
    expected = renderer.draw(vertices)
    assert expected.any()
    read_only = vertices.copy()
    read_only.flags.writeable = False
    for same in (vertices.astype(np.float64), np.asfortranarray(vertices), read_only, vertices[:3], vertices.tolist()):
        np.testing.assert_array_equal(renderer.draw(same), expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e9])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_non_finite_positions_are_refused(make, bad, axis):
    vertices = np.zeros((3, 3), np.float32)
    vertices[1, axis] = bad
    with pytest.raises(ValueError, match="NaN, infinity"):
        make([[0, 1, 2]], (8, 8)).draw(vertices)


def test_arrays_that_do_not_fit_are_refused():
    triangles, colours = np.array([[0, 1, 2]]), np.zeros((1, 3), np.uint8)
    for bad in (triangles[:0], triangles.astype(float), triangles - 1, triangles[0]):
        with pytest.raises(ValueError, match="triangles"):
            create_renderer("cpu", bad, colours, (8, 8))
    for bad in (colours.astype(float), np.zeros((2, 3), np.uint8)):
        with pytest.raises(ValueError, match="colours"):
            create_renderer("cpu", triangles, bad, (8, 8))
    for bad in ((0, 8), (8, -1), (8, 100_000)):
        with pytest.raises(ValueError, match="size"):
            create_renderer("cpu", triangles, colours, bad)
    with pytest.raises(ValueError, match="cpu"):
        create_renderer("gpu", triangles, colours, (8, 8))
    renderer = create_renderer("cpu", triangles, colours, (8, 8))
    for bad in (np.zeros((2, 3)), np.zeros((3, 2)), np.zeros((1, 3, 3))):
        with pytest.raises(ValueError, match="vertices"):
            renderer.draw(bad)


# --- the choice


def python(code, **environment):
    """Run `code` in a new process; returns its result with stdout and stderr as text."""
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120
    )


DRAW = """
import numpy as np
from preprocessing.render import create_renderer
for size in ((8, 8), (4, 4)):
    renderer = create_renderer({kind!r}, np.array([[0, 1, 2]]), np.full((1, 3), 255, np.uint8), size)
    assert renderer.draw([[0, 0, 0], [8, 0, 0], [0, 8, 0]]).any()
"""


def test_auto_without_a_gpu_takes_the_processor_and_says_so_once():
    result = python(DRAW.format(kind="auto"), **NO_DRIVER)
    assert (result.returncode, result.stdout, result.stderr) == (0, "renderer: cpu (numba)\n", "")


def test_vulkan_without_a_driver_names_the_fix():
    code = "from util.cli import run\ndef main(argv):" + DRAW.format(kind="vulkan").replace("\n", "\n    ") + "\nrun(main, [])"
    result = python(code, **NO_DRIVER)
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert "apt-get install libvulkan1 mesa-vulkan-drivers" in result.stderr and "--renderer cpu" in result.stderr


@pytest.mark.vulkan
def test_drivers_print_nothing():
    vulkan_or_skip(np.array([[0, 1, 2]]), np.zeros((1, 3), np.uint8), (8, 8))
    for kind in ("vulkan", "auto"):
        result = python(DRAW.format(kind=kind))
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.count("\n") == (kind == "auto")


def test_importing_loads_neither_compiler_nor_driver():
    result = python("import sys, preprocessing.render; sys.exit('numba' in sys.modules or 'wgpu' in sys.modules)")
    assert result.returncode == 0, result.stderr
