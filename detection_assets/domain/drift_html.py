"""The drift report as a page to read: one file, nothing loaded from anywhere, no scripts.

Names of classes, versions and requests come from outside, so all text is escaped.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from detection_assets.domain import drift, pages
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
        parts += [f"<h2>{escape(title)}</h2>", pages.table(table)]
    for part in deployments:
        parts.append(_section(part))
    parts.append(_explanation(limits))
    return pages.document(f"{detector}, {day}: drift report", "\n".join(parts))


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
            *(pages.number(getattr(one.compared, name, math.nan)) for name in ("psi", "psi_by_chance", "ks")),
            pages.number(one.p),
            escape(one.why),
        ]
        for one in findings
    ]
    return pages.rows(head, rows)


def _sized(count: int, size: float) -> str:
    return f"{count:,}" + (f" <small>worth {size:,.0f}</small>" if math.isfinite(size) and size < count - 0.5 else "")


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
        f'<text x="0" y="{HEIGHT - 3}">{pages.number(low)}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 3}" text-anchor="end">{pages.number(high)}</text></svg>'
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
