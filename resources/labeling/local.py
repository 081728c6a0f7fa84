"""Labels by way of a folder of this machine: pictures and boxes to begin with in it, and a place for what is finished.

    <batch>/README.txt            what to do
    <batch>/pictures/             the pictures
    <batch>/prelabels...          boxes to begin with, a file or a folder as the format has it
    <batch>/done/                 what is finished, in any format: files, folders of them, a tool's .zip

What lies in `done/` counts. A file that is the pre-labels as they were handed over says nothing about whether somebody
has looked at them; who finds them right says so in `done/accepted.txt`.
"""

import fcntl
import hashlib
import lzma
import os
import shutil
import struct
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import orjson

from detection_assets.domain import file_names, formats
from detection_assets.domain.formats.frame_names import stem_of
from detection_assets.domain.labels import Batch
from detection_assets.domain.problems import Problem, Told
from resources.findings import Finding
from resources.labeling.base import Finished, Handed, Labeling, LabelingError, gone, proposed

SETTLE_S = 2.0
"""A file that changed within so many seconds is looked at twice before it is taken."""
MOST_HANDED = 2**26
"""Bytes of a file of boxes to begin with, at most; a larger one is not what was handed over."""
MOST_UNPACKED = 2**30
"""Bytes of annotation files that are unpacked of one archive."""
FILE_OF = {
    **{"coco": "prelabels.json", "cvat": "prelabels.xml", "label_studio": "prelabels.json"},
    **{"ground_truth": "prelabels.manifest"},
}
"""Formats that are one file for all pictures; the others have a folder."""
NOT_FOR_PICTURES = frozenset({"mot"})
"""Formats that call a picture by nothing but its number in one video."""

_NO_ARCHIVE = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, OSError, EOFError, NotImplementedError),
    *(RuntimeError, ValueError),
)
"""What `zipfile` raises at what is cut off, damaged, locked or made to do harm."""
_HANDED = ".handed.json"
_ACCEPTED, _SKIPPED = "accepted.txt", "skipped.txt"
_COMPANIONS = ("data.yaml", "classes.txt", "class-descriptions-boxable.csv", "MLTable")
_README = """\
{pictures} pictures to label: {classes}

1. Open the pictures in pictures/ in your tool, with the boxes of {prelabels} to begin with ({format}).
   They are what the model found; put right what is wrong.
2. Put what is finished into done/: annotation files of any format (COCO, YOLO, Pascal VOC, CVAT, Label Studio, LabelMe,
   ...), folders of them, or the .zip that the tool exports. Keep the pictures' names. Every picture that such a file
   names counts as finished, so leave out those you have not looked at; the rest can follow later, in files of other
   names. Of two files about one picture the newer counts.
3. A file of {prelabels} that is put there unchanged says nothing. Where the boxes are right as they are, write the
   pictures' names into done/accepted.txt, one a line.
4. Pictures on which nothing can be told: their names into done/skipped.txt, one a line.
5. When two people label the same pictures, each has a folder: done/by-ada/, done/by-ben/.

What is wrong with a file is told by `detection collect {detector}`, with the file, the place and the reason.
"""


@dataclass
class _Done:
    """What lies in `done/`: annotation files, with when and by whom, and the names in the lists."""

    files: dict[Path, float] = field(default_factory=dict)
    by: dict[Path, str] = field(default_factory=dict)
    lists: dict[str, set[str]] = field(default_factory=lambda: {_ACCEPTED: set(), _SKIPPED: set()})
    problems: list[Problem] = field(default_factory=list)

    def tell(self, name: str, what: str, done: str, place: str = "") -> None:
        """Tells a problem of a file in `done/`."""
        self.problems.append(Problem(f"done/{name}", place, what, done))

    def read(self, path: Path, name: str, changed: float, scratch: Path) -> None:
        """Reads a list, unpacks an archive, takes an annotation file; tells of what is none of these."""
        if name in self.lists:
            text = path.read_text("utf-8-sig", "replace")
            self.lists[name] = {line.strip() for line in text.splitlines() if line.strip()}
        elif file_names.suffix(name) == ".zip":
            self.take(_unpack(path, scratch, self), name, changed)
        elif file_names.is_annotation(name):
            # All below one folder, in which messages name files and readers look for what belongs to them. No links:
            # readers do not follow what leads out of it.
            scratch.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, scratch)
            self.take([scratch], name, changed)
        elif file_names.suffix(name) not in file_names.IMAGE_SUFFIXES:
            self.tell(name, "is no annotation file", "left out")

    def take(self, files: Iterable[Path], name: str, changed: float) -> None:
        """Takes annotation files that came by a file in `done/`; its folder may say who made them."""
        who = name.partition("/")[0].removeprefix("by-") if name.startswith("by-") and "/" in name else ""
        for path in files:
            self.files[path] = changed
            if who:
                self.by[path] = who


class FolderLabeling(Labeling):
    """Batches as folders of this machine.

    Attributes:
        folder: Where; the batches of a detector lie below `<folder>/<detector>/`.
        format: Of the boxes to begin with: a key of `formats.FORMATS`.
    """

    folder: str
    format: str = "coco"

    @property
    def tool(self) -> str:
        """The word for it in settings and notes."""
        return "folder"

    @property
    def root(self) -> Path:
        """Where this detector's batches lie."""
        return Path(self.folder).absolute() / self.detector

    def hand_over(self, batch: Batch, pictures: Mapping[str, str]) -> Handed:
        """Makes the batch's folder as a whole, unless it is there.

        Raises:
            LabelingError: The folder cannot be written.
            FileNotFoundError: A picture is gone from the lake.
        """
        target = self.root / batch.id
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            with (self.root / ".lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not target.is_dir():
                    self._make(batch, pictures, target)
        except OSError as error:
            if isinstance(error, FileNotFoundError | Told):
                raise  # of the lake
            raise LabelingError(
                f"{error.filename or target}: {error.strerror or error}; correct it and run again"
            ) from None
        return Handed(batch.id, self.tool, str(target), "", len(pictures))

    def _make(self, batch: Batch, pictures: Mapping[str, str], target: Path) -> None:
        # Whoever holds the lock is alone: what another left half-made is dead.
        part = self.root / f".{batch.id}.part"
        shutil.rmtree(part, ignore_errors=True)
        (part / "done").mkdir(parents=True)
        self.storage.download({key: part / "pictures" / name for name, key in pictures.items()})
        named = FILE_OF.get(self.format, "prelabels")
        saved = formats.FORMATS[self.format].save(proposed(batch), batch.classes, part / named)
        handed = [_mark_of(path) for path in saved.files if path.name not in _COMPANIONS]
        (part / _HANDED).write_bytes(orjson.dumps({"prelabels": handed}))
        where = f"{named}/" if (part / named).is_dir() else named
        told = _README.format(
            pictures=len(pictures), classes=", ".join(batch.classes), prelabels=where, format=self.format,
            detector=self.detector,
        )  # fmt: skip
        (part / "README.txt").write_text(told)
        os.replace(part, target)

    def stamp(self, batch: str, place: str) -> str:
        """A digest of the listing of `done/`."""
        with self._looking(batch, place):
            lines = [f"{path}\0{size}\0{changed}" for path, size, changed in self._listing(batch, place)]
        return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()[:16]

    def finished(self, batch: Batch, place: str, folder: Path) -> Finished:
        """What lies in `done/` and has stopped changing."""
        with self._looking(batch.id, place):
            found = self._settled(batch, place, folder)
        names = {str(name): str(name) for name in batch.frames["name"]}
        names |= {stem_of(name): name for name in names}
        listed: dict[str, set[str]] = {}
        for of, lines in found.lists.items():
            listed[of] = {names[line] for line in lines if line in names}
            found.problems += [
                Problem(f"done/{of}", line, "is no picture of the batch", "left out")
                for line in sorted(lines - names.keys())
            ]
        files = sorted(found.files, key=lambda path: (found.files[path], str(path)))
        if listed[_ACCEPTED]:
            boxes = proposed(batch)
            right = boxes[boxes["frame_name"].isin(listed[_ACCEPTED])].drop(columns="confidence")
            # First, that is oldest: who drew something after all meant it.
            files = [*formats.coco.save(right, batch.classes, folder / "accepted.json").files, *files]
        return Finished(files, None, sorted(listed[_SKIPPED]), found.problems, found.by)

    @contextmanager
    def _looking(self, batch: str, place: str) -> Iterator[None]:
        """Says which file kept a batch from being looked at; the others are looked at all the same."""
        try:
            yield
        except OSError as error:
            where, why = error.filename or place, error.strerror or error
            raise LabelingError(f"{batch}: {where} cannot be read: {why}; correct it, and run again") from None

    def _settled(self, batch: Batch, place: str, folder: Path) -> _Done:
        listing = self._listing(batch.id, place)
        if any(abs(time.time() - changed / 1e9) < SETTLE_S for _, _, changed in listing):
            time.sleep(SETTLE_S)
        before, listing = set(listing), self._listing(batch.id, place)
        done = Path(place) / "done"
        handed = set(orjson.loads((Path(place) / _HANDED).read_bytes())["prelabels"])
        found = _Done()
        for name, size, changed in listing:
            try:
                if (name, size, changed) not in before and abs(time.time() - changed / 1e9) < SETTLE_S:
                    found.tell(name, "it is still changing", "left for the next time")
                elif file_names.is_annotation(name) and size < MOST_HANDED and _mark_of(done / name) in handed:
                    told = f"left out; if its boxes are right, name the pictures in done/{_ACCEPTED}"
                    found.tell(name, "it is what was handed over, unchanged", told)
                else:
                    found.read(done / name, name, changed, folder / "done" / name)
            except FileNotFoundError:
                # Tools write a file beside and rename it. The stamp has the old name, so it is looked again.
                found.tell(name, "it went away while it was read", "left for the next time")
            except PermissionError:
                found.tell(name, "may not be read", "left out; give yourself the right, and save it again")
        return found

    def _listing(self, batch: str, place: str) -> list[tuple[str, int, int]]:
        """The files in `done/`: name, size and when it was changed, in nanoseconds."""
        done = Path(place) / "done"
        if not done.is_dir():
            raise gone(batch, str(done), self.detector)
        return sorted(_walk(done, ""))

    def check(self) -> Iterator[Finding]:
        """Looks whether the folder can be written."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            probe = self.root / ".check"
            probe.touch()
            probe.unlink()
        except OSError as error:
            remedy = "correct DETECTION_LABELING_FOLDER, or the folder's owner or permissions"
            yield Finding("labeling", "bad", f"{self.root}: {error.strerror or error}", remedy)
            return
        yield Finding("labeling", "good", f"{self.root}: can be written")


def _mark_of(path: Path) -> str:
    # With its name: an empty file says of one picture that nothing was found, and of another that all boxes were wrong.
    return f"{hashlib.sha256(path.read_bytes()).hexdigest()} {path.name}"


def _walk(folder: Path, below: str) -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            name = f"{below}{entry.name}"
            # What goes away meanwhile is not there.
            with suppress(FileNotFoundError):
                if entry.is_dir(follow_symlinks=False):
                    if not entry.name.startswith("."):
                        yield from _walk(Path(entry.path), f"{name}/")
                elif entry.is_file(follow_symlinks=False) and not file_names.is_transient(name):
                    told = entry.stat(follow_symlinks=False)
                    yield name, told.st_size, told.st_mtime_ns


def _unpack(path: Path, folder: Path, found: _Done) -> Iterator[Path]:
    """Unpacks the annotation files of an archive; none leads out of the folder, and all of them have a limit."""
    try:
        with zipfile.ZipFile(path) as archive:
            left = MOST_UNPACKED
            for item in archive.infolist():
                parts = item.filename.replace("\\", "/").split("/")
                if item.is_dir() or not file_names.is_annotation(parts[-1]):
                    continue
                if not {"", ".", ".."}.isdisjoint(parts) or ":" in parts[0]:
                    found.tell(path.name, "its path leads elsewhere", "left out", item.filename)
                    continue
                left -= item.file_size
                if left < 0:
                    what = f"holds more than {MOST_UNPACKED >> 20} MiB of annotations"
                    found.tell(path.name, what, "the rest is left out; unpack it there")
                    return
                target = folder.joinpath(*parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(item) as packed, target.open("wb") as out:
                    # What a member says of its size is checked as it is read.
                    shutil.copyfileobj(packed, out)
                yield target
    except _NO_ARCHIVE as error:
        found.tell(path.name, f"cannot be unpacked: {error}", "left out; export it again")
