"""What the pages that people read have in common: one file, nothing loaded from anywhere, no scripts.

Names come from outside, so all text is escaped, and a page forbids itself whatever it does not need.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def document(title: str, body: str, style: str = "") -> str:
    """A whole page.

    Args:
        title: Its title, as text.
        body: What is in it, as HTML.
        style: Rules of this page's own, after those of all.
    """
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}{style}</style></head>\n'
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def table(frame: pd.DataFrame) -> str:
    """A pandas table, without its index."""
    if frame.empty:
        return "<p>Nothing to show.</p>"
    cells = [
        [number(value) if isinstance(value, (float, int, np.number)) else escape(str(value)) for value in row]
        for row in frame.itertuples(index=False, name=None)
    ]
    return rows([str(name) for name in frame.columns], cells)


def rows(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    lines = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in body)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>\n{lines}\n</tbody></table></div>'


def number(value: Any) -> str:
    """A number for people: three digits that matter, or a dash where there is none."""
    told = float(value)
    if not math.isfinite(told):
        return "–"
    return f"{told:,.0f}" if abs(told) >= 1000 or told == int(told) else f"{told:.3g}"


def svg_text(text: Any) -> str:
    """Text in an SVG that stands by itself: a character that XML forbids would make all of the picture unreadable."""
    return escape(_FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", str(text)))


_FORBIDDEN = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def link(address: str, text: str) -> str:
    """A link as HTML; the text alone if the address is none of the web."""
    if not address.startswith(("https://", "http://")):
        return escape(text)
    return f'<a href="{escape(address)}" rel="noreferrer">{escape(text)}</a>'


STYLE = """
:root{color-scheme:light dark;--ink:#1c2128;--quiet:#69707a;--paper:#fff;--line:#d9dde2;--ref:#b9c2cd;--now:#c2410c}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ed;--quiet:#9aa3ad;--paper:#14171b;--line:#333a42;--ref:#4b5663;
--now:#fb923c}}
body{background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif;margin:0}
main{max-width:1100px;margin:0 auto;padding:24px}
h1{font-size:24px}h2{font-size:18px;margin-top:32px}h3{font-size:15px}
.headline{font-size:18px;padding:10px 14px;border-left:4px solid;
background:color-mix(in srgb,var(--line) 35%,transparent)}
.note{color:var(--quiet)}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:13px}
th,td{text-align:left;padding:4px 10px;border-bottom:1px solid var(--line);vertical-align:top}
th{color:var(--quiet);font-weight:600}small{color:var(--quiet)}
.charts,.pictures{display:grid;grid-template-columns:repeat(auto-fill,minmax(240px,1fr));gap:16px;margin-top:16px}
figure{margin:0;min-width:0}figcaption{font-size:13px;margin:2px 0}
svg{width:100%;height:auto;border-bottom:1px solid var(--line)}svg text{font-size:10px;fill:var(--quiet)}
.reference{fill:var(--ref)}rect.production{fill:var(--now)}
polyline.production{fill:none;stroke:var(--now);stroke-width:1.6}
i{display:inline-block;width:10px;height:10px;margin-left:8px}i.reference{background:var(--ref)}
i.production{background:var(--now)}
img{width:100%;height:auto;border-radius:4px}
b.drift,.headline.drift{color:#dc2626}b.watch{color:#d97706}b.stable,.headline.stable{color:#15803d}
b.too-few,b.no-reference{color:var(--quiet)}
"""
