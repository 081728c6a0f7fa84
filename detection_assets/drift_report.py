"""Whether what the endpoint is asked, and what it answers, is still like what its model was made with.

Partition: day, UTC. Version: the hash of the table. Each version that answered is held against its own reference: the
dataset that taught it and the evaluation that let it pass. A report to read, with pictures, is published beside it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd

from detection_assets.detector import Detector
from detection_assets.domain import captures, card, drift, drift_html, layout, schemas
from detection_assets.domain.drift import Finding, Limits
from detection_assets.domain.drift_html import Deployment, Shown
from detection_assets.domain.image_statistics import NAMES
from detection_assets.domain.two_samples import Sample
from detection_assets.drift_reference import Reference, measured, reference
from detection_assets.live_labels import LEAST, LiveScore, scores
from detection_assets.pictures import embed, thumbnail
from resources import lake, tables, temporary
from resources.alerts.base import Alert, Alerts
from resources.compute.base import version_of
from resources.endpoints.base import EndpointError, Endpoints
from resources.registry.base import Registry
from resources.storage import Published, Storage

LIVE = "live_map50"
"""The one feature that is no distribution: the score on pictures that were labelled afterwards."""
MEASURED = 1000
"""Pictures that are measured here at most, where requests came without figures."""
STRANGE = 8
SHOWN = 2
"""Of the strangest pictures of a version, those that the UI shows: each report of a day is kept there for good."""
PICTURE_WIDTH = 240


@dataclass(frozen=True)
class _Compared:
    """A version, what it was made with, the requests it answered, the samples of those drawn at random, and findings.

    `boxes` are all that were answered; `drawn` is how many requests were drawn at random.
    """

    reference: Reference
    requests: pd.DataFrame
    boxes: pd.DataFrame
    drawn: int
    production: Mapping[str, Sample]
    findings: Sequence[Finding]


@dg.asset(
    dagster_type=tables.TABLE,
    partitions_def=lake.DAYS,
    code_version="1",
    kinds={"python", "table"},
    metadata={
        "settings": [
            *("monitoring.drift", "monitoring.capture", "classes", "endpoint.confidence", "gates.non_inferiority"),
        ]
    },
    check_specs=[
        dg.AssetCheckSpec("drift", asset="drift_report", description="What comes in is like what taught the model.")
    ],
)
def drift_report(
    context: dg.AssetExecutionContext,
    detector: dg.ResourceParam[Detector],
    storage: Storage,
    registry: Registry,
    endpoints: Endpoints,
    alerts: Alerts,
    captured_requests: pd.DataFrame,
) -> dg.MaterializeResult:
    """A row a version and feature: reference and production, PSI, KS, p, limits, verdict. And a report to read."""
    day = context.partition_key
    limits = Limits(**detector.monitoring.drift.model_dump())
    requests = _with_figures(storage, captured_requests)
    known = {entry.version: entry for entry in registry.history()} if len(requests) else {}
    least = detector.endpoint.confidence
    compared = [
        _compare(
            reference(storage, known.get(version), version, least, context.log.info),
            requests[requests["version"] == version].reset_index(drop=True),
            least,
            limits,
        )
        for version in sorted(requests["version"].unique())
    ]
    live = scores(storage, _window(day, detector.monitoring.capture.keep_days), detector.classes)
    compared = _judged(compared, live, limits, detector.gates.non_inferiority)
    sections = [_section(storage, one, detector.classes) for one in compared]
    service, counters = captures.service(requests), _counters(endpoints)
    page = drift_html.page(
        detector.name, day, sections, {"Kept requests": service, "The endpoint's own counters": counters}, limits
    )
    made = _publish(storage, day, page)
    key = made.key("report.html")
    rows = [row for one in compared for row in _rows(day, one, limits, key)]
    table = schemas.conform("drift_report", pd.DataFrame(rows, columns=list(schemas.SCHEMAS["drift_report"])))
    fresh = _drifted(table) - _drifted(tables.read(storage, "drift_report", [day]))
    if fresh:
        alerts.send(_alert(detector.name, day, table, fresh, storage.uri_of(key)))
    notes = [note for section in sections for note in section.notes]
    strange = [embed(shown.jpeg, "") for section in sections for shown in section.pictures[:SHOWN]]
    return dg.MaterializeResult(
        value=table,
        data_version=dg.DataVersion(tables.serialize(table.drop(columns="report"))[1][:16]),
        metadata={
            "report": dg.MetadataValue.url(storage.uri_of(key)),
            "drifted": _named(_drifted(table)) or "nothing",
            "verdicts": dg.MetadataValue.md(card.frame_table(table[["version", "feature", "verdict", "why"]], 60)),
            "kept requests": dg.MetadataValue.md(card.frame_table(service, 50)),
            "the endpoint's own counters": dg.MetadataValue.md(card.frame_table(counters)),
            "strangest pictures": dg.MetadataValue.md(" ".join(strange) or "nothing to show"),
            "notes": dg.MetadataValue.md("\n".join(f"- {card.escape(note)}" for note in notes) or "none"),
        },
        check_results=[drift_check(table)],
    )


def _window(day: str, days: int) -> list[str]:
    """The days whose requests may have been labelled by now: as many as are kept, up to this one."""
    last = date.fromisoformat(day)
    return [str(last - timedelta(days=back)) for back in range(days)]


def _with_figures(storage: Storage, requests: pd.DataFrame) -> pd.DataFrame:
    """Measures pictures of drawn requests that came without figures, if there are pictures: some, evenly chosen."""
    bare = requests["brightness"].isna() & requests["image"].notna() & (requests["why"] == captures.SAMPLE)
    places = np.flatnonzero(bare.to_numpy(np.bool_))
    if not len(places):
        return requests
    chosen = places[np.linspace(0, len(places) - 1, min(len(places), MEASURED)).astype(np.int64)]
    found = measured(storage, [str(key) for key in requests["image"].iloc[chosen]])
    columns: dict[str, Any] = {}
    for name in NAMES:
        values = requests[name].to_numpy(np.float64, copy=True)
        values[chosen] = found[name].to_numpy(np.float64)
        columns[name] = values
    return requests.assign(**columns)


def _compare(base: Reference, requests: pd.DataFrame, least: float, limits: Limits) -> _Compared:
    boxes = captures.boxes(requests)
    boxes = boxes[boxes["confidence"] >= least]
    drawn = requests[requests["why"] == captures.SAMPLE].reset_index(drop=True)
    drawn = drawn.assign(frame=drawn["request_id"], unit=drift.repeats(drawn))
    production = drift.image_samples(drawn, ordered=True) | drift.answer_samples(drawn, boxes, ordered=True)
    findings = drift.find(base.samples, production, len(drawn), limits)
    return _Compared(base, requests, boxes, len(drawn), production, findings)


def _judged(
    compared: Sequence[_Compared], live: Mapping[str, LiveScore], limits: Limits, lost: float
) -> list[_Compared]:
    """Verdicts for all versions at once: what one report asks is adjusted together."""
    verdicts = iter(drift.judge([finding for one in compared for finding in one.findings], limits))
    judged: list[_Compared] = []
    for one in compared:
        findings = [next(verdicts) for _ in one.findings]
        score = live.get(one.reference.version)
        if score is not None:
            findings.append(_live(one.reference, score, lost))
        judged.append(replace(one, findings=findings))
    return judged


def _live(base: Reference, score: LiveScore, lost: float) -> Finding:
    """The score on labelled pictures beside that on the test split, of boxes as sure as the endpoint answers them."""
    why = f"AP50 {score.map50:.3f} ({score.low:.3f} to {score.high:.3f}) on {score.images} labelled pictures"
    why += f" with {score.boxes} boxes, {base.map50:.3f} on the test split"
    floor = base.map50 - lost
    if score.images < LEAST or not np.isfinite([score.map50, score.high, floor]).all():
        verdict, why = drift.TOO_FEW, f"{why}; {LEAST} pictures with boxes are needed"
    elif score.high < floor:
        verdict = drift.DRIFT
    else:
        verdict = drift.WATCH if score.map50 < floor else drift.STABLE
    return Finding(
        LIVE,
        base.test_images,
        score.images,
        score.images,
        None,
        reference_mean=base.map50,
        production_mean=score.map50,
        verdict=verdict,
        why=why,
    )


def _section(storage: Storage, one: _Compared, classes: Sequence[str]) -> Deployment:
    """What the report shows of a version, with its strangest pictures."""
    there = one.requests[one.requests["image"].notna()].reset_index(drop=True)
    there = there[~pd.Series(drift.repeats(there)).duplicated()].reset_index(drop=True)
    strange = drift.strangest(one.reference.samples, there, STRANGE)
    rows = there.iloc[strange["row"].to_numpy(np.int64)]
    boxes = dict(list(one.boxes.groupby("frame")))
    pictures: list[Shown] = []
    for row, about, raw in zip(
        rows.itertuples(),
        strange.to_dict("records"),
        storage.get_many([str(key) for key in rows["image"]]),
        strict=True,
    ):
        small = None if raw is None else thumbnail(raw, boxes.get(row.request_id), classes, PICTURE_WIDTH)
        if small is not None:
            low, high = _short(about["low"]), _short(about["high"])
            usual = low if low == high else f"{low} to {high}"
            said = f"{drift.LABELS[about['feature']]} {_short(about['value'])}, usually {usual}"
            said += f"; {row.time:%H:%M:%S}, request {row.request_id}"
            pictures.append(Shown(small, said))
    return Deployment(
        one.reference.version,
        one.reference.dataset_version,
        one.drawn,
        one.findings,
        one.reference.samples,
        one.production,
        pictures,
        one.reference.notes,
    )


def _short(value: Any) -> str:
    return f"{float(value):,.0f}" if abs(float(value)) >= 10 else f"{float(value):.1f}"


def _counters(endpoints: Endpoints) -> pd.DataFrame:
    """Requests, errors and latency of each slot since its model was loaded, as the endpoint counts them."""
    rows: list[dict[str, Any]] = []
    try:
        for slot in endpoints.status().slots:
            health = endpoints.health(slot.name)
            if health is not None:
                rows.append({
                    "version": slot.version, "slot": slot.name, "traffic, %": slot.traffic,
                    "requests": health.requests, "errors": health.errors,
                    **{f"p{q}_ms": round(health.quantile_ms(q / 100), 1) for q in (50, 95, 99)},
                    "since": f"{datetime.fromtimestamp(health.since, timezone.utc):%Y-%m-%d %H:%M} UTC",
                })  # fmt: skip
    except EndpointError:
        rows.clear()  # it does not answer; what was kept of its requests is told all the same
    return pd.DataFrame(
        rows,
        columns=["version", "slot", "traffic, %", "requests", "errors", "p50_ms", "p95_ms", "p99_ms", "since"],
    )


def _publish(storage: Storage, day: str, page: str) -> Published:
    with temporary.folder() as scratch:
        folder = Path(scratch) / "report"
        folder.mkdir()
        (folder / "report.html").write_text(page, encoding="utf-8")
        return storage.publish(folder, layout.report(day, version_of("drift_report", page)), {"day": day})


def _rows(day: str, one: _Compared, limits: Limits, report: str) -> list[dict[str, Any]]:
    return [
        {
            "day": day,
            "version": one.reference.version,
            "dataset_version": one.reference.dataset_version,
            **{name: getattr(finding, name) for name in COPIED},
            **{name: getattr(finding.compared, name, np.nan) for name in TESTED},
            "limit_psi": limits.psi,
            "limit_ks": limits.ks,
            "report": report,
        }
        for finding in one.findings
    ]


TESTED = ("reference_size", "production_size", "psi", "psi_by_chance", "ks")
COPIED = (
    *("feature", "reference_n", "production_n", "reference_mean", "production_mean", "reference_median"),
    *("production_median", "p", "verdict", "why"),
)


def _drifted(table: pd.DataFrame) -> set[tuple[str, str]]:
    """Version and feature of what drifted."""
    rows = table[table["verdict"] == drift.DRIFT]
    return set(zip(rows["version"].astype(str), rows["feature"].astype(str), strict=True))


def _named(drifted: set[tuple[str, str]]) -> str:
    return ", ".join(f"{feature} (version {version})" for version, feature in sorted(drifted))


def _alert(detector: str, day: str, table: pd.DataFrame, fresh: set[tuple[str, str]], link: str) -> Alert:
    """Tells of what has drifted since the last report of the day; what was told before is not told every hour."""
    lines = [
        f"{drift.LABELS.get(str(row.feature), str(row.feature))} (version {row.version}): {row.why}"
        for row in table.itertuples()
        if (row.version, row.feature) in fresh
    ]
    return Alert(detector, f"drift on {day} in {_named(fresh)}", "\n".join(lines), "warning", link)


def drift_check(table: pd.DataFrame) -> dg.AssetCheckResult:
    """Names the features that drifted. Nothing stops: what to do about it is for the retraining rules, or a person."""
    drifted = _drifted(table)
    judged = int(table["verdict"].isin([drift.STABLE, drift.WATCH, drift.DRIFT]).sum())
    return dg.AssetCheckResult(
        check_name="drift",
        passed=not drifted,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"drift in {_named(drifted)}" if drifted else f"{judged} of {len(table)} features could be judged",
        metadata={"drifted": len(drifted), "judged": judged, "features": len(table)},
    )
