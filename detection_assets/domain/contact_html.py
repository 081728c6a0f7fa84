"""A contact sheet as a page to look at: one file, nothing loaded from anywhere, no scripts, on a phone, too.

The boxes lie as lines over the pictures, so that they stay sharp and can be hidden. Names of frames and classes come
from outside, so all text is escaped, and the page forbids itself whatever it does not need.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator, Sequence
from html import escape

from detection_assets.domain.contact_sheet import encoded, ink
from detection_assets.domain.tiles import Mark, Tile, color_of, label_places

QUALITY = 78
TEXT = 0.03
"""Height of a label as a share of the picture's width: 11 pixels on a phone."""
LETTER = 0.61
"""Width of a letter as a share of its height, about: what fonts a reader has is not known."""


def page(
    tiles: Iterable[Tile], heading: str, notes: Sequence[str], classes: Sequence[str], *, both: bool = False
) -> Iterator[str]:
    """The page, piece by piece as the tiles come: no more than one tile is held.

    Args:
        tiles: What to show.
        heading: The page's title.
        notes: Sentences below it.
        classes: The class names, for the legend.
        both: Whether there are predictions beside truth.

    Yields:
        HTML.
    """
    title = escape(heading)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    yield (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body><h1>{title}</h1>\n"
    )
    yield from (f"<p>{escape(note)}</p>\n" for note in notes)
    if both:
        yield SWITCHES
    keys = "".join(f'<li><i style="border-color:{color_of(name, classes)}"></i>{escape(name)}</li>' for name in classes)
    yield f'<ul class="legend">{keys}</ul>\n<main>\n'
    for tile in tiles:
        yield _figure(tile)
    yield "</main></body></html>\n"


def _figure(tile: Tile) -> str:
    name, verdict = escape(tile.frame), escape(tile.verdict)
    if tile.picture is None:
        shown = f'<div class="none" role="img" aria-label="{name}">{escape(tile.problem)}</div>'
    else:
        data = base64.b64encode(encoded(tile.picture, "JPEG", QUALITY)).decode()
        wide, high = tile.picture.size
        shown = (
            f'<div class="frame"><img width="{wide}" height="{high}" alt="{name}: {verdict}" '
            f'src="data:image/jpeg;base64,{data}">{_overlay(tile)}</div>'
        )
    time = f" <small>{clock}</small>" if (clock := escape(tile.title[len(tile.frame) :].strip())) else ""
    return f"<figure>{shown}<figcaption><b>{verdict}</b><span>{name}{time}</span></figcaption></figure>\n"


def without(page: str, video: str) -> str:
    """A page without the pictures of a video."""
    its = f"<span>{escape(video)}#"
    kept = [line for line in page.splitlines(keepends=True) if not (line.startswith("<figure>") and its in line)]
    return "".join(kept)


def _overlay(tile: Tile) -> str:
    wide, high = tile.size
    size = wide * TEXT
    parts = [_rectangle(mark) for mark in tile.marks]
    places = label_places(
        tile.marks, (1.0, 1.0), tile.size, size * 1.25, lambda label: size * (LETTER * len(label) + 0.4)
    )
    for mark, x, y, room in places:
        # What touches the right edge must end there, however wide it really is.
        at, anchor = (wide - size * 0.2, "end") if x + room > wide - 0.5 else (x + size * 0.2, "start")
        parts.append(
            f'<text class="{_kind(mark)}" x="{at:.1f}" y="{y + size:.1f}" text-anchor="{anchor}" '
            f'fill="{ink(mark.color)}" stroke="{mark.color}">{escape(mark.label)}</text>'
        )
    return (
        f'<svg viewBox="0 0 {wide:g} {high:g}" preserveAspectRatio="none" aria-hidden="true" '
        f'font-size="{size:.1f}" stroke-width="{size / 3:.1f}">{"".join(parts)}</svg>'
    )


def _kind(mark: Mark) -> str:
    return f"{'prediction' if mark.dashed else 'truth'}{' right' if mark.right else ''}"


def _rectangle(mark: Mark) -> str:
    x1, y1, x2, y2 = mark.corners
    return (
        f'<rect class="{_kind(mark)}" x="{x1:.1f}" y="{y1:.1f}" width="{max(x2 - x1, 0):.1f}" '
        f'height="{max(y2 - y1, 0):.1f}" stroke="{mark.color}"/>'
    )


SWITCHES = """<input type="checkbox" id="truth" checked><label for="truth"><i></i>truth</label>
<input type="checkbox" id="prediction" checked><label for="prediction"><i class="dashed"></i>prediction</label>
<input type="checkbox" id="right" checked><label for="right">what both agree on</label>
"""

STYLE = """
:root{color-scheme:light dark;--ink:#1c2128;--quiet:#69707a;--paper:#fff;--line:#d9dde2;--none:#c9ced4}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--quiet:#9aa3ad;--paper:#14171b;--line:#333a42;--none:#3a424b}}
body{background:var(--paper);color:var(--ink);font:16px/1.4 system-ui,sans-serif;margin:0 auto;max-width:1900px;
padding:12px}
h1{font-size:20px;margin:4px 0;overflow-wrap:anywhere}p{margin:2px 0;color:var(--quiet)}
label{margin:0 16px 0 2px;line-height:2;display:inline-block}
.legend{list-style:none;padding:0;margin:6px 0 12px;display:flex;flex-wrap:wrap;gap:4px 16px}
i{display:inline-block;width:22px;height:9px;border:3px solid;margin-right:6px}i.dashed{border-style:dashed}
main{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:14px}
figure{margin:0;min-width:0}
figcaption{font-size:15px;padding:3px 0;overflow-wrap:anywhere}
figcaption span{display:block;color:var(--quiet);font-size:13px}
.frame{position:relative;overflow:hidden;border-radius:4px}
.frame img{display:block;width:100%;height:auto}
.frame svg{position:absolute;inset:0;width:100%;height:100%}
.none{display:grid;place-items:center;aspect-ratio:4/3;background:var(--none);border-radius:4px;padding:12px;
box-sizing:border-box;text-align:center}
rect{fill:none;stroke-width:3px;vector-effect:non-scaling-stroke}
rect.right{stroke-width:1.5px}
rect.prediction{stroke-dasharray:7 5}
text{paint-order:stroke;stroke-linejoin:round;font-family:system-ui,sans-serif;font-weight:600}
#truth:not(:checked)~main .truth,#prediction:not(:checked)~main .prediction,#right:not(:checked)~main .right
{display:none}
@media print{input,label{display:none}}
"""
