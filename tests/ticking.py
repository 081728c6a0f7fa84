"""One sensor, ticked as the daemon would."""

from __future__ import annotations

import logging

import dagster as dg
from dagster import DagsterInstance
from dagster._core.definitions.sensor_definition import SensorExecutionData

from detection_assets import definitions, detector_file
from resources.arrivals.base import Arrivals
from resources.arrivals.local import NobodyTells
from resources.storage import Storage


class _Into(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self.lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Ticker:
    """Ticks one sensor of the detector `tiny`, carrying the cursor over.

    Attributes:
        cursor: What the last tick left.
        said: What the ticks logged.
    """

    def __init__(
        self, instance: DagsterInstance, storage: Storage, name: str, arrivals: Arrivals | None = None
    ) -> None:
        self.defs = definitions.build(detector_file.find("tiny"))
        self.sensor = self.defs.resolve_sensor_def(name)
        self.instance = instance
        self.resources = {"storage": storage, "arrivals": arrivals or NobodyTells()}
        self.cursor: str | None = None
        self.said: list[str] = []

    def __call__(self) -> list[tuple[str, str]]:
        """The ranges of partitions that a tick asks for."""
        data = self.dies()
        self.cursor = data.cursor
        for request in data.dynamic_partitions_requests or ():
            self.instance.add_dynamic_partitions(request.partitions_def_name, list(request.partition_keys))
        return [
            (
                request.tags["dagster/asset_partition_range_start"],
                request.tags["dagster/asset_partition_range_end"],
            )
            for request in data.run_requests or ()
        ]

    def dies(self) -> SensorExecutionData:
        """Does all that a tick does, and is killed before anything of it is kept."""
        with dg.build_sensor_context(
            self.instance, cursor=self.cursor, resources=self.resources, definitions=self.defs
        ) as context:
            context.log.addHandler(_Into(self.said))
            return self.sensor.evaluate_tick(context)
