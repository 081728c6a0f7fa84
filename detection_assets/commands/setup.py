"""Making a detector, and putting videos, images and annotations into its part of the lake."""

from __future__ import annotations

import hashlib
import posixpath
import tempfile
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from detection_assets import detector_file as detectors
from detection_assets.commands.context import Project
from detection_assets.domain import file_names, inbox, layout
from detection_assets.domain.problems import InputError
from resources.home import home
from resources.storage import Storage
from resources.withdrawal import withdrawals

ENTRY = """  - python_module:
      module_name: detection_assets.definitions
      attribute: {name}
      location_name: {name}
"""


def init(out: Console, name: str, classes: Sequence[str]) -> None:
    """Writes a detector's file and its workspace entry; refuses to touch a detector that is there."""
    folder = detectors.detectors_folder()
    path = folder / f"{name}.yaml"
    if path.exists():
        raise InputError(f"{path}: there already; edit it, or choose another name")
    text = detectors.template(name, classes or None)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    try:
        detectors.load(path)
    except InputError:
        path.unlink()
        raise
    out.print(f"wrote [bold]{path}[/bold]")
    workspace = home() / "workspace.yaml"
    if workspace.exists() and f"attribute: {name}\n" not in workspace.read_text():
        with workspace.open("a") as end:
            end.write(ENTRY.format(name=name))
        out.print(f"listed {name} in {workspace}")
    edit = "" if classes else f"Set its classes in {path}, then: "
    out.print(f"{edit}[bold]detection add {name} FILES...[/bold] and [bold]detection run {name}[/bold]")


def bar(out: Console) -> Progress:
    """A progress bar in the project's style."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=out,
        transient=True,
    )


def sample(out: Console, name: str, clips: int | None, seed: int) -> None:
    """Renders the sample footage of an example detector into its lake."""
    from detection_assets import samples

    project = Project.of(name)
    with tempfile.TemporaryDirectory() as scratch, bar(out) as progress:
        task = progress.add_task("rendering", total=None)
        made = samples.render(
            name,
            Path(scratch),
            seed=seed,
            clips=clips,
            progress=lambda done, total, what: progress.update(
                task, completed=done, total=total, description=f"rendering {what}"
            ),
        )
        files = [path for folder in (layout.VIDEOS, layout.ANNOTATIONS) for path in (made.folder / folder).rglob("*")]
        for path in sorted(path for path in files if path.is_file()):
            project.storage.put(path.relative_to(made.folder).as_posix(), path)
    videos, _ = inbox.sources(project.storage.list(layout.VIDEOS))
    out.print(f"{len(videos)} clips in {project.storage.uri_of(layout.VIDEOS)}, annotated")


@dataclass(frozen=True)
class Item:
    """A file to add: where it is, and its key in the lake."""

    path: Path
    key: str


def add(out: Console, name: str, paths: Sequence[Path], under: str, *, replace: bool) -> int:
    """Checks files and copies them into the lake; what is refused is told, and the rest goes in.

    Returns:
        0 if everything went in or was there already, 1 if something was refused.
    """
    project = Project.of(name)
    items, refused = _items(paths, under)
    if not items and not refused:
        raise InputError(f"{', '.join(map(str, paths))}: no file in there")
    gone = withdrawals.videos(project.storage)
    barred = withdrawals.Barred(project.storage) if gone else None
    counts = {"added": 0, "there already": 0}
    with bar(out) as progress:
        task = progress.add_task("adding", total=len(items))
        for item in items:
            problem = _withdrawn(project.storage, item, gone, barred) if barred is not None else None
            problem = problem or _check(project.storage, item, replace=replace)
            if problem is None:
                project.storage.put(item.key, item.path)
                counts["added"] += 1
            elif problem == "":
                counts["there already"] += 1
            else:
                refused.append((str(item.path), problem))
            progress.update(task, advance=1, description=f"adding {item.path.name}")
    table = Table(box=None)
    table.add_column("")
    table.add_column("files", justify="right")
    for what, count in {**counts, "refused": len(refused)}.items():
        table.add_row(what, str(count))
    out.print(table)
    for path, why in refused[:50]:
        out.print(f"refused {path}: {why}", style="red", markup=False)
    if len(refused) > 50:
        out.print(f"... and {len(refused) - 50} more refused", style="red")
    return 1 if refused else 0


def _items(paths: Sequence[Path], under: str) -> tuple[list[Item], list[tuple[str, str]]]:
    found: list[Item] = []
    refused: list[tuple[str, str]] = []
    prefix = posixpath.normpath(under.strip("/")) if under else ""
    if prefix.startswith(".."):
        raise InputError(f"--under {under}: leaves the lake; name a folder such as store-07/cam-2")
    for path in paths:
        if not path.exists():
            refused.append((str(path), "there is no such file or folder"))
            continue
        # By the name it really has: a `..` or a link must not decide where in the lake it goes.
        real = path.resolve()
        for file in _files(real):
            relative = file.relative_to(real.parent).as_posix()
            place = posixpath.join(prefix, relative)
            ending = file_names.suffix(relative)
            if file_names.is_transient(relative):
                continue
            root = layout.ANNOTATIONS if file_names.is_annotation(relative) else layout.VIDEOS
            if ending in file_names.IMAGE_SUFFIXES and file == real:
                # A single image: the folder it lies in is its video.
                place = posixpath.join(prefix, real.parent.name, relative)
            found.append(Item(file, f"{root}/{place}"))
    return found, refused


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for child in sorted(path.rglob("*")):
        if child.is_file() and not child.is_symlink():
            yield child


def _withdrawn(storage: Storage, item: Item, gone: Set[str], barred: withdrawals.Barred) -> str | None:
    """Why a file is refused because a video was withdrawn: by its name, or by its content under whatever name."""
    if not item.key.startswith(layout.VIDEOS + "/"):
        return None
    named = next((one.video for one in inbox.sources([layout.Stored(item.key, 1, "")])[0]), "")
    if named in gone:
        return f"{named} is not taken in again: {withdrawals.refused(storage, named)}"
    if (video := barred.video(digest(item.path))) is None:
        return None
    return f"its content is that of {video}, which is not taken in again: {withdrawals.refused(storage, video)}"


def _check(storage: Storage, item: Item, *, replace: bool) -> str | None:
    """Why a file is refused; "" if the same file is there already; None if it may go in."""
    problem = layout.video_key_problem(item.key)
    if problem:
        return problem
    if storage.exists(item.key):
        if digest(item.path) == hashlib.sha256(storage.get(item.key)).hexdigest():
            return ""
        if not replace:
            return f"{item.key} is in the lake with other content; use --replace to replace it"
    if item.path.stat().st_size == 0:
        return "the file is empty"
    if item.key.startswith(layout.ANNOTATIONS + "/"):
        return _annotation_problem(item.path)
    return _video_problem(item.path)


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    found = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()


def _annotation_problem(path: Path) -> str | None:
    from detection_assets.domain import formats

    ending, lists = file_names.suffix(path.name), ("classes.txt", "train.txt", "val.txt")
    if ending in (".yaml", ".yml", ".names") or path.name in lists:
        return None
    if formats.detect(path) is None:
        return f"it is in no annotation format that is read: {formats.KNOWN}"
    return None


def _video_problem(path: Path) -> str | None:
    from detection_assets.domain import probe

    if file_names.suffix(path.name) in file_names.IMAGE_SUFFIXES:
        return None  # each image is checked when its frames are extracted; one bad one does not lose the rest
    found = probe.probe(path, "video")
    return str(found["problem"]) if not found["frames_decodable"] else None
