"""Files of motion: CSV of ARKit blendshapes, and templates (JSON). docs/formats.md describes both."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from preprocessing.driving.arkit import (
    bridge,
    endings,
    read_angles,
    read_times,
    read_weights,
    rows_with_a_face,
    shape_columns,
    without_unit,
)
from preprocessing.driving.motion import Motion, from_angles, shapes_called, turning_shift
from preprocessing.driving.tables import brief, read_table
from util.cli import UserError, warn
from util.geometry import rotation_matrix, rotation_vector
from util.image_io import write_bytes
from util.stored import load_json, load_rate

TEMPLATE_FORMAT = "head2head motion"
TEMPLATE_VERSION = 1
MOST_FPS = 1000
LARGEST = {"rotation": 7, "zoom": 100, "shift": 1e3, "expression": 1e3, "pupils": 100, "lids": 100, "lips": 100}  # more is damage
LONGEST_NAME = 100  # of a column
LEAST_SHAPES = 10  # blendshapes in the first line of a CSV; fewer are another kind of table


# ---- ARKit ----


def read_arkit(path: Path, names: Sequence[str], fps: Fraction) -> Motion:
    """Read a table of ARKit blendshape weights as phone apps (Live Link Face and others) and exporters write it: docs/formats.md.

    What is guessed, filled in or left out is said in a warning each. Without HeadYaw, HeadPitch and HeadRoll the head stays straight.

    names: expression shapes of the face model. fps: frame rate of the result, to which the file is resampled linearly.
    Raises: UserError when the file is missing, cannot be understood or holds something else.
    """

    def shapes(name: str) -> tuple[int, ...]:
        return _column_shapes(name, tuple(names))

    try:
        table = read_table(path, lambda cell: bool(shapes(cell)), LEAST_SHAPES)
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; check --drive") from None
    except OSError as e:
        raise UserError(f"{path} cannot be read ({e.strerror}); check --drive") from None
    except ValueError as e:
        raise UserError(f"{path} is not a CSV file of ARKit blendshapes that can be read: {e}") from None
    notes, filled = list(table.notes), []
    columns = shape_columns(table, shapes, notes)
    seen = rows_with_a_face(table, columns)
    if seen.sum() < 2:
        raise UserError(f"{path} holds {seen.sum()} frames in which a face was seen; at least 2 are needed")
    try:
        times, keep = read_times(table, notes)
        rows = np.flatnonzero(seen & keep)
        if len(rows) < 2:
            raise ValueError("fewer than 2 rows with a face have a time of their own; export it again from the capture app")
        faces = replace(table, rows=[table.rows[i] for i in rows], lines=[table.lines[i] for i in rows])
        weights = read_weights(faces, list(columns), filled, notes)
        angles = read_angles(faces, times[rows], columns, filled, notes)
    except ValueError as e:
        raise UserError(f"{path}: {e}") from None
    times -= times[keep][0]
    curves = bridge(times[rows], np.concatenate([weights, angles], 1), faces.lines, notes)
    lost = [table.lines[i] for i in np.flatnonzero(keep & ~seen)]
    if lost:
        notes.append(f"rows without a face: {len(lost)} (first: line {lost[0]})")
    if filled:
        notes.append(f"cells without a usable number: {len(filled)} (first: line {min(filled)}); filled from the rows around them")
    for note in notes:
        warn(f"{path.name}: {note}")

    at = np.arange(int(times[keep][-1] * fps) + 1) / float(fps)
    sampled = [np.interp(at, times[rows], values) for values in curves.T]
    expression = np.zeros((len(at), len(names)))
    for values, called in zip(sampled, columns.values()):
        expression[:, list(called)] = values[:, None]
    rotation = from_angles(*sampled[len(columns) :])
    shift = turning_shift(rotation)
    return Motion(fps, rotation, np.ones(len(at)), shift - shift.mean(0), expression, np.zeros((len(at), 2, 3)))


@lru_cache(1000)
def _column_shapes(name: str, names: tuple[str, ...]) -> tuple[int, ...]:
    """Which of a model's expression shapes a column's name means, with any prefix and unit."""
    if len(name) > LONGEST_NAME or not re.search("[A-Za-z]{2}", name):
        return ()
    return tuple(next(filter(None, (shapes_called(part, names) for part in endings(without_unit(name)[0]))), ()))


# ---- templates ----


def save_template(path: Path, motion: Motion, names: Sequence[str], version: str, person: str = "", consent: str = "") -> None:
    """Write motion as a template: no picture, no shape of a face, no place in a frame (docs/formats.md).

    names: expression shapes, in the order of motion.expression; version: the face model's, as "name version".
    person, consent: who moved, and what was said of the consent to that.
    """
    fields = {
        "format": TEMPLATE_FORMAT,
        "version": TEMPLATE_VERSION,
        "face_model": version,
        "person": person,
        "consent": consent,
        "fps": str(motion.fps),
        "expression_names": list(names),
        "rotation": rotation_vector(motion.rotation).round(5).tolist(),
        "zoom": motion.zoom.round(5).tolist(),
        "shift": motion.shift.round(4).tolist(),
        "expression": motion.expression.round(4).tolist(),
        "pupils": motion.pupils.reshape(len(motion), 6).round(4).tolist(),
    }
    for key in ("lids", "lips"):
        if getattr(motion, key) is not None:
            fields[key] = getattr(motion, key).round(4).tolist()
    write_bytes(path, json.dumps(fields, separators=(",", ":")).encode())


def template_origin(path: Path) -> dict[str, str]:
    """Whose motion a template holds, and the consent to it: `person` and `consent`, as far as it says (read_template checks the file)."""
    fields = load_json(path.read_text(encoding="utf-8-sig"))
    return {key: fields[key] for key in ("person", "consent") if isinstance(fields.get(key), str) and fields[key]}


def read_template(path: Path, names: Sequence[str]) -> Motion:
    """Read a template for a model with the expression shapes `names`; shapes that the model does not have are left out.

    Raises: UserError when the file is missing, damaged or something else.
    """
    remedy = "make it with preprocessing/reenact.py --save_template"
    try:
        fields = load_json(path.read_text(encoding="utf-8-sig"))
        if not isinstance(fields, dict):
            raise ValueError("it holds a list or a single value")
        found = fields.get("format"), fields.get("version")
        if found != (TEMPLATE_FORMAT, TEMPLATE_VERSION):
            remedy = "it is of another program or version; " + remedy
            raise ValueError(brief(f"format {found[0]}, version {found[1]}", 100))
        if not (isinstance(fields["expression_names"], list) and isinstance(fields["rotation"], list) and fields["rotation"]):
            raise ValueError("no names of expressions or no frames")
        own, count, fps = [str(n) for n in fields["expression_names"]], len(fields["rotation"]), _rate(fields["fps"])
        shapes = {"rotation": (3,), "zoom": (), "shift": (2,), "expression": (len(own),), "pupils": (2, 3), "lids": (2,), "lips": ()}
        optional = {"lids", "lips"} - set(fields)
        values = {k: _numbers(fields[k], k, (count, *shape)) for k, shape in shapes.items() if k not in optional}
    except FileNotFoundError:
        raise UserError(f"there is no file {path}; check --drive") from None
    except UnicodeDecodeError:
        kinds = "--drive takes a .csv or a .json; a person's video drives by --source_id"
        raise UserError(f"{path} is not a motion template (it is no text); {kinds}") from None
    except json.JSONDecodeError as e:
        what = "it is empty" if e.pos == 0 and not e.doc.strip() else f"it is damaged or no JSON: {e}"
        raise UserError(f"{path} is not a motion template ({what}); {remedy}") from None
    except KeyError as e:
        raise UserError(f"{path} is not a motion template ({e} is missing); {remedy}") from None
    except (ValueError, RecursionError) as e:
        raise UserError(f"{path} is not a motion template ({e}); {remedy}") from None
    rotation = rotation_matrix(values.pop("rotation"))
    expression = np.zeros((count, len(names)))
    for i, name in enumerate(own):
        if name in names:
            expression[:, list(names).index(name)] = values["expression"][:, i]
    return Motion(fps, rotation, **{**values, "expression": expression})


def _rate(value: Any) -> Fraction:
    """Frames/s of a template. Raises: ValueError."""
    try:
        return load_rate(value, MOST_FPS)
    except ValueError:
        raise ValueError(f"fps {brief(str(value))} is no frame rate") from None


def _numbers(field: Any, key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of a template. Raises: ValueError says which are not as they should be."""
    try:
        values = np.array(field, np.float64)
    except (ValueError, TypeError, OverflowError):
        raise ValueError(f"{key} is no table of numbers") from None
    size = (shape[0], math.prod(shape[1:])) if len(shape) > 1 else shape
    if values.shape != size:
        raise ValueError(f"{key} has the size {list(values.shape)} instead of {list(size)}")
    bad = np.argwhere(~(np.abs(values) <= LARGEST[key]))  # also what is not a number
    bad = np.argwhere(values <= 0) if key == "zoom" and not len(bad) else bad
    if len(bad):
        raise ValueError(f"{key} of frame {bad[0][0]} is {values[tuple(bad[0])]:g}")
    return values.reshape(shape)
