"""The answers to the twelve questions: the columns of each, their types and what they mean.

An answer is checked against its schema before anybody sees it, so that what is told here is what one gets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from detection_assets.domain.schemas import Column, columns, fit

TIME = "datetime64[ms, UTC]"
_PERIOD = columns(
    slot=("string", "The slot of the endpoint."),
    version=("string", "The registered version that it held."),
    share=("Int64", "Share of the requests, per cent."),
    since=(TIME, "From when on it was so."),
)

ANSWERS: dict[str, dict[str, Column]] = {
    "serving": {
        **_PERIOD,
        **columns(
            why=("string", "Why the slot has that share."),
            approval=("string", "pending, approved or rejected; null if the registry does not know the version."),
            approved_by=("string", "Who approved it: a person, or `gates`."),
            approved_at=(TIME, "When."),
            approval_reason=("string", "Why."),
            dataset_version=("string", "The dataset that taught it."),
            sha256=("string", "Digest of the model, as the log of the endpoint has it."),
        ),
    },
    "taught": columns(
        version=("string", "The registered version."),
        dataset_version=("string", "The dataset that taught it."),
        video=("string", "A video of that dataset."),
        group=("string", "Its store, camera or patient."),
        annotations=("string", "Version of its annotations; null if a release made it that did not note it."),
        train=("Int64", "Frames of it that the weights were learned from."),
        val=("Int64", "Frames that the best epoch was chosen by."),
        test=("Int64", "Frames that it was judged on, and learned nothing from."),
        boxes=("Int64", "Boxes on all of these."),
    ),
    "frames": columns(
        version=("string", "The registered version."),
        dataset_version=("string", "The dataset that taught it."),
        video=("string", "The video."),
        frame=("string", "The frame's id."),
        split=("string", "train (it was learned from), val (it chose the best epoch) or test (it judged)."),
        annotations=("string", "Version of the annotations that its boxes are from; null if it was not noted."),
        boxes=("Int64", "Boxes on it."),
        key=("string", "Storage key of the picture."),
        sha256=("string", "Digest of the picture."),
    ),
    "saw": columns(
        kind=("string", "dataset, model or deployment."),
        what=("string", "The dataset's or the registered version."),
        dataset_version=("string", "The dataset by which it saw the video."),
        train=("Int64", "Frames of the video that were learned from."),
        val=("Int64", "Frames that the best epoch was chosen by."),
        test=("Int64", "Frames that it was judged on."),
        annotations=("string", "Version of the video's annotations."),
        slot=("string", "Of a deployment, the slot."),
        share=("Int64", "Of a deployment, the share of the requests, per cent."),
        since=(TIME, "Of a deployment, from when on."),
        until=(TIME, "Of a deployment, until when; null while it lasts."),
    ),
    "served_at": {
        **_PERIOD,
        **columns(
            until=(TIME, "Until when; null while it is so."),
            who=("string", "Who caused it."),
            why=("string", "Why."),
            run=("string", "The Dagster run; empty where there was none."),
        ),
    },
    "judged_on": columns(
        evaluation_version=("string", "The evaluation."),
        dataset_version=("string", "The dataset whose test split it used."),
        video=("string", "The video."),
        annotations=("string", "Version of the annotations that the truth is from."),
        frame=("string", "The test frame."),
        boxes=("Int64", "True boxes on it."),
    ),
    "why": columns(
        subject=("string", "score, data, labels, parameters, base weights, code, classes or judged on."),
        what=("string", "What of it: a class, a parameter, frames added, ..."),
        earlier=("string", "How it was in the earlier version; null if it was not there."),
        later=("string", "How it is in the later one."),
        change=("float64", "later - earlier where both are numbers."),
    ),
    "stale": columns(
        asset=("string", "The asset."),
        partition=("string", "The video; null for an asset without partitions."),
        why=("string", "Why it is not what it would be if it were made now."),
        change=("string", "The change that made it so: from what to what."),
        since=(TIME, "When that change came; null if nobody noted it."),
        run=("string", "The Dagster run that brought it; empty if none did."),
        direct=("boolean", "Whether it is stale by itself; else it follows an asset that is."),
    ),
    "would_run": columns(
        asset=("string", "The asset."),
        partitions=("Int64", "How many videos of it; null for an asset without partitions."),
        why=("string", "Why it would run."),
        seconds=("float64", "Estimated seconds, by what earlier runs took; NaN if it never ran."),
        usd=("float64", "Estimated cost in US dollars; 0 on one's own machine."),
        runs=("Int64", "How many runs the estimate is from."),
    ),
    "alike": columns(
        version=("string", "The registered version that answered."),
        dataset_version=("string", "The dataset that taught it."),
        asked=("string", "The request's id, or the frame that was predicted on."),
        class_=("string", "The class that was found there."),
        confidence=("float64", "The surest box of that class, 0 to 1."),
        rank=("Int64", "Place among the training frames of that class, from 1: the most alike."),
        distance=("Int64", "Bits of 64 in which the perceptual hashes differ; null if a picture is not there."),
        frame=("string", "The training frame."),
        video=("string", "Its video."),
        boxes=("Int64", "Boxes of that class on it."),
        key=("string", "Storage key of its picture."),
    ),
    "dropped": columns(
        video=("string", "The video."),
        frame=("string", "The frame."),
        index=("Int64", "Position in display order, from 0."),
        pts_s=("float64", "Presentation time in seconds; NaN for images."),
        by=("string", "extraction (no picture was kept) or dataset (a picture, but no part of the data set)."),
        reason=("string", "Why."),
    ),
    "cost": columns(
        asset=("string", "The asset; `all` for the sum."),
        runs=("Int64", "Runs that cost something."),
        ran_on=("string", "The instances."),
        seconds=("float64", "Seconds of compute."),
        usd=("float64", "Estimated US dollars; 0 on one's own machine."),
    ),
    "overridden": columns(
        what=(
            "string",
            "gates (of weights), rollout (a version deployed again that had been rolled back), or withdrawal (a "
            "version that may serve although it learned from a withdrawn video).",
        ),
        of=("string", "The weights' version, the registered version, or the video."),
        version=("string", "The registered version; null if the weights were never registered."),
        said=("string", "What the gates, or the checks of the rollout, had said; or why the video was withdrawn."),
        by=("string", "Who overrode it."),
        reason=("string", "Why."),
        at=(TIME, "When."),
    ),
}


def answer(question: str, rows: Iterable[Mapping[str, Any]] | pd.DataFrame) -> pd.DataFrame:
    """An answer, checked against its schema; columns that no row has are null.

    Args:
        question: A key of `ANSWERS`.
        rows: The rows, or a table.
    """
    schema = ANSWERS[question]
    table = rows if isinstance(rows, pd.DataFrame) else pd.DataFrame(list(rows), columns=list(schema))
    times = {
        name: pd.to_datetime(table[name], utc=True, format="ISO8601", errors="coerce")
        for name, column in schema.items()
        if column.dtype == TIME and name in table
    }
    return fit(f"answer to {question!r}", schema, table.assign(**times))


def meaning(question: str) -> str:
    """The columns of an answer and what they mean, a line each."""
    return "\n".join(f"{name} ({column.dtype}): {column.meaning}" for name, column in ANSWERS[question].items())
