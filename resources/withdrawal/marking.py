"""Withdrawing a video: what comes from it is found, told and marked; nothing is deleted yet."""

from __future__ import annotations

import io
from collections.abc import Iterable

from detection_assets.domain import layout
from detection_assets.domain.withdrawal import Serves, Withdrawal
from resources.endpoints.base import EndpointError, Endpoints
from resources.registry.base import Registry
from resources.storage import Storage
from resources.withdrawal import ancestry, withdrawals
from resources.withdrawal.traces import Traces


def record(
    storage: Storage, registry: Registry, endpoints: Endpoints, traces: Traces, by: str, reason: str
) -> Withdrawal:
    """What is to be written down of a video that is withdrawn now; writes nothing.

    Args:
        storage: The detector's storage.
        registry: Its registry.
        endpoints: Its endpoint.
        traces: What was found of the video.
        by: Who decides it.
        reason: Why.
    """
    datasets = traces.of("datasets")
    return Withdrawal(
        video=traces.video,
        by=by.strip(),
        reason=reason.strip(),
        at=withdrawals.now(),
        kind=traces.kind,
        sha256=traces.sha256,
        frames_sha256=traces.frames_sha256,
        found=traces.found(),
        datasets=datasets,
        evaluations=traces.of(layout.EVALUATIONS),
        tunings=sorted(_tunings(storage, datasets)),
        profiles=traces.of("profiles"),
        batches=sorted(traces.batches),
        models=models(storage, registry, endpoints, datasets),
        shared=list(traces.shared_files),
    )


def models(storage: Storage, registry: Registry, endpoints: Endpoints, datasets: Iterable[str]) -> list[Serves]:
    """The registered versions that some datasets taught, newest first, with where they serve now."""
    wanted, trainings = set(datasets), ancestry.trainings(storage)
    taught = {one.version: ancestry.datasets(storage, one, trainings) & wanted for one in registry.history()}
    known = [one for one in registry.history() if taught[one.version]]
    try:
        slots = endpoints.status().slots if known else ()
    except EndpointError:
        slots = ()  # what is registered is told all the same
    where = {
        one.version: ", ".join(f"{slot.name} {slot.traffic} %" for slot in slots if slot.version == one.version)
        for one in known
    }
    return [Serves(one.version, ", ".join(sorted(taught[one.version])), where[one.version]) for one in known]


def _tunings(storage: Storage, datasets: Iterable[str]) -> set[str]:
    """Versions of tunings on some datasets, in whatever version of their table."""
    import pyarrow.parquet as pq

    wanted, found = set(datasets), set[str]()
    listing = storage.list(layout.table_folder("tuned_hyperparameters", None))
    for data in storage.get_many([item.key for item in listing if item.key.endswith(".parquet")]):
        if data is not None:
            columns = ["dataset_version", "tuning_version"]
            table = pq.read_table(io.BytesIO(data), columns=columns).to_pydict()
            rows = zip(table["dataset_version"], table["tuning_version"], strict=True)
            found |= {str(tuning) for dataset, tuning in rows if dataset in wanted}
    return found
