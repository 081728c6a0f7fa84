"""The report on a detector: what served, how good it was, what it learned from, what changed outside, what it cost.

One file that goes anywhere: to a phone, to a printer, to an auditor. What there is nothing of yet says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from html import escape
from typing import Any
from urllib.parse import quote

import pandas as pd

from detection_assets.domain import drift, history, pages

WIDTH, HEIGHT = 300, 96
"""Of a trend, in SVG units: as wide as a phone shows it."""
BROAD = 420
"""Width of the timeline and of the drift strip."""
MOST_PERIODS, MOST_CLASSES, MOST_VERSIONS, MOST_DAYS = 12, 24, 30, 30
ALL = "all classes"
WORST = (drift.DRIFT, drift.WATCH, drift.STABLE, drift.TOO_FEW)
"""Verdicts, the one that is to be seen first."""


@dataclass(frozen=True)
class Report:
    """What a report tells.

    Attributes:
        detector: The detector's name.
        said: What people say of it: `description` and `owner`.
        now: When it was made, epoch seconds.
        read: What was read for it, in words.
        periods: Who served what, when.
        versions: Newest first: `version, approval, by, when, reason, dataset, ap50, low, high, gates, override`.
        quality: Oldest version first: `version, class, ap50, low, high`; `ALL` for the class means all of them.
        growth: Oldest first: `dataset, at, images, boxes, videos`.
        videos: How many there are now.
        drift: A row a day, version and feature: `day, version, feature, verdict, why`.
        costs: `asset, runs, ran on, seconds, USD`.
        since: What time the costs are of, in words.
        labels: Open batches: `batch, asked, tool, where, finished`.
        ui: Address of the Dagster UI.
    """

    detector: str
    said: Mapping[str, Any]
    now: float
    read: str
    periods: Sequence[history.Period] = ()
    versions: pd.DataFrame = field(default_factory=pd.DataFrame)
    quality: pd.DataFrame = field(default_factory=pd.DataFrame)
    growth: pd.DataFrame = field(default_factory=pd.DataFrame)
    videos: int = 0
    drift: pd.DataFrame = field(default_factory=pd.DataFrame)
    costs: pd.DataFrame = field(default_factory=pd.DataFrame)
    since: str = ""
    labels: pd.DataFrame = field(default_factory=pd.DataFrame)
    ui: str = ""

    def asset(self, stage: str) -> str:
        """Address of a stage's page in the UI."""
        return f"{self.ui.rstrip('/')}/assets/{self.detector}/{stage}"


def page(of: Report) -> str:
    """The whole report as HTML."""
    when = f"{datetime.fromtimestamp(of.now, timezone.utc):%Y-%m-%d %H:%M} UTC"
    owner = f"{escape(str(of.said['owner']))} answers for it. " if of.said.get("owner") else ""
    parts = [
        f"<h1>{escape(of.detector)}</h1>",
        f"<p>{escape(str(of.said.get('description') or ''))} {owner}As of {when}.</p>",
        _headline(of),
        _section(of, "What served", "deployed_endpoint", _served(of)),
        _section(of, "Quality", "evaluation", _quality(of)),
        _section(of, "Versions", "registered_model", _versions(of)),
        _section(of, "Data", "detection_dataset", _growth(of)),
        _section(of, "Drift", "drift_report", _drift(of)),
        _section(of, "Open label requests", "label_requests", _labels(of)),
        _section(of, f"Cost, {of.since}" if of.since else "Cost", "trained_weights", _costs(of)),
        f'<p class="note">{escape(of.read)}</p>',
    ]
    return pages.document(f"{of.detector}: report", "\n".join(parts), STYLE)


def _section(of: Report, title: str, stage: str, body: str) -> str:
    shown = pages.link(of.asset(stage), stage)
    return f"<section class='{stage}'><h2>{escape(title)} <small>{shown}</small></h2>\n{body}</section>"


def _headline(of: Report) -> str:
    shares = history.at(of.periods, of.now)
    if not shares:
        return '<p class="headline">Nothing serves.</p>'
    told = " and ".join(f"version {escape(version)} at {share} %" for version, share in sorted(shares.items()))
    main = max(shares, key=lambda version: shares[version])
    since = [one.start for one in of.periods if one.version == main and one.end is None]
    rows = of.versions[of.versions["version"] == main] if len(of.versions) else of.versions
    figures = ""
    if len(rows) and math.isfinite(float(rows.iloc[0]["ap50"])):
        figures = f" AP50 {_interval(rows.iloc[0])} on its test split, approved by {escape(str(rows.iloc[0]['by']))}."
    last = of.drift[of.drift["day"] == of.drift["day"].max()] if len(of.drift) else of.drift
    drifted = (
        sorted({str(drift.LABELS.get(one, one)) for one in last[last["verdict"] == drift.DRIFT]["feature"]})
        if (len(last))
        else []
    )
    told_drift = f" On {escape(str(last.iloc[0]['day']))} {escape(', '.join(drifted))} drifted." if drifted else ""
    begun = f" since {_minute(min(since))} UTC" if since else ""
    kind = "drift" if drifted else "stable"
    return f'<p class="headline {kind}">Serving: {told}{begun}.{figures}{told_drift}</p>'


def _served(of: Report) -> str:
    if not of.periods:
        return f"<p>Nothing has served yet; <code>detection run {escape(of.detector)}</code> deploys what passes.</p>"
    asked = [one for one in of.periods if one.share]
    shown = history.shown(asked).head(MOST_PERIODS)
    rows = [
        [
            _version(row),
            f"{row['share']} %",
            f'<span class="when">{escape(str(row["from"])[:16])} to</span> '
            f'<span class="when">{escape(str(row["until"])[:16])}</span>',
            escape(f"{row['why']} ({row['who']})" if row["who"] else str(row["why"])),
        ]
        for row in shown.to_dict("records")
    ]
    left = len(asked) - len(shown)
    more = f'<p class="note">and {left:,} earlier periods: detection history {escape(of.detector)}</p>' if left else ""
    table = pages.rows(["version", "share", "when, UTC", "why"], rows)
    return f'<figure class="broad">{history.picture(of.periods, of.now, BROAD)}</figure>{table}{more}'


def _quality(of: Report) -> str:
    if of.quality.empty:
        return "<p>No registered version has figures yet.</p>"
    newest = of.quality[of.quality["version"] == of.quality.iloc[-1]["version"]]
    classes = [ALL, *sorted({str(one) for one in of.quality["class"]} - {ALL})]
    # Those that are worst now are looked at first.
    score = dict(zip(newest["class"], newest["ap50"].astype(float), strict=True))
    classes[1:] = sorted(classes[1:], key=lambda name: (score.get(name, 2.0), name))
    charts = [
        _trend(
            [
                (f"version {row.version}", float(row.ap50), float(row.low), float(row.high))
                for row in of.quality[of.quality["class"] == name].tail(MOST_VERSIONS).itertuples()
            ],
            name,
            1.0,
        )
        for name in classes[: MOST_CLASSES + 1]
    ]
    left = len(classes) - 1 - MOST_CLASSES
    more = f'<p class="note">and {left} classes that are better in the newest version</p>' if left > 0 else ""
    note = "AP50 on each version's own test split, oldest version left; bars are 95 % intervals."
    return f'<p class="note">{note}</p><div class="charts">{"".join(charts)}</div>{more}'


def _versions(of: Report) -> str:
    if of.versions.empty:
        return "<p>No version is registered yet.</p>"
    shown = of.versions.head(MOST_VERSIONS)
    rows = [
        [
            _version(row),
            f"AP50 {_interval(row)}",
            f"<code>{escape(str(row['dataset']))}</code>",
            f"<b class='{'drift' if row['gates'] else 'stable'}'>{escape(str(row['gates']) or 'passed')}</b>"
            + (f" <small>overridden by {escape(str(row['override']))}</small>" if row["override"] else ""),
            " ".join(escape(str(row[name])) for name in ("approval", "by") if row[name])
            + f' <span class="when">{escape(str(row["when"]))}</span>',
            escape(str(row["reason"])),
        ]
        for row in shown.to_dict("records")
    ]
    left = len(of.versions) - len(shown)
    more = f'<p class="note">and {left:,} earlier versions</p>' if left else ""
    return pages.rows(["version", "figure", "dataset", "gates", "approval", "why"], rows) + more


def _growth(of: Report) -> str:
    if of.growth.empty:
        return f"<p>{of.videos:,} videos, and no dataset is made of them yet.</p>"
    charts = [
        _trend(
            [(str(row["dataset"]), float(row[name]), math.nan, math.nan) for row in of.growth.to_dict("records")], name
        )
        for name in ("videos", "images", "boxes")
    ]
    last = of.growth.iloc[-1]
    told = (
        f"{of.videos:,} videos in all. The newest dataset, <code>{escape(str(last['dataset']))}</code> of "
        f"{escape(str(last['at']))}, has {int(last['images']):,} images with {int(last['boxes']):,} boxes of "
        f"{int(last['videos']):,} videos. {len(of.growth):,} versions, oldest left."
    )
    return f'<p>{told}</p><div class="charts">{"".join(charts)}</div>'


def _drift(of: Report) -> str:
    if of.drift.empty:
        return "<p>No day is reported on yet.</p>"
    days = sorted({str(day) for day in of.drift["day"]})[-MOST_DAYS:]
    found = of.drift[of.drift["day"].isin(days)]
    bad = found[found["verdict"].isin([drift.DRIFT, drift.WATCH])].sort_values("day", kind="stable")
    rows = [
        [
            escape(drift.LABELS.get(str(last["feature"]), str(last["feature"]))),
            _version(last),
            f'<b class="{escape(str(last["verdict"]))}">{escape(str(last["verdict"]))}</b>',
            f"{len(those)} days" if len(those) > 1 else "1 day",
            f'<span class="when">last {_day(of, str(last["day"]))}</span>',
            escape(str(last["why"])),
        ]
        for last, those in (
            (those.iloc[-1], those) for _, those in bad.groupby(["version", "feature"], sort=False, observed=True)
        )
    ]
    head = ["what", "version", "verdict", "for", "the last", "why"]
    table = pages.rows(head, rows) if rows else "<p>Nothing drifted.</p>"
    return f'<figure class="broad">{_strip(found, days)}</figure>{KEY}{table}'


def _day(of: Report, day: str) -> str:
    return pages.link(f"{of.asset('drift_report')}?partition={quote(day)}", day)


def _labels(of: Report) -> str:
    if of.labels.empty:
        return f"<p>Nobody is asked for labels; <code>detection label {escape(of.detector)}</code> asks.</p>"
    rows = [
        [
            escape(str(row["batch"])),
            escape(str(row["asked"])),
            escape(str(row["tool"])),
            pages.link(str(row["where"]), str(row["where"])),
            escape(str(row["finished"])),
        ]
        for row in of.labels.to_dict("records")
    ]
    return pages.rows(["batch", "asked", "tool", "where", "finished"], rows)


def _costs(of: Report) -> str:
    if of.costs.empty:
        return "<p>No step was run.</p>"
    note = "The instances' list prices for the seconds that are charged; one's own machine counts as 0."
    return f'{pages.table(of.costs)}<p class="note">{note}</p>'


def _trend(points: Sequence[tuple[str, float, float, float]], name: str, top: float | None = None) -> str:
    """A small chart: a value for each step, with its interval where there is one."""
    known = [point for point in points if math.isfinite(point[1])]
    label = escape(name)
    if not known:
        return f"<figure><figcaption>{label} <b>–</b></figcaption><p class='note'>not measured</p></figure>"
    high = top or max(max(point[1] for point in known) * 1.1, 1e-9)
    base, room, step = HEIGHT - 14, HEIGHT - 20, (WIDTH - 16) / max(1, len(known) - 1)

    def y(value: float) -> float:
        return base - min(max(value / high, 0.0), 1.0) * room

    drawn: list[str] = []
    places = [8 + at * step if len(known) > 1 else WIDTH / 2 for at in range(len(known))]
    for x, (what, value, low, upper) in zip(places, known, strict=True):
        if math.isfinite(low) and math.isfinite(upper):
            drawn.append(f'<line class="bar" x1="{x:.1f}" x2="{x:.1f}" y1="{y(low):.1f}" y2="{y(upper):.1f}"/>')
        told = f"{escape(what)}: {pages.number(value)}"
        drawn.append(f'<circle cx="{x:.1f}" cy="{y(value):.1f}" r="3"><title>{told}</title></circle>')
    line = " ".join(f"{x:.1f},{y(point[1]):.1f}" for x, point in zip(places, known, strict=True))
    ends = f'<text x="0" y="{HEIGHT - 2}">{escape(known[0][0][:24])}</text>'
    if len(known) > 1:
        ends += f'<text x="{WIDTH}" y="{HEIGHT - 2}" text-anchor="end">{escape(known[-1][0][:24])}</text>'
    return (
        f"<figure><figcaption>{label} <b>{pages.number(known[-1][1])}</b></figcaption>"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label} over time">'
        f'<line class="axis" x1="0" x2="{WIDTH}" y1="{base}" y2="{base}"/>'
        f'<polyline class="production" points="{line}"/>{"".join(drawn)}{ends}</svg></figure>'
    )


def _strip(found: pd.DataFrame, days: Sequence[str]) -> str:
    """A square for each day and feature, in the colour of the worst verdict over the versions."""
    features = list(dict.fromkeys(str(one) for one in found["feature"]))
    worst: dict[tuple[str, str], str] = {}
    for day, feature, verdict in found[["day", "feature", "verdict"]].itertuples(index=False, name=None):
        known = worst.get((day, feature), "")
        if _rank(str(verdict)) < _rank(known):
            worst[day, feature] = str(verdict)
    left, row = 120, 16
    side = (BROAD - left) / MOST_DAYS
    parts = [
        f'<text x="0" y="{at * row + 11}">{escape(drift.LABELS.get(name, name)[:22])}</text>'
        + "".join(
            f'<rect class="{worst[day, name].replace(" ", "-") if _rank(worst[day, name]) < len(WORST) else "none"}" '
            f'x="{left + place * side:.1f}" y="{at * row + 2}" width="{side - 1:.1f}" height="{row - 3}">'
            f"<title>{escape(day)}: {escape(worst[day, name])}</title></rect>"
            for place, day in enumerate(days)
            if (day, name) in worst
        )
        for at, name in enumerate(features)
    ]
    high = row * len(features) + 14
    parts.append(f'<text x="{left}" y="{high - 2}">{escape(days[0])}</text>')
    if len(days) > 12:
        parts.append(
            f'<text x="{left + len(days) * side:.1f}" y="{high - 2}" text-anchor="end">{escape(days[-1])}</text>'
        )
    return (
        f'<svg class="strip" viewBox="0 0 {BROAD} {high}" role="img" aria-label="verdicts by day and feature">'
        f"{''.join(parts)}</svg>"
    )


def _rank(verdict: str) -> int:
    return WORST.index(verdict) if verdict in WORST else len(WORST) + (not verdict)


def _version(row: Mapping[str, Any] | Any) -> str:
    return f'<span class="when">version {escape(str(row["version"]))}</span>'


def _interval(row: Mapping[str, Any] | Any) -> str:
    value = pages.number(row["ap50"])
    if not (math.isfinite(float(row["low"])) and math.isfinite(float(row["high"]))):
        return value
    return f"{value} <small>{pages.number(row['low'])} to {pages.number(row['high'])}</small>"


def _minute(epoch_s: float) -> str:
    return f"{datetime.fromtimestamp(epoch_s, timezone.utc):%Y-%m-%d %H:%M}"


def columns_of(rows: Iterable[Mapping[str, Any]], *names: str) -> pd.DataFrame:
    """A table with these columns, also where there is no row."""
    return pd.DataFrame(list(rows), columns=list(names))


KEY = (
    '<p class="key"><i class="drift"></i>drift <i class="watch"></i>watch <i class="stable"></i>stable '
    '<i class="too-few"></i>too few</p>'
)
STYLE = """
main{padding:16px}h1,p,td{overflow-wrap:break-word}td{max-width:44ch}.when,td code{white-space:nowrap}
h2 small{font-weight:400;font-size:13px}a{color:inherit}.broad{max-width:760px;overflow-x:auto}
circle{fill:var(--now)}line.bar{stroke:var(--now);stroke-width:5;opacity:.35}line.axis{stroke:var(--line)}
rect.drift,i.drift{fill:#dc2626;background:#dc2626}rect.watch,i.watch{fill:#d97706;background:#d97706}
rect.stable,i.stable{fill:#15803d;background:#15803d}
rect.too-few,i.too-few,rect.none{fill:var(--ref);background:var(--ref)}
.key{font-size:13px;color:var(--quiet);margin:2px 0 8px}
@media(max-width:600px){.deployed_endpoint thead,.registered_model thead,.drift_report thead{display:none}
.deployed_endpoint tr,.registered_model tr,.drift_report tr{display:block;border-bottom:1px solid var(--line);
padding:5px 0}.deployed_endpoint td,.registered_model td,.drift_report td{display:inline;border:0;padding:0 8px 0 0}
.deployed_endpoint table,.registered_model table,.drift_report table,
.deployed_endpoint tbody,.registered_model tbody,.drift_report tbody{display:block}}
@media print{body{font-size:11px}figure,tr{break-inside:avoid}.wide,.broad{overflow:visible}
svg,i{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
"""
