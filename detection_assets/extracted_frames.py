"""The frames worth having, each with its exact time, and every frame that was dropped with the reason.

Partition: video. Version: the video's content, the sampling settings and the code, so the same settings extract
nothing again. The pictures are published under that version; the table names them.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import dagster as dg
import pandas as pd

from detection_assets.detector import Detector
from detection_assets.domain import card, layout, lineage, schemas
from detection_assets.domain.lineage_questions import QUESTIONS
from detection_assets.domain.portions import portions
from detection_assets.pictures import thumbnails
from resources import answers, costs, lake, tables, versions
from resources.compute.base import Compute, Input, Step, version_of
from resources.storage import Published, Storage

CODE = "1"
FEW_KEPT = 0.2
"""Under this share of kept frames a video is worth a look: wrong settings, or a camera that stands still."""


@dg.asset(
    dagster_type=tables.TABLE,
    partitions_def=lake.VIDEOS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    code_version=CODE,
    kinds={"python", "table"},
    metadata={"settings": ["sampling"]},
    check_specs=[
        dg.AssetCheckSpec(
            "enough_kept", asset="extracted_frames", description="Most sampled frames were worth keeping."
        ),
        dg.AssetCheckSpec("none_corrupt", asset="extracted_frames", blocking=True, description="The frames decode."),
    ],
)
def extracted_frames(
    context: dg.AssetExecutionContext,
    detector: dg.ResourceParam[Detector],
    storage: Storage,
    compute: Compute,
    raw_videos: pd.DataFrame,
) -> Iterator[dg.MaterializeResult | dg.AssetMaterialization]:
    """A row a frame that was looked at: time, size, digest, hash, sharpness, brightness, kept or why dropped."""
    sampling = detector.sampling.model_dump(mode="json", exclude={"hardware"})
    usable = raw_videos[raw_videos["frames_decodable"].fillna(0) > 0]
    made = {row.video: version_of("extract", CODE, row.sha256, row.kind, sampling) for row in usable.itertuples()}
    prefixes = {video: layout.frames(video, version) for video, version in made.items()}
    todo = {video for video, prefix in prefixes.items() if storage.published(prefix) is None}
    kinds = {str(row.video): str(row.kind) for row in usable.itertuples() if row.video in todo}
    # What is done stays in its portion: a run that was killed divides as it did before, and finds what it had begun.
    hardware = detector.sampling.hardware
    divided = portions(dict(zip(usable["video"], usable["bytes"], strict=True)), compute.places(hardware))
    left = [[video for video in portion if video in todo] for portion in divided]
    files = _files(storage, kinds)
    steps = [_step(videos, kinds, prefixes, files, sampling, hardware) for videos in left if videos]
    ran = compute.run_all(context, steps)
    published = {video: storage.published(prefix) for video, prefix in prefixes.items()}
    table = read_frames(storage, published)
    unread = [video for video, found in published.items() if found is None]
    gone = {video: "no-frames" for video in raw_videos["video"] if video not in made or video in unread}
    counts = summary(table)
    why = {} if len(raw_videos) == 1 else reasons(counts, detector.name)
    yield from versions.materialized(
        context,
        storage,
        table,
        {**made, **gone},
        metadata={
            "frames": dg.MetadataValue.md(card.frame_table(counts, 50)),
            "dropped": dropped(context, detector.name, table, list(raw_videos["video"])),
            "preview": dg.MetadataValue.md(thumbnails(storage, table[table["kept"]])),
            **costs.told(*ran),
        },
        each={
            str(video): {
                "kept": int(rows["kept"].sum()),
                "preview": dg.MetadataValue.md(thumbnails(storage, rows[rows["kept"]], 4)),
                **({"dropped": why[str(video)]} if why else {}),
            }
            for video, rows in table.groupby("video")
        },
        check_results=[enough_kept(table), none_corrupt(table)],
    )


def _step(
    videos: Sequence[str],
    kinds: Mapping[str, str],
    prefixes: Mapping[str, str],
    files: Mapping[str, Sequence[str]],
    sampling: Mapping[str, Any],
    hardware: str,
) -> Step:
    return Step(
        program="extract",
        version=version_of(sorted(prefixes[video] for video in videos)),
        inputs={"videos": Input(layout.VIDEOS, sorted({file for video in videos for file in files[video]}))},
        outputs={layout.slug(video): prefixes[video] for video in videos},
        params={
            "videos": [
                {"video": video, "kind": kinds[video], "path": video, "out": layout.slug(video)} for video in videos
            ],
            "sampling": sampling,
        },
        hardware=hardware,
    )


def _files(storage: Storage, kinds: Mapping[str, str]) -> dict[str, list[str]]:
    """The files of each video; of one that is a folder of images, each image, those of a folder in it included."""
    files = {video: [] if kind == "images" else [video] for video, kind in kinds.items()}
    folders = {video for video, kind in kinds.items() if kind == "images"}
    if folders:
        # One listing, whatever their number.
        for item in storage.list(layout.video(*folders) if len(folders) == 1 else layout.VIDEOS):
            path = PurePosixPath(item.key.removeprefix(layout.VIDEOS + "/"))
            for folder in folders.intersection(map(str, path.parents)):
                files[folder].append(str(path))
    return files


def read_frames(storage: Storage, published: dict[str, Published | None]) -> pd.DataFrame:
    """Reads what the program wrote about each video's frames and adds the pictures' storage keys."""
    found = [(video, item) for video, item in published.items() if item is not None]
    data = storage.get_many([item.key("frames.parquet") for _, item in found])
    parts = []
    for (_, item), raw in zip(found, data, strict=True):
        assert raw is not None, f"{item.prefix}: frames.parquet is named in the manifest but gone"
        import io

        part = pd.read_parquet(io.BytesIO(raw))
        part["key"] = [f"{item.folder}/{name}" if name else None for name in part["file"]]
        parts.append(part)
    if not parts:
        return schemas.empty("extracted_frames")
    table = pd.concat(parts, ignore_index=True).drop(columns="file")
    return schemas.conform("extracted_frames", table.assign(sha256=table["sha256"].replace("", None)))


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """Counts by video: frames looked at, kept, and dropped for each reason."""
    reasons = table["reason"].str.split(":").str[0].replace("", "kept").rename("outcome")
    counts = pd.crosstab(table["video"], reasons)
    counts.insert(0, "seen", counts.sum(axis=1))
    return counts.reset_index()


def dropped(
    context: dg.AssetExecutionContext, detector: str, table: pd.DataFrame, videos: Sequence[str]
) -> dg.MarkdownMetadataValue:
    """The frames of a run's one video that were dropped; of several videos, how many for which reason."""
    if len(videos) == 1:
        return answers.told(
            context, detector, "dropped", lambda: lineage.left_out(table, set(), None), video=str(videos[0])
        )

    def by_reason() -> pd.DataFrame:
        reasons = table.loc[~table["kept"], "reason"].str.split(":").str[0]
        return reasons.value_counts().rename_axis("reason").reset_index(name="frames")

    return answers.told(context, detector, "dropped", by_reason)


def reasons(counts: pd.DataFrame, detector: str) -> dict[str, str]:
    """In a line for each video what was dropped of it, and how to ask for the frames; `counts` as of `summary`."""
    return {
        row["video"]: ", ".join(
            [f"{row[name]:,} {name}" for name in counts.columns[2:] if name != "kept" and row[name]] or ["none"]
        )
        + f"; {QUESTIONS['dropped'].asking(detector, video=row['video'])[0][1]}"
        for row in counts.to_dict("records")
    }


def enough_kept(table: pd.DataFrame) -> dg.AssetCheckResult:
    """A video most of whose frames were dropped is worth a look."""
    shares = table.groupby("video")["kept"].mean().rename("kept").reset_index()
    low = shares[shares["kept"] < FEW_KEPT]
    return dg.AssetCheckResult(
        check_name="enough_kept",
        passed=low.empty and bool(table["kept"].any()),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"videos with few": dg.MetadataValue.md(card.frame_table(low, 50)), "limit": FEW_KEPT},
    )


def none_corrupt(table: pd.DataFrame) -> dg.AssetCheckResult:
    """Frames that do not decode are left out and told; if nothing else is left, the run stops."""
    corrupt = table[table["reason"].str.startswith("corrupt")]
    return dg.AssetCheckResult(
        check_name="none_corrupt",
        passed=corrupt.empty,
        severity=dg.AssetCheckSeverity.ERROR if not table["kept"].any() else dg.AssetCheckSeverity.WARN,
        metadata={"corrupt": dg.MetadataValue.md(card.frame_table(corrupt[["frame", "reason"]], 50))},
    )
