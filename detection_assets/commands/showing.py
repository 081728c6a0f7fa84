"""Frames with their boxes, on one page to look at."""

from __future__ import annotations

import difflib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from rich.console import Console

from detection_assets.commands.context import Project
from detection_assets.commands.written import whole
from detection_assets.domain import contact_html, contact_sheet, disagreements, layout
from detection_assets.domain.previews import over_videos
from detection_assets.domain.problems import InputError
from detection_assets.domain.tiles import Tile, laid_out
from resources import lake, tables
from resources.home import home
from resources.instance import open_instance

ENDINGS = {".html": "", ".htm": "", ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}
TOLD = 10
"""Of the worst frames, those that are named in the terminal, too."""
MOST_NAMED = 5
_FRAMES = ["video", "frame", "key", "width", "height", "pts_s"]


@dataclass(frozen=True)
class Asked:
    """What somebody wants to see.

    Attributes:
        video: The video; None for all.
        predictions: Whether predictions are to be held against truth.
        worst: How many of the worst disagreements; None for frames in their order.
        classes: Only boxes of these classes; all if there are none.
        annotator: Only what this one drew; everybody's if empty.
        frames: How many frames at most, where it is not the worst ones.
        out: The file to write; None for one in the project's scratch.
        open: Whether to open it in the browser.
    """

    video: str | None = None
    predictions: bool = False
    worst: int | None = None
    classes: Sequence[str] = ()
    annotator: str = ""
    frames: int = 60
    out: Path | None = None
    open: bool = False


@dataclass(frozen=True)
class Found:
    """What there is to see.

    Attributes:
        frames: `video, frame` and, where the pictures are looked up already, the other columns of `_FRAMES`.
        boxes: Of one side, or what `disagreements.judge` says of both.
        both: Whether it is the latter.
        dashed: Whether boxes of one side are predictions.
        what: What it is, in words.
        notes: Sentences about where it comes from.
    """

    frames: pd.DataFrame
    boxes: pd.DataFrame
    both: bool
    dashed: bool
    what: str
    notes: Sequence[str]


def show(out: Console, name: str, asked: Asked) -> None:
    """Writes a sheet of frames with their boxes, and says where it is.

    Args:
        out: Where to say it.
        name: The detector.
        asked: What to show.

    Raises:
        InputError: There is no such video, class or annotator, nothing to show yet, or the file cannot be written.
    """
    project = Project.of(name)
    target = _target(project.detector.name, asked)
    classes = list(project.detector.classes)
    for one in asked.classes:
        if one not in classes:
            raise InputError(f"--class {one}: {name} has no such class; {_near(one, classes)}")
    with open_instance() as instance:
        videos = list(lake.known_videos(instance, project.detector.name))
    if not videos:
        raise InputError(f"{name}: no videos yet; `detection add {name} FILES...` and `detection run {name}`")
    if asked.video is not None:
        if asked.video not in videos:
            raise InputError(f"{name}: no video {asked.video!r}; {_near(asked.video, videos)}")
        videos = [asked.video]
    compare = asked.predictions or asked.worst is not None
    found = _compared(project, asked, videos) if compare else _annotated(project, asked, videos)
    frames, told = _chosen(found, asked)
    if frames.empty:
        out.print(f"{found.what}: nothing to show: {told}", markup=False, soft_wrap=True)
        return
    frames = _looked_up(project, frames)
    shown = classes if found.both else asked.classes or classes
    tiles = laid_out(frames, found.boxes, classes, both=found.both, dashed=found.dashed)
    if asked.worst is not None:
        for tile, _ in tiles[:TOLD]:
            out.print(f"{tile.title}: {tile.verdict}", markup=False, soft_wrap=True)
    heading, notes = f"{name}: {found.what}", [f"{told[:1].upper()}{told[1:]}.", *found.notes]
    _write(project, target, tiles, heading, notes, shown, found.both)
    out.print(told, markup=False, soft_wrap=True)
    out.print(str(target), markup=False, soft_wrap=True)
    if asked.open:
        import webbrowser

        if not webbrowser.open(target.as_uri()):
            out.print("no browser on this machine; open the file yourself", style="yellow")


def _near(word: str, known: Sequence[str]) -> str:
    """Which of the known names may have been meant."""
    inside = [name for name in known if word and word.casefold() in name.casefold()]
    near = [*inside, *difflib.get_close_matches(word, known, MOST_NAMED), *known]
    shown = list(dict.fromkeys(near))[:MOST_NAMED]
    rest = len(known) - len(shown)
    return f"there are {', '.join(shown)}{f' and {rest} more' if rest else ''}"


def _target(name: str, asked: Asked) -> Path:
    if asked.out is None:
        kind = "worst" if asked.worst is not None else "predictions" if asked.predictions else "annotations"
        of = layout.slug(asked.video) if asked.video is not None else "overview"
        return home() / ".scratch" / "show" / f"{name}-{of}-{kind}.html"
    if asked.out.suffix.lower() not in ENDINGS:
        raise InputError(f"--out {asked.out}: what kind of file is that? Let it end in .html, .jpg or .png")
    if asked.out.is_dir():
        raise InputError(f"--out {asked.out}: is a folder; name a file in it")
    return asked.out.absolute()


def _annotated(project: Project, asked: Asked, videos: Sequence[str]) -> Found:
    name = project.detector.name
    boxes = tables.read(project.storage, "annotations", videos)
    if boxes.empty:
        raise InputError(
            f"{asked.video or name}: nothing annotated yet; `detection add {name} FILES...` takes annotation files, "
            f"`detection run {name} --until annotations` reads them"
        )
    boxes = _by(boxes, asked.annotator)
    if asked.classes:
        boxes = boxes[boxes["class"].isin(asked.classes)]
    return Found(_frames_of(boxes), boxes, False, False, f"{asked.video or 'all videos'}, annotations", [])


def _by(boxes: pd.DataFrame, annotator: str) -> pd.DataFrame:
    """What one annotator said."""
    if not annotator:
        return boxes
    known = sorted(boxes["annotator"].dropna().unique())
    if annotator not in known:
        there = _near(annotator, known) if known else "the annotation files name none"
        raise InputError(f"--annotator {annotator}: nobody of that name drew here; {there}")
    return boxes[boxes["annotator"] == annotator]


def _frames_of(boxes: pd.DataFrame) -> pd.DataFrame:
    return boxes[["video", "frame"]].drop_duplicates("frame", ignore_index=True)


def _compared(project: Project, asked: Asked, videos: Sequence[str]) -> Found:
    """Predictions of the model in service where there are any, else those that its weights were judged by."""
    name, where = project.detector.name, asked.video or "all videos"
    found = tables.read(project.storage, "batch_predictions", videos)
    if found.empty or (asked.worst is not None and asked.video is None):
        judged = _evaluated(project, asked)
        if judged is not None:
            return judged
        if found.empty:
            raise InputError(
                f"{where}: no predictions yet; run the job `{name}_predict` for it (`detection dev` opens the UI), or "
                f"`detection run {name} --until evaluation` for those on the test split"
            )
    truth = _by(tables.read(project.storage, "annotations", videos), asked.annotator)
    version = ", ".join(sorted(found["model_version"].dropna().unique()))
    both = found[found["frame"].isin(truth["frame"])]
    if both.empty:
        # Nobody has annotated what was predicted: it can be looked at, not judged.
        if asked.worst is not None:
            raise InputError(f"{where}: none of the predicted frames is annotated, so that nothing can be judged")
        boxes = found[found["class"].isin(asked.classes)] if asked.classes else found
        notes = [f"Predicted by version {version}. None of these frames is annotated."]
        return Found(_frames_of(boxes), boxes, False, True, f"{where}, predictions", notes)
    return _held(_frames_of(both), truth, found, asked, where, [f"Predicted by version {version}."])


def _held(
    frames: pd.DataFrame, truth: pd.DataFrame, found: pd.DataFrame, asked: Asked, where: str, notes: Sequence[str]
) -> Found:
    judged = disagreements.judge(truth, found, frames["frame"].tolist())
    if asked.classes:
        judged = disagreements.concerning(judged, asked.classes)
        frames = frames[frames["frame"].isin(judged["frame"])]
    kind = "truth against prediction" if asked.worst is None else "worst disagreements"
    return Found(frames, judged, True, False, f"{where}, {kind}", notes)


def _evaluated(project: Project, asked: Asked) -> Found | None:
    """The newest weights on the test split, by the truth that they were judged by; None if there is no such thing."""
    storage, confidence = project.storage, project.detector.endpoint.confidence
    try:
        version, dataset = tables.read(storage, "evaluation").iloc[0][["evaluation_version", "dataset_version"]]
    except FileNotFoundError:
        return None
    published, snapshot = storage.published(layout.evaluation(version)), storage.published(layout.dataset(dataset))
    if published is None or snapshot is None or "predictions.parquet" not in published.files:
        return None
    images, truth = (
        pd.read_parquet(io.BytesIO(storage.get(snapshot.key(f"{name}.parquet")))) for name in ("images", "boxes")
    )
    frames = images.loc[images["split"] == "test"].assign(key=layout.FRAMES + "/" + images["file"])
    if asked.video is not None:
        frames = frames.loc[frames["video"] == asked.video]
    if frames.empty:
        return None
    if asked.annotator:
        raise InputError("--annotator: a dataset does not keep who drew a box; leave it out, or leave out --worst")
    data = io.BytesIO(storage.get(published.key("predictions.parquet")))
    wanted = [("model", "==", "challenger"), ("confidence", ">=", confidence)]
    found = pd.read_parquet(data, filters=wanted)
    where = f"{asked.video} (test split)" if asked.video else "the test split"
    notes = [f"Evaluation {version} on {dataset}, boxes of confidence {confidence:g} and more."]
    return _held(frames.reset_index(drop=True), truth, found, asked, where, notes)


def _chosen(found: Found, asked: Asked) -> tuple[pd.DataFrame, str]:
    """The frames to show, and what they are in words."""
    total = len(found.frames)
    if not found.both:
        frames = found.frames.iloc[over_videos(found.frames["video"].tolist(), asked.frames)]
        boxes = int(found.boxes["class"].notna().sum())
        return frames, f"{len(frames)} of {total} frames, which have {boxes} boxes"
    ranked = disagreements.rank(found.boxes, found.frames["frame"].tolist())
    told = disagreements.totals(ranked)
    if asked.worst is None:
        frames = found.frames.iloc[over_videos(found.frames["video"].tolist(), asked.frames)]
        return frames, f"{len(frames)} of {total} frames, which have {told}"
    worst = ranked.loc[ranked["score"] > 0]
    frames = worst[["frame"]].head(asked.worst).merge(found.frames, on="frame")
    return frames, f"{len(frames)} of {len(worst)} frames with a mistake, of {total} frames: {told}"


def _looked_up(project: Project, frames: pd.DataFrame) -> pd.DataFrame:
    """Where the pictures lie, as of today unless it is known already, and the frames' times."""
    videos = frames["video"].unique().tolist()
    today = tables.read(project.storage, "extracted_frames", videos)[_FRAMES].drop(columns="video")
    if "key" in frames:
        return frames.merge(today[["frame", "pts_s"]], on="frame", how="left")
    return frames.merge(today, on="frame", how="left")


def _write(
    project: Project,
    target: Path,
    wanted: Sequence[tuple[Tile, str]],
    heading: str,
    notes: Sequence[str],
    classes: Sequence[str],
    both: bool,
) -> None:
    from detection_assets.pictures import tiles

    pictures: Iterator[Tile] = tiles(project.storage, wanted)
    kind = ENDINGS[target.suffix.lower()]
    with whole(target, "--out") as part:
        if kind:
            shape = contact_sheet.shape_of(tile.size for tile, _ in wanted)
            told = f"{heading}. {notes[0]}"
            sheet = contact_sheet.sheet(pictures, len(wanted), told, classes, both=both, shape=shape)
            part.write_bytes(contact_sheet.encoded(sheet, kind))
        else:
            with part.open("w", encoding="utf-8", errors="replace") as file:
                file.writelines(contact_html.page(pictures, heading, notes, classes, both=both))
