"""Small line charts as SVG text for pages that work offline; colours come from the page's style (util.report.web_page)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT = 360, 180
LINES = 6  # colours of lines in util.report.web_page
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 24
_MAX_POINTS = 240


def line_chart(
    x: Sequence[float],
    y: Sequence[float] | Sequence[Sequence[float]],
    *,
    title: str,
    names: Sequence[str] = (),
    x_label: str = "",
    smooth: bool = False,
    marker: bool = False,
    note: str = "",
) -> str:
    """One line, or several, as an HTML <figure> with its title, an SVG and a note.

    x: ascending. y: as long, or with `names` one such list for each; nan and inf leave gaps. Many points are averaged to 240.
    smooth: draw the values faintly and a moving average of a fifteenth of the width over them, and let single outliers leave the frame.
    marker: add a vertical line that a script can move; the SVG then carries data-x0, data-x1 (values at its left and right end).
    """
    x = np.asarray(x, float)
    curves = [_thin(x, np.asarray(curve, float)) for curve in (y if names else [y])]
    finite = np.concatenate([y[np.isfinite(y)] for _, y in curves])
    if finite.size == 0:
        return f"<figure class=chart><figcaption>{escape(title)}</figcaption><p class=note>no values yet</p></figure>"
    low, high = np.percentile(finite, [1, 99] if smooth else [0, 100]).tolist()
    y_ticks = ticks(low, high, 4)
    low, high = min(low, y_ticks[0]), max(high, y_ticks[-1])
    x0, x1 = (float(x[0]), float(x[-1])) if x[-1] > x[0] else (float(x[0]) - 0.5, float(x[0]) + 0.5)
    x_ticks = [t for t in ticks(x0, x1, 5) if x0 <= t <= x1]

    def px(value: float) -> float:
        return _LEFT + (value - x0) / (x1 - x0) * (WIDTH - _LEFT - _RIGHT)

    def py(value: float) -> float:
        return HEIGHT - _BOTTOM - (value - low) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    def place(x: np.ndarray, y: Sequence[float]) -> list[tuple[float, float] | None]:
        return [(px(a), float(np.clip(py(b), _TOP, HEIGHT - _BOTTOM))) if math.isfinite(b) else None for a, b in zip(x.tolist(), y)]

    parts = []
    for t in y_ticks:
        parts.append(f"<line class=grid x1={_LEFT} x2={WIDTH - _RIGHT} y1={py(t):.1f} y2={py(t):.1f} />")
        parts.append(f"<text x={_LEFT - 5} y={py(t) + 4:.1f} text-anchor=end>{number(t, y_ticks)}</text>")
    for t in x_ticks:
        anchor = "end" if px(t) > WIDTH - 30 else "middle"
        parts.append(f"<text x={px(t):.1f} y={HEIGHT - 8} text-anchor={anchor}>{number(t, x_ticks)}</text>")
    for i, (at, values) in enumerate(curves):
        style = "line" if i == 0 else f"'line line{i % LINES + 1}'"
        points = place(at, values.tolist())
        if smooth and np.isfinite(values).sum() > 30:
            parts.append(_polylines(points, "faint"))
            points = place(at, _moving_average(values, max(3, len(values) // 15)))
        parts.append(_polylines(points, style))
    if marker:
        parts.append(f"<line class=marker x1={_LEFT} x2={_LEFT} y1={_TOP} y2={HEIGHT - _BOTTOM} />")
    scale = f"data-x0={x0:g} data-x1={x1:g} data-left={_LEFT} data-right={WIDTH - _RIGHT}" if marker else ""
    own = curves[0][1][np.isfinite(curves[0][1])]
    label = f"{title}: {number(float(own[0]))} at first, {number(float(own[-1]))} at last" if own.size else title
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role=img aria-label="{escape(label)}" {scale}>{"".join(parts)}</svg>'
    notes = " · ".join(escape(n) for n in (note, x_label) if n)
    key = " ".join(f"<span class='key line{i % LINES + 1}'>{escape(name)}</span>" for i, name in enumerate(names))
    legend = f"<p class=note>{key}</p>" if names else ""
    return f"<figure class=chart><figcaption>{escape(title)}</figcaption>{svg}<p class=note>{notes}</p>{legend}</figure>"


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers, about so many, that enclose low..high (at least two of them)."""
    if not high > low:
        pad = abs(low) * 0.1 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / about
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [i * step for i in range(first, last + 1)]


def number(value: float, beside: Sequence[float] = ()) -> str:
    """A number as text: three digits, or as many as tell it from its neighbours `beside`; thousands as k, millions as M."""
    largest = max([abs(value), *map(abs, beside)], default=0)
    if largest >= 10_000:
        unit, letter = (1e6, "M") if largest >= 1e6 else (1e3, "k")
        return f"{value / unit:.4g}{letter}" if value else "0"
    if len(beside) > 1:
        step = abs(beside[1] - beside[0])
        decimals = next((d for d in range(6) if all(abs(round(b, d) - b) < step / 100 for b in beside)), 6)
        return f"{value:.{decimals}f}"
    return f"{value:.3g}"


def _thin(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average neighbouring points until at most _MAX_POINTS remain."""
    if len(x) <= _MAX_POINTS:
        return x, y
    cuts = np.linspace(0, len(x), _MAX_POINTS + 1).astype(int)
    finite = np.isfinite(y)
    total = np.add.reduceat(np.where(finite, y, 0), cuts[:-1])
    count = np.add.reduceat(finite.astype(float), cuts[:-1])
    with np.errstate(invalid="ignore", divide="ignore"):
        means = total / count
    middle = x[(cuts[:-1] + cuts[1:] - 1) // 2]
    middle[0], middle[-1] = x[0], x[-1]
    return middle, means


def _moving_average(y: np.ndarray, width: int) -> list[float]:
    """Centred mean over `width` points, over fewer at the ends, without those that are not finite."""
    finite = np.isfinite(y)
    kernel = np.ones(width | 1)
    total = np.convolve(np.where(finite, y, 0), kernel, "same")
    count = np.convolve(finite.astype(float), kernel, "same")
    return np.where(finite & (count > 0), total / np.maximum(count, 1), np.nan).tolist()


def _polylines(points: list[tuple[float, float] | None], style: str) -> str:
    runs: list[list[str]] = [[]]
    for p in points:
        if p is None:
            runs.append([])
        else:
            runs[-1].append(f"{p[0]:.1f},{p[1]:.1f}")
    lines = [r if len(r) > 1 else r * 2 for r in runs if r]
    return "".join(f'<polyline class={style} points="{" ".join(r)}" />' for r in lines)
