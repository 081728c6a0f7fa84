"""Batch prediction by a batch endpoint of Azure ML.

A detector has one endpoint, and each version of its model, with the thresholds and what it runs on, a deployment of it
that stays. A job is given a folder of lists, each naming some pictures, and answers each list with a file in the lake.

Azure ML names these jobs itself, and one request for a job may make several. So the name is noted in the lake as soon
as it is known, and the folder of lists has a mark in its name by which a job is found that nobody has noted.
"""

import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import dagster as dg
import orjson

from detection_assets import object_store
from detection_assets.domain import layout
from resources import microsoft, microsoft_batch, microsoft_jobs
from resources.batch.base import ManagedBatch
from resources.compute.azure import PRICES, AzureCompute
from resources.compute.base import Input, Step, StepFailed, version_of
from resources.compute.managed import Job, JobState, Silent, plain
from resources.findings import Finding
from resources.microsoft import Workspace
from resources.microsoft_batch import Wanted
from resources.registry.base import ModelVersion

LIST = 50
"""Pictures that are answered together, and tried again together when a process dies: seconds of work."""
LISTS, SETTINGS = ".pictures.json", "DETECTION_BATCH"
"""As `detection_assets.serving.batch` knows them."""
LOG = re.compile(r"^user_logs/std_log(_process_0+)?\.txt$|^logs/user/(stdout/.*|error/.*|error)\.txt$")
"""What the driver has printed, and the script, and what went wrong in it."""


class AzureBatch(ManagedBatch):
    """A batch endpoint on Azure ML.

    Attributes:
        compute: Who runs the other jobs in the same workspace.
        image: The image that serves, with what Azure ML's driver needs, `<registry>.azurecr.io/<name>:<tag>`.
        cluster: The cluster that predicts.
        count: Machines of a job; each takes list after list.
    """

    compute: dg.ResourceDependency[AzureCompute]  # pyright: ignore[reportIncompatibleVariableOverride]
    image: str
    cluster: str
    count: int = 1

    @property
    def service(self) -> str:
        """Azure Machine Learning's batch endpoints."""
        return "Azure ML"

    @property
    def ml(self) -> Workspace:
        """The workspace."""
        return self.compute.ml

    @property
    def endpoint(self) -> str:
        """The endpoint's name, of 3 to 32 characters: one region has one of the name, whoever's it is."""
        return f"{plain(self.detector).lower()[:16]}-batch-{version_of(self.ml.path, self.storage.uri)[:8]}"

    def check(self) -> Iterator[Finding]:
        """Looks at the cluster."""
        from azure.core.exceptions import AzureError

        with suppress(AzureError):  # which the workspace's other finding says
            yield self.compute.cluster_finding("BATCH", self.cluster)

    # Looking ---------------------------------------------------------------------------------------------------------

    def look(self, job: Job) -> JobState | None:
        """The job as the run history has it, and the step that does its work."""
        from azure.core.exceptions import AzureError, ResourceNotFoundError

        try:
            name = self._name(job)
            if not name:
                return None
            about = self.ml.run(name)
            working = next(iter(self.ml.children(name)), {})
            status, detail = str(about["status"]), str(working.get("status") or "")
            ended = microsoft_jobs.phase(status) != "running"
            if ended or microsoft_jobs.phase(detail) != "running":  # the step ends before its job
                detail = status
            told = {**working, "error": working.get("error") or about.get("error")} if ended else {}
            cluster = self._cluster() if ended or detail == "Queued" else {}
            return microsoft_jobs.state(detail or status, told, cluster, self.count)
        except ResourceNotFoundError:
            return None
        except AzureError as error:
            raise Silent(f"{job.name}: Azure ML does not say how it is: {microsoft.refusal(error)}") from error

    def _name(self, job: Job) -> str:
        """What Azure ML calls a job; "" if there is none."""
        noted, mark = self._noted(job, "name"), self._noted(job, "mark")
        if noted or not mark:
            return noted
        found = self._marked(mark, "running") or self._marked(mark, "done", "failed", "stopped")
        if not found:
            return ""
        self._note(job, "name", found[0])
        self._drop(found[1:])
        return found[0]

    def _drop(self, names: Iterable[str]) -> None:
        """Cancels jobs that came of one request beside the first."""
        for name in names:
            microsoft_jobs.cancel(self.ml, name)

    def _marked(self, mark: str, *phases: str) -> list[str]:
        """The jobs of the endpoint that were asked about a folder with a mark in its name."""
        from azure.ai.ml.exceptions import MlException
        from azure.core.exceptions import ResourceNotFoundError

        client = self.ml.client
        try:
            there = list(client.batch_endpoints.list_jobs(self.endpoint))
        except ResourceNotFoundError:
            return []
        wanted = [str(one.name) for one in there if microsoft_jobs.phase(str(one.status)) in phases]
        found: list[str] = []
        for name in wanted:
            with suppress(MlException):  # one that the SDK cannot read is not ours
                given = getattr(client.jobs.get(name), "inputs", None) or {}
                found += [name] if any(mark in str(getattr(one, "path", "")) for one in given.values()) else []
        return found

    def _noted(self, job: Job, what: str) -> str:
        try:
            return self.storage.get(f"{job.folder}/{what}").decode()
        except FileNotFoundError:
            return ""

    def _note(self, job: Job, what: str, value: str) -> None:
        self.storage.put(f"{job.folder}/{what}", value.encode())

    def _cluster(self) -> Mapping[str, Any]:
        try:
            return self.ml.cluster(self.cluster)
        except LookupError:  # somebody has deleted it since
            return {}

    def log(self, job: Job, cursor: Any) -> tuple[Sequence[str], Any]:
        """What the driver and the script have printed."""
        from azure.core.exceptions import AzureError

        try:
            working = next(iter(self.ml.children(self._name(job))), None)
        except AzureError:
            return [], cursor  # later is soon enough
        return microsoft_jobs.logged(self.ml, str(working["runId"]), LOG, cursor) if working else ([], cursor)

    def link(self, job: Job) -> str:
        """The job's page in the studio."""
        return self.ml.page(self._noted(job, "name"))

    def price(self, job: Job, seconds: float) -> float:
        """By the hour, for each machine."""
        from azure.core.exceptions import AzureError

        try:
            return PRICES.get(str(self._cluster().get("vmSize")), 0.0) * self.count * seconds / 3600
        except AzureError:
            return 0.0

    # Beginning and ending --------------------------------------------------------------------------------------------

    def begin(self, job: Job, step: Step, model: ModelVersion) -> JobState:
        """Makes the endpoint and the deployment, unless they are there, and asks it about the lists."""
        from azure.ai.ml import Input as Given
        from azure.ai.ml import Output
        from azure.ai.ml.exceptions import MlException
        from azure.core.exceptions import AzureError

        self.onnx_of(model)
        try:
            self._enough()
            deployment = self.deployed(step, model)
            mark = self._noted(job, "mark") or secrets.token_hex(8)
            self._list(job, f"{job.folder}/lists-{mark}")
            self._note(job, "mark", mark)
            asked = self.ml.client.batch_endpoints.invoke(
                endpoint_name=self.endpoint,
                deployment_name=deployment,
                inputs={"pictures": Given(type="uri_folder", path=self._place(f"{job.folder}/lists-{mark}"))},
                # A line for each list; Azure ML puts it somewhere else where nobody says where.
                outputs={"score": Output(type="uri_file", path=self._place(f"{job.folder}/told-{mark}/lists.txt"))},
            )
        except (AzureError, MlException) as error:
            # The request may have come through, and its answer not.
            state = self.look(job)
            if state is None:
                raise StepFailed(f"{job.name}: Azure ML refuses it: {microsoft.refusal(error)}") from error
            return state
        self._note(job, "name", str(asked.name))
        # The SDK repeats a request that was not answered, and each may have made a job.
        with suppress(AzureError):  # they give the same answers; what is lost is money
            self._drop(name for name in self._marked(mark, "running") if name != asked.name)
        return JobState("running", "NotStarted")

    def _list(self, job: Job, folder: str) -> None:
        order = orjson.loads(self.storage.get(job.order))
        frames, answers = self.storage.uri_of(layout.FRAMES), self.storage.uri_of(_answers(job))
        with tempfile.TemporaryDirectory() as scratch:
            for number, pictures in enumerate(_lists(order["pictures"])):
                told = {"frames": frames, "answers": answers, "pictures": pictures}
                (Path(scratch) / f"{number:06d}{LISTS}").write_bytes(orjson.dumps(told))
            self.storage.upload(Path(scratch), folder)

    def _place(self, key: str) -> str:
        return self.compute.place(Input(key)).rstrip("/")

    def _enough(self) -> None:
        """Holds what is asked for against the cluster; a job that asks for more waits for ever.

        Raises:
            StepFailed: There is no such cluster, or it is too small.
        """
        try:
            most = (self.ml.cluster(self.cluster).get("scaleSettings") or {}).get("maxNodeCount")
        except LookupError:
            raise StepFailed(
                f"the workspace {self.ml.name} has no compute cluster {self.cluster}; make it, or set "
                "DETECTION_AZURE_BATCH to one that there is"
            ) from None
        if most is not None and self.count > int(most):
            raise StepFailed(
                f"the cluster {self.cluster} has at most {most} machines, and {self.count} are asked for; give it "
                "more, or set DETECTION_AZURE_BATCH_INSTANCES to fewer"
            )

    def deployed(self, step: Step, model: ModelVersion) -> str:
        """Makes the deployment for a model and a step's thresholds, unless it is there; gives its name.

        Raises:
            AzureError, MlException: Azure ML refuses.
        """
        about, identity = self.about(step, model), self.compute.identity
        told = {SETTINGS: orjson.dumps(about).decode(), **object_store.account()}
        path = self._place(model.onnx)
        wanted = Wanted(
            model=(f"{plain(self.detector)}-batch", version_of(path, model.sha256)),
            path=path,
            image=self.image,
            cluster=self.cluster,
            count=self.count,
            environment={**told, **({object_store.CLIENT: identity} if identity else {})},
            tags={"detector": self.detector, "version": model.version},
        )
        made_of = version_of(asdict(wanted), microsoft_batch.SCRIPT, microsoft_batch.LIST_S, microsoft_batch.TRIES)
        name = f"v{plain(model.version)[:12].rstrip('-')}-{made_of}"
        microsoft_batch.deploy(self.ml, self.endpoint, name, wanted)
        return name

    def stop(self, job: Job) -> None:
        """Asks Azure ML to cancel it, with the step that does its work."""
        name = self._name(job)
        why = microsoft_jobs.cancel(self.ml, name) if name else ""
        if why and (state := self.look(job)) is not None and state.phase == "running":
            raise StepFailed(f"{job.name} could not be stopped: {why}")

    def forget(self, job: Job) -> None:
        """Nothing: a deployment stays for the next job, and costs nothing meanwhile."""

    # Answers ---------------------------------------------------------------------------------------------------------

    def answers(self, job: Job, files: Sequence[str]) -> Mapping[str, str]:
        """The file that has each picture's answer, with those of its list."""
        there = {item.key for item in self.storage.list(_answers(job))}
        keys = {
            file: f"{_answers(job)}/{number:06d}.jsonl" for number, part in enumerate(_lists(files)) for file in part
        }
        return {file: key for file, key in keys.items() if key in there}

    def read(self, keys: Mapping[str, str]) -> Mapping[str, Mapping[str, Any]]:
        """The answers of some pictures, from the lines of their files."""
        found = self.storage.get_many(sorted(set(keys.values())))
        told = [orjson.loads(line) for data in found for line in (data or b"").splitlines()]
        return {one["file"]: one for one in told if one["file"] in keys}


def _lists(pictures: Sequence[str]) -> list[Sequence[str]]:
    return [pictures[first : first + LIST] for first in range(0, len(pictures), LIST)]


def _answers(job: Job) -> str:
    return f"{job.folder}/answers"
