"""People before CVAT, Ground Truth and the studio of Azure ML, as the contract of all tools has them."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from contract.annotators import Annotators, Box
from fakes import azureml, blob, cvat, ground_truth, sagemaker
from fakes.azureml_labeling import Project

from detection_assets.object_store import open_store
from resources import amazon


class InCvat(Annotators):
    """Somebody with a browser on CVAT, who has a job for each picture."""

    doubles, stride = False, 7

    def __init__(self, server: cvat.Cvat) -> None:
        self.server = server
        self.settings = {
            "DETECTION_LABELING": "cvat",
            "DETECTION_CVAT_URL": server.url,
            "DETECTION_CVAT_KEY": cvat.TOKEN,
            "DETECTION_CVAT_JOB_PICTURES": "1",
            "DETECTION_POLL_S": "0.02",
        }

    def sees(self, place: str) -> dict[str, list[Box]]:
        (task,) = (task for task in self.server.tasks.values() if task.name == self.server.tasks[int(place)].name)
        names = [frame[0] for frame in task.frames]
        assert len(set(names)) == len(names)
        return {name: self._boxes(task, name) for name in names}

    def _boxes(self, task: cvat.Task, name: str) -> list[Box]:
        called = {number: label for label, number in task.labels.items()}
        mine = [shape for shape in task.shapes if shape["frame"] == task.number(name)]
        return [(called[shape["label_id"]], *shape["points"]) for shape in mine]

    def submit(self, place: str, name: str, boxes: Sequence[Box], who: str = "") -> None:
        self.draft(place, name, boxes)
        self.server.finish(self.server.tasks[int(place)], name)

    def skip(self, place: str, name: str) -> None:
        task = self.server.tasks[int(place)]
        self.server.remove(task, name)
        self.server.finish(task, name)

    def draft(self, place: str, name: str, boxes: Sequence[Box]) -> None:
        self.server.draw(self.server.tasks[int(place)], name, boxes)

    def drafts(self, place: str, name: str) -> list[Box]:
        return self._boxes(self.server.tasks[int(place)], name)

    def delete(self, place: str) -> None:
        del self.server.tasks[int(place)]


class InGroundTruth(Annotators):
    """A worker of the team. Nobody is shown a picture again, and whoever declines one leaves it to another."""

    doubles = keeps_drafts = corrects = skips = False
    stride = 7
    settings: Mapping[str, str] = {"DETECTION_LABELING": "ground_truth", "DETECTION_PLATFORM": "aws"}

    def __init__(self, jobs: ground_truth.LabelingJobs) -> None:
        self.jobs = jobs

    def sees(self, place: str) -> dict[str, list[Box]]:
        (job,) = (job for name, job in self.jobs.jobs.items() if name.startswith(place))
        assert (job.status, job.failure) == ("InProgress", "")
        seen: dict[str, list[Box]] = {}
        for number, line in enumerate(job.lines):
            assert line["frame"] not in seen
            shown = self.jobs.page(job, number).boxes
            sides = [(box["left"], box["top"], box["left"] + box["width"], box["top"] + box["height"]) for box in shown]
            seen[line["frame"]] = [
                (box["label"], *(float(side) for side in place))  # type: ignore[misc]
                for box, place in zip(shown, sides, strict=True)
            ]
        return seen

    def submit(self, place: str, name: str, boxes: Sequence[Box], who: str = "") -> None:
        job = self.jobs.jobs[place]
        (number,) = (number for number, line in enumerate(job.lines) if line["frame"] == name)
        drawn = [
            {"label": label, "left": x1, "top": y1, "width": x2 - x1, "height": y2 - y1}
            for label, x1, y1, x2, y2 in boxes
        ]
        self.jobs.submit(job, number, drawn)

    def skip(self, place: str, name: str) -> None:
        raise NotImplementedError

    def delete(self, place: str) -> None:
        del self.jobs.jobs[place]


class InTheStudio(Annotators):
    """Somebody who makes a project of what was handed over, labels, and exports after each picture."""

    doubles = keeps_drafts = skips = False
    stride = 7

    def __init__(self, service: azureml.AzureML) -> None:
        self.service, self.exports = service, f"{uuid.uuid4().hex}/Labeling/export"
        self.settings = {
            "DETECTION_LABELING": "azure_ml",
            "DETECTION_PLATFORM": "azure",
            "DETECTION_AZURE_LABELING_EXPORTS": f"az://{blob.CONTAINER}/{self.exports}",
        }
        self._projects: dict[str, Project] = {}
        self._exported = 0

    def sees(self, place: str) -> dict[str, list[Box]]:
        found = Project(self.service.assets, place)
        rounded = {
            path: [(label, *(round(side, 6) for side in box)) for label, *box in boxes]
            for path, boxes in found.prelabels.items()
        }
        return {path.rpartition("/")[2]: boxes for path, boxes in rounded.items()}  # type: ignore[misc]

    def submit(self, place: str, name: str, boxes: Sequence[Box], who: str = "") -> None:
        project = self._projects.setdefault(place, Project(self.service.assets, place))
        project.submit(name, boxes)
        self._exported += 1
        project.export(self.exports, self._exported)

    def skip(self, place: str, name: str) -> None:
        raise NotImplementedError

    def delete(self, place: str) -> None:
        import obstore

        project = Project(self.service.assets, place)
        store = open_store(f"az://{blob.CONTAINER}")
        folder = next(iter(project.sizes)).partition("/pictures/")[0]
        obstore.delete(store, [item["path"] for batch in obstore.list(store, folder) for item in batch])


def warm() -> None:
    """Imports what the tool of the environment needs: a process that is made of this one has it then."""
    tool = os.environ.get("DETECTION_LABELING")
    if tool == "cvat":
        import cvat_sdk.core.client  # noqa: F401
    elif tool == "ground_truth":
        amazon.client("sagemaker")
    elif tool == "azure_ml":
        import azure.ai.ml
        import azure.identity  # noqa: F401


def in_cvat(request: pytest.FixtureRequest) -> Annotators:
    """The tool `cvat`."""
    server = request.getfixturevalue("cvat_server")
    server.tasks.clear()
    return InCvat(server)


def in_ground_truth(request: pytest.FixtureRequest) -> Annotators:
    """The tool `ground_truth`."""
    service: sagemaker.SageMaker = request.getfixturevalue("sagemaker_service")
    request.getfixturevalue("aws_settings")
    service.labeling.jobs.clear()
    return InGroundTruth(service.labeling)


def in_the_studio(request: pytest.FixtureRequest) -> Annotators:
    """The tool `azure_ml`."""
    request.getfixturevalue("azure_settings")
    return InTheStudio(request.getfixturevalue("azureml_service"))


TOOLS: Mapping[str, Callable[[Any], Annotators]] = {
    "cvat": in_cvat,
    "ground_truth": in_ground_truth,
    "azure_ml": in_the_studio,
}
"""What makes the annotators of each tool, from a test's fixtures."""
