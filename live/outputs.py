"""Where the picture goes besides a file (live.recorder): a window, a virtual camera. Each takes write(picture, time_s) and close()."""

from __future__ import annotations

import os
import sys
import threading
from fractions import Fraction
from typing import Any

import numpy as np

from live.view import fit, put_table
from util.cli import UserError

_LEAST_SIDE_PX = 512  # of a window's picture: smaller ones are enlarged
_MOST_OF_SCREEN = 0.9
_POLL_S = 0.02  # longest time in which a key waits
_DISPLAYS = ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER")  # one of them says where a window may be shown
_ELSEWHERE = "use --no_window with --output FILE, or --web"


class Window:
    """A window, for the main thread: `write` may be called from any thread, `poll` shows the newest picture and tells of keys.

    Raises: UserError when there is no display, or the package is missing.
    """

    def __init__(self, title: str, help_rows: tuple[tuple[str, str], ...]) -> None:
        os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
        try:
            import pygame
        except ModuleNotFoundError:
            raise UserError(f"a window needs the package pygame-ce; run: pip install pygame-ce, or {_ELSEWHERE}") from None
        self._pygame, self._help = pygame, help_rows
        if sys.platform == "linux" and not any(map(os.environ.get, _DISPLAYS)):  # SDL would draw where nobody sees it
            raise UserError(f"there is no display to show a window on; {_ELSEWHERE}")
        try:
            pygame.display.init()
            self._screen = pygame.display.set_mode((_LEAST_SIDE_PX, _LEAST_SIDE_PX), pygame.RESIZABLE)
        except pygame.error as e:
            pygame.display.quit()
            raise UserError(f"there is no display to show a window on ({e}); {_ELSEWHERE}") from None
        self.title = title
        self.shows_help = False
        self._changed, self._newest, self._closed = threading.Condition(), None, False
        self._size = (0, 0)  # of the last picture

    @property
    def title(self) -> str:
        return self._pygame.display.get_caption()[0]

    @title.setter
    def title(self, text: str) -> None:
        self._pygame.display.set_caption(text)

    def write(self, picture: np.ndarray, time_s: float) -> None:
        with self._changed:
            self._newest = picture
            self._changed.notify_all()

    def poll(self) -> list[str]:
        """Show the newest picture; returns the keys pressed since: letters, "escape", or "close" for the window's own button."""
        pygame = self._pygame
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None, _POLL_S)
            picture, self._newest = self._newest, None
        if picture is not None:
            self._show(picture)
        keys = []
        for event in pygame.event.get():
            if event.type == pygame.QUIT:
                keys.append("close")
            elif event.type == pygame.KEYDOWN:
                keys.append(event.unicode.lower() if event.unicode.isalpha() else pygame.key.name(event.key))
        return keys

    def close(self) -> None:
        self._pygame.display.quit()

    def _show(self, picture: np.ndarray) -> None:
        pygame = self._pygame
        size = picture.shape[1], picture.shape[0]
        if size != self._size:
            self._size = size
            self._screen = pygame.display.set_mode(_window_size(size, pygame.display.get_desktop_sizes()[0]), pygame.RESIZABLE)
        shown = fit(picture, *self._screen.get_size())
        if self.shows_help:
            shown = shown.copy()
            put_table(shown, self._help)
        self._screen.blit(pygame.image.frombuffer(np.ascontiguousarray(shown), shown.shape[1::-1], "RGB"), (0, 0))
        pygame.display.flip()


def _window_size(picture: tuple[int, int], screen: tuple[int, int]) -> tuple[int, int]:
    """A window's size for a picture's: enlarged to _LEAST_SIDE_PX, but within the screen."""
    scale = max(1.0, _LEAST_SIDE_PX / min(picture))
    scale = min(scale, *(_MOST_OF_SCREEN * most / side for most, side in zip(screen, picture)))
    return max(1, round(picture[0] * scale)), max(1, round(picture[1] * scale))


class VirtualCamera:
    """A camera that other programs see, by pyvirtualcam. It keeps the first picture's size.

    device: its name, such as /dev/video2; None: the first one that is there.
    Raises: UserError, at the first picture too, when there is none.
    """

    def __init__(self, fps: Fraction, device: str | None = None) -> None:
        try:
            import pyvirtualcam
        except ModuleNotFoundError:
            raise UserError("--virtual_camera needs the package pyvirtualcam; run: pip install pyvirtualcam") from None
        self._library, self._fps, self._device = pyvirtualcam, float(fps), device
        self._camera: Any = None
        self._open(64, 64).close()  # whether there is one is said now, not when the first picture comes

    def write(self, picture: np.ndarray, time_s: float) -> None:
        if self._camera is None:
            height, width = picture.shape[:2]
            self._camera = self._open(width + width % 2, height + height % 2)  # many programs want even sides
        try:
            self._camera.send(np.ascontiguousarray(fit(picture, self._camera.width, self._camera.height)))
        except (RuntimeError, OSError) as e:
            raise UserError(f"{self._camera.device} takes no pictures any more ({e}); was v4l2loopback or OBS ended?") from None

    def close(self) -> None:
        if self._camera is not None:
            self._camera.close()

    def _open(self, width: int, height: int) -> Any:
        try:
            return self._library.Camera(width, height, self._fps, device=self._device)
        except (RuntimeError, ValueError) as e:
            reason = " ".join(str(e).split())
            raise UserError(f"there is no virtual camera {self._device or ''} ({reason}); {_HOW_TO_GET_ONE}") from None


_HOW_TO_GET_ONE = (
    "on Linux: sudo apt-get install v4l2loopback-dkms && sudo modprobe v4l2loopback exclusive_caps=1 card_label=Head2Head; "
    "on Windows and macOS: install OBS Studio (30 or newer on macOS) and start its virtual camera once"
)
