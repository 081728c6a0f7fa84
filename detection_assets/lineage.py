"""The twelve questions of an analyst, each answered by a DataFrame.

```python
from detection_assets import lineage

with lineage.of("fridge") as fridge:
    fridge.serving()                  # what serves now, since when, at what share, who approved it
    fridge.taught("3")                # which data taught version 3
    fridge.saw("store-1/clip.mp4")    # which datasets, models and deployments saw a video
```

Nothing is changed by asking. Answers come from the tables of the lake, the log of the endpoint, the registry and
Dagster's event log; the columns of each are in `lineage_answers.ANSWERS`, and `explain("taught")` tells them.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any

from detection_assets.domain.problems import InputError

if TYPE_CHECKING:
    import pandas as pd
    from dagster import DagsterInstance

    from detection_assets.commands.context import Project
    from resources.registry.base import ModelVersion
    from resources.storage import Storage

NEAREST = 20
"""Training frames that are shown for a box, by default."""


def of(name: str) -> Lineage:
    """Opens a detector to be asked; to be closed, or used in a `with`.

    Args:
        name: The detector.

    Raises:
        InputError: If there is none, its file is wrong, or the platform's settings do not fit.
    """
    from detection_assets.commands.context import Project

    return Lineage(Project.of(name))


def explain(question: str) -> str:
    """The columns of an answer, their types and what they mean, a line each; `question` is the method's name."""
    from detection_assets.domain import lineage_answers

    return lineage_answers.meaning(question)


@dataclass
class Lineage:
    """A detector that is asked; each question looks anew."""

    project: Project
    _opened: ExitStack = field(default_factory=ExitStack, repr=False)

    def __enter__(self) -> Lineage:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes what was opened to answer."""
        self._opened.close()
        self.project.close()

    @property
    def name(self) -> str:
        """The detector's name."""
        return self.project.detector.name

    @property
    def storage(self) -> Storage:
        """The detector's part of the lake."""
        return self.project.storage

    @cached_property
    def instance(self) -> DagsterInstance:
        """The Dagster instance whose event log is asked."""
        from resources.instance import open_instance

        return self._opened.enter_context(open_instance())

    # 1 to 5: who serves, who taught, who saw, who judged --------------------------------------------------------------

    def serving(self) -> pd.DataFrame:
        """What serves now, since when, at what share of the requests, and who approved it: a row a slot."""
        from resources import answers

        return answers.serving(self.storage, self._history())

    def taught(self, version: str | None = None) -> pd.DataFrame:
        """Which dataset taught a version, and of which videos, in which versions of annotations: a row a video.

        Args:
            version: The registered version; None: the one with most of the traffic.
        """
        from resources import answers

        return answers.taught(self.storage, self.name, self.model(version))

    def frames(self, version: str | None = None) -> pd.DataFrame:
        """The frames of the dataset that taught a version, with split and annotations: a row a frame.

        Args:
            version: The registered version; None: the one with most of the traffic.
        """
        from detection_assets.domain.lineage_answers import answer
        from resources import version_index

        model = self.model(version)
        dataset = model.tags.get("dataset_version", "")
        made = version_index.made(self.storage, "detection_dataset", dataset)
        if made is None:
            raise InputError(f"{self.name} version {model.version}: its dataset {dataset or '(not said)'} has no table")
        columns = ["video", "frame", "split", "annotations", "boxes", "key", "sha256"]
        found = version_index.read(self.storage, made.table, columns)
        return answer("frames", found.assign(version=model.version, dataset_version=dataset))

    def saw(self, video: str) -> pd.DataFrame:
        """Which datasets have a video, which models these taught, and when these served: a row each, by `kind`.

        Args:
            video: The video's key, also of one that is no longer in the lake.
        """
        from detection_assets.domain import lineage
        from resources import version_index

        models = self._models()
        known = {*version_index.datasets(self.storage), *models["dataset_version"].dropna()} - {""}
        return lineage.saw(version_index.with_video(self.storage, video, known), models, self._periods())

    def served_at(self, moment: str | datetime) -> pd.DataFrame:
        """What the slots held at a moment, at what share: a row a slot.

        Args:
            moment: A time, or ISO 8601 such as `2026-11-01T08:30`; UTC where it has no zone.
        """
        from detection_assets.domain import lineage

        return lineage.served_at(self._periods(), lineage.moment(moment))

    def judged_on(self, evaluation: str | None = None) -> pd.DataFrame:
        """On which test frames, and which versions of annotations, an evaluation was made: a row a frame.

        Args:
            evaluation: Its version, or the beginning of it; None: today's.
        """
        from detection_assets.domain.lineage_answers import answer
        from resources import provenance

        found = provenance.of(self.storage, evaluation)
        told = found.frames.assign(evaluation_version=found.evaluation, dataset_version=found.dataset)
        return answer("judged_on", told)

    # 6 to 8: what changed, what is stale, what would run --------------------------------------------------------------

    def why(self, later: str | None = None, earlier: str | None = None) -> pd.DataFrame:
        """Why a version scores otherwise than another: what differs in data, labels, parameters, base weights, code.

        Args:
            later: The registered version; None: the one with most of the traffic.
            earlier: The other; None: the one registered before it.
        """
        from resources import answers

        one = self.model(later)
        known = self._history() if earlier is None else []
        other = self.model(earlier) if earlier is not None else answers.before(self.name, known, one.version)
        return answers.why(self.storage, self.instance, other, one)

    def stale(self) -> pd.DataFrame:
        """What is not what it would be if it were made now, and which change made it so: a row a change.

        What only follows from something stale upstream has one row, with `direct` false.
        """
        from detection_assets import lineage_plans

        return lineage_plans.stale(self)

    def would_run(
        self, *, video: str | None = None, annotation: str | None = None, setting: str | None = None
    ) -> pd.DataFrame:
        """What a new or changed video, a changed annotation, or a changed setting would run, and what that takes.

        An estimate from above: where a stage makes what it made before, those after it do not run.

        Args:
            video: A video that comes or changes.
            annotation: A video whose annotations change.
            setting: A section of the detector's file that changes, such as `sampling`.

        Raises:
            InputError: Not exactly one is named, or no section is called so.
        """
        from detection_assets import lineage_plans

        return lineage_plans.would_run(self, video, annotation, setting)

    # 9 to 12: what is alike, dropped, spent, overridden ---------------------------------------------------------------

    def alike(
        self,
        *,
        request: str | None = None,
        frame: str | None = None,
        of_class: str | None = None,
        day: str | None = None,
        most: int = NEAREST,
    ) -> pd.DataFrame:
        """The model and dataset behind an answer, and the training frames of that class that look most like it.

        Args:
            request: The id of a captured request.
            frame: Or a frame that batch prediction looked at.
            of_class: The class of the box; None: that of the surest box.
            day: The day of the request, UTC, such as `2026-11-01`; None: the newest day that has its id.
            most: How many training frames.

        Raises:
            InputError: There is no such request or prediction, nothing of that class was found there, or its version is
                not registered.
        """
        from detection_assets.lineage_alike import Asked

        if (request is None) == (frame is None):
            raise InputError("name a request, or a frame that was predicted on")
        asked = Asked.request(self, request, day) if request is not None else Asked.frame(self, str(frame))
        return asked.nearest(self, of_class, most)

    def dropped(self, video: str | None = None) -> pd.DataFrame:
        """Which frames were dropped, by extraction or by the dataset, and why: a row a frame.

        Args:
            video: The video; None: all of them.
        """
        import pandas as pd

        from detection_assets.domain import lineage
        from resources import tables, version_index

        videos = [video] if video is not None else self.instance.get_dynamic_partitions(f"{self.name}_videos")
        frames = tables.read(self.storage, "extracted_frames", videos)
        if video is not None and frames.empty:
            raise InputError(f"{self.name}: {video} has no extracted frames; see `detection status {self.name}`")
        annotations = tables.read(self.storage, "annotations", videos)
        key = tables.today(self.storage, "detection_dataset")
        where = [("video", "==", video)] if video is not None else []
        taken = version_index.read(self.storage, key, ["frame"], where)["frame"] if key else pd.Series(dtype=object)
        return lineage.left_out(frames, set(annotations["frame"]), set(taken) if key else None)

    def cost(self, version: str | None = None) -> pd.DataFrame:
        """What a version cost, asset by asset: the steps that ran between its registration and the one before.

        Args:
            version: The registered version; None: the one with most of the traffic.
        """
        from resources import answers

        return answers.spent(self.instance, self.name, self.model(version).version)

    def overridden(self) -> pd.DataFrame:
        """Which gates of weights, verdicts of rollouts, and withdrawals of videos somebody overrode, when and why."""
        from resources import answers

        return answers.overridden(self.storage, self._history())

    # What they stand on -----------------------------------------------------------------------------------------------

    @property
    def _log(self) -> Any:
        from resources.deployments import Deployments

        return Deployments(self.storage)

    def _periods(self) -> pd.DataFrame:
        from resources import answers

        return answers.periods(self.storage)

    def _history(self) -> list[ModelVersion]:
        return list(self.project.resources["registry"].history())

    def _models(self) -> pd.DataFrame:
        from resources import answers

        return answers.models(self._history())

    def model(self, version: str | None) -> ModelVersion:
        """A registered version; None: the one with most of the traffic.

        Raises:
            InputError: There is no such version, or nothing serves.
        """
        known = self._history()
        if version is None:
            held = max(self._log.last().slots.values(), key=lambda held: held.share, default=None)
            if held is None or not held.share:
                raise InputError(f"{self.name}: nothing serves, so name a version; there are {_names(known)}")
            version = held.version
            found = next((one for one in known if one.version == held.version), None)
            if found is not None and held.sha256 and held.sha256 != found.sha256:
                raise InputError(
                    f"{self.name}: what serves is not the version {held.version} that the registry has: it was begun "
                    f"anew, or the lake was copied; name a version; there are {_names(known)}"
                )
        found = next((one for one in known if one.version == str(version)), None)
        if found is None:
            raise InputError(f"{self.name}: there is no version {version}; there are {_names(known)}")
        return found


def _names(known: list[ModelVersion]) -> str:
    return ", ".join(one.version for one in known[:20]) or "none"
