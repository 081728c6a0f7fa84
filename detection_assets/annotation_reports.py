"""What a run over annotations tells: what was wrong, what changed since the last version, how far annotators agree."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dagster as dg
import pandas as pd

from detection_assets.domain import agreement, card, layout, problem_report, schemas
from detection_assets.domain.annotation_diff import diff
from detection_assets.domain.problems import Problem
from detection_assets.pictures import legend, thumbnails
from resources import table_versions, tables
from resources.storage import Storage

SHOWN = 6
"""Frames of worst disagreement that are shown."""
TOLD = 50
"""Videos that are named one by one in the metadata of a run."""
REPORTS, COUNTED, WORST = "problem reports", "agreement counts", "worst disagreements"
"""Metadata of each video that the command line reads again."""


def publish(storage: Storage, problems: Iterable[Problem]) -> str | None:
    """Writes a report as a CSV, whole, under its content's hash; gives its key, or None if there is nothing to tell."""
    table = problem_report.rows(problems)
    if table.empty:
        return None
    data = problem_report.to_csv(table)
    key = layout.problem_report(hashlib.sha256(data).hexdigest())
    storage.put_if_absent(key, data)
    return key


def of_problems(storage: Storage, problems: Sequence[Problem], reports: Sequence[str | None]) -> dict[str, Any]:
    """Metadata of a video: how many problems of which kind, and the keys of the reports that list them."""
    keys = sorted({key for key in reports if key is not None})
    return {
        "problems by kind": dg.MetadataValue.json(problem_report.by_kind(problems)),
        REPORTS: dg.MetadataValue.json(keys),
        **({"report": dg.MetadataValue.url(storage.uri_of(keys[0]))} if len(keys) == 1 else {}),
    }


def of_run(storage: Storage, problems: Sequence[Problem]) -> dict[str, Any]:
    """Metadata of a run: the same over all its videos, in one report."""
    key = publish(storage, problems)
    kinds = problem_report.summary(problem_report.by_kind(problems))
    return {
        "problems by kind": dg.MetadataValue.md(card.frame_table(kinds)),
        **({"report": dg.MetadataValue.url(storage.uri_of(key))} if key else {}),
    }


def since(
    storage: Storage, before: Mapping[str, str], now: Mapping[str, str], rows: Mapping[str, pd.DataFrame]
) -> dict[str, str]:
    """What changed since the last version, in a sentence for each video whose version is another one.

    Args:
        storage: The detector's storage.
        before: Version of each video that had one.
        now: Version of each video of the run.
        rows: The new table of each video that has rows.
    """
    told: dict[str, str] = {}
    for video, version in now.items():
        if before.get(video, version) == version:
            continue
        key = table_versions.table_of(storage, "annotations", video, before[video])
        if key is not None:
            old = tables.read_versions(storage, "annotations", [key])
            told[video] = diff(old, rows.get(video, schemas.empty("annotations"))).sentence
    return told


def of_changes(told: Mapping[str, str]) -> dict[str, Any]:
    """Metadata of a run: what changed since the last versions of its videos."""
    if not told:
        return {}
    table = pd.DataFrame({"video": list(told), "since the last version": list(told.values())})
    return {"since the last version": dg.MetadataValue.md(card.frame_table(table, TOLD))}


def of_agreement(counts: pd.DataFrame, worst: pd.DataFrame) -> dict[str, Any]:
    """Metadata of a video that several people annotated: counts that can be added up, and where they differ most."""
    if counts.empty:
        return {}
    return {
        COUNTED: dg.MetadataValue.json(_columns(counts)),
        WORST: dg.MetadataValue.json(_columns(worst.head(SHOWN))),
    }


def _columns(table: pd.DataFrame) -> dict[str, list[Any]]:
    return {str(name): table[name].tolist() for name in table.columns}


def agreement_table(counts: pd.DataFrame) -> pd.DataFrame:
    """The figures for people: rounded, an empty class called `all classes`."""
    table = agreement.table(counts)
    table["class"] = table["class"].replace("", "all classes")
    return table.round({"mean_iou": 3, "f1": 3, "kappa": 3})


def annotators_agree(
    storage: Storage,
    kept: pd.DataFrame,
    many: pd.DataFrame,
    counts: pd.DataFrame,
    worst: pd.DataFrame,
    least: float,
) -> dg.AssetCheckResult:
    """Where several people annotated the same frames, each two of them are to agree; shown are the worst frames.

    Args:
        storage: Where the pictures are.
        kept: Frames, with `frame` and `key`.
        many: What each of them says, as `Matched.many`.
        counts: From `agreement.compared`, added up.
        worst: Likewise, worst first.
        least: The least F1 of two of them.
    """
    figures = agreement.table(counts)
    overall = figures[figures["class"] == ""]
    low = overall[overall["f1"] < least]
    names = [f"{row.one} and {row.other}: F1 {row.f1:.3f} on {row.frames} frames" for row in low.itertuples()]
    frames = kept.set_index("frame").reindex(worst["frame"].drop_duplicates().head(SHOWN)).dropna(subset=["key"])
    people = sorted(many["annotator"].unique())
    drawn = many[many["class"].notna() & many["frame"].isin(frames.index)]
    pictures = thumbnails(storage, frames.reset_index(), SHOWN, drawn.assign(**{"class": drawn["annotator"]}), people)
    signs = legend([card.escape(name) for name in people])
    return dg.AssetCheckResult(
        check_name="annotators_agree",
        passed=low.empty,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"below {least:g}: {'; '.join(names[:5])}" if names else None,
        metadata={
            "agreement": dg.MetadataValue.md(card.frame_table(agreement_table(counts), 60)),
            "worst frames": dg.MetadataValue.md(card.frame_table(worst.round({"f1": 3}), 20)),
            "pictures": dg.MetadataValue.md(f"{pictures}\n\n{signs}" if people else "each frame has one annotator"),
        },
    )
