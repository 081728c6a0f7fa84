"""The videos as they came: what each file or folder of images really holds.

Partition: video. Version: the SHA-256 of the content, and whether any frame of it can be had. A file that cannot be
used is a row that says why; it stops no other.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import dagster as dg
import pandas as pd

from detection_assets.detector import Detector
from detection_assets.domain import card, layout, probe, schemas
from resources import lake, tables, versions
from resources.storage import Storage
from resources.withdrawal import withdrawals


@dg.asset(
    dagster_type=tables.TABLE,
    partitions_def=lake.VIDEOS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    code_version="1",
    kinds={"python", "table"},
    metadata={"settings": ["videos"]},
    check_specs=[
        dg.AssetCheckSpec("decodes", asset="raw_videos", blocking=True, description="The videos can be read."),
        dg.AssetCheckSpec("unique", asset="raw_videos", description="No video is a copy of another."),
    ],
)
def raw_videos(
    context: dg.AssetExecutionContext, detector: dg.ResourceParam[Detector], storage: Storage
) -> Iterator[dg.MaterializeResult | dg.AssetMaterialization]:
    """A row a video: group, digest, codec, frame rate, duration, size, and frames declared against decodable."""
    sources = lake.sources_of(storage, context.partition_keys)
    rows: list[dict] = []
    left_out: list[str] = []
    withdrawn, barred = withdrawals.videos(storage), withdrawals.Barred(storage)
    for done, (video, source) in enumerate(sources.items(), start=1):
        row = {"video": video, "group": detector.group_of(video), "uri": storage.uri_of(layout.video(video))}
        if video in withdrawn:
            rows.append({**row, "kind": "video", "problem": withdrawals.refused(storage, video)})
            left_out.append(video)
            continue
        if source is None:
            rows.append({**row, "kind": "video", "problem": "it is gone from the lake; put it back, or run again"})
            continue
        with storage.local_copy(layout.video(video)) as path:
            row |= {**probe.probe(path, source.kind), "kind": source.kind, "bytes": source.size}
        if (of := barred.video(str(row["sha256"]))) is not None:
            told = f"its content is that of {of}, which is not used: {withdrawals.refused(storage, of)}; remove it"
            row |= {"frames_decodable": 0, "problem": told}
            left_out.append(video)
        rows.append(row)
        context.log.info(f"[{done}/{len(sources)}] videos read")
    table = schemas.conform("raw_videos", pd.DataFrame(rows).reindex(columns=list(schemas.SCHEMAS["raw_videos"])))
    copies = {row["video"]: lake.first_with(storage, row["sha256"], row["video"]) for row in rows if row.get("sha256")}
    shown = table[["video", "group", "codec", "width", "height", "fps", "duration_s", "frames_decodable", "problem"]]
    yield from versions.materialized(
        context,
        storage,
        table,
        {row["video"]: _version(row) for row in rows},
        metadata={"videos": dg.MetadataValue.md(card.frame_table(shown, 50))},
        each={row["video"]: {"problem": row.get("problem") or "none", "video": row["uri"]} for row in rows},
        check_results=[decodes(table, left_out), unique(copies)],
    )
    lake.remember(storage, "videos", {video: source.fingerprint for video, source in sources.items() if source})


def _version(row: Mapping[str, Any]) -> str:
    """The content, and whether frames come of it: what a later release can decode has to be extracted then."""
    content = str(row.get("sha256") or "gone")
    return content if row.get("frames_decodable") else f"{content}-without-frames"


def decodes(table: pd.DataFrame, left_out: Collection[str] = ()) -> dg.AssetCheckResult:
    """Videos with a problem are told, and yield no frames; only when none is left does the rest have to stop.

    Args:
        table: The run's videos.
        left_out: Those of them that could be read and are withdrawn: that nothing else came is no mishap.
    """
    bad = table[table["problem"].notna()]
    wanted = table[~table["video"].isin(list(left_out))]
    none_left = len(wanted) > 0 and bool((wanted["frames_decodable"].fillna(0) == 0).all())
    return dg.AssetCheckResult(
        check_name="decodes",
        passed=bad.empty,
        severity=dg.AssetCheckSeverity.ERROR if none_left else dg.AssetCheckSeverity.WARN,
        metadata={
            "videos": len(table),
            "problems": dg.MetadataValue.md(card.frame_table(bad[["video", "problem"]], 50)),
        },
    )


def unique(first: Mapping[str, str]) -> dg.AssetCheckResult:
    """A copy would put the same frames in two splits, or count them twice."""
    copies = pd.DataFrame([(video, of) for video, of in first.items() if video != of], columns=["video", "a copy of"])
    return dg.AssetCheckResult(
        check_name="unique",
        passed=copies.empty,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"copies": dg.MetadataValue.md(card.frame_table(copies, 50))},
    )
