"""What annotators drew, whichever tool they used, as one table in pixels.

Partition: video. Version: the hash of the table, so re-exporting the same boxes changes nothing. Classes go by name.
What could not be used is told with file, place and reason.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from detection_assets import annotation_reports as reports
from detection_assets.detector import Detector
from detection_assets.domain import agreement, card, formats, inbox, layout, matching, schemas
from detection_assets.domain.problems import Problem, problems_table
from detection_assets.pictures import legend, thumbnails
from resources import lake, tables, temporary, versions
from resources.storage import Storage


@dg.asset(
    dagster_type=tables.TABLE,
    partitions_def=lake.VIDEOS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    code_version="3",
    kinds={"python", "table"},
    metadata={"settings": ["classes", "annotations"]},
    check_specs=[
        dg.AssetCheckSpec(
            "boxes_legal", asset="annotations", blocking=True, description="Boxes lie inside their frame."
        ),
        dg.AssetCheckSpec(
            "classes_known", asset="annotations", blocking=True, description="Classes are the detector's."
        ),
        dg.AssetCheckSpec("frames_matched", asset="annotations", blocking=True, description="The frames exist."),
        dg.AssetCheckSpec("sources_agree", asset="annotations", description="No two files disagree on a frame."),
        dg.AssetCheckSpec("annotators_agree", asset="annotations", description="People who draw the same frame agree."),
        dg.AssetCheckSpec("coverage", asset="annotations", description="Kept frames are annotated."),
    ],
)
def annotations(
    context: dg.AssetExecutionContext,
    detector: dg.ResourceParam[Detector],
    storage: Storage,
    raw_videos: pd.DataFrame,
    extracted_frames: pd.DataFrame,
) -> Iterator[dg.MaterializeResult | dg.AssetMaterialization]:
    """A row a box: frame, class, corners in pixels, track, file, annotator; and one for each frame found empty."""
    videos = list(context.partition_keys)
    files = lake.annotation_files(storage, videos, lake.known_videos(context.instance, detector.name))
    named = extracted_frames.assign(file=extracted_frames["key"].fillna("").str.rsplit("/", n=1).str[-1])
    frames = {str(video): of_video for video, of_video in named.groupby("video")}
    none = named.iloc[:0]
    # Images are told apart by name: a folder has no frame numbers to be out of range.
    counted = raw_videos[(raw_videos["kind"] == "video") & raw_videos["frames_decodable"].notna()]
    lengths = {str(row.video): int(row.frames_decodable) for row in counted.itertuples()}
    parts: list[pd.DataFrame] = []
    problems: list[Problem] = []
    counts: dict[str, Mapping[str, int]] = {}
    each: dict[str, dict[str, Any]] = {}
    many: list[pd.DataFrame] = []
    compared: list[tuple[pd.DataFrame, pd.DataFrame]] = []
    settings = detector.annotations
    policy = agreement.Policy(settings.policy, settings.iou, settings.min_annotators)
    together: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for video in videos:
        together[tuple(item.key for item in files[video])].append(video)
    for keys, speaks_for in together.items():
        # A file that speaks for several videos is read once, and what is wrong with it is reported once.
        of_videos = {video: frames.get(video, none) for video in speaks_for}
        parsed = _load(storage, keys, of_videos.values())
        of_files = (
            [replace(one, video=speaks_for[0]) for one in parsed.problems] if len(speaks_for) == 1 else parsed.problems
        )
        shared = reports.publish(storage, of_files) if len(speaks_for) > 1 else None
        problems += of_files
        for video, of_video in of_videos.items():
            matched = matching.match(parsed, of_video, video, detector.classes, lengths.get(video), policy)
            parts.append(matched.boxes)
            problems += matched.problems
            counts[video] = matched.counts
            own = matched.problems if shared else [*of_files, *matched.problems]
            compared.append(agreement.compared(matched.many, policy.iou))
            many.append(matched.many)
            each[video] = {
                "counts": dict(matched.counts),
                **reports.of_problems(storage, [*of_files, *matched.problems], [shared, reports.publish(storage, own)]),
                **reports.of_agreement(*compared[-1]),
            }
            context.log.info(f"[{len(counts)}/{len(videos)}] videos' annotations read")
    table = schemas.conform(
        "annotations", pd.concat(parts, ignore_index=True) if parts else schemas.empty("annotations")
    )
    problems = list(dict.fromkeys(problems))
    total: Counter[str] = Counter()
    for count in counts.values():
        total.update(count)
    kept = extracted_frames[extracted_frames["kept"]]
    shown = kept[kept["frame"].isin(table["frame"])]
    rows = {str(video): of_video for video, of_video in table.groupby("video")}
    now = {
        video: tables.serialize(rows.get(video, schemas.empty("annotations")))[1][: tables.VERSION] for video in videos
    }
    changed = reports.since(storage, versions.data_versions(context.instance, context.asset_key, videos), now, rows)
    for video, sentence in changed.items():
        each[video]["since the last version"] = sentence
    agreed = agreement.total(of_video for of_video, _ in compared)
    worst = _worst_first([of_video for _, of_video in compared])
    several = pd.concat([one for one in many if len(one)] or many[:1], ignore_index=True)
    yield from versions.materialized(
        context,
        storage,
        table,
        now,
        metadata={
            "boxes by class": dg.MetadataValue.md(card.frame_table(_by_class(table))),
            "counts": dict(total),
            "frames matched": matched_by(total),
            "problems": dg.MetadataValue.md(card.frame_table(problems_table(problems), 100)),
            **reports.of_run(storage, problems),
            **reports.of_changes(changed),
            **(
                {"agreement": dg.MetadataValue.md(card.frame_table(reports.agreement_table(agreed), 60))}
                if len(agreed)
                else {}
            ),
            "preview": dg.MetadataValue.md(
                f"{thumbnails(storage, shown, boxes=table, classes=detector.classes)}\n\n{legend(detector.classes)}"
            ),
        },
        each=each,
        check_results=[
            _systematic("boxes_legal", total["illegal"], total["boxes_read"], problems),
            _systematic("classes_known", total["unknown_class"], total["boxes_read"], problems),
            _systematic("frames_matched", total["frames_unknown"], total["frames_annotated"], problems),
            sources_agree(total, problems),
            reports.annotators_agree(storage, kept, several, agreed, worst, settings.agreement),
            coverage(kept, table),
        ],
    )
    lake.remember(storage, "annotations", {video: inbox.fingerprint(files[video]) for video in videos})


def _load(storage: Storage, keys: Sequence[str], frames: Iterable[pd.DataFrame]) -> formats.Parsed:
    """Reads the annotation files that speak for some videos, and names them as the user knows them: by their keys."""
    wanted = {int(index) for of_video in frames for index in of_video["index"]}
    names = {key: key.removeprefix(layout.ANNOTATIONS + "/") for key in keys}
    with ExitStack() as stack:
        root = storage.local_path(layout.ANNOTATIONS)
        if root is None:
            root = Path(stack.enter_context(temporary.folder()))
            storage.download({key: root / name for key, name in names.items()})
        parsed = formats.load([root / name for name in names.values()], root, wanted)
    return replace(
        parsed,
        boxes=parsed.boxes.assign(file=layout.ANNOTATIONS + "/" + parsed.boxes["file"].astype("string")),
        problems=[replace(problem, file=f"{layout.ANNOTATIONS}/{problem.file}") for problem in parsed.problems],
    )


def matched_by(total: Mapping[str, int]) -> str:
    """How the annotated frames were found among the extracted ones."""
    ways = {"time": "matched_by_pts", "number": "matched_by_index", "name": "matched_by_name"}
    return ", ".join(f"{total[count]} by {way}" for way, count in ways.items())


def _worst_first(of_videos: Sequence[pd.DataFrame]) -> pd.DataFrame:
    differ = [one for one in of_videos if len(one)]
    worst = pd.concat(differ, ignore_index=True) if differ else of_videos[0]
    return worst.sort_values(["f1", "missed"], ascending=[True, False], kind="stable", ignore_index=True)


def _by_class(table: pd.DataFrame) -> pd.DataFrame:
    named = table.dropna(subset=["class"])
    return named.groupby("class").agg(boxes=("frame", "size"), frames=("frame", "nunique")).reset_index()


def _systematic(name: str, bad: int, of: int, problems: Sequence[Problem]) -> dg.AssetCheckResult:
    """Single mistakes are left out and told; when half is wrong, something larger is, and the graph stops here."""
    return dg.AssetCheckResult(
        check_name=name,
        passed=bad == 0,
        severity=dg.AssetCheckSeverity.ERROR if bad * 2 > of else dg.AssetCheckSeverity.WARN,
        description=f"{bad} of {of}",
        metadata={"problems": dg.MetadataValue.md(card.frame_table(problems_table(problems), 20))},
    )


def sources_agree(total: Mapping[str, int], problems: Sequence[Problem]) -> dg.AssetCheckResult:
    """Where two files disagree on a frame, one is taken; a person should say which."""
    return dg.AssetCheckResult(
        check_name="sources_agree",
        passed=total["conflicts"] == 0,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={
            "conflicts": int(total["conflicts"]),
            "problems": dg.MetadataValue.md(card.frame_table(problems_table(problems), 20)),
        },
    )


def coverage(kept: pd.DataFrame, table: pd.DataFrame) -> dg.AssetCheckResult:
    """How many of the kept frames somebody has looked at."""
    done = kept["frame"].isin(table["frame"])
    return dg.AssetCheckResult(
        check_name="coverage",
        passed=bool(done.all()),
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"annotated": int(done.sum()), "kept": len(kept)},
    )
