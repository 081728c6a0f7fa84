"""Steps as command jobs on compute clusters of Azure ML."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import dagster as dg

from detection_assets import object_store
from resources import microsoft, microsoft_jobs
from resources.compute.base import Input, Step, StepFailed, Study
from resources.compute.managed import Job, JobState, ManagedCompute, Silent
from resources.findings import Finding
from resources.microsoft import Workspace
from resources.microsoft_jobs import PRICES
from resources.microsoft_sweeps import AzureStudy

TRAINING = frozenset(["train"])
"""Programs that may run on machines that are taken away: they go on from a checkpoint."""
LOG = re.compile(r"user_logs/std_log(?:_process_(\d+))?\.txt$")
"""What a job has printed; of several processes a file for each."""
OUTPUTS = 20
"""Outputs of a job that the studio is told of; a job of many videos has more, and delivers all of them."""


class AzureCompute(ManagedCompute):
    """Jobs on Azure ML.

    Attributes:
        subscription: Id of the subscription.
        group: Name of the resource group.
        workspace: Name of the workspace.
        datastore: The workspace's name for the container that the lake is in.
        image: The image of the programs, `<registry>.azurecr.io/<name>:<tag>`.
        cpu: The cluster for `cpu`.
        gpu: The cluster for `gpu`.
        spot: A cluster of low priority that trainings run on instead; "" for none.
        count: Machines of a training job, which train together; a trial of a study has one.
        identity: Client id of the clusters' user-assigned identity; "" for the one that they have by themselves.
    """

    subscription: str
    group: str
    workspace: str
    datastore: str
    image: str
    cpu: str
    gpu: str
    spot: str = ""
    count: int = 1
    identity: str = ""

    @property
    def service(self) -> str:
        """Azure Machine Learning."""
        return "Azure ML"

    @property
    def ml(self) -> Workspace:
        """The workspace."""
        return Workspace(self.subscription, self.group, self.workspace)

    def cluster(self, step: Step) -> str:
        """The cluster that a step runs on."""
        if self.spot and (step.program in TRAINING or step.objective is not None):
            return self.spot
        return self.gpu if step.hardware == "gpu" else self.cpu

    def check(self) -> Iterator[Finding]:
        """Looks at the credentials, the workspace, its name for the lake's container, and the clusters."""
        from azure.core.exceptions import AzureError, ClientAuthenticationError

        try:
            yield Finding("workspace", "good", str(self.ml.client.workspaces.get(self.workspace).id))
        except ClientAuthenticationError as error:
            yield Finding("credentials", "bad", *microsoft.explained(error))
            return
        except AzureError as error:
            yield Finding("workspace", "bad", *microsoft.explained(error))
            return
        try:
            yield self._datastore_finding()
            for setting, cluster in (("CPU", self.cpu), ("GPU", self.gpu), ("SPOT", self.spot)):
                if cluster:
                    yield self.cluster_finding(setting, cluster)
        except AzureError as error:
            yield Finding("workspace", "bad", *microsoft.explained(error))

    def _datastore_finding(self) -> Finding:
        from azure.core.exceptions import ResourceNotFoundError

        lake = (object_store.account().get("AZURE_STORAGE_ACCOUNT_NAME", ""), urlsplit(self.storage.root).netloc)
        try:
            found = self.ml.client.datastores.get(self.datastore)
        except ResourceNotFoundError:
            remedy = f"make one of the account {lake[0]} and the container {lake[1]}, or set DETECTION_AZURE_DATASTORE"
            return Finding("datastore", "bad", f"the workspace has no datastore {self.datastore}", remedy)
        place = (getattr(found, "account_name", ""), getattr(found, "container_name", ""))
        told = f"{self.datastore}: container {place[1]} of the account {place[0]}"
        if place != lake:
            remedy = f"set DETECTION_AZURE_DATASTORE to one of the container {lake[1]} of the account {lake[0]}"
            return Finding("datastore", "bad", told, remedy)
        return Finding("datastore", "good", told)

    def cluster_finding(self, setting: str, name: str) -> Finding:
        """Looks whether there is a compute cluster, and how many machines it may have."""
        try:
            found = self.ml.cluster(name)
        except LookupError:
            told = f"the workspace has no compute cluster {name}"
            return Finding(f"cluster {name}", "bad", told, f"make it, or correct DETECTION_AZURE_{setting}")
        shortages = microsoft_jobs.shortages(found)
        if shortages:
            return Finding(f"cluster {name}", "bad", shortages[0])
        most = (found.get("scaleSettings") or {}).get("maxNodeCount", "?")
        if most != "?" and int(most) < self.count and name == (self.spot or name):  # the others train nothing then
            remedy = "let it have more, or set DETECTION_AZURE_TRAINING_INSTANCES to fewer"
            return Finding(
                f"cluster {name}", "bad", f"has {most} machines at most, of {self.count} that train together", remedy
            )
        return Finding(f"cluster {name}", "good", f"{found.get('vmSize')}, {found.get('vmPriority')}, {most} at most")

    # Looking ---------------------------------------------------------------------------------------------------------

    def look(self, job: Job) -> JobState | None:
        """The job as Azure ML describes it, and why its cluster has no machine for it while it waits for one."""
        return self.state(job.name)

    def state(self, name: str) -> JobState | None:
        """A job of whatever kind as Azure ML describes it, whoever has begun it.

        Raises:
            Silent: Azure ML does not say.
        """
        from azure.core.exceptions import AzureError, ResourceNotFoundError

        cluster: Mapping[str, Any] = {}
        about: Mapping[str, Any] = {}
        try:
            told = self.ml.client.jobs.get(name)
            status = str(getattr(told.status, "value", told.status))  # of an enumeration that may not know it
            phase = microsoft_jobs.phase(status)
            if phase != "running" or status == "Queued":
                with suppress(LookupError):  # somebody has deleted it since
                    cluster = self.ml.cluster(told.compute.rsplit("/", 1)[-1])
            if phase != "running":
                about = self.ml.run(name)
        except ResourceNotFoundError:
            return None
        except AzureError as error:
            raise Silent(f"{name}: Azure ML does not say how it is: {microsoft.refusal(error)}") from error
        count = getattr(told.resources, "instance_count", None) or 1
        return microsoft_jobs.state(status, about, cluster, count)

    def log(self, job: Job, cursor: Any) -> tuple[Sequence[str], Any]:
        """What the job's machines have printed since."""
        return self.printed(job.name, cursor, several=self._count(job.step) > 1)

    def printed(self, name: str, cursor: Any = None, *, several: bool = False) -> tuple[Sequence[str], Any]:
        """What a job has printed since, whoever has begun it; arguments and result as of `microsoft_jobs.logged`."""
        return microsoft_jobs.logged(self.ml, name, LOG, cursor, several=several)

    def link(self, job: Job) -> str:
        """The job's page in the studio."""
        return self.ml.page(job.name)

    def price(self, job: Job, seconds: float) -> float:
        """By the hour, for each machine."""
        from azure.core.exceptions import AzureError

        try:
            size = str(self.ml.cluster(self.cluster(job.step)).get("vmSize", ""))
        except (AzureError, LookupError):
            return 0.0
        return PRICES.get(size, 0.0) * self._count(job.step) * seconds / 3600

    def _count(self, step: Step) -> int:
        # Trials are compared with each other, and more of them at once bring more than more machines for each.
        return self.count if step.program in TRAINING and step.objective is None else 1

    # Beginning and ending --------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> JobState:
        """Creates the job."""
        return self.create(job.name, job.step, self._command(job))

    def create(self, name: str, step: Step, asked: Any) -> JobState:
        """Creates a job of whatever kind; one of the name that is there already is as good.

        Args:
            name: The job's.
            step: What it runs.
            asked: The SDK's description of it.

        Raises:
            StepFailed: Azure ML refuses; the message says what to do.
        """
        from azure.ai.ml.exceptions import MlException
        from azure.core.exceptions import AzureError

        cluster = self.cluster(step)
        try:
            self.ml.cluster(cluster)
            self.ml.client.jobs.create_or_update(asked)
        except LookupError:
            setting = "SPOT" if cluster == self.spot else step.hardware.upper()
            raise StepFailed(
                f"{name}: the workspace {self.workspace} has no compute cluster {cluster}; make it, or set "
                f"DETECTION_AZURE_{setting} to one that there is"
            ) from None
        except (AzureError, MlException) as error:
            # Whoever else has asked for the same has written the same order; what differs is of no account.
            state = self.state(name)
            if state is None:
                raise StepFailed(f"{name}: Azure ML refuses it: {microsoft.refusal(error)}") from error
            return state
        return JobState("running", "NotStarted")

    def stop(self, job: Job) -> None:
        """Asks Azure ML to cancel it."""
        self.cancel_named(job.name)

    def cancel_named(self, name: str) -> None:
        """Asks Azure ML to cancel a job of whatever kind, whoever has begun it."""
        why = microsoft_jobs.cancel(self.ml, name)
        if why and (state := self.state(name)) is not None and state.phase == "running":
            raise StepFailed(f"{name} could not be stopped: {why}")

    def order_of(self, job: Job, context: Mapping[str, Any]) -> dict[str, Any]:
        """As of any job; of what is mounted the launcher shows the needed part, and it keeps the checkpoint itself."""
        return {
            **super().order_of(job, context),
            "needed": {name: list(given.keys) for name, given in job.step.inputs.items() if given.keys is not None},
            "checkpoint": self.storage.uri_of(job.checkpoint),
        }

    def _command(self, job: Job) -> Any:
        from azure.ai.ml import Output, PyTorchDistribution, command

        step, count = job.step, self._count(job.step)
        # One process on each machine, told of the others: the program itself starts one for each GPU.
        together: dict[str, Any] = {
            "instance_count": count,
            "distribution": PyTorchDistribution(process_count_per_instance=1),
        }
        return command(
            **self.described(job.name, step),
            **self.launched(step, job.order, *(["--ranks"] if count > 1 else [])),
            # Where the launcher delivers; told to the studio for its lineage.
            outputs={
                f"output_{number}": Output(
                    type="uri_folder", path=self.place(Input(f"{prefix}/{job.output}")), mode="rw_mount"
                )
                for number, prefix in enumerate(list(step.outputs.values())[:OUTPUTS])
            },
            timeout=max(1, int(step.timeout_s)),
            **(together if count > 1 else {}),
        )

    def described(self, name: str, step: Step) -> dict[str, Any]:
        """What jobs of all kinds say of themselves, read, and run on."""
        from azure.ai.ml import Input as Mounted
        from azure.ai.ml.entities import ManagedIdentityConfiguration

        return {
            "name": name,
            "display_name": name,
            "experiment_name": self.detector,
            "description": step.name,
            "tags": {"detector": self.detector, "step": step.name},
            "compute": self.cluster(step),
            "identity": ManagedIdentityConfiguration(client_id=self.identity or None),
            # Mounted, so nothing is read but what the program opens.
            "inputs": {
                name: Mounted(type="uri_folder", path=self.place(given), mode="ro_mount")
                for name, given in step.inputs.items()
            },
        }

    def launched(self, step: Step, order: str, *more: str) -> dict[str, Any]:
        """What a job starts.

        Args:
            step: What it runs.
            order: Storage key of what it is to do.
            more: Further words for the launcher.
        """
        from azure.ai.ml.entities import Environment

        words = ["python", "-m", "detection_assets.launcher", "--order", shlex.quote(self.storage.uri_of(order))]
        for name in step.inputs:
            words += ["--input", f"{name}=${{{{inputs.{name}}}}}"]
        return {
            "command": " ".join([*words, *more]),
            "environment": Environment(image=self.image),
            "environment_variables": object_store.account(),
        }

    def place(self, given: Input) -> str:
        """A folder of the lake, as the workspace calls it."""
        return f"{microsoft.place(self.datastore, self.storage.uri_of(given.prefix))}/"

    # Studies ---------------------------------------------------------------------------------------------------------

    def open_study(self, context: dg.AssetExecutionContext, study: Study) -> AzureStudy:
        """Finds the sweep jobs that were begun for the study, if there are any."""
        return AzureStudy(self, context, study)
