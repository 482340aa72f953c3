"""The look of our pages: one self-contained file, light and dark, readable on a phone; no network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from util import VERSION

STYLE = """
:root {
  color-scheme: light dark;
  --bg: #fafafa; --fg: #1b1d22; --muted: #676d79; --card: #fff; --edge: #dfe2e8; --accent: #2563c9; --mark: #d9480f;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #131519; --fg: #e6e8ec; --muted: #98a0ad; --card: #1c1f25; --edge: #30353e; --accent: #7aaaf5; --mark: #ff9a5c;
  }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--bg); color: var(--fg); font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
main { max-width: 1120px; margin: 0 auto; padding: 20px 16px 48px }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 4px; overflow-wrap: anywhere }
h2 { font-size: 1.1rem; margin: 36px 0 10px }
p { margin: 6px 0; max-width: 76ch }
.lead, .note, figcaption, dt { color: var(--muted) }
.note { font-size: .8rem; margin: 2px 0 0 }
.notice { border-left: 4px solid var(--mark); background: var(--card); padding: 8px 12px; margin: 14px 0; max-width: none }
video { display: block; width: 100%; margin-top: 14px; border-radius: 8px; background: #000 }
img { display: block; width: 100%; border-radius: 6px }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; vertical-align: baseline; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--edge) }
th .note { font-weight: 400 }
th { font-weight: 600 }
thead th { color: var(--muted); font-size: .85rem }
td.number { font-variant-numeric: tabular-nums; font-weight: 600; white-space: nowrap; text-align: right; padding: 7px 0 7px 20px }
th.number { text-align: right; padding: 7px 0 7px 20px }
.grid { display: grid; gap: 14px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)) }
.row { display: grid; gap: 6px; margin: 0 0 10px }
figure { margin: 0 }
figcaption { font-size: .85rem }
.chart { background: var(--card); border: 1px solid var(--edge); border-radius: 8px; padding: 10px 12px }
.chart figcaption { color: var(--fg); font-weight: 600 }
.chart svg { display: block; width: 100%; height: auto }
.chart text { fill: var(--muted); font: 11px system-ui, "DejaVu Sans", sans-serif }
.chart .grid { stroke: var(--edge); stroke-width: 1 }
.chart .line { fill: none; stroke: var(--accent); stroke-width: 1.6; stroke-linejoin: round }
.chart .faint { fill: none; stroke: var(--accent); stroke-width: 1; opacity: .3 }
.chart .line2 { stroke: var(--mark) } .chart .line3 { stroke: #2b9a5e } .chart .line4 { stroke: #a855c8 }
.chart .line5 { stroke: #b58a12 } .chart .line6 { stroke: #7d8590 }
.key { border-bottom: 3px solid var(--accent); margin-right: 12px } .key.line2 { border-color: var(--mark) }
.key.line3 { border-color: #2b9a5e } .key.line4 { border-color: #a855c8 } .key.line5 { border-color: #b58a12 }
.key.line6 { border-color: #7d8590 }
.best { color: var(--accent) }
.wide { overflow-x: auto }
.stack td.number, .stack th.number { padding-right: 20px }
@media (max-width: 640px) {
  .stack thead { display: none }
  .stack th, .stack td, .stack td.number { display: block; border: 0; padding: 0; text-align: left; white-space: normal }
  .stack th { border-top: 1px solid var(--edge); margin-top: 8px; padding-top: 8px }
  .stack td:empty { display: none }
  .stack td::before { content: attr(data-label) ": "; color: var(--muted); font-weight: 400 }
}
.chart .marker { stroke: var(--mark); stroke-width: 1.5 }
.seek { cursor: pointer }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 250px), 1fr)); gap: 0 28px; margin: 0 }
dl div { display: flex; justify-content: space-between; gap: 12px; border-bottom: 1px solid var(--edge); padding: 4px 0; font-size: .88rem }
dd { margin: 0; text-align: right; overflow-wrap: anywhere; font-variant-numeric: tabular-nums }
.shown { display: inline-block; width: 34px; height: 8px; margin-left: 8px; border: 1px solid var(--accent); border-radius: 4px }
.shown span { display: block; height: 6px; border-radius: 3px; background: var(--accent) }
.shown.not { border-color: var(--mark) } .shown.not span { background: var(--mark) }
.samples { grid-template-columns: repeat(auto-fill, minmax(min(100%, 420px), 1fr)) }
details { margin-top: 10px }
summary { cursor: pointer; color: var(--accent) }
summary h2 { display: inline-block; color: var(--fg) }
footer { margin-top: 40px; color: var(--muted); font-size: .85rem }
"""


def page(title: str, body: str, script: str = "") -> str:
    """A whole HTML document around `body`."""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{body}
<footer>Head2Head {VERSION}</footer>
</main>
<script>{script}</script>
</body>
</html>
"""


def settings(values: Mapping[str, Any]) -> str:
    """Names and values as a list in columns."""
    rows = "".join(f"<div><dt>{escape(str(k))}</dt><dd>{escape(_plain(v))}</dd></div>" for k, v in values.items())
    return f"<dl>{rows}</dl>"


def pictures(captions_and_files: Iterable[tuple[str, str]], columns: int | None = None) -> str:
    """A row of pictures with captions; files are paths relative to the page."""
    items = list(captions_and_files)
    figures = "".join(f'<figure><img src="{escape(f)}" alt="{escape(c)}"><figcaption>{escape(c)}</figcaption></figure>' for c, f in items)
    return f'<div class=row style="grid-template-columns: repeat({columns or len(items)}, minmax(0, 1fr))">{figures}</div>'


def duration(seconds: float) -> str:
    """'42 s', '7 min', '3 h 05 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None:
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
