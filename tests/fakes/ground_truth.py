"""SageMaker's labeling jobs on this machine: held against what the service refuses, and worked on by a test.

A worker gets the page that the job's template makes of a task, and what he or she submits is kept and put together in
the lake as the service does it: each worker's responses, and an output manifest that grows.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any, ClassVar

from fakes import s3
from fakes.agents import Agents
from fakes.endpoints import Refused

TEAM = f"arn:aws:sagemaker:{s3.REGION}:123456789012:workteam/private-crowd/labellers"
PORTAL = f"labellers.labeling.{s3.REGION}.sagemaker.aws"
FUNCTIONS = f"arn:aws:lambda:{s3.REGION}:203001061592:function"
"""Where the service has its own for this region."""
LONGEST_TASK_S, LONGEST_WAIT_S = 28_800, 2_592_000


@dataclass
class Page:
    """What a worker sees: the picture's address, what may be drawn, the boxes that are there, and what it says."""

    src: str
    labels: list[str]
    boxes: list[dict[str, Any]]
    text: str


@dataclass
class LabelingJob:
    """A labeling job.

    Attributes:
        asked: The request.
        lines: Its manifest.
        answers: What was submitted, by the line's number.
        output: The lines of its output manifest, by number.
    """

    asked: Mapping[str, Any]
    lines: list[dict[str, Any]] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    status: str = "InProgress"
    failure: str = ""
    began: float = field(default_factory=time.time)
    answers: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    output: dict[int, dict[str, Any]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.asked["LabelingJobName"]

    @property
    def attribute(self) -> str:
        return self.asked["LabelAttributeName"]

    @property
    def task(self) -> Mapping[str, Any]:
        return self.asked["HumanTaskConfig"]

    @property
    def folder(self) -> str:
        return f"{self.asked['OutputConfig']['S3OutputPath'].rstrip('/')}/{self.name}"

    @property
    def adjusts(self) -> str:
        """The attribute whose boxes a worker begins with; "" if there is none."""
        if "Adjustment" not in self.task["PreHumanTaskLambdaArn"]:
            return ""
        found = [key.removesuffix("-metadata") for key in self.lines[0] if key.endswith("-metadata")]
        return found[0] if found else ""

    @property
    def arn(self) -> str:
        return f"arn:aws:sagemaker:{s3.REGION}:123456789012:labeling-job/{self.name}"


class LabelingJobs:
    """The labeling jobs of one account, and its team of workers.

    Attributes:
        jobs: Every job by its name.
        together: Whether answers are put together at once; the service takes minutes.
    """

    OPERATIONS: ClassVar[frozenset[str]] = frozenset(
        [
            *(f"{verb}LabelingJob" for verb in ("Create", "Describe", "Stop")),
            "DescribeWorkteam",
            "DescribeSubscribedWorkteam",
        ]
    )

    def __init__(self, agents: Agents, role: str) -> None:
        self.jobs: dict[str, LabelingJob] = {}
        self.together = True
        self._agents, self._role = agents, role

    def answer(self, operation: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Does what is asked, or raises `Refused`."""
        if operation == "DescribeWorkteam":
            if asked["WorkteamName"] != TEAM.rpartition("/")[2]:
                raise Refused("ValidationException", f"The workteam {asked['WorkteamName']} doesn't exist")
            about = {"WorkteamName": "labellers", "WorkteamArn": TEAM, "SubDomain": PORTAL, "MemberDefinitions": []}
            return {"Workteam": {**about, "Description": "who labels"}}
        if operation == "DescribeSubscribedWorkteam":
            raise Refused(
                "ValidationException", f"{asked['WorkteamArn']} is no team of a vendor that you subscribed to"
            )
        name = asked["LabelingJobName"]
        if operation == "CreateLabelingJob":
            return self._create(name, asked)
        if name not in self.jobs:
            raise Refused("ResourceNotFound", f"Could not find a labeling job with the name {name}")
        job = self.jobs[name]
        if operation == "StopLabelingJob":
            if job.status not in ("Initializing", "InProgress"):
                raise Refused("ValidationException", f"The labeling job is in status {job.status}")
            job.status = "Stopped"
            return {}
        return self._described(job)

    def _described(self, job: LabelingJob) -> dict[str, Any]:
        attribute = f"{job.attribute}-metadata"
        failed = sum("failure-reason" in line[attribute] for line in job.output.values())
        labelled = len(job.output) - failed
        counters = {"TotalLabeled": labelled, "HumanLabeled": labelled, "MachineLabeled": 0}
        counters |= {"FailedNonRetryableError": failed, "Unlabeled": len(job.lines) - labelled - failed}
        return {
            **job.asked,
            "LabelingJobStatus": job.status,
            "LabelCounters": counters,
            "LabelingJobArn": job.arn,
            "JobReferenceCode": "0a1b2c3d",
            "CreationTime": job.began,
            "LastModifiedTime": time.time(),
            "LabelingJobOutput": {"OutputDatasetS3Uri": f"{job.folder}/manifests/output/output.manifest"},
            **({"FailureReason": job.failure} if job.failure else {}),
        }

    # Refusing --------------------------------------------------------------------------------------------------------

    def _create(self, name: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        job = LabelingJob(asked)
        if name in self.jobs:
            raise Refused(
                "ResourceInUse",
                "Labeling job names must be unique within an AWS account and region, and a labeling job with this "
                f"name already exists ({job.arn})",
            )
        self._check(job)
        job.lines, job.labels = self._lines(job), self._labels(job)
        job.failure = next(iter(_wrong(job, self._there)), "")
        job.status = "Failed" if job.failure else "InProgress"
        self.jobs[name] = job
        return {"LabelingJobArn": job.arn}

    def _check(self, job: LabelingJob) -> None:
        task = job.task
        if job.asked["RoleArn"] != self._role:
            raise Refused(
                "ValidationException",
                f"Could not assume role {job.asked['RoleArn']}. Please ensure that the role exists and allows "
                "principal 'sagemaker.amazonaws.com' to assume the role.",
            )
        if re.search("-(ref|metadata)$", job.attribute):
            raise Refused("ValidationException", f"LabelAttributeName {job.attribute} may not end in -ref or -metadata")
        if task["WorkteamArn"] != TEAM:
            raise Refused("ValidationException", f"The workteam {task['WorkteamArn']} is not there or not yours")
        if task["TaskTimeLimitInSeconds"] > LONGEST_TASK_S:
            raise Refused("ValidationException", f"TaskTimeLimitInSeconds is more than {LONGEST_TASK_S}")
        if task.get("TaskAvailabilityLifetimeInSeconds", 0) > LONGEST_WAIT_S:
            raise Refused("ValidationException", f"TaskAvailabilityLifetimeInSeconds is more than {LONGEST_WAIT_S}")
        after = task.get("AnnotationConsolidationConfig", {}).get("AnnotationConsolidationLambdaArn")
        pairs = [
            (f"{FUNCTIONS}:PRE-{kind}", f"{FUNCTIONS}:ACS-{kind}") for kind in ("BoundingBox", "AdjustmentBoundingBox")
        ]
        if (task.get("PreHumanTaskLambdaArn"), after) not in pairs:
            raise Refused("ValidationException", f"{task.get('PreHumanTaskLambdaArn')} and {after} are no pair of here")

    def _object(self, uri: str) -> bytes:
        where, _, name = uri.rpartition("/")
        try:
            return self._agents.get(where, name)
        except FileNotFoundError:
            raise Refused("ValidationException", f"There is no object at {uri}") from None

    def _there(self, uri: str) -> bool:
        try:
            return bool(self._object(uri))
        except Refused:
            return False

    def _lines(self, job: LabelingJob) -> list[dict[str, Any]]:
        text = self._object(job.asked["InputConfig"]["DataSource"]["S3DataSource"]["ManifestS3Uri"]).decode()
        return [json.loads(line) for line in text.splitlines()]

    def _labels(self, job: LabelingJob) -> list[str]:
        told = json.loads(self._object(job.asked["LabelCategoryConfigS3Uri"]))
        assert told["document-version"] == "2018-11-28"
        assert set(told) == {"document-version", "labels"}
        labels = [one["label"] for one in told["labels"]]
        if not labels or len(set(labels)) < len(labels):
            raise Refused("ValidationException", "The label categories are none, or one of them is there twice")
        return labels

    # Working ---------------------------------------------------------------------------------------------------------

    def page(self, job: LabelingJob, number: int) -> Page:
        """What a worker sees of a picture: the job's template, filled in as the service does it."""
        import liquid

        made = liquid.Environment()
        made.add_filter("to_json", json.dumps)
        made.add_filter("grant_read_access", lambda uri: f"https://signed/{uri.removeprefix('s3://')}")
        template = self._object(job.task["UiConfig"]["UiTemplateS3Uri"]).decode()
        line = job.lines[number]
        told = {"taskObject": line["source-ref"], "labels": job.labels, "manifestLine": line}
        seen = _Crowd()
        seen.feed(made.from_string(template).render(task={"input": told}))
        assert seen.tags[:3] == ["script", "crowd-form", "crowd-bounding-box"]
        assert seen.of["name"] == "boundingBox", "what the functions look for"
        return Page(
            str(seen.of["src"]),
            json.loads(seen.of["labels"] or ""),
            json.loads(seen.of.get("initial-value") or "[]"),
            seen.text,
        )

    def submit(self, job: LabelingJob, number: int, boxes: Sequence[Mapping[str, Any]], worker: str = "anna") -> None:
        """Submits a worker's boxes, each `label, left, top, width, height`, for the picture of a line."""
        assert job.status == "InProgress", "nobody sees the tasks of a job that has ended"
        assert {box["label"] for box in boxes} <= set(job.labels), "the page offers no other"
        answer = {
            "acceptanceTime": _now(),
            "answerContent": {
                "boundingBox": {
                    "boundingBoxes": [dict(box) for box in boxes],
                    "inputImageProperties": {"height": 480, "width": 640},
                }
            },
            "submissionTime": _now(),
            "timeSpentInSeconds": 12.5,
            "workerId": f"private.{s3.REGION}.{worker}",
            "workerMetadata": {"identityData": {"identityProviderType": "Cognito", "sub": worker}},
        }
        answers = job.answers.setdefault(number, [])
        answers.append(answer)
        below = f"annotations/worker-response/iteration-1/{number}"
        # Who answers later has a file of his or her own.
        stamp = f"2026-01-01_00:00:{len(answers):02d}"
        self._agents.put(job.folder, f"{below}/{stamp}.json", json.dumps({"answers": [answer]}).encode())
        if self.together and len(answers) == job.task["NumberOfHumanWorkersPerDataObject"]:
            self.put_together(job, number)

    def put_together(self, job: LabelingJob, number: int) -> None:
        """Puts the answers for a picture together, as the function of the job does: here the first worker's."""
        drawn = job.answers[number][0]["answerContent"]["boundingBox"]["boundingBoxes"]
        ids = {label: i for i, label in enumerate(job.labels)}
        sides = ("left", "top", "width", "height")
        annotations = [{"class_id": ids[box["label"]], **{side: box[side] for side in sides}} for box in drawn]
        about = {
            "objects": [{"confidence": 0.0} for _ in drawn],
            "class-map": {str(ids[box["label"]]): box["label"] for box in drawn},
            "type": "groundtruth/object-detection",
            "human-annotated": "yes",
            "creation-date": _now(),
            "job-name": f"labeling-job/{job.name}",
        }
        size = [{"width": 640, "height": 480, "depth": 3}]
        self._out(job, number, {job.attribute: {"image_size": size, "annotations": annotations}}, about)

    def expire(self, job: LabelingJob, number: int, why: str = "ClientError: task expired") -> None:
        """Lets nobody label a picture in time."""
        self._out(job, number, {}, {"failure-reason": why, "human-annotated": "no", "creation-date": _now()})

    def _out(self, job: LabelingJob, number: int, drawn: dict[str, Any], about: dict[str, Any]) -> None:
        job.output[number] = {**job.lines[number], **drawn, f"{job.attribute}-metadata": about}
        text = "".join(f"{json.dumps(job.output[one])}\n" for one in sorted(job.output))
        self._agents.put(job.folder, "manifests/output/output.manifest", text.encode())
        if len(job.output) == len(job.lines):
            job.status = "Completed"


def _wrong(job: LabelingJob, there: Any) -> list[str]:
    """What the service finds out when it reads the manifest: the job fails then."""
    found: list[str] = []
    adjusts = job.adjusts
    if "Adjustment" in job.task["PreHumanTaskLambdaArn"] and not adjusts:
        found.append("ClientError: there are no labels to adjust")
    for number, line in enumerate(job.lines, 1):
        where = f"ClientError: line {number} of the manifest"
        if not str(line.get("source-ref", "")).startswith("s3://") or not there(line["source-ref"]):
            found.append(f"{where} has no source-ref that can be read")
        if job.attribute in line:
            found.append(f"{where} has {job.attribute} already")
        if adjusts:
            about = line.get(f"{adjusts}-metadata", {})
            drawn = line.get(adjusts, {}).get("annotations")
            if drawn is None or about.get("type") != "groundtruth/object-detection":
                found.append(f"{where} has no {adjusts} to adjust")
                continue
            if len(about["objects"]) != len(drawn) or not {str(one["class_id"]) for one in drawn} <= set(
                about["class-map"]
            ):
                found.append(f"{where}: {adjusts}-metadata says nothing of some boxes")
    return found


class _Crowd(HTMLParser):
    """Reads a task's page as a browser does."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.of: dict[str, str | None] = {}
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag == "crowd-bounding-box":
            self.of = dict(attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()) + f".{time.time_ns() // 1000 % 1_000_000:06d}"
