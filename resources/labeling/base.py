"""What a tool for annotators does for us, whichever it is.

A batch is published in the lake first (`layout.label_request`). Handing it over puts into the tool what is not there
yet, so it can be done again after a kill; nothing that somebody has begun is ever touched. Bringing in takes what is
finished, writes it as annotation files of the videos that it is about, and notes what it took: the files are those of
any other annotator, so sensors, validation and versions are the same for all.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from detection_assets.domain.labels import Batch
from detection_assets.domain.problems import Problem, Told
from resources.findings import Finding
from resources.storage import Storage


class LabelingError(Told, RuntimeError):
    """The tool refused or did not answer; the message says what to do."""


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
            by the names that the batch gave them.
        done: Names of the pictures that are finished, those found empty and those skipped among them.
        skipped: Names of those that an annotator refused, such as one on which nothing can be told.
        problems: What could not be used.
    """

    files: Sequence[Path] = ()
    done: Sequence[str] = ()
    skipped: Sequence[str] = ()
    problems: Sequence[Problem] = ()


@dataclass(frozen=True)
class Collected:
    """What was brought in of one batch.

    Attributes:
        batch: Its id.
        pictures: How many it has.
        finished: How many are finished by now.
        fresh: Names of those finished or changed since it was last brought in.
        written: Storage keys that were written.
        problems: What could not be used.
        link: Where people work on it.
    """

    batch: str
    pictures: int
    finished: int
    fresh: Sequence[str] = ()
    written: Sequence[str] = ()
    problems: Sequence[Problem] = ()
    link: str = ""

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

        Raises:
            InputError: There is no such batch.
            LabelingError: The tool refuses or does not answer.
        """
        raise NotImplementedError

    def collect(self, batches: Sequence[str] | None = None) -> Iterator[Collected]:
        """Brings in what is finished, batch by batch; one that fails does not keep the others.

        Args:
            batches: Their ids; None for every batch that was handed over and is not all in.
        """
        raise NotImplementedError

    @abstractmethod
    def hand_over(self, batch: Batch, pictures: Mapping[str, str]) -> Handed:
        """Puts into the tool what it has not of a batch; called again after a kill, it doubles nothing.

        Args:
            batch: The batch.
            pictures: Storage key of each picture, by its name.

        Raises:
            LabelingError: The tool refuses or does not answer.
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

    def check(self) -> Iterator[Finding]:
        """Looks whether the tool can be asked with the settings that there are."""
        yield from ()
