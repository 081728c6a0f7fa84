"""Labelling by SageMaker Ground Truth: a labeling job a batch, its pictures and its answers in the lake.

A job's name is made from the batch, so whoever was killed finds it. Jobs cannot be deleted, and one that has ended
takes no more work: what it leaves unlabelled is handed over again by a job of the next number.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import orjson
from pydantic import Field

from detection_assets.domain import file_names, layout
from detection_assets.domain.formats import coco
from detection_assets.domain.formats.parsed import table
from detection_assets.domain.labels import Batch
from detection_assets.domain.problems import Problem
from resources import amazon, amazon_account, amazon_labeling
from resources.amazon_labeling import BOXES, FRAME, PROPOSALS
from resources.findings import Finding
from resources.labeling.base import Finished, Handed, Labeling, LabelingError, UnreachableError

TOOL = "ground_truth"
LONGEST = 36
"""Characters of a detector's part of a job's name, which may have 63."""
ENDED = {"Completed", "Failed", "Stopped"}
MOST = 99
"""Jobs of one batch."""
SHOWN = frozenset([".jpg", ".jpeg", ".png"])
"""Pictures that Ground Truth shows."""
SIZE = ("width", "height")
INSTRUCTIONS = "Draw a box around each object of these classes, as tight as you can: {classes}. {begin}"
BEGIN = "Correct, delete and add to the boxes that are there. "
EMPTY = "Submit a picture without boxes if there is nothing in it."


@dataclass
class _Job:
    """A labeling job as SageMaker and the lake have it."""

    name: str
    told: Mapping[str, Any]
    pictures: Sequence[str] = ()
    drawn: dict[str, dict[str, list[Mapping[str, Any]]]] = field(default_factory=dict)
    """Boxes of each worker, by picture."""
    put_together: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """Lines of the output manifest that have boxes, by picture."""
    problems: list[Problem] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        return self.told["LabelingJobStatus"] in ENDED

    def done(self, workers: int) -> list[str]:
        """The pictures that are finished."""
        return [one for one in self.pictures if one in self.put_together or len(self.drawn.get(one, ())) >= workers]


class GroundTruthLabeling(Labeling):
    """Labeling jobs on Amazon SageMaker.

    Attributes:
        role: ARN of the role that the jobs have.
        workteam: ARN of the team of workers, your own or a vendor's.
        workers: How many of them label each picture.
        minutes: How long a worker may take for a picture.
        days: How long a picture waits for one.
        account: Whose functions prepare tasks, in a region of which none is known; "" for the known ones.
    """

    role: str
    workteam: str
    workers: int = Field(default=1, ge=1, le=9)
    minutes: int = Field(default=60, ge=1, le=480)
    days: int = Field(default=30, ge=1, le=30)
    account: str = ""

    @property
    def tool(self) -> str:
        """Ground Truth."""
        return TOOL

    def job_of(self, batch: str, number: int = 1) -> str:
        """The name of a batch's job; names are the account's, so that of a lake's is another than of another lake's."""
        lake = hashlib.sha256(self.storage.uri.encode()).hexdigest()[:6]
        first = f"{amazon.name_of(self.detector)[:LONGEST].rstrip('-')}-{batch}-{lake}"
        return first if number == 1 else f"{first}-{number}"

    # Handing over ----------------------------------------------------------------------------------------------------

    def hand_over(self, batch: Batch, pictures: Mapping[str, str]) -> Handed:
        """Creates a job for what no job has yet, or has ended without."""
        odd = sorted(name for name, key in pictures.items() if file_names.suffix(key) not in SHOWN)
        if odd:
            raise LabelingError(
                f"{batch.id}: Ground Truth shows JPEG and PNG alone, and there is {odd[0]}; leave it out"
            )
        jobs = self._jobs(batch.id)
        for job in jobs:
            self._read(batch.id, job)
        taken = {name for job in jobs for name in (job.done(self.workers) if job.ended else job.pictures)}
        left = batch.frames[~batch.frames["name"].isin(taken)]
        if len(left):
            if len(jobs) == MOST:
                raise LabelingError(f"{batch.id}: {MOST} labeling jobs did not finish it; publish a new batch")
            self._create(batch, left["name"].tolist(), pictures, self.job_of(batch.id, len(jobs) + 1))
        return Handed(batch.id, TOOL, self.job_of(batch.id), self._portal(), len(batch.frames))

    def _create(self, batch: Batch, names: Sequence[str], pictures: Mapping[str, str], name: str) -> None:
        from botocore.exceptions import ClientError

        below, adjust = self._input(batch.id, name), bool(len(batch.proposals))
        said = INSTRUCTIONS.format(classes=", ".join(batch.classes), begin=(BEGIN if adjust else "") + EMPTY)
        uris = {one: self.storage.uri_of(key) for one, key in pictures.items()}
        title = f"Boxes for {self.detector}, batch {batch.id}"
        for file, data in {
            "input.manifest": amazon_labeling.manifest(batch, names, uris, adjust=adjust),
            "categories.json": amazon_labeling.categories(batch.classes),
            "page.liquid": amazon_labeling.page(title, said, adjust=adjust),
        }.items():
            self.storage.put(f"{below}/{file}", data)
        region = amazon.client("sagemaker").meta.region_name
        account = self.account or amazon_labeling.ACCOUNTS.get(region)
        if not account:
            why = "set DETECTION_AWS_LABELING_ACCOUNT to whose PRE-BoundingBox it is, or use another region"
            raise LabelingError(f"{name}: which functions Ground Truth has in {region} is not known; {why}")
        before, after = amazon_labeling.functions(region, account, adjust=adjust)
        tags = {"detection-assets/detector": self.detector, "detection-assets/batch": batch.id}
        with self._asking(name):
            try:
                amazon.client("sagemaker").create_labeling_job(
                    LabelingJobName=name,
                    LabelAttributeName=BOXES,
                    InputConfig={
                        "DataSource": {
                            "S3DataSource": {"ManifestS3Uri": self.storage.uri_of(f"{below}/input.manifest")}
                        }
                    },
                    OutputConfig={"S3OutputPath": f"{self.storage.uri_of(self._output(batch.id))}/"},
                    RoleArn=self.role,
                    LabelCategoryConfigS3Uri=self.storage.uri_of(f"{below}/categories.json"),
                    HumanTaskConfig={
                        "WorkteamArn": self.workteam,
                        "UiConfig": {"UiTemplateS3Uri": self.storage.uri_of(f"{below}/page.liquid")},
                        "PreHumanTaskLambdaArn": before,
                        "AnnotationConsolidationConfig": {"AnnotationConsolidationLambdaArn": after},
                        "TaskKeywords": ["images", "objects", "boxes"],
                        "TaskTitle": title[:128],
                        "TaskDescription": f"Draw boxes around {', '.join(batch.classes)}"[:255],
                        "NumberOfHumanWorkersPerDataObject": self.workers,
                        "TaskTimeLimitInSeconds": self.minutes * 60,
                        "TaskAvailabilityLifetimeInSeconds": self.days * 86_400,
                    },
                    Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
                )
            except ClientError as error:
                if amazon.code_of(error) != "ResourceInUse":  # somebody was quicker; it is the same job
                    raise

    def _portal(self) -> str:
        """Where the team works; the console where that is not told."""
        from botocore.exceptions import BotoCoreError, ClientError

        sagemaker = amazon.client("sagemaker")
        try:
            told = sagemaker.describe_workteam(WorkteamName=self.workteam.rpartition("/")[2])["Workteam"]
        except (ClientError, BotoCoreError):
            told = {}
        region = sagemaker.meta.region_name
        console = f"https://{region}.console.aws.amazon.com/sagemaker/groundtruth?region={region}#/labeling-jobs"
        return f"https://{told['SubDomain']}" if told.get("SubDomain") else console

    # Bringing in -----------------------------------------------------------------------------------------------------

    def finished(self, batch: Batch, place: str, folder: Path) -> Finished:
        """What enough workers have submitted, or Ground Truth has put together already."""
        jobs = self._jobs(batch.id) or [self._missing(batch.id, place)]
        rows: list[Mapping[str, Any]] = []
        lines: list[bytes] = []
        done: dict[str, None] = {}
        problems: list[Problem] = []
        sizes = batch.frames.set_index("name")[list(SIZE)]
        for job in jobs:
            self._read(batch.id, job)
            problems += job.problems
            for name in job.done(self.workers):
                if name in done or name not in sizes.index:
                    continue
                done[name] = None
                size = {side: int(sizes.at[name, side]) for side in SIZE}
                if name in job.drawn:
                    rows += _rows(name, size, job.drawn[name])
                else:
                    lines.append(orjson.dumps(job.put_together[name]))
        if jobs[-1].ended and len(done) < len(batch.frames):
            problems.append(self._left(jobs[-1], len(batch.frames) - len(done)))
        files: list[Path] = []
        if rows:
            columns = {column: [row.get(column) for row in rows] for column in rows[0]}
            classes = list(dict.fromkeys([*batch.classes, *filter(None, columns["class"])]))
            files += coco.save(table(len(rows), columns), classes, folder / "workers.json").files
        if lines:
            files.append(folder / "output.manifest")
            files[-1].write_bytes(b"\n".join([*lines, b""]))
        return Finished(files, list(done), problems=problems)

    def stamp(self, batch: str, place: str) -> str:
        """What the lake has of the workers' answers, and how the jobs are."""
        told = [job.told["LabelingJobStatus"] for job in self._jobs(batch) or [self._missing(batch, place)]]
        seen = self.storage.glance(self._output(batch))
        return hashlib.sha256(repr((told, seen)).encode()).hexdigest()[:16]

    def _missing(self, batch: str, place: str) -> NoReturn:
        where = f"SageMaker has no labeling job {place} in this account and region"
        give_up = f"detection collect {self.detector} --close {batch}"
        raise LabelingError(f"{batch}: {where}; correct these, or give the batch up: {give_up}")

    def _left(self, job: _Job, count: int) -> Problem:
        status, why = job.told["LabelingJobStatus"], job.told.get("FailureReason", "")
        what = f"the labeling job is {status}{f': {why}' if why else ''}, and {count} pictures are not labelled"
        return Problem(job.name, "", what, f"kept what there is; detection label {self.detector} hands over the rest")

    def _read(self, batch: str, job: _Job) -> None:
        """Reads what the lake has of a job."""
        given, wrong = amazon_labeling.lines(self._get(f"{self._input(batch, job.name)}/input.manifest"), job.name)
        job.pictures, job.problems = [str(line.get(FRAME)) for line in given], wrong
        below = f"{self._output(batch)}/{job.name}"
        kept: dict[int, list[str]] = {}
        for item in self.storage.list(f"{below}/annotations/worker-response"):
            number = item.key.split("/")[-2]
            if item.key.endswith(".json") and number.isdecimal() and int(number) < len(job.pictures):
                kept.setdefault(int(number), []).append(item.key)
        keys = [key for number in sorted(kept) for key in sorted(kept[number])]
        found = dict(zip(keys, self.storage.get_many(keys), strict=True))
        for number, mine in sorted(kept.items()):
            name = job.pictures[number]
            drawn, wrong = amazon_labeling.answers([found[key] or b"" for key in sorted(mine)], name)
            job.problems += wrong
            if drawn:
                job.drawn[name] = drawn
        output, wrong = amazon_labeling.lines(self._get(f"{below}/manifests/output/output.manifest"), job.name)
        job.problems += wrong
        for line in output:
            name, about = str(line.get(FRAME)), line.get(f"{BOXES}-metadata")
            failed = about.get("failure-reason") if isinstance(about, dict) else None
            if failed:
                job.problems.append(Problem(job.name, name, f"Ground Truth: {failed}", "not labelled"))
            elif isinstance(line.get(BOXES), dict):
                mine = {key: value for key, value in line.items() if not key.startswith(PROPOSALS)}
                job.put_together[name] = mine

    def _get(self, key: str) -> bytes:
        try:
            return self.storage.get(key)
        except FileNotFoundError:
            return b""

    # Asking ----------------------------------------------------------------------------------------------------------

    def _jobs(self, batch: str) -> list[_Job]:
        """All jobs of a batch, the first one first."""
        found: list[_Job] = []
        while len(found) < MOST:
            name = self.job_of(batch, len(found) + 1)
            with self._asking(name):
                told = _described(name)
            if told is None:
                break
            found.append(_Job(name, told))
        return found

    def _output(self, batch: str) -> str:
        return layout.label_work(batch, TOOL)

    def _input(self, batch: str, job: str) -> str:
        return f"{self._output(batch)}/{job}/input"

    @contextmanager
    def _asking(self, name: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

        try:
            yield
        except ParamValidationError as error:
            raise LabelingError(f"{name}: a setting is not as SageMaker wants it: {error}") from error
        except ClientError as error:
            team = "workteam" in amazon.message_of(error).lower()
            why = amazon.refusal(error) + (" (correct DETECTION_AWS_WORKTEAM)" if team else "")
            raise LabelingError(f"{name}: SageMaker refuses it: {why}") from error
        except BotoCoreError as error:
            raise UnreachableError(f"{name}: SageMaker was not reached: {error}; run again") from error

    def check(self) -> Iterator[Finding]:
        """Looks whether there is such a team, and whether its browsers may load the lake's pictures."""
        yield amazon_account.workteam(self.workteam)
        yield amazon_account.shown_in_browsers(self.storage.uri)


def _described(name: str) -> Mapping[str, Any] | None:
    from botocore.exceptions import ClientError

    try:
        return amazon.client("sagemaker").describe_labeling_job(LabelingJobName=name)
    except ClientError as error:
        if amazon.code_of(error) == "ResourceNotFound":
            return None
        raise


def _rows(name: str, size: Mapping[str, int], drawn: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """What the workers drew in a picture, a row a box; one without a class where they found nothing."""
    rows: list[dict[str, Any]] = []
    for worker, boxes in drawn.items():
        common = {"frame_name": name, **size, "annotator": worker}
        for box in boxes:
            corners = {"x1": box["left"], "y1": box["top"]}
            corners |= {"x2": box["left"] + box["width"], "y2": box["top"] + box["height"]}
            rows.append({**common, "class": box["label"], **corners})
        if not boxes:
            rows.append({**common, "class": None, **dict.fromkeys(("x1", "y1", "x2", "y2"), float("nan"))})
    return rows
