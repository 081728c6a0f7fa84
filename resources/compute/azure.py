"""Steps as command jobs on compute clusters of Azure ML."""

import re
import shlex
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn
from urllib.parse import urlsplit

import dagster as dg

from detection_assets import object_store
from detection_assets.domain.tuning import Trial
from resources import microsoft
from resources.compute.base import Input, Step, StepFailed, Study
from resources.compute.managed import Job, JobState, ManagedCompute, Silent
from resources.findings import Finding
from resources.microsoft import Workspace

TRAINING = frozenset(["train"])
"""Programs that may run on machines that are taken away: they go on from a checkpoint."""
OUTPUTS = 20
"""Outputs of a job that the studio is told of; a job of many videos has more, and delivers all of them."""
LOG = re.compile(r"user_logs/std_log(_process_0+)?\.txt$")
"""What a job has printed; of several processes the first one's."""
PRICES: Mapping[str, float] = {
    **{"Standard_DS3_v2": 0.293, "Standard_DS4_v2": 0.585, "Standard_DS11_v2": 0.185, "Standard_DS12_v2": 0.371},
    **{"Standard_D4s_v3": 0.192, "Standard_D8s_v3": 0.384, "Standard_D4ds_v5": 0.226, "Standard_D8ds_v5": 0.452},
    **{"Standard_F4s_v2": 0.169, "Standard_F8s_v2": 0.338, "Standard_F16s_v2": 0.677, "Standard_E4s_v3": 0.252},
    **{"Standard_NC4as_T4_v3": 0.526, "Standard_NC8as_T4_v3": 0.752, "Standard_NC16as_T4_v3": 1.204},
    **{"Standard_NC6s_v3": 3.06, "Standard_NC12s_v3": 6.12, "Standard_NC24ads_A100_v4": 3.673},
    **{"Standard_NC40ads_H100_v5": 6.98, "Standard_ND96asr_v4": 27.197},
}
"""US dollars an hour, dedicated, in East US: an estimate elsewhere, and an upper bound for low priority."""
PHASES: Mapping[str, Any] = {"Completed": "done", "Failed": "failed", "NotResponding": "failed", "Canceled": "stopped"}
"""What has ended, by Azure ML's word for it; everything else goes on."""


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
                    yield self._cluster_finding(setting, cluster)
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

    def _cluster_finding(self, setting: str, name: str) -> Finding:
        try:
            found = self.ml.cluster(name)
        except LookupError:
            told = f"the workspace has no compute cluster {name}"
            return Finding(f"cluster {name}", "bad", told, f"make it, or correct DETECTION_AZURE_{setting}")
        shortages = _shortages(found)
        if shortages:
            return Finding(f"cluster {name}", "bad", shortages[0])
        most = (found.get("scaleSettings") or {}).get("maxNodeCount", "?")
        return Finding(f"cluster {name}", "good", f"{found.get('vmSize')}, {found.get('vmPriority')}, {most} at most")

    # Looking ---------------------------------------------------------------------------------------------------------

    def look(self, job: Job) -> JobState | None:
        """The job as Azure ML describes it, and why its cluster has no machine for it while it waits for one."""
        from azure.core.exceptions import AzureError, ResourceNotFoundError

        cluster: Mapping[str, Any] = {}
        about: Mapping[str, Any] = {}
        try:
            told = self.ml.client.jobs.get(job.name)
            status = str(getattr(told.status, "value", told.status))  # of an enumeration that may not know it
            phase = PHASES.get(status, "running")
            if phase != "running" or status == "Queued":
                with suppress(LookupError):  # somebody has deleted it since
                    cluster = self.ml.cluster(told.compute.rsplit("/", 1)[-1])
            if phase != "running":
                about = self.ml.run(job.name)
        except ResourceNotFoundError:
            return None
        except AzureError as error:
            raise Silent(f"{job.name}: Azure ML does not say how it is: {microsoft.refusal(error)}") from error
        size = str(cluster.get("vmSize", ""))
        detail = ": ".join([status, *_shortages(cluster)][:2]) if phase == "running" else status
        return JobState(phase, detail, _told(about.get("error"), size), size, _duration(about))

    def log(self, job: Job, cursor: Any) -> tuple[Sequence[str], Any]:
        """The whole lines that the job has printed since."""
        from azure.core.exceptions import AzureError

        first = int(cursor or 0)
        try:
            files = self.ml.run(job.name).get("logFiles") or {}
            url = next((url for name, url in sorted(files.items()) if LOG.search(name)), None)
            data = _from(url, first) if url else b""
        except (AzureError, urllib.error.URLError):
            return [], cursor  # later is soon enough
        if data is None:  # it is shorter than it was: another machine has begun it again
            return [], 0
        whole = data[: data.rfind(b"\n") + 1]
        return whole.decode(errors="replace").splitlines(), first + len(whole)

    def link(self, job: Job) -> str:
        """The job's page in the studio."""
        return self.ml.page(job.name)

    def price(self, job: Job, seconds: float) -> float:
        """By the hour."""
        from azure.core.exceptions import AzureError

        try:
            size = str(self.ml.cluster(self.cluster(job.step)).get("vmSize", ""))
        except (AzureError, LookupError):
            return 0.0
        return PRICES.get(size, 0.0) * seconds / 3600

    # Beginning and ending --------------------------------------------------------------------------------------------

    def submit(self, job: Job) -> JobState:
        """Creates the job."""
        from azure.ai.ml.exceptions import MlException
        from azure.core.exceptions import AzureError

        cluster = self.cluster(job.step)
        try:
            self.ml.cluster(cluster)
            self.ml.client.jobs.create_or_update(self._command(job, cluster))
        except LookupError:
            setting = "SPOT" if cluster == self.spot else job.step.hardware.upper()
            raise StepFailed(
                f"{job.name}: the workspace {self.workspace} has no compute cluster {cluster}; make it, or set "
                f"DETECTION_AZURE_{setting} to one that there is"
            ) from None
        except (AzureError, MlException) as error:
            # Whoever else has asked for the same has written the same order; what differs is of no account.
            state = self.look(job)
            if state is None:
                raise StepFailed(f"{job.name}: Azure ML refuses it: {microsoft.refusal(error)}") from error
            return state
        return JobState("running", "NotStarted")

    def stop(self, job: Job) -> None:
        """Asks Azure ML to cancel it."""
        from azure.core.exceptions import AzureError

        try:
            self.ml.client.jobs.begin_cancel(job.name, polling=False)
        except AzureError as error:
            state = self.look(job)
            if state is not None and state.phase == "running":
                raise StepFailed(f"{job.name} could not be stopped: {microsoft.refusal(error)}") from error

    def order_of(self, job: Job, context: Mapping[str, Any]) -> dict[str, Any]:
        """As of any job; of what is mounted the launcher shows the needed part, and it keeps the checkpoint itself."""
        return {
            **super().order_of(job, context),
            "needed": {name: list(given.keys) for name, given in job.step.inputs.items() if given.keys is not None},
            "checkpoint": self.storage.uri_of(job.checkpoint),
        }

    def _command(self, job: Job, cluster: str) -> Any:
        from azure.ai.ml import Input as Mounted
        from azure.ai.ml import Output, command
        from azure.ai.ml.entities import Environment, ManagedIdentityConfiguration

        step = job.step
        words = ["python", "-m", "detection_assets.launcher", "--order", shlex.quote(self.storage.uri_of(job.order))]
        for name in step.inputs:
            words += ["--input", f"{name}=${{{{inputs.{name}}}}}"]
        prefixes = list(step.outputs.values())[:OUTPUTS]
        return command(
            name=job.name,
            display_name=job.name,
            experiment_name=self.detector,
            description=step.name,
            tags={"detector": self.detector, "step": step.name},
            compute=cluster,
            environment=Environment(image=self.image),
            command=" ".join(words),
            environment_variables=object_store.account(),
            # Mounted, so nothing is read but what the program opens.
            inputs={
                name: Mounted(type="uri_folder", path=self._place(given), mode="ro_mount")
                for name, given in step.inputs.items()
            },
            # Where the launcher delivers; told to the studio for its lineage.
            outputs={
                f"output_{number}": Output(
                    type="uri_folder", path=self._place(Input(f"{prefix}/{job.output}")), mode="rw_mount"
                )
                for number, prefix in enumerate(prefixes)
            },
            identity=ManagedIdentityConfiguration(client_id=self.identity or None),
            timeout=max(1, int(step.timeout_s)),
        )

    def _place(self, given: Input) -> str:
        """A folder of the lake, as the workspace calls it."""
        return microsoft.place_of(self.datastore, self.storage.uri_of(given.prefix))

    # Studies ---------------------------------------------------------------------------------------------------------

    def open_study(self, context: dg.AssetExecutionContext, study: Study) -> NoReturn:
        """Refuses: sweep jobs are still to come."""
        raise StepFailed(
            f"{study.name}: in this version Azure ML tunes nothing; set `hardware: here` for the training in the "
            "detector's YAML while you tune"
        )

    def advance(self, handle: Any) -> bool:
        """Never called: no study is opened."""
        return True

    def trials(self, handle: Any) -> Sequence[Trial]:
        """Never called: no study is opened."""
        return ()

    def close_study(self, handle: Any) -> None:
        """Never called: no study is opened."""


def _from(url: str, first: int) -> bytes | None:
    """A file's bytes from one on; None if it has fewer than that."""
    request = urllib.request.Request(url, headers={"Range": f"bytes={max(0, first - 1)}-"})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            data = answer.read()
    except urllib.error.HTTPError as error:
        if error.code == 416:
            return None if first else b""
        raise
    return data[1:] if first else data


def _shortages(cluster: Mapping[str, Any]) -> list[str]:
    """Why a cluster has no machines."""
    return [_told(item, str(cluster.get("vmSize", ""))) for item in cluster.get("errors") or ()]


def _told(item: Mapping[str, Any] | None, size: str) -> str:
    """An error of a cluster's or of a run's, with its remedy; "" if there is none."""
    error = (item or {}).get("error") or {}
    code = str(error.get("code") or "")
    remedy = microsoft.help_for(code, size)
    said = f"{code}: {error.get('message', '')}" if code else ""
    return f"{said} ({remedy})" if remedy else said


def _duration(about: Mapping[str, Any]) -> float | None:
    """Seconds from a job's first command to its end."""
    from datetime import datetime

    began, ended = about.get("startTimeUtc"), about.get("endTimeUtc")
    if not began or not ended:
        return None
    moments = [datetime.fromisoformat(re.sub(r"\.\d+", "", text).replace("Z", "+00:00")) for text in (began, ended)]
    return max(0.0, (moments[1] - moments[0]).total_seconds())
