"""The drift report as a page to read: one file, nothing loaded from anywhere, no scripts.

Names of classes, versions and requests come from outside, so all text is escaped.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from detection_assets.domain import drift
from detection_assets.domain.drift import Finding, Limits
from detection_assets.domain.two_samples import Floats, Sample

WIDTH, HEIGHT, FOOT = 300, 110, 16
"""Of a chart, and of its axis, in SVG units."""
COLUMNS = 24
MOST_CLASSES = 12
LEGEND = '<i class="reference"></i> reference <i class="production"></i> production'


@dataclass(frozen=True, slots=True)
class Shown:
    """A picture in the report: JPEG bytes, and what there is to say about it."""

    jpeg: bytes
    caption: str


@dataclass(frozen=True)
class Deployment:
    """What the report says of one version.

    Attributes:
        version: The registered version.
        dataset_version: The dataset that taught it.
        requests: Requests drawn at random.
        findings: With their verdicts.
        reference: Samples by feature.
        production: Samples by feature.
        pictures: The strangest ones.
        notes: Sentences about what is missing, or about labels that arrived.
    """

    version: str
    dataset_version: str
    requests: int
    findings: Sequence[Finding]
    reference: Mapping[str, Sample]
    production: Mapping[str, Sample]
    pictures: Sequence[Shown] = ()
    notes: Sequence[str] = field(default_factory=tuple)


def page(
    detector: str,
    day: str,
    deployments: Sequence[Deployment],
    tables: Mapping[str, pd.DataFrame],
    limits: Limits,
) -> str:
    """The whole report.

    Args:
        detector: The detector's name.
        day: The day.
        deployments: A section each.
        tables: Further tables by their title, such as the service's health.
        limits: What the verdicts were made with.

    Returns:
        HTML.
    """
    drifted = [
        f"{drift.LABELS.get(one.feature, one.feature)} (version {part.version})"
        for part in deployments
        for one in part.findings
        if one.verdict == drift.DRIFT
    ]
    if drifted:
        headline = f"Drift in {', '.join(drifted)}."
    elif deployments:
        headline = "No drift."
    else:
        headline = "No request was kept on this day."
    parts = [
        f"<h1>{escape(detector)}: {escape(day)}</h1>",
        f'<p class="headline {"drift" if drifted else "stable"}">{escape(headline)}</p>',
    ]
    for title, table in tables.items():
        parts += [f"<h2>{escape(title)}</h2>", _table(table)]
    for part in deployments:
        parts.append(_section(part))
    parts.append(_explanation(limits))
    title, body = f"{escape(detector)}, {escape(day)}: drift report", "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>\n'
        f"<body><main>\n{body}\n</main></body></html>\n"
    )


def _section(part: Deployment) -> str:
    taught = f", taught by {escape(part.dataset_version)}" if part.dataset_version else ""
    parts = [
        f"<section><h2>Version {escape(part.version)}{taught}</h2>",
        f"<p>{part.requests:,} requests drawn at random. {LEGEND}</p>",
        *(f'<p class="note">{escape(note)}</p>' for note in part.notes),
        _verdicts(part.findings),
        '<div class="charts">',
    ]
    for one in part.findings:
        reference, production = part.reference.get(one.feature), part.production.get(one.feature)
        if reference is None or production is None or not len(reference) or not len(production):
            continue
        draw = _bars if reference.categorical else _histogram
        label = escape(drift.LABELS.get(one.feature, one.feature))
        parts.append(
            f'<figure><figcaption>{label} <b class="{_kind(one.verdict)}">{escape(one.verdict)}</b></figcaption>'
            f"{draw(reference.values, production.values, label)}</figure>"
        )
    parts.append("</div>")
    if part.pictures:
        parts.append("<h3>Strangest pictures</h3><div class='pictures'>")
        parts += [
            f'<figure><img alt="" src="data:image/jpeg;base64,{base64.b64encode(shown.jpeg).decode()}">'
            f"<figcaption>{escape(shown.caption)}</figcaption></figure>"
            for shown in part.pictures
        ]
        parts.append("</div>")
    return "\n".join([*parts, "</section>"])


def _kind(verdict: str) -> str:
    return verdict.replace(" ", "-")


def _verdicts(findings: Sequence[Finding]) -> str:
    head = ["feature", "verdict", "reference", "production", "PSI", "by chance", "KS", "p", "why"]
    rows = [
        [
            escape(drift.LABELS.get(one.feature, one.feature)),
            f'<b class="{_kind(one.verdict)}">{escape(one.verdict)}</b>',
            _sized(one.reference_n, one.compared.reference_size if one.compared else math.nan),
            _sized(one.production_n, one.compared.production_size if one.compared else math.nan),
            *(_number(getattr(one.compared, name, math.nan)) for name in ("psi", "psi_by_chance", "ks")),
            _number(one.p),
            escape(one.why),
        ]
        for one in findings
    ]
    return _rows(head, rows)


def _sized(count: int, size: float) -> str:
    return f"{count:,}" + (f" <small>worth {size:,.0f}</small>" if math.isfinite(size) and size < count - 0.5 else "")


def _table(table: pd.DataFrame) -> str:
    if table.empty:
        return "<p>Nothing to show.</p>"
    cells = [
        [_number(value) if isinstance(value, (float, int, np.number)) else escape(str(value)) for value in row]
        for row in table.itertuples(index=False, name=None)
    ]
    return _rows([str(name) for name in table.columns], cells)


def _rows(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "\n".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>\n{body}\n</tbody></table></div>'


def _number(value: Any) -> str:
    number = float(value)
    if not math.isfinite(number):
        return "–"
    return f"{number:,.0f}" if abs(number) >= 1000 or number == int(number) else f"{number:.3g}"


def _histogram(reference: Floats, production: Floats, label: str) -> str:
    """Shares of both samples over the same columns; what lies beyond the middle 99 % is in the outer ones."""
    both = np.concatenate([reference, production])
    low, high = np.quantile(reference, [0.005, 0.995])
    low, high = min(low, np.quantile(production, 0.005)), max(high, np.quantile(production, 0.995))
    if high <= low:
        low, high = float(both.min()) - 0.5, float(both.max()) + 0.5
    edges = np.linspace(low, high, COLUMNS + 1)
    shares = [np.histogram(np.clip(values, low, high), edges)[0] / len(values) for values in (reference, production)]
    top = max(float(np.max(part)) for part in shares)
    step, room = WIDTH / COLUMNS, HEIGHT - FOOT - 4
    heights = [part / top * room for part in shares]
    base = HEIGHT - FOOT
    fill = "".join(
        f'<rect x="{at * step:.1f}" y="{base - high_:.1f}" width="{step:.1f}" height="{high_:.1f}"/>'
        for at, high_ in enumerate(heights[0].tolist())
        if high_ > 0
    )
    line = " ".join(
        f"{at * step:.1f},{base - high_:.1f} {(at + 1) * step:.1f},{base - high_:.1f}"
        for at, high_ in enumerate(heights[1].tolist())
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}: reference and production">'
        f'<g class="reference">{fill}</g><polyline class="production" points="0,{base} {line} {WIDTH},{base}"/>'
        f'<text x="0" y="{HEIGHT - 3}">{_number(low)}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 3}" text-anchor="end">{_number(high)}</text></svg>'
    )


def _bars(reference: Any, production: Any, label: str) -> str:
    """Shares of each category, reference above production; the rarest are put together."""
    shares = pd.DataFrame({
        "reference": pd.Series(reference).value_counts(normalize=True),
        "production": pd.Series(production).value_counts(normalize=True),
    }).fillna(0.0)  # fmt: skip
    shares = shares.loc[shares.max(axis=1).sort_values(ascending=False, kind="stable").index]
    if len(shares) > MOST_CLASSES:
        rest = shares.iloc[MOST_CLASSES - 1 :].sum()
        shares = pd.concat([shares.iloc[: MOST_CLASSES - 1], pd.DataFrame([rest], index=pd.Index(["others"]))])
    row, name = 22, 90
    height = row * len(shares)
    top = max(float(shares.to_numpy().max()), 1e-9)
    scale = (WIDTH - name - 34) / top
    bars: list[str] = []
    pairs = zip(shares.index, shares["reference"].tolist(), shares["production"].tolist(), strict=True)
    for at, (text, before, now) in enumerate(pairs):
        y = at * row
        bars.append(
            f'<text x="0" y="{y + 14}">{escape(str(text)[:16])}</text>'
            f'<rect class="reference" x="{name}" y="{y + 3}" width="{before * scale:.1f}" height="8"/>'
            f'<rect class="production" x="{name}" y="{y + 11}" width="{now * scale:.1f}" height="8"/>'
            f'<text x="{name + max(before, now) * scale + 3:.1f}" y="{y + 15}">{now:.0%}</text>'
        )
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}: reference and production">'
        f"{''.join(bars)}</svg>"
    )


def _explanation(limits: Limits) -> str:
    return f"""<h2>How to read this</h2>
<p>The filled shape is the reference: the pictures of the dataset that taught the model, and what the model found on the
test split of that dataset. The line is production: the requests that were drawn at random. Those that were kept because
the model was unsure are no fair picture of what comes in and are not part of it.</p>
<p><b>drift</b>: the difference is no chance (p at most {drift.LEVEL:g}, adjusted for all features of the report) and
over a limit: a population stability index of {limits.psi:g} above what chance gives, or a Kolmogorov-Smirnov distance
of {limits.ks:g}. <b>watch</b>: no chance, and over half a limit. <b>stable</b>: may be chance, or too small to matter.
<b>too few</b>: under {limits.min_requests} requests, or values that are worth too few independent ones.</p>
<p>Frames of one camera that follow each other resemble each other, and so do the boxes of one frame: they count for
less (&ldquo;worth&rdquo;), as their likeness to their neighbours says. A change that lasts longer than a quarter of the
day's requests counts as a change. Cameras that send in turns are not told apart.</p>"""


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
