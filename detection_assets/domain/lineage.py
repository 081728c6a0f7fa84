"""What follows from tables about who taught, saw, served, and was let pass: pure over DataFrames.

`models` is a row a registered version, the newest first, with the columns `MODEL`. `periods` is the table
`deployment_history`. What is returned are answers of `lineage_answers`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from detection_assets.domain.history import Entry
from detection_assets.domain.lineage_answers import answer
from detection_assets.domain.near_duplicates import BITS, parse
from detection_assets.domain.problems import InputError

if TYPE_CHECKING:
    import pyarrow as pa

APPROVAL = ["approval", "approved_by", "approved_at", "approval_reason"]
MODEL = [
    *("version", "sha256", "dataset_version", "weights_version", "evaluation_version", "override_by"),
    *APPROVAL,
]
"""The columns of `models`."""


def moment(said: str | datetime) -> pd.Timestamp:
    """A time that somebody means; without a zone it is UTC.

    Raises:
        InputError: It is none.
    """
    try:
        # By ISO 8601 alone: pandas would take 01/02/2026 for January, and CET for UTC.
        at = datetime.fromisoformat(said.strip().replace("Z", "+00:00")) if isinstance(said, str) else said
        return pd.Timestamp(at if at.tzinfo is not None else at.replace(tzinfo=timezone.utc)).tz_convert("UTC")
    except (ValueError, TypeError, AttributeError, OverflowError):
        told = "no time; write it as 2026-11-01 or 2026-11-01T08:30, in UTC"
        raise InputError(f"{said}: {told}, or with what it is off by: 2026-11-01T08:30+01:00") from None


def serving(periods: pd.DataFrame, models: pd.DataFrame) -> pd.DataFrame:
    """What the slots hold now, the largest share first, and who let it serve."""
    now = periods[periods["until"].isna()].rename(columns={"from": "since"})
    known = models[[*APPROVAL, "version", "dataset_version"]].assign(registered=models["sha256"])
    found = now[["slot", "version", "share", "since", "why", "sha256"]].merge(known, on="version", how="left")
    # A registry that counts from 1 again, as of a lake that was copied, knows another model by the same number.
    other = (found["sha256"] != "") & (found["sha256"] != found["registered"])
    found = found.drop(columns="registered")
    found.loc[other, [*APPROVAL, "dataset_version"]] = None
    return answer("serving", found.sort_values(["share", "slot"], ascending=[False, True]))


def served_at(periods: pd.DataFrame, at: pd.Timestamp) -> pd.DataFrame:
    """What the slots held at a moment, the largest share first; without rows if nothing was there yet."""
    since, until = (pd.to_datetime(periods[name], utc=True, format="ISO8601") for name in ("from", "until"))
    held = periods[(since <= at) & (until.isna() | (at < until))].rename(columns={"from": "since"})
    wanted = held[["slot", "version", "share", "since", "until", "who", "why", "run"]]
    return answer("served_at", wanted.sort_values(["share", "slot"], ascending=[False, True]))


def saw(by_dataset: Mapping[str, pd.DataFrame], models: pd.DataFrame, periods: pd.DataFrame) -> pd.DataFrame:
    """Which datasets have a video, which models were taught by these, and when and where these served.

    Args:
        by_dataset: For each dataset that has the video its row: train, val, test (frames), annotations.
        models: The registered versions.
        periods: Who served what, when; `sha256` is the digest of the model, "" where nobody noted it.
    """
    names = ["train", "val", "test", "annotations"]
    if not by_dataset:
        return answer("saw", [])
    data = pd.concat([table[names].assign(dataset_version=name) for name, table in by_dataset.items()])
    of_models = data.merge(models[["version", "dataset_version", "sha256"]], on="dataset_version")
    of_models = of_models.rename(columns={"version": "what"}).assign(kind="model")
    served = periods[["slot", "version", "share", "from", "until"]].rename(columns={"version": "what", "from": "since"})
    served = served.assign(held=periods.get("sha256", ""))
    deployed = of_models.merge(served[served["share"] > 0], on="what").assign(kind="deployment")
    # A registry that counts anew, as of a lake that was copied, calls another model by the same number.
    deployed = deployed[(deployed["held"] == "") | (deployed["held"] == deployed["sha256"])].drop(columns="held")
    parts = [data.assign(what=data["dataset_version"], kind="dataset"), of_models, deployed]
    table = pd.concat(parts, ignore_index=True).drop(columns="sha256")
    for name in ("slot", "share", "since", "until"):
        table[name] = table.get(name)
    return answer("saw", table)


def alike(asked: str | None, phash: pa.ChunkedArray, boxes: pa.ChunkedArray, most: int) -> pd.DataFrame:
    """The training frames that have boxes of a class, those that look most like a picture first.

    Every hash is looked at: no order of them finds the nearest sooner where that differs in many bits.

    Args:
        asked: Perceptual hash of the picture, hex; None if it is not known, and then the order says nothing.
        phash: Those of the training frames as numbers, in order of frame; null where one is not known.
        boxes: How many boxes of the class each has.
        most: How many frames.

    Returns:
        place (the row, from 0), boxes, distance (bits of 64, null where a hash is missing), rank from 1.
    """
    (one,), (there,) = parse([asked])
    hashes, known = phash.fill_null(0).to_numpy(), phash.is_valid().to_numpy()
    count = boxes.to_numpy()
    having = np.flatnonzero(count)
    apart = np.where(known & there, np.bitwise_count(hashes ^ one), BITS + 1)[having].astype(np.uint8)
    nearest = np.argsort(apart, kind="stable")[:most]
    place = having[nearest]
    distance = pd.array(apart[nearest], dtype="Int64")
    distance[apart[nearest] > BITS] = None
    return pd.DataFrame(
        {
            "place": place,
            "boxes": pd.array(count[place], dtype="Int64"),
            "distance": distance,
            "rank": range(1, len(place) + 1),
        }
    )


def left_out(frames: pd.DataFrame, annotated: set[str], taken: set[str] | None) -> pd.DataFrame:
    """Which frames of a video are in no data set, and why.

    Args:
        frames: The video's table of `extracted_frames`.
        annotated: The frames that an annotator looked at.
        taken: The frames that the newest dataset has; None if there is no dataset.

    Returns:
        The answer `dropped`, in order of video and index.
    """
    kept = frames["kept"].to_numpy(bool)
    out = kept & ~frames["frame"].isin(taken).to_numpy(bool) if taken is not None else np.zeros(len(frames), bool)
    reason = np.where(
        frames["frame"].isin(annotated),
        "left out of the newest dataset: a near-duplicate of a frame in another split, or annotated since",
        "nobody annotated it",
    )
    told = frames.assign(
        by=np.where(out, "dataset", "extraction"), reason=np.where(out, reason, frames["reason"].to_numpy(object))
    )
    table = told.loc[out | ~kept, ["video", "frame", "index", "pts_s", "by", "reason"]]
    return answer("dropped", table.sort_values(["video", "index"]))


def judged_by_video(frames: pd.DataFrame) -> pd.DataFrame:
    """Which version of which video's annotations the truth of an evaluation is from, a row a video.

    Args:
        frames: A row a test frame: video, frame, annotations (the version; null if nobody noted it), boxes.

    Returns:
        video, annotations, frames, boxes (how many of each).
    """
    known = frames.assign(annotations=frames["annotations"].fillna("unknown"))
    each = known.groupby(["video", "annotations"])
    return each.agg(frames=("frame", "size"), boxes=("boxes", "sum")).reset_index()


def deployed_again(log: Sequence[Entry]) -> list[dict[str, Any]]:
    """The versions that a rollout had rolled back and that somebody had deployed again, as rows of `overridden`."""
    found: list[dict[str, Any]] = []
    last: Entry | None = None
    for entry in log:
        now, before = entry.rollout, last.rollout if last else None
        if now is not None and last is not None and (before is None or before.id != now.id):
            said = last.rolled_back.get(now.version)
            if said is not None:
                by, reason = entry.who or now.approved_by, now.approval or now.why
                at = datetime.fromtimestamp(entry.at, timezone.utc).isoformat()
                row = {"what": "rollout", "of": now.version, "version": now.version, "said": said}
                found.append({**row, "by": by, "reason": reason, "at": at})
        last = entry
    return found


def overridden(
    gates: Iterable[Mapping[str, Any]],
    models: pd.DataFrame,
    log: Sequence[Entry],
    withdrawn: Iterable[Mapping[str, Any]] = (),
) -> pd.DataFrame:
    """What was let pass though something said no, in order of time.

    Args:
        gates: The overrides of gates: weights_version, by, reason, at, failed (texts).
        models: The registered versions.
        log: The endpoint's.
        withdrawn: Who let a version serve that learned from a withdrawn video: rows of the answer.
    """
    # The same weights may have been registered before, for another evaluation that they passed.
    known = pd.concat([models[models["override_by"].notna()], models]).drop_duplicates("weights_version")
    version = known.set_index("weights_version")["version"]
    rows = [
        {
            "what": "gates",
            "of": made["weights_version"],
            "version": version.get(made["weights_version"]),
            "said": "; ".join(made["failed"]),
            **{name: made[name] for name in ("by", "reason", "at")},
        }
        for made in gates
    ]
    return answer("overridden", [*rows, *deployed_again(log), *withdrawn]).sort_values("at", ignore_index=True)
