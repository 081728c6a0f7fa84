"""Which resources belong together: the one place that knows the platforms by name.

A profile is a function from a detector to a matching set. `DETECTION_PLATFORM`, or `platform:` in the detector's
file, picks it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from detection_assets.domain import layout
from detection_assets.object_store import CONNECTION, account_of
from resources import labeling_tools
from resources.alerts.base import Alerts
from resources.alerts.local import chosen
from resources.arrivals.aws import SqsArrivals
from resources.arrivals.azure import StorageQueueArrivals
from resources.arrivals.local import NobodyTells
from resources.batch.aws import SageMakerBatch
from resources.batch.azure import AzureBatch
from resources.batch.base import Batch
from resources.batch.local import LocalBatch
from resources.compute.aws import SageMakerCompute
from resources.compute.azure import AzureCompute
from resources.compute.local import LocalCompute
from resources.endpoints.aws import SageMakerEndpoints
from resources.endpoints.azure import AzureEndpoints
from resources.endpoints.local import LocalEndpoints
from resources.home import home, lake_here
from resources.microsoft_tracking import uri_of
from resources.registry.aws import SageMakerRegistry
from resources.registry.azure import AzureRegistry
from resources.registry.local import LocalRegistry
from resources.settings import SettingsError, azure_workspace, given, needed
from resources.storage import Storage
from resources.tables import TableIOManager
from resources.tracking import Tracking


def lake_setting(platform: str | None) -> str:
    """Name of the setting that says where a platform's lake is: one of its own where it is set, or the common one.

    With settings of their own, detectors on different platforms live in one Dagster, and one word moves a detector.

    Args:
        platform: As `resources_for` takes it.
    """
    own = f"DETECTION_{_chosen(platform).upper()}_LAKE"
    return own if os.environ.get(own) else "DETECTION_LAKE"


def local(
    detector: str, *, host: str, port: int, capture: Mapping[str, Any] | None = None, platform: str = "local"
) -> dict[str, Any]:
    """Everything on this machine: folders, subprocesses, SQLite, a server process.

    Args:
        detector: The detector's name; nothing is shared between detectors but the machine.
        host: Address that the endpoint binds.
        port: Port that the endpoint binds; 0 for a free one that is kept.
        capture: Which requests the endpoint keeps: `rate`, `below`, `images`, `keep_days`; None: none.
        platform: Whose lake it is, where all but the lake is on this machine.
    """
    root, setting = home(), lake_setting(platform)
    lake = os.environ.get(setting) or str(lake_here())
    # The server writes files: into a lake that is no folder of this machine it captures nothing.
    captures = Storage(root=lake, prefix=detector).local_path(layout.CAPTURES)
    storage = Storage(root=_setting(setting, str(lake_here())), prefix=detector)
    tracking = Tracking(
        uri=_setting("MLFLOW_TRACKING_URI", f"sqlite:///{root / '.mlflow' / 'mlflow.db'}"),
        experiment=detector,
        artifacts=(root / ".mlflow" / "artifacts" / detector).as_uri()
        if "MLFLOW_TRACKING_URI" not in os.environ
        else "",
        ui=os.environ.get("DETECTION_MLFLOW_UI", "http://127.0.0.1:5000"),
    )
    compute = LocalCompute(storage=storage, scratch=str(root / ".scratch" / detector))
    return {
        "storage": storage,
        "arrivals": NobodyTells(),
        "io_manager": TableIOManager(storage=storage),
        "compute": compute,
        "batch": LocalBatch(compute=compute),
        "tracking": tracking,
        "registry": LocalRegistry(tracking=tracking, model=detector),
        "alerts": _alerts(),
        "labeling": labeling_tools.chosen(detector, storage),
        "endpoints": LocalEndpoints(
            storage=storage,
            detector=detector,
            folder=str(root / ".endpoints"),
            host=host,
            port=port,
            capture={"folder": str(captures.absolute()), **capture} if capture and captures else None,
        ),
    }


def aws(detector: str, *, host: str, port: int, capture: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The lake on S3, and jobs on SageMaker; arguments as of `local`.

    Raises:
        SettingsError: A setting is missing, or is none that AWS takes.
    """
    _lake("aws", "s3://", "a bucket, as in s3://my-bucket/detectors")
    here = local(detector, host=host, port=port, capture=capture, platform="aws")
    queue = _queue("aws", "https://sqs.eu-central-1.amazonaws.com/123456789012/detection-{detector}-videos")
    common = {
        "storage": here["storage"],
        "role": needed("platform aws", "DETECTION_AWS_ROLE", "the ARN of the role that jobs and servers have"),
        "subnets": _list("DETECTION_AWS_SUBNETS"),
        "security_groups": _list("DETECTION_AWS_SECURITY_GROUPS"),
        "poll_s": float(os.environ.get("DETECTION_POLL_S", "3")),
        "detector": detector,
    }
    programs = needed("platform aws", "DETECTION_AWS_PROGRAMS_IMAGE", "the address of the image that jobs run")
    serving = needed("platform aws", "DETECTION_AWS_SERVING_IMAGE", "the address of the image that serves")
    return {
        **here,
        "arrivals": SqsArrivals(storage=here["storage"], queue=queue.replace("{detector}", detector))
        if queue
        else here["arrivals"],
        "compute": SageMakerCompute(
            **common,
            here=here["compute"],
            image=programs,
            **given(
                cpu="DETECTION_AWS_CPU", gpu="DETECTION_AWS_GPU", count="DETECTION_AWS_TRAINING_INSTANCES",
                jobs="DETECTION_AWS_PROCESSING_INSTANCES", volume_gb="DETECTION_AWS_VOLUME_GB",
                spot="DETECTION_AWS_SPOT",
            ),
        ),
        "batch": SageMakerBatch(
            **common,
            compute=here["compute"],
            image=serving,
            **given(instance="DETECTION_AWS_BATCH", count="DETECTION_AWS_BATCH_INSTANCES"),
        ),
        "registry": SageMakerRegistry(storage=here["storage"], model=detector, image=serving),
        "endpoints": SageMakerEndpoints(
            **common,
            image=serving,
            capture=dict(capture) if capture else None,
            **given(
                instance="DETECTION_AWS_ENDPOINT", count="DETECTION_AWS_ENDPOINT_INSTANCES",
                most="DETECTION_AWS_ENDPOINT_MOST", per_minute="DETECTION_AWS_ENDPOINT_PER_MINUTE",
                report_s="DETECTION_REPORT_S",
            ),
        ),
    }  # fmt: skip


def azure(detector: str, *, host: str, port: int, capture: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The lake on Blob storage, and jobs on Azure ML; arguments as of `local`.

    Raises:
        SettingsError: A setting is missing, or is none that Azure takes.
    """
    _lake("azure", "az://", "a container, as in az://my-container/detectors")
    if os.environ.get(CONNECTION):
        try:
            account_of(os.environ[CONNECTION])
        except ValueError as error:
            raise SettingsError(f"platform azure: {error}") from None
    elif not os.environ.get("AZURE_STORAGE_ACCOUNT_NAME"):
        raise SettingsError(
            "platform azure: AZURE_STORAGE_ACCOUNT_NAME is not set; set it to the storage account that has the "
            f"container, with AZURE_STORAGE_ACCOUNT_KEY or another way in (.env.example), or set {CONNECTION}"
        )
    here = local(detector, host=host, port=port, capture=capture, platform="azure")
    studio = {"storage": here["storage"], **azure_workspace("platform azure")}
    common = {**studio, "detector": detector, "poll_s": float(os.environ.get("DETECTION_POLL_S", "3"))}
    compute = AzureCompute(
        **common,
        here=here["compute"],
        image=needed("platform azure", "DETECTION_AZURE_PROGRAMS_IMAGE", "the address of the image that jobs run"),
        cpu=needed("platform azure", "DETECTION_AZURE_CPU", "the compute cluster for `hardware: cpu`"),
        gpu=needed("platform azure", "DETECTION_AZURE_GPU", "the compute cluster for `hardware: gpu`"),
        **given(
            spot="DETECTION_AZURE_SPOT", count="DETECTION_AZURE_TRAINING_INSTANCES",
            identity="DETECTION_AZURE_IDENTITY", jobs="DETECTION_AZURE_JOBS",
        ),
    )  # fmt: skip
    batch: Batch = LocalBatch(compute=compute)
    if os.environ.get("DETECTION_AZURE_BATCH"):
        image = "the address of the image that the batch endpoint runs"
        batch = AzureBatch(
            storage=here["storage"],
            detector=detector,
            compute=compute,
            cluster=_setting("DETECTION_AZURE_BATCH", ""),
            image=needed("platform azure", "DETECTION_AZURE_BATCH_IMAGE", image),
            poll_s=compute.poll_s,
            **given(count="DETECTION_AZURE_BATCH_INSTANCES"),
        )
    endpoints = AzureEndpoints(
        **common,
        image=needed("platform azure", "DETECTION_AZURE_SERVING_IMAGE", "the address of the image that serves"),
        identity=needed(
            "platform azure",
            "DETECTION_AZURE_ENDPOINT_IDENTITY",
            "the resource id of the servers' user-assigned identity",
        ),
        capture=dict(capture) if capture else None,
        **given(
            instance="DETECTION_AZURE_ENDPOINT",
            count="DETECTION_AZURE_ENDPOINT_INSTANCES",
            most="DETECTION_AZURE_ENDPOINT_MOST",
            per_minute="DETECTION_AZURE_ENDPOINT_PER_MINUTE",
            concurrent="DETECTION_AZURE_ENDPOINT_CONCURRENT",
            timeout_s="DETECTION_AZURE_ENDPOINT_TIMEOUT_S",
            wait_s="DETECTION_AZURE_ENDPOINT_WAIT_S",
            insights="DETECTION_AZURE_ENDPOINT_INSIGHTS",
            script="DETECTION_AZURE_ENDPOINT_SCRIPT",
            report_s="DETECTION_REPORT_S",
        ),
    )
    arrivals = here["arrivals"]
    if queue := _queue("azure", "https://myaccount.queue.core.windows.net/detection-{detector}-videos"):
        # A queue's name has no underscores.
        named = queue.replace("{detector}", detector.replace("_", "-"))
        arrivals = StorageQueueArrivals(storage=here["storage"], queue=named)
    return {
        **here,
        "arrivals": arrivals,
        "compute": compute,
        "batch": batch,
        "endpoints": endpoints,
        "registry": AzureRegistry(**studio, model=detector),
        # The studio shows it beside the jobs, and nothing has to be set up or paid for it.
        "tracking": here["tracking"]
        if os.environ.get("MLFLOW_TRACKING_URI")
        else Tracking(
            uri=uri_of(
                *(os.environ[f"DETECTION_AZURE_{name}"] for name in ("SUBSCRIPTION", "RESOURCE_GROUP", "WORKSPACE"))
            ),
            experiment=detector,
        ),
    }


PROFILES: Mapping[str, Callable[..., dict[str, Any]]] = {"local": local, "aws": aws, "azure": azure}


def resources_for(
    detector: str, platform: str | None, *, host: str, port: int, capture: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The resources of a detector.

    Args:
        detector: Its name.
        platform: What its file says; None leaves it to `DETECTION_PLATFORM`, and that to `local`.
        host: Address that its endpoint binds.
        port: Port that its endpoint binds, or 0.
        capture: Which requests its endpoint keeps, as the detector's `monitoring.capture` says; None: none.

    Raises:
        SettingsError: If there is no such platform, or settings contradict each other.
    """
    chosen = _chosen(platform)
    if chosen not in PROFILES:
        known = ", ".join(sorted(PROFILES))
        raise SettingsError(
            f"detector {detector}: platform {chosen!r} is not available in this version; set DETECTION_PLATFORM, or "
            f"`platform:` in detectors/{detector}.yaml, to one of: {known}"
        )
    return PROFILES[chosen](detector, host=host, port=port, capture=capture)


def _chosen(platform: str | None) -> str:
    return platform or os.environ.get("DETECTION_PLATFORM") or "local"


def _lake(platform: str, scheme: str, what: str) -> None:
    name = lake_setting(platform)
    told = os.environ.get(name, "")
    if not told.startswith(scheme):
        raise SettingsError(f"platform {platform}: {name} is {told or 'not set'}; set it to {what}")


def _setting(name: str, default: str) -> Any:
    # An EnvVar shows in the UI by its name alone, so that a secret inside a URI does not.
    return dg.EnvVar(name) if os.environ.get(name) else default


def _queue(platform: str, example: str) -> str:
    """The queue that tells of videos, with `{detector}` in it; "" for none."""
    name = f"DETECTION_{platform.upper()}_QUEUE"
    queue = os.environ.get(name, "")
    if queue and "{detector}" not in queue:
        # Whoever takes a message takes it from the others, so two detectors with one queue would miss half each.
        raise SettingsError(
            f"platform {platform}: {name} has no {{detector}} in it; each detector has a queue of its own, as in "
            f"{example}"
        )
    return queue


def _list(name: str) -> list[str]:
    return [item.strip() for item in os.environ.get(name, "").split(",") if item.strip()]


def _alerts() -> Alerts:
    try:
        return chosen(os.environ.get("DETECTION_ALERTS", ""), _setting("DETECTION_ALERTS", ""))
    except ValueError as error:
        raise SettingsError(str(error)) from None
