"""What the endpoint was asked, as it kept it: time, model, latency, what the picture looked like, what was found.

Partition: day, UTC. Version: the hash of the rows. The server keeps requests by itself, a share drawn at random and
those of which the model was unsure; here they become a table. The day that is under way can be read again and again.
"""

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta, timezone

import dagster as dg
import pandas as pd

from detection_assets.detector import Detector
from detection_assets.domain import answer_text, captures, card, layout, schemas
from detection_assets.domain.lineage_questions import QUESTIONS
from detection_assets.domain.problems import Problem, problems_table
from detection_assets.pictures import legend, thumbnails
from resources import lake, tables
from resources.endpoints.base import EndpointError, Endpoints
from resources.storage import Storage

AT_ONCE = 256
"""Parts that are read side by side; a part has at most a few hundred requests."""
SILENT = 0.01
"""When it was less likely than this that none of the requests would be drawn, capturing does not work."""


@dg.asset(
    dagster_type=tables.TABLE,
    partitions_def=lake.DAYS,
    deps=["deployed_endpoint"],
    code_version="1",
    kinds={"python", "table"},
    metadata={"settings": []},
    check_specs=[
        dg.AssetCheckSpec(
            "capture_is_alive", asset="captured_requests", description="An endpoint that is asked keeps requests."
        ),
        dg.AssetCheckSpec("lines_are_whole", asset="captured_requests", description="What was kept can be read."),
    ],
)
def captured_requests(
    context: dg.AssetExecutionContext, detector: dg.ResourceParam[Detector], storage: Storage, endpoints: Endpoints
) -> dg.MaterializeResult:
    """A row a request that was kept: when, who answered, why it was kept, image statistics, boxes, latency."""
    day = context.partition_key
    rows, problems = captures.read(_parts(storage, day), day)
    table = schemas.conform("captured_requests", rows)
    for problem in problems[:20]:
        context.log.warning(str(problem))
    # Callers choose the ids; in markdown they are text and nothing else.
    kept = table[table["image"].notna()].rename(columns={"image": "key"})
    shown = kept.assign(frame=kept["request_id"].map(card.escape))
    boxes = captures.boxes(kept)
    boxes["frame"] = boxes["frame"].map(card.escape)
    pictures = thumbnails(storage, shown, 6, boxes, detector.classes)
    drawn = int((table["why"] == captures.SAMPLE).sum())
    return dg.MaterializeResult(
        value=table,
        data_version=dg.DataVersion(tables.serialize(table)[1][:16]),
        metadata={
            "requests": len(table),
            "drawn at random": drawn,
            "kept for low confidence": len(table) - drawn,
            "by deployment": dg.MetadataValue.md(card.frame_table(captures.service(table), 50)),
            "what they go back to": dg.MetadataValue.md(
                f"{answer_text.first(askable(table))}\n\n{answer_text.ways(QUESTIONS['alike'], detector.name)}"
            ),
            "pictures": dg.MetadataValue.md(f"{pictures}\n\n{legend(detector.classes)}"),
        },
        check_results=[
            capture_is_alive(storage, endpoints, day, len(table), detector.monitoring.capture.rate),
            lines_are_whole(problems),
        ],
    )


def askable(table: pd.DataFrame) -> pd.DataFrame:
    """The requests that lead to training frames like them, the newest first: there is a box, and the picture."""
    there = table[(table["boxes"] > 0) & table["image"].notna()]
    return there.sort_values("time", ascending=False)[["request_id", "time", "version", "boxes", "why"]]


def _parts(storage: Storage, day: str) -> Iterator[tuple[str, bytes]]:
    keys = sorted(item.key for item in storage.list(layout.captures(day)) if captures.is_part(item.key))
    for first in range(0, len(keys), AT_ONCE):
        chunk = keys[first : first + AT_ONCE]
        for key, data in zip(chunk, storage.get_many(chunk), strict=True):
            if data is not None:  # the server deletes old days, perhaps now
                yield key, data


def capture_is_alive(storage: Storage, endpoints: Endpoints, day: str, rows: int, rate: float) -> dg.AssetCheckResult:
    """The endpoint's own counters say how much was asked; if so much cannot have left no trace, capturing is broken."""
    asked, since = 0, datetime.now(timezone.utc)
    try:
        found = [endpoints.health(slot.name) for slot in endpoints.status().slots]
        counted = [health for health in found if health is not None and health.requests]
        asked = sum(health.requests for health in counted)
        since = min([since, *(datetime.fromtimestamp(health.since, timezone.utc) for health in counted)])
    except EndpointError as error:
        told = f"the endpoint does not say how much it was asked: {error}"
    else:
        told = f"{asked} requests since {since:%Y-%m-%d %H:%M} UTC"
    silent = not rows and date.fromisoformat(day) >= since.date() and (1 - rate) ** asked < SILENT
    alive = not silent or _any_since(storage, since.date(), date.fromisoformat(day))
    return dg.AssetCheckResult(
        check_name="capture_is_alive",
        passed=alive,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{rows} kept; {told}" if alive else f"{told}, and none was kept: see the server's log",
        metadata={"requests asked": asked, "rate": rate},
    )


def _any_since(storage: Storage, first: date, last: date) -> bool:
    days = [str(first + timedelta(days=number)) for number in range((last - first).days + 1)]
    return any(captures.is_part(item.key) for day in days for item in storage.list(layout.captures(day)))


def lines_are_whole(problems: Sequence[Problem]) -> dg.AssetCheckResult:
    """A line that is no whole request is left out and told."""
    return dg.AssetCheckResult(
        check_name="lines_are_whole",
        passed=not problems,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "skipped": len(problems),
            "lines": dg.MetadataValue.md(card.frame_table(problems_table(problems), 50)),
        },
    )
