"""What a tool for annotators does for us, whichever it is.

A batch is published in the lake first (`layout.label_request`). Handing it over puts into the tool what is not there
yet, so it can be done again after a kill; nothing that somebody has begun is ever touched. Bringing in takes what is
finished, writes it as annotation files of the videos that it is about, and notes what it took: the files are those of
any other annotator, so sensors, validation and versions are the same for all.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd

from detection_assets.domain import finished_labels, formats, labels, layout
from detection_assets.domain.finished_labels import Taken
from detection_assets.domain.labels import Batch
from detection_assets.domain.problems import Problem, Told
from resources import label_batches, temporary
from resources.findings import Finding
from resources.label_batches import CLOSED, COLLECTED, HANDED
from resources.storage import Storage


class LabelingError(Told, RuntimeError):
    """The tool refused or did not answer; the message says what to do."""


class UnreachableError(LabelingError):
    """The tool does not answer, whatever it is asked."""


@dataclass(frozen=True)
class Handed:
    """A batch as the tool has it.

    Attributes:
        batch: Its id.
        tool: Which tool: `folder`, `label_studio`, `cvat`, `ground_truth` or `azure_ml`.
        place: What it is there: a project's number, a job's name, a folder.
        link: Where people work on it; "" if that is no address.
        pictures: How many pictures the tool has of it now.
    """

    batch: str
    tool: str
    place: str
    link: str
    pictures: int


@dataclass(frozen=True)
class Finished:
    """What a tool says is finished of one batch.

    Attributes:
        files: Annotation files with the finished pictures, of any format that `formats` reads. They call the pictures
            by the names that the batch gave them, with or without what the tool puts before. Of two that speak for one
            picture by the same annotator the later in this order counts.
        done: Names of the pictures that are finished, those found empty and those skipped among them; what the files
            say of others is left out. None: every picture that the files name is finished.
        skipped: Names of those that an annotator refused, such as one on which nothing can be told.
        problems: What could not be used.
        annotators: Who made what is in a file, where the file does not say it.
    """

    files: Sequence[Path] = ()
    done: Collection[str] | None = None
    skipped: Collection[str] = ()
    problems: Sequence[Problem] = ()
    annotators: Mapping[Path, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Collected:
    """What was brought in of one batch.

    Attributes:
        batch: Its id.
        pictures: How many it has.
        finished: How many are finished by now, those that were skipped among them.
        fresh: Names of those finished or changed since it was last brought in.
        written: Storage keys that were written.
        problems: What could not be used.
        link: Where people work on it.
        failed: Why nothing could be brought in; "" if it could.
    """

    batch: str
    pictures: int
    finished: int
    fresh: Sequence[str] = ()
    written: Sequence[str] = ()
    problems: Sequence[Problem] = ()
    link: str = ""
    failed: str = ""

    @property
    def open(self) -> bool:
        """Whether something is left to do."""
        return self.finished < self.pictures


class Labeling(dg.ConfigurableResource, ABC):
    """Where a detector's frames are labelled.

    Attributes:
        storage: The detector's storage.
        detector: The detector's name; what it is called in the tool begins with it.
    """

    storage: dg.ResourceDependency[Storage]
    detector: str

    @property
    @abstractmethod
    def tool(self) -> str:
        """Which tool, as `Handed.tool` says."""

    def request(self, batch: str) -> Handed:
        """Hands a published batch to the tool; what it has of it already stays as it is.

        A batch that was given up is looked for again: the same pictures were chosen once more.

        Raises:
            InputError: There is no such batch.
            LabelingError: The tool refuses or does not answer, another tool has the batch, or a picture is gone.
        """
        found, keys = label_batches.read(self.storage, batch)
        given_up = label_batches.state(self.storage, batch, CLOSED)
        # What was given up in one tool may be asked for anew in another.
        before = None if given_up else label_batches.state(self.storage, batch, HANDED)
        if before:
            self._is_ours(batch, before)
        try:
            handed = self.hand_over(found, keys)
        except FileNotFoundError as error:
            how = f"put it back, or ask for others with `detection label {self.detector} --more`"
            why = str(error).partition("\n")[0]
            raise LabelingError(f"{batch}: a picture is gone from the lake ({why}); {how}") from None
        label_batches.note(
            self.storage, batch, HANDED, {**asdict(handed), "at": before["at"] if before else time.time()}
        )
        if given_up:
            # Last, so that whoever is killed before leaves a batch that is chosen and handed over again.
            label_batches.reopen(self.storage, batch)
        return handed

    def collect(self, batches: Sequence[str] | None = None) -> Iterator[Collected]:
        """Brings in what is finished, batch by batch; one that fails does not keep the others.

        What is in stays until the tool says something else of the same picture: nobody's work goes because a project
        was cleared. A call that was killed is made up for by the next, which writes the same.

        Args:
            batches: Their ids; None for every batch that was handed over and is not closed.
        """
        for batch in label_batches.watched(self.storage) if batches is None else batches:
            try:
                yield self._collect(batch)
            except Told as error:
                known = label_batches.progress(self.storage, batch)
                why = " ".join(str(error).split())
                yield Collected(batch, known.pictures, len(known.finished), link=known.link, failed=why)

    def changed(self) -> tuple[Mapping[str, str], Mapping[str, str]]:
        """Asks the tool of which batches it has something that is not in.

        A batch that has been all in for `label_batches.LOOK_DAYS` is closed here.

        Returns:
            The stamp of each such batch; and for each that could not be asked about, why. Where the tool does not
            answer at all, it is not asked again for every batch.
        """
        found: dict[str, str] = {}
        failed: dict[str, str] = {}
        for batch in label_batches.watched(self.storage):
            known = label_batches.progress(self.storage, batch)
            if known.settled(time.time()):
                self.close(batch, "all in")
                continue
            try:
                self._is_ours(batch, {"tool": known.tool, "link": known.link, "place": known.place})
                stamp = self.stamp(batch, known.place)
            except LabelingError as error:
                failed[batch] = " ".join(str(error).split())
                if isinstance(error, UnreachableError):
                    break
                continue
            if stamp != known.stamp:
                found[batch] = stamp
        return found, failed

    def close(self, batch: str, why: str) -> None:
        """Looks no more for what becomes of a batch. What the tool has of it stays there, what is in stays in.

        Raises:
            InputError: There is no such batch.
        """
        label_batches.read(self.storage, batch)
        label_batches.note(self.storage, batch, CLOSED, {"at": time.time(), "why": why})

    def _is_ours(self, batch: str, handed: Mapping[str, Any]) -> None:
        if handed["tool"] != self.tool:
            raise LabelingError(
                f"{batch}: it was handed to {handed['tool']} ({handed['link'] or handed['place']}); set "
                f"DETECTION_LABELING={handed['tool']} to go on with it there"
            )

    def _collect(self, batch: str) -> Collected:
        found, keys = label_batches.read(self.storage, batch)
        handed = label_batches.state(self.storage, batch, HANDED)
        if handed is None:
            raise LabelingError(f"{batch}: it is not handed over yet; `detection label {self.detector}` does that")
        self._is_ours(batch, handed)
        before = label_batches.progress(self.storage, batch)
        # Taken before what it stands for is read: what comes between the two is looked at again, never missed.
        stamp = self.stamp(batch, before.place)
        with temporary.folder() as scratch:
            told = self.finished(found, before.place, Path(scratch))
            taken = finished_labels.take(told.files, Path(scratch), found, told.done, told.skipped, told.annotators)
        fresh = [name for name, digest in taken.digests.items() if before.digests.get(name) != digest]
        written: list[str] = []
        # Of what has not changed in the tool, the lake's word stands: somebody may have corrected it there.
        new = taken.of(set(fresh))
        for video, rows in labels.by_video(fresh, found.frames).items():
            written += self._pictures(batch, rows[~rows["name"].isin(set(told.skipped))], keys)
            written += self._annotations(found, video, new)
        digests = {**before.digests, **taken.digests}
        at = time.time() if fresh or not before.at else before.at
        label_batches.note(self.storage, batch, COLLECTED, {"stamp": stamp, "at": at, "digests": digests})
        problems = [*told.problems, *taken.problems]
        return Collected(batch, before.pictures, len(digests), fresh, written, problems, before.link)

    def _pictures(self, batch: str, rows: pd.DataFrame, keys: Mapping[str, str]) -> Iterator[str]:
        """Makes frames of finished pictures that are none yet: they become images of a folder."""
        folder = layout.video(labels.folder_of(batch))
        for name in rows.loc[rows["source"] == "request", "name"].astype(str):
            if not self.storage.exists(f"{folder}/{name}"):
                self.storage.put(f"{folder}/{name}", self.storage.get(keys[name]))
                yield f"{folder}/{name}"

    def _annotations(self, batch: Batch, video: str, taken: Taken) -> Iterator[str]:
        """Writes what a batch says of a video, unless it is written already."""
        key = labels.annotations_key(batch.id, video)
        of_video = batch.frames[batch.frames["video"] == video]
        with temporary.folder() as scratch:
            file, there = Path(scratch) / "labels.json", None
            if self.storage.exists(key):
                there = self.storage.get(key)
                file.write_bytes(there)
            earlier = formats.load([file] if there else [], Path(scratch))
            if there and earlier.problems and earlier.boxes.empty:
                # Written over, it would lose what it says of pictures that the tool does not have any more.
                why = f"{self.storage.uri_of(key)} cannot be read: {earlier.problems[0].what}"
                raise LabelingError(f"{batch.id}: {why}; mend it, or delete it to begin anew")
            rows = finished_labels.of_video(taken, earlier.boxes, of_video)
            if there is None and rows.empty:
                return  # nothing but pictures that were skipped
            classes = [*batch.classes, *sorted({*rows["class"].dropna()} - {*batch.classes})]
            formats.coco.save(rows, classes, file)
            if file.read_bytes() != there:
                self.storage.put(key, file)
                yield key

    @abstractmethod
    def hand_over(self, batch: Batch, pictures: Mapping[str, str]) -> Handed:
        """Puts into the tool what it has not of a batch; called again after a kill, it doubles nothing.

        Args:
            batch: The batch.
            pictures: Storage key of each picture, by its name.

        Raises:
            LabelingError: The tool refuses or does not answer.
            FileNotFoundError: A picture is gone from the lake.
        """

    @abstractmethod
    def finished(self, batch: Batch, place: str, folder: Path) -> Finished:
        """What is finished of a batch that was handed over. Work in progress is neither taken nor touched.

        Args:
            batch: The batch.
            place: What `hand_over` said it is in the tool.
            folder: An empty folder of this machine to put annotation files in.

        Raises:
            LabelingError: The tool refuses or does not answer, or the batch is not there any more.
        """

    @abstractmethod
    def stamp(self, batch: str, place: str) -> str:
        """What changes whenever something of a batch is finished, corrected or skipped; asked at every tick, so cheap.

        It may change for less than that: then nothing new is found. It must not stay when there is something to find.

        Args:
            batch: The batch's id.
            place: What `hand_over` said it is in the tool.

        Raises:
            LabelingError: The tool refuses or does not answer, or the batch is not there any more.
        """

    def check(self) -> Iterator[Finding]:
        """Looks whether the tool can be asked with the settings that there are."""
        yield from ()


def gone(batch: str, what: str, detector: str) -> LabelingError:
    """What a tool says of a batch whose place is not there any more."""
    how = f"put it back, or give the batch up with `detection collect {detector} --close {batch}`"
    return LabelingError(f"{batch}: {what} is gone; {how}")


def proposed(batch: Batch) -> pd.DataFrame:
    """A batch's boxes to begin with, as the writers of `formats` take them; a picture without any is an empty frame."""
    pictures = batch.frames.sort_values("rank")[["name", "width", "height"]].astype({"name": "object"})
    table = pictures.merge(batch.proposals.astype({"name": "object"}), how="left", on="name")
    return pd.DataFrame(
        {
            "frame_name": table["name"],
            **{side: table[side].astype("Int64") for side in ("width", "height")},
            "class": table["class"].astype("object").where(table["class"].notna(), None),
            **{name: table[name].astype("float64") for name in ("x1", "y1", "x2", "y2", "confidence")},
        }
    )
