"""Which pictures annotators are asked about today, each with the reason for it and with boxes to begin with.

Version: the hash of the table. A batch is published in the lake before the tool hears of it. While something is left to
do in a batch, this hands it over again, which doubles nothing; a further one is chosen only when asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

import dagster as dg
import pandas as pd

from detection_assets import label_candidates, label_looks
from detection_assets.detector import Detector
from detection_assets.domain import card, labels, schemas, selection
from detection_assets.domain.informativeness import PLAIN
from detection_assets.domain.label_choice import Ask, choose
from detection_assets.domain.labels import Batch
from detection_assets.domain.selection import Wanted
from detection_assets.label_candidates import Asked
from detection_assets.label_drift import drifted
from detection_assets.label_looks import Looks
from detection_assets.pictures import legend, thumbnails
from resources import costs, label_batches, tables
from resources.compute.base import Compute
from resources.labeling.base import Handed, Labeling
from resources.registry.base import CHALLENGER, CHAMPION, ModelVersion, Registry
from resources.storage import Storage
from resources.withdrawal import withdrawals

SHOWN = 8


class Request(dg.Config):
    """What is asked for in this run.

    Attributes:
        budget: The most pictures of the batch; None: as the detector's file says.
        more: Whether a further batch is chosen while another is open.
    """

    budget: int | None = None
    more: bool = False


@dataclass(frozen=True)
class _World:
    """What a choice is made from."""

    detector: Detector
    storage: Storage
    frames: pd.DataFrame
    annotations: pd.DataFrame
    waiting: Asked
    models: Mapping[str, ModelVersion]


@dg.asset(
    dagster_type=tables.TABLE,
    deps=["deployed_endpoint", "captured_requests", "drift_report"],
    code_version="1",
    kinds={"python", "table"},
    metadata={"settings": ["labeling", "classes", "endpoint.confidence", "endpoint.iou", "endpoint.max_det"]},
    check_specs=[
        dg.AssetCheckSpec("enough_candidates", asset="label_requests", description="There is a batch's worth to ask."),
        dg.AssetCheckSpec("budget_kept", asset="label_requests", description="No more is asked for than wanted."),
    ],
)
def label_requests(
    context: dg.AssetExecutionContext,
    config: Request,
    detector: dg.ResourceParam[Detector],
    storage: Storage,
    compute: Compute,
    registry: Registry,
    labeling: Labeling,
    extracted_frames: pd.DataFrame,
    annotations: pd.DataFrame,
) -> dg.MaterializeResult:
    """A row a picture that annotators are asked about: its reason, why in words, where it is worked on."""
    waiting = label_candidates.asked(storage)
    extracted_frames, _ = withdrawals.leave_out(storage, extracted_frames)
    annotations = annotations[annotations["frame"].isin(extracted_frames["frame"])]
    budget = config.budget or detector.labeling.budget
    if waiting.open and not config.more:
        context.log.info(f"still open, and handed over again: {', '.join(waiting.open)}")
        return _told(detector, storage, [_hand(storage, labeling, batch) for batch in waiting.open], budget, {}, None)
    models = {name: model for name in (CHAMPION, CHALLENGER) if (model := registry.get(name)) is not None}
    if CHAMPION not in models or (CHALLENGER in models and models[CHALLENGER].sha256 == models[CHAMPION].sha256):
        models.pop(CHALLENGER, None)
    world = _World(detector, storage, extracted_frames, annotations, waiting, models)
    requests, report = _production(storage, detector.labeling.request_days)
    candidates = _candidates(world, requests)
    looks, known = _looks(context, world, compute, candidates)
    scores, words = drifted(storage, registry, report, requests, detector.endpoint.confidence, context.log.info)
    # A day's requests come from many cameras: each is a video of its own where one may not have more than its share.
    candidates["video"] = candidates["video"].where(candidates["source"] == "frame", candidates["frame"])
    settings = detector.labeling
    ask = Ask(
        detector.classes,
        detector.endpoint.confidence,
        Wanted(budget, settings.reasons.model_dump(), settings.near_duplicate, settings.most_per_video),
        *(models[name].version if name in models else "" for name in (CHAMPION, CHALLENGER)),
        drifted=scores,
        kinds=words,
    )
    chosen, possible = choose(candidates, looks.pictures, looks.boxes, known.pictures, annotations, ask)
    told = {
        "candidates": len(candidates),
        "looked at": len(looks.pictures),
        "could be chosen": possible,
        "model": f"version {models[CHAMPION].version}" if CHAMPION in models else "none: only variety counts",
        "problems": dg.MetadataValue.md("\n".join(f"- {card.escape(text)}" for text in looks.problems[:20]) or "none"),
        **costs.told(*looks.ran, *known.ran),
    }
    if chosen.empty:
        return _told(detector, storage, [], budget, told, possible)
    batch, keep = _batch(world, chosen, looks.boxes)
    label_batches.publish(storage, batch, keep)
    return _told(detector, storage, [_hand(storage, labeling, batch.id)], budget, told, possible)


def _production(storage: Storage, days: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Captured requests and drift reports of the last days, today's among them."""
    today = datetime.now(timezone.utc).date()
    names = [str(today - timedelta(days=back)) for back in range(days)]
    return tables.read(storage, "captured_requests", names), tables.read(storage, "drift_report", names)


def _candidates(world: _World, requests: pd.DataFrame) -> pd.DataFrame:
    """What could be asked about, as much as models may look at: half of it requests, if there are so many."""
    frames = label_candidates.unlabelled_frames(world.frames, world.annotations, world.waiting)
    asked = label_candidates.unlabelled_requests(world.storage, requests, world.waiting)
    near = world.detector.labeling.near_duplicate
    known = world.frames["frame"].isin(world.annotations["frame"])
    known |= world.frames["frame"].isin(world.waiting.frames["frame"])
    # Before anything looks at them: what is like a labelled frame is not worth a look.
    frames = frames[selection.unlike(frames, world.frames["phash"][known], near)]
    most = world.detector.labeling.looked_at
    asked = selection.spread(asked, max(most // 2, most - len(frames)))
    parts = [part for part in (selection.spread(frames, most - len(asked)), asked) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else frames


def _looks(
    context: dg.AssetExecutionContext, world: _World, compute: Compute, candidates: pd.DataFrame
) -> tuple[Looks, Looks]:
    """What is seen in the candidates, and what labelled and waiting pictures look like."""
    settings = world.detector.endpoint.model_dump(mode="json", include={"iou", "max_det"})
    hardware = world.detector.evaluation.hardware
    looks = label_looks.look(context, world.storage, compute, candidates, world.models, settings, hardware)
    pictures = label_candidates.known_pictures(world.frames, world.annotations, world.waiting)
    return looks, label_looks.look(context, world.storage, compute, pictures, {}, settings, hardware)


def _batch(world: _World, rows: pd.DataFrame, boxes: pd.DataFrame) -> tuple[Batch, dict[str, str]]:
    """The batch, and the pictures that are copied into it because they would be deleted where they lie."""
    settings, classes = world.detector.labeling, world.detector.classes
    is_request = rows["source"] == "request"
    names = [
        row["name"] if row["source"] == "request" else labels.picture_name(row["video"], row["frame"], row["key"])
        for row in rows.to_dict("records")
    ]
    rows = rows.assign(name=labels.distinct(names))
    found = labels.batch_id(rows, classes)
    folder = labels.folder_of(found)
    frames = rows.assign(
        video=rows["video"].where(~is_request, folder),
        frame=rows["frame"].where(~is_request, folder + "#" + rows["name"]),
    )
    proposals = pd.DataFrame({name: [] for name in labels.PROPOSED})
    model = world.models.get(CHAMPION)
    if settings.proposals and model is not None:
        least = world.detector.endpoint.confidence if settings.proposals_from is None else settings.proposals_from
        boxes = boxes[(boxes["view"] == PLAIN) & (boxes["confidence"] >= least)]
        boxes = boxes[boxes["frame"].isin(rows["frame"]) & boxes["class"].isin(classes)]
        boxes = boxes.assign(name=boxes["frame"].map(dict(zip(rows["frame"], rows["name"], strict=True))))
        proposals = boxes[list(labels.PROPOSED)].reset_index(drop=True)
    keep = dict(zip(rows["name"][is_request], rows["key"][is_request], strict=True))
    version = model.version if model is not None and settings.proposals else ""
    return Batch(found, frames[list(labels.COLUMNS)], proposals, version, tuple(classes)), keep


def _hand(storage: Storage, labeling: Labeling, batch: str) -> tuple[Batch, Handed, Mapping[str, str]]:
    found, keys = label_batches.read(storage, batch)
    return found, labeling.request(batch), keys


def _told(
    detector: Detector,
    storage: Storage,
    handed: list[tuple[Batch, Handed, Mapping[str, str]]],
    budget: int,
    metadata: Mapping[str, Any],
    candidates: int | None,
) -> dg.MaterializeResult:
    """The table of what is asked for, with pictures."""
    parts = [_rows(batch, at, keys) for batch, at, keys in handed]
    table = schemas.conform("label_requests", pd.concat(parts)) if parts else schemas.empty("label_requests")
    boxes = [batch.proposals.rename(columns={"name": "frame"}) for batch, _, _ in handed if len(batch.proposals)]
    shown = table.assign(frame=table["name"])
    pictures = thumbnails(storage, shown, SHOWN, pd.concat(boxes) if boxes else None, detector.classes)
    links = [f"- {at.batch}: {at.link or at.place} ({at.tool}, {at.pictures} pictures)" for _, at, _ in handed]
    by_reason = table.groupby("reason", as_index=False).agg(pictures=("name", "size"), proposals=("proposals", "sum"))
    return dg.MaterializeResult(
        value=table,
        data_version=dg.DataVersion(tables.serialize(table.drop(columns=["tool", "link"]))[1][:16]),
        metadata={
            "work on it": dg.MetadataValue.md("\n".join(links) or "nothing is asked for"),
            "by reason": dg.MetadataValue.md(card.frame_table(by_reason)),
            "pictures": dg.MetadataValue.md(f"{pictures}\n\n{legend(detector.classes)}"),
            "why": dg.MetadataValue.md(card.frame_table(table[["name", "why"]], 50)),
            **metadata,
        },
        check_results=[
            enough_candidates(len(table), budget, candidates),
            budget_kept(table, budget, again=candidates is None),
        ],
    )


def _rows(batch: Batch, at: Handed, keys: Mapping[str, str]) -> pd.DataFrame:
    proposals = batch.proposals["name"].value_counts()
    frames = batch.frames.drop(columns=["index", "pts_s", "width", "height"])
    return frames.assign(
        batch=batch.id,
        key=frames["name"].map(keys),
        reason=frames["why"].str.partition(":")[0],
        why=frames["why"].str.partition(": ")[2],
        proposals=frames["name"].map(proposals).fillna(0),
        model=batch.model,
        tool=at.tool,
        link=at.link,
    )


def enough_candidates(rows: int, budget: int, candidates: int | None) -> dg.AssetCheckResult:
    """Fewer pictures than the budget: either all is labelled, or what is left looks like what is labelled."""
    told = "an open batch was handed over again" if candidates is None else f"{candidates} could be chosen"
    return dg.AssetCheckResult(
        check_name="enough_candidates",
        passed=candidates is None or rows >= budget,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{rows} of {budget} pictures: {told}",
    )


def budget_kept(table: pd.DataFrame, budget: int, *, again: bool) -> dg.AssetCheckResult:
    """Each picture of a batch is asked for once, and no batch is larger than wanted."""
    largest = int(table["batch"].value_counts().max()) if len(table) else 0
    budget = largest if again else budget
    doubled = int(table.duplicated(["batch", "frame"]).sum())
    return dg.AssetCheckResult(
        check_name="budget_kept",
        passed=largest <= budget and not doubled,
        severity=dg.AssetCheckSeverity.WARN,
        description=f"{largest} pictures in the largest batch, {budget} wanted, {doubled} doubled",
    )
