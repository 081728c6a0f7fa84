"""Runs told to a catalogue outside: by a sensor those of the UI and of sensors, by a command its own as they go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from dagster import DagsterInstance

from resources import openlineage
from resources.collectors import SETTING, target
from resources.storage import Storage

EVERY_S = 30


def sensors_of(detector: str, owner: str) -> list[dg.SensorDefinition]:
    """The sensor of a detector that tells of its runs: on where the settings say where to, else off.

    Raises:
        InputError: If the settings name neither a file nor a collector.
    """
    wanted = target() is not None

    @dg.sensor(
        name=f"{detector}_openlineage",
        minimum_interval_seconds=EVERY_S,
        default_status=dg.DefaultSensorStatus.RUNNING if wanted else dg.DefaultSensorStatus.STOPPED,
        description=f"Tells OpenLineage events of the detector's runs where {SETTING} says.",
        # It starts nothing; a sensor has to name something that it could start.
        asset_selection=dg.AssetSelection.groups(detector),
    )
    def tell(context: dg.SensorEvaluationContext, storage: Storage) -> dg.SkipReason:
        return dg.SkipReason(openlineage.tell(context.instance, detector, storage, owner))

    return [tell]


@contextmanager
def telling_of(instance: DagsterInstance, defs: dg.Definitions, detector: str) -> Iterator[None]:
    """Tells of the runs of this process while the context lasts."""
    if target() is None:
        yield
        return
    resources = defs.resources or {}
    owner = getattr(resources["detector"], "owner", None) or ""
    with (
        dg.build_resources({"storage": resources["storage"]}) as opened,
        openlineage.telling(instance, detector, opened.storage, owner),
    ):
        yield
