"""What a person looks like: the colour of each place of the head, looked up by NMFC colour, and what is around the head.

An NMFC colour says which place of the head a pixel shows, whoever's head it is (docs/formats.md). A table from those colours, CELLS on each
axis, to the person's mean colour there draws the person in any pose and expression: blurred, without light and hair, but with the right
skin, lips and teeth. Where there is no head, the backdrop is shown: what the person's frames show there on average, the background, blurred
hair and shoulders. The generator sees that picture beside the NMFC image.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from util.cli import UserError
from util.image_io import resize_image
from util.stored import UNREADABLE, brief_error, load_arrays

CELLS = 64  # on each axis; four grey levels of an NMFC image, about 4 mm of a head
_LEVELS = 256 // CELLS  # grey levels of a cell
FORMAT = "head2head appearance 2"
_FORMAT_OF_COLOURS = "head2head colours 1"  # of earlier runs, which see black where there is no head


def cell_of(nmfc: Any) -> Any:
    """Index of the cell of each pixel: uint8 [..., 3] as an array or tensor of wider integers -> [...] in 0 .. CELLS ** 3 - 1."""
    cells = nmfc // _LEVELS  # a shift would say the same, but OpenVINO takes 5 ms for it
    return (cells[..., 0] * CELLS + cells[..., 1]) * CELLS + cells[..., 2]


@dataclass(frozen=True)
class MouthParts:
    """The triangles of a face model and what they show of the mouth's inside."""

    colours: np.ndarray  # uint8 [F, 3] of the NMFC image
    parts: np.ndarray  # uint8 [F]: 0 not of the mouth's inside, 1 its wall, 2 gums and tongue, 3 teeth
    depths: np.ndarray  # float32 [F], cm behind the lips


@dataclass(frozen=True)
class Appearance:
    """The looks of one person."""

    colours: np.ndarray  # uint8 [CELLS ** 3, 3] RGB by `cell_of`; black in cells that no place of the head has
    backdrop: np.ndarray | None = None  # uint8 [H, H, 3] RGB at the size of the stored crops; None: black

    def __post_init__(self) -> None:
        if self.colours.shape != (CELLS**3, 3) or self.colours.dtype != np.uint8:
            raise ValueError(f"the colours are {self.colours.dtype} {list(self.colours.shape)}")
        if (b := self.backdrop) is not None and (b.ndim != 3 or b.shape != (len(b), len(b), 3) or b.dtype != np.uint8 or not b.size):
            raise ValueError(f"the backdrop is {b.dtype} {list(b.shape)}")

    def image(self, nmfc: np.ndarray) -> np.ndarray:
        """The head drawn by an NMFC image: uint8 [..., 3] -> uint8 [..., 3] RGB, black where there is none."""
        return self.colours[cell_of(nmfc.astype(np.int32))]

    def backdrop_of_size(self, height: int, width: int) -> np.ndarray:
        """The backdrop for pictures of a size: uint8 [height, width, 3]. It must be there."""
        return resize_image(self.backdrop, height, width)

    def to_bytes(self) -> bytes:
        """Both as the content of an .npz file."""
        file = io.BytesIO()
        arrays = {"colours": self.colours} if self.backdrop is None else {"colours": self.colours, "backdrop": self.backdrop}
        np.savez_compressed(file, format=_FORMAT_OF_COLOURS if self.backdrop is None else FORMAT, **arrays)
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes, file: str | Path) -> Appearance:
        """Read what `to_bytes` wrote. file: its name, for the message. Raises: UserError when the content is damaged or something else."""
        try:
            stored = load_arrays(io.BytesIO(data), ["format", "colours"])
            if str(stored["format"]) == _FORMAT_OF_COLOURS:
                return cls(stored["colours"])
            if str(stored["format"]) != FORMAT:
                raise ValueError(f"format {str(stored['format'])[:40]}")
            return cls(stored["colours"], load_arrays(io.BytesIO(data), ["backdrop"])["backdrop"])
        except UNREADABLE as e:
            raise UserError(
                f"{file} is damaged or of another version ({brief_error(e)}); train again, or copy it from where the run was trained"
            ) from None

    @classmethod
    def read(cls, path: Path) -> Appearance:
        """Read a run's file. Raises: UserError when it is missing, damaged or something else."""
        try:
            return cls.from_bytes(path.read_bytes(), path)
        except FileNotFoundError:
            raise UserError(
                f"{path} is missing: the generator needs the colours of the person it draws; "
                "name a person that the run was trained on, copy the whole folder of the run, or run scripts/write_profile.py"
            ) from None
