"""What is known of annotations: what was wrong with them, what changed, who agrees, and what was judged by them."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from detection_assets.annotation_reports import COUNTED, REPORTS, WORST, agreement_table
from detection_assets.commands.context import Project
from detection_assets.commands.written import whole
from detection_assets.domain import agreement, problem_report
from detection_assets.domain.annotation_diff import COLUMNS, SIDES, Diff, diff
from detection_assets.domain.problems import InputError
from resources import lake, provenance, table_versions, tables, version_index, versions
from resources.instance import open_instance

if TYPE_CHECKING:
    import dagster as dg
    import pandas as pd

MOST = 100
"""Rows that are shown; a CSV has them all."""


def problems(out: Console, name: str, video: str | None, csv: Path | None) -> int:
    """Shows what was wrong with the annotations that were read last.

    Returns:
        1 if something that an annotator drew is not in the table, else 0.
    """
    import pandas as pd

    project = Project.of(name)
    with open_instance() as instance:
        told = versions.latest(instance, _key(name), _videos(instance, name, video))
    if not told:
        raise InputError(f"{name}: no annotations were read yet; `detection run {name} --until annotations`")
    keys = sorted({str(key) for event in told.values() for key in _value(event, REPORTS, [])})
    # Of a report that told of a withdrawn video, too, there is what it says of the others.
    found = project.storage.get_many(keys)
    less = {version_index.left_of(project.storage, key) for key, data in zip(keys, found, strict=True) if data is None}
    found = [data for data in [*found, *project.storage.get_many(sorted(less))] if data is not None]
    parts = [problem_report.from_csv(data) for data in found]
    table = pd.concat(parts, ignore_index=True) if parts else problem_report.rows([])
    if csv is not None:
        _write(out, csv, table)
    elif len(table):
        shown = table[["file", "place", "frame", "what", "action", "remedy"]]
        _show(out, shown, f"{name}: what was wrong with annotations")
    lost = problem_report.lost(table)
    out.print(f"{int(table['number'].sum())} problems in the annotations of {len(told)} videos, {lost} of them dropped")
    return 1 if lost else 0


def list_versions(out: Console, name: str, video: str) -> None:
    """Shows the versions of a video's annotations, the newest first."""
    storage = Project.of(name).storage
    with open_instance() as instance:
        (of_video,) = table_versions.history(instance, storage, _key(name), _videos(instance, name, video)).values()
    table = Table(title=f"{name}: annotations of {escape(video)}", title_justify="left")
    for column in ("", "version", "since (UTC)", "boxes", "frames", "run", "since the version before"):
        table.add_column(column, justify="right" if column in ("boxes", "frames") else "left")
    before = None
    for back, one in reversed(list(enumerate(reversed(of_video)))):
        now = table_versions.read(storage, "annotations", one)
        what = diff(before, now).sentence if before is not None else ""
        before = now
        boxes, frames = int(now["class"].notna().sum()), int(now["frame"].nunique())
        table.add_row(f"~{back}", one.version, _time(one), f"{boxes:,}", f"{frames:,}", one.run[:8], escape(what))
    out.print(table)


def differences(out: Console, name: str, video: str | None, earlier: str, later: str, csv: Path | None) -> None:
    """Shows what changed between two versions of a video's annotations, or in a line for each of all videos."""
    import pandas as pd

    storage = Project.of(name).storage
    with open_instance() as instance:
        wanted = _videos(instance, name, video)
        history = table_versions.history(instance, storage, _key(name), wanted)
    parts: list[pd.DataFrame] = []
    summary: list[tuple[Any, ...]] = []
    found: Diff | None = None
    for of_video, known in history.items():
        one, other = (table_versions.pick(known, said, of_video) for said in (earlier, later))
        if one == other and video is None:
            continue
        found = diff(*(table_versions.read(storage, "annotations", which) for which in (one, other)))
        parts.append(found.changes[[*COLUMNS, *SIDES]].assign(video=of_video))
        summary.append((of_video, _named(one), _named(other), found.sentence))
    if csv is not None:
        _write(out, csv, pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=["frame", "change"]))
    if video is not None and found is not None:
        ((_, one, other, sentence),) = summary
        out.print(f"{escape(video)}: {one} to {other}", soft_wrap=True)
        if csv is None and found:
            _show(out, _condensed(found), None)
            _show(out, found.by_annotator().replace({"by": {"": "(not said)"}}), None)
        out.print(sentence, markup=False, soft_wrap=True)
        return
    if summary:
        _show(out, pd.DataFrame(summary, columns=["video", "from", "to", "what changed"]), name)
    changed = sum(sentence != "no difference" for *_, sentence in summary)
    out.print(f"{changed} of {len(history)} videos changed")


def judged_on(out: Console, name: str, evaluation: str | None, csv: Path | None) -> None:
    """Shows on which versions of annotations, and on which frames, an evaluation was made."""
    import pandas as pd

    storage = Project.of(name).storage
    found = provenance.of(storage, evaluation)
    boxes = found.truth(storage)
    drawn = boxes[boxes["class"].notna()]
    _, now = tables.read_with_versions(storage, "annotations", found.frames["video"].unique().tolist())
    rows: list[tuple[Any, ...]] = []
    for video, frames in found.frames.groupby("video"):
        of_video = drawn[drawn["video"] == video]
        version = str(frames["annotations"].iloc[0])
        people = ", ".join(sorted(of_video["annotator"].dropna().unique()))
        state = "today's" if now.get(str(video)) == version else f"now {now.get(str(video), 'gone')}"
        rows.append((video, version, len(frames), len(of_video), people, state))
    columns = ["video", "annotations", "test frames", "boxes", "annotators", "state"]
    _show(out, pd.DataFrame(rows, columns=columns), f"{name}: {found.evaluation} was made on {found.dataset}")
    if found.erased:
        out.print("it was made on frames of a withdrawn video, too, which were erased", style="yellow", soft_wrap=True)
    if csv is not None:
        _write(out, csv, boxes.merge(found.frames[["frame", "annotations"]], on="frame", how="left"))


def agree(out: Console, name: str, video: str | None) -> None:
    """Shows how well people who annotated the same frames agree, and where they do so least."""
    import pandas as pd

    with open_instance() as instance:
        told = versions.latest(instance, _key(name), _videos(instance, name, video))
    values = [(_value(event, COUNTED, None), _value(event, WORST, {})) for event in told.values()]
    counts = agreement.total(pd.DataFrame(counted) for counted, _ in values if counted)
    if counts.empty:
        out.print(f"{name}: no frame was annotated by several people")
        return
    _show(out, agreement_table(counts), f"{name}: how well annotators agree")
    worst = pd.concat([pd.DataFrame(of_video) for _, of_video in values if of_video], ignore_index=True)
    worst = worst.sort_values(["f1", "missed"], ascending=[True, False], ignore_index=True).head(10).round({"f1": 3})
    if len(worst):
        _show(out, worst, "where they agree least")


def _key(name: str) -> dg.AssetKey:
    import dagster as dg

    return dg.AssetKey([name, "annotations"])


def _videos(instance: dg.DagsterInstance, name: str, video: str | None) -> Sequence[str]:
    known = lake.known_videos(instance, name)
    if video is None:
        return known
    if video not in known:
        near = difflib.get_close_matches(video, known, 1)
        meant = f"did you mean {near[0]}?" if near else f"`detection status {name}` says what there is"
        raise InputError(f"{name}: no video {video}; {meant}")
    return [video]


def _value(event: dg.AssetMaterialization, name: str, default: Any) -> Any:
    return event.metadata[name].value if name in event.metadata else default


def _time(version: table_versions.Version) -> str:
    return f"{version.at:%Y-%m-%d %H:%M:%S}"


def _named(version: table_versions.Version | None) -> str:
    return f"{version.version} ({_time(version)})" if version else "nothing yet"


def _condensed(found: Diff) -> pd.DataFrame:
    """A line a change, short enough for a terminal."""
    changes = found.changes
    was, now = (changes[name].fillna("").astype(str) for name in ("class_before", "class_after"))
    return changes.assign(
        **{"class": was.where((was == now) | (now == ""), was.where(was == "", was + " → ") + now)},
        moved=[f"{value:.1f} px" if value > 0 else "" for value in changes["moved_px"]],
        overlap=[f"{value:.2f}" if value < 1 else "" for value in changes["iou"]],
    )[["frame", "change", "class", "by", "moved", "overlap", "fields"]]


def _show(out: Console, rows: pd.DataFrame, title: str | None) -> None:
    import pandas as pd

    table = Table(title=title and escape(title), title_justify="left")
    for name in rows.columns:
        table.add_column(
            str(name), justify="right" if pd.api.types.is_numeric_dtype(rows[name]) else "left", overflow="fold"
        )
    for row in rows.head(MOST).itertuples(index=False):
        table.add_row(*(_cell(value) for value in row))
    out.print(table)
    if len(rows) > MOST:
        out.print(f"… and {len(rows) - MOST:,} more; `--csv FILE` writes them all")


def _cell(value: Any) -> str:
    if value is None or value != value:
        return "-"
    return escape("".join(char if char.isprintable() else "�" for char in str(value)))


def _write(out: Console, path: Path, rows: pd.DataFrame) -> None:
    with whole(path, "--csv") as part:
        part.write_bytes(problem_report.to_csv(rows))
    out.print(f"{path}: {len(rows):,} rows", markup=False, soft_wrap=True)
