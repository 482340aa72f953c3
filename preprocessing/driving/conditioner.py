"""Conditioning images of fitted or driven heads: the NMFC image and the eye gaze image, for one frame or for many."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from preprocessing.face_models.morphable import MorphableModel
from preprocessing.render import create_renderer
from util.ahead import map_ahead
from util.cli import progress
from util.face.eye_gaze import draw_eye_gaze
from util.geometry import Cameras
from util.image_io import resize_nmfc

FRAMES_AHEAD = 16  # images drawn but not yet written: 3 MB at 256 pixels, enough for the renderer never to wait for the disk


class Conditioner:
    """Draws the generator's two conditioning images, frame by frame.

    model: the face model. identity: [K_id] of the head to draw. size: side of the square images, pixels (a run's loadSize).
    renderer: 'auto', 'vulkan' or 'cpu' (see preprocessing.render.create_renderer, also for the errors raised).
    crop_size: side of the crops whose pixels the cameras and landmarks count (default: size). The NMFC image is drawn at this size and
        then resized, as it is for training.
    """

    def __init__(
        self, model: MorphableModel, identity: np.ndarray, size: int, renderer: str = "auto", crop_size: int | None = None
    ) -> None:
        self._size, self._crop_size = size, crop_size or size
        self._person = model.of_person(identity)
        self._renderer = create_renderer(renderer, model.triangles, model.nmfc_colours(), (self._crop_size, self._crop_size))

    def step(self, expression: np.ndarray, camera: Cameras, landmarks70: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The NMFC image and the eye gaze image of one frame, each uint8 [size, size, 3] RGB on black.

        expression: [K_exp]. camera: of this frame, as `cameras[i]`. landmarks70: [70, 2], pixels of the crop.
        Raises: ValueError for coefficients, a camera or landmarks that are no finite numbers.
        """
        gaze = draw_eye_gaze((landmarks70 * (self._size / self._crop_size)).astype(np.float32), self._size)
        return self.nmfc(expression, camera), gaze

    def nmfc(self, expression: np.ndarray, camera: Cameras) -> np.ndarray:
        """The NMFC image alone, as in `step`."""
        vertices = self._person.in_image(np.zeros(1), np.asarray(expression)[None], camera.as_batch())[0]
        return resize_nmfc(self._renderer.draw(vertices), self._size)


def draw_frames(
    model: MorphableModel,
    identity: np.ndarray,
    expression: np.ndarray,
    cameras: Cameras,
    size: tuple[int, int],
    write: Callable[[int, np.ndarray], None],
    *,
    renderer: str = "auto",
    desc: str = "NMFC images",
) -> None:
    """Draw the NMFC images of N frames and hand each to `write(i, nmfc)`, with a progress bar.

    identity: [K_id]. expression: [N, K_exp]. size: (height, width), pixels. nmfc: uint8 [height, width, 3] RGB.
    `write` is called once for every frame i, from two threads at a time, so that files are written while the next frames are drawn.
    Raises: what `write` raises, and as create_renderer.
    """
    drawer = create_renderer(renderer, model.triangles, model.nmfc_colours(), size)
    pictures = enumerate(drawer.draw_many(model.in_images(identity, expression, cameras)))
    written = map_ahead(lambda drawn: write(*drawn), pictures, depth=FRAMES_AHEAD)
    for _ in progress(written, desc=desc, total=len(cameras)):
        pass
