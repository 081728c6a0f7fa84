"""The versioned dataset: annotated frames, split by group for good, as an immutable snapshot.

Version: the hash of content and split, `ds-` and 12 hex digits; the same frames and boxes give the same version on
every machine. The snapshot holds tables, not pictures: those stay where extraction published them.
"""

from pathlib import Path

import dagster as dg
import pandas as pd

from detection_assets.detector import Detector
from detection_assets.domain import card, croissant, layout, near_duplicates, snapshot, splitting, withdrawal
from detection_assets.domain.problems import InputError
from detection_assets.pictures import legend, thumbnails
from resources import event_notes, lake, standards, tables, temporary, versions
from resources.registry.base import Registry
from resources.storage import Storage
from resources.withdrawal import withdrawals


@dg.asset(
    dagster_type=tables.TABLE,
    # Read in the body and not by the IO manager: only so is it certain what was current before it was read.
    deps=["extracted_frames", "annotations"],
    code_version="1",
    kinds={"python", "dataset"},
    metadata={"settings": ["dataset", "classes", "videos"]},
    check_specs=[
        dg.AssetCheckSpec(
            "groups_apart", asset="detection_dataset", blocking=True, description="No group is in two splits."
        ),
        dg.AssetCheckSpec(
            "no_twins", asset="detection_dataset", blocking=True, description="No near-duplicates across splits."
        ),
        dg.AssetCheckSpec("balance", asset="detection_dataset", description="Each class is in each split."),
        dg.AssetCheckSpec("size", asset="detection_dataset", description="There is enough to learn from."),
    ],
)
def detection_dataset(
    context: dg.AssetExecutionContext,
    detector: dg.ResourceParam[Detector],
    storage: Storage,
    registry: Registry,
) -> dg.MaterializeResult:
    """A row an image: frame, group, split, picture, number of boxes. Boxes and the card are in the snapshot."""
    withdrawn = withdrawals.read_all(storage)
    known = lake.known_videos(context.instance, detector.name)
    deps = context.assets_def.asset_deps[context.asset_key]
    # Before they are read: what is written meanwhile makes this stale. Of every video, also one that gave no frames:
    # that it comes or goes is a change, too.
    read = versions.inputs_digest(context.instance, deps, known)
    extracted_frames, left_out = withdrawals.leave_out(storage, tables.read(storage, "extracted_frames", known))
    annotations, drawn = tables.read_with_versions(storage, "annotations", known)
    groups = {video: detector.group_of(video) for video in extracted_frames["video"].unique()}
    frames = extracted_frames.assign(group=extracted_frames["video"].map(groups))
    data = snapshot.labelled(frames, annotations, detector.classes)
    if data.images.empty:
        raise InputError(
            f"{detector.name}: no kept frame is annotated, so there is nothing to learn from; add annotations with "
            f"`detection add {detector.name} FILES...`, or see what the checks of `annotations` say"
        )
    settings = detector.dataset
    shares = settings.split.model_dump()
    split = splitting.split(data.images, data.boxes, shares, settings.seed, _history(storage), settings.near_duplicate)
    data, dropped = _without_twins(data, split, settings.near_duplicate)
    made = snapshot.build(data, split, detector.classes, shares)
    made.meta["notes"] = [*made.meta["notes"], *dropped, *left_out]
    with temporary.folder() as scratch:
        folder = Path(scratch) / "dataset"
        snapshot.write(made.images, made.boxes, made.meta, folder)
        notes = {
            **{"optimistic": made.meta["optimistic"], "notes": made.meta["notes"]},
            **{"annotators": drawn_by(annotations, made.images), "annotations": versions.combined(drawn)},
        }
        published = storage.publish(folder, layout.dataset(made.version), notes)
    about = {"detector": detector.name, "images": str(len(made.images)), "boxes": str(len(made.boxes))}
    entries = registry.keep_dataset(made.version, published, {**about, "split_by": str(made.meta["by"])})
    entered = "\n".join(f"- [{entry.name}]({entry.link}): {entry.place}" for entry in entries)
    table = made.images.assign(
        dataset_version=made.version,
        key=layout.FRAMES + "/" + made.images["file"],
        boxes=made.images["frame"].map(made.boxes["frame"].value_counts()).fillna(0),
        annotations=made.images["video"].map(drawn),
        labels=snapshot.labels(made.images["frame"].tolist(), made.boxes),
    ).drop(columns=["file", "phash"])
    videos = dg.AssetKey([*context.asset_key.path[:-1], "raw_videos"])
    described = standards.describe_dataset(
        storage,
        made.version,
        croissant.About.of(detector.name, detector.said, context.assets_def.code_versions_by_key[context.asset_key]),
        versions.data_versions(context.instance, videos, known),
        drawn,
    )
    test = table[table["split"] == "test"]
    shown = test if len(test) else table
    # Of what came since the last dataset, or who asks later what is stale reads the events of all videos.
    for key in (videos, *deps):
        event_notes.latest(context.instance, key)
    pictures = f"{thumbnails(storage, shown, 6, made.boxes, detector.classes)}\n\n{legend(detector.classes)}"
    return dg.MaterializeResult(
        value=table,
        data_version=dg.DataVersion(made.version),
        tags={versions.INPUTS: read},
        metadata={
            "card": dg.MetadataValue.md(card.card(made)),
            "preview": dg.MetadataValue.md(pictures),
            "version": made.version,
            "images": len(made.images),
            "boxes": len(made.boxes),
            "labelled frames": int(annotations["frame"].nunique()),
            "split by": made.meta["by"],
            "optimistic": bool(made.meta["optimistic"]),
            "snapshot": storage.uri_of(published.folder),
            "croissant": storage.uri_of(described),
            **(
                {"withdrawn": dg.MetadataValue.md(card.frame_table(withdrawal.told(withdrawn), 50))}
                if withdrawn
                else {}
            ),
            **({"data assets": dg.MetadataValue.md(entered)} if entered else {}),
        },
        check_results=[
            groups_apart(made),
            no_twins(made, settings.near_duplicate),
            balance(made),
            size(made, settings.min_images),
        ],
    )


def drawn_by(annotations: pd.DataFrame, images: pd.DataFrame) -> dict[str, int]:
    """How many boxes of a dataset's images each annotator drew, by name; "" for those that nobody is named of."""
    boxes = annotations[annotations["class"].notna() & annotations["frame"].isin(images["frame"])]
    return {str(name): int(count) for name, count in boxes["annotator"].fillna("").value_counts().items()}


def _history(storage: Storage) -> splitting.History | None:
    """How the last dataset was split: a group keeps its split, which today's data alone cannot tell."""
    try:
        last = tables.read(storage, "detection_dataset")
    except FileNotFoundError:
        return None
    published = storage.published(layout.dataset(str(last["dataset_version"].iloc[0]))) if len(last) else None
    if published is None:
        return None
    with storage.local_copy(published.folder) as folder:
        return snapshot.read(folder).history()


def _without_twins(
    data: snapshot.Labelled, split: splitting.Split, distance: int
) -> tuple[snapshot.Labelled, list[str]]:
    """Leaves out frames whose near-duplicate lies in another split: they would be judged on what was taught."""
    placed = data.images.assign(split=data.images["frame"].map(split.assignments))
    twins = near_duplicates.across(placed, distance)
    if twins.empty:
        return data, []
    gone = set(twins["frame"])
    kept = snapshot.Labelled(
        data.images[~data.images["frame"].isin(gone)], data.boxes[~data.boxes["frame"].isin(gone)], data.notes
    )
    return kept, [f"{len(gone)} frames were left out because a near-duplicate of theirs is in another split."]


def groups_apart(made: snapshot.Snapshot) -> dg.AssetCheckResult:
    """Where the split could be by group, no group is in two splits; where it could not, the figures are optimistic."""
    divided = splitting.straddling(made.images, made.meta["by"])
    optimistic = bool(made.meta["optimistic"])
    return dg.AssetCheckResult(
        check_name="groups_apart",
        passed=not divided and not optimistic,
        severity=dg.AssetCheckSeverity.ERROR if divided else dg.AssetCheckSeverity.WARN,
        description="optimistic: too few groups to keep each whole" if optimistic else None,
        metadata={"split by": made.meta["by"], "divided": ", ".join(divided[:20]) or "none"},
    )


def no_twins(made: snapshot.Snapshot, distance: int) -> dg.AssetCheckResult:
    """No test frame looks like a training frame."""
    twins = near_duplicates.across(made.images, distance)
    return dg.AssetCheckResult(
        check_name="no_twins",
        passed=twins.empty,
        metadata={"bits": distance, "twins": dg.MetadataValue.md(card.frame_table(twins, 20))},
    )


def balance(made: snapshot.Snapshot) -> dg.AssetCheckResult:
    """A class that a split lacks is not learned, or not judged."""
    counts = made.meta["counts"]
    lacking = [
        f"{name} in {part}"
        for part in splitting.SPLITS
        for name in made.meta["classes"]
        if not counts[part]["boxes"][name]
    ]
    return dg.AssetCheckResult(
        check_name="balance",
        passed=not lacking,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"no": ", ".join(lacking) or "class is lacking"},
    )


def size(made: snapshot.Snapshot, least: int) -> dg.AssetCheckResult:
    """Under the detector's `dataset.min_images`, training is hardly worth it."""
    return dg.AssetCheckResult(
        check_name="size",
        passed=len(made.images) >= least,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"images": len(made.images), "least": least},
    )
