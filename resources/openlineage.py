"""OpenLineage events of a detector's runs, to a file or a collector: read from Dagster's log, whoever started the run.

How far it was told is kept beside Dagster's own cursors, for all processes of an instance. An event counts as told
when it was taken; a process that dies between the two tells it again, alike to the last byte: at least once. Where a
collector is down nothing is lost and nothing fails: the next tick goes on where this one ended.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import dagster as dg
from dagster import DagsterEventType, DagsterInstance

from detection_assets.domain import openlineage
from detection_assets.domain.openlineage import About, Happened
from resources import revision
from resources.collectors import SETTING, NotTaken, Target, target
from resources.instance import dagster_home
from resources.storage import Storage

NAMESPACE = "DETECTION_OPENLINEAGE_NAMESPACE"
"""Of jobs: tells installations apart in one catalogue."""
MOST_RUNS = 200
"""Changes of runs that a tick takes in: a first look at a long history is spread over many."""
PAGE = 1000
EVERY_S = 5.0
"""Seconds between two ticks while a command runs something."""
PATIENCE_S = 30.0
"""Seconds that a tick goes on telling: Dagster gives a sensor's tick a minute."""
CHANGES = (
    DagsterEventType.RUN_START,
    DagsterEventType.RUN_SUCCESS,
    DagsterEventType.RUN_FAILURE,
    DagsterEventType.RUN_CANCELED,
)
"""Of a run: its beginning, and its ends."""
KINDS: Mapping[DagsterEventType, openlineage.Kind] = {
    DagsterEventType.RUN_START: "start",
    DagsterEventType.RUN_SUCCESS: "success",
    DagsterEventType.RUN_FAILURE: "failure",
    DagsterEventType.RUN_CANCELED: "canceled",
    DagsterEventType.STEP_START: "start",
    DagsterEventType.STEP_SUCCESS: "success",
    DagsterEventType.STEP_FAILURE: "failure",
    DagsterEventType.ASSET_MATERIALIZATION: "materialized",
    DagsterEventType.ASSET_CHECK_EVALUATION: "checked",
}
SHOWN_TAGS = ("dagster/partition", "dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
"""Tags of a run that are told, beside those that begin with `detection/`."""
HIDDEN_TAGS = (revision.TAG, "detection/process", "detection/detector")
"""Told otherwise, or of no use elsewhere."""
DATA, CODE, INPUT = "dagster/data_version", "dagster/code_version", "dagster/input_data_version/"

log = logging.getLogger("detection.openlineage")


def tell(instance: DagsterInstance, detector: str, storage: Storage, owner: str = "") -> str:
    """Tells what happened since the last time, if the settings say where; a collector that is down is no error.

    Args:
        instance: The Dagster instance.
        detector: The detector's name.
        storage: The detector's storage, which names the tables.
        owner: Who answers for the detector, or "".

    Returns:
        What was done, for people.
    """
    to = target()
    if to is None:
        return f"{SETTING} is not set"
    with (dagster_home() / f"{detector}.openlineage.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return "somebody else is telling"
        teller = _Teller(instance, detector, storage.uri, owner)
        try:
            return f"{teller.tell(to)} events told"
        except NotTaken as error:
            log.warning("OpenLineage events wait: %s", error)
            return f"events wait: {error}"
        finally:
            to.close()


@contextmanager
def telling(instance: DagsterInstance, detector: str, storage: Storage, owner: str = "") -> Iterator[None]:
    """Tells what happens while the context lasts and what is left at its end; whatever goes wrong is a warning."""
    if target() is None:
        yield
        return
    over = threading.Event()

    def quietly() -> None:
        try:
            tell(instance, detector, storage, owner)
        except Exception as error:  # no run fails because nobody could be told of it
            log.warning("OpenLineage events wait: %s: %s", type(error).__name__, error)

    def again_and_again() -> None:
        while not over.wait(EVERY_S):
            quietly()

    thread = threading.Thread(target=again_and_again, name="openlineage", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        quietly()


@dataclass
class _State:
    """How far it was told.

    Attributes:
        after: By kind of change of a run, the last that was taken in.
        told: By run, how many of its events were told, and whether its end was taken in.
    """

    after: dict[str, int] = field(default_factory=dict)
    told: dict[str, list[int]] = field(default_factory=dict)


@dataclass
class _Teller:
    instance: DagsterInstance
    detector: str
    lake: str
    owner: str

    @property
    def _place(self) -> str:
        return f"detection/openlineage/{self.detector}"

    def tell(self, to: Target) -> int:
        """Tells what is new, in the order of the runs' beginnings; returns how many events."""
        state = self._load()
        self._take_in(state)
        self._save(state)
        until, count = time.monotonic() + PATIENCE_S, 0
        for run_id, (done, ended) in list(state.told.items()):
            about = self._about(run_id)
            fresh = openlineage.events(about, self._log(run_id))[done:] if about else []
            try:
                for event in fresh:
                    if time.monotonic() > until:
                        return count
                    to.tell(json.dumps(event, ensure_ascii=False).encode())
                    state.told[run_id] = [done := done + 1, ended]
                    count += 1
                if ended or about is None:  # who deleted the run deleted what is left to tell of it
                    del state.told[run_id]
            finally:
                self._save(state)
        return count

    def _take_in(self, state: _State) -> None:
        """Notes the runs that began or ended since the last time, in the order in which they did.

        Each kind of change is a list of its own, and the shortest gets ahead of the others: a run's end is not taken
        in before its beginning, or it would begin again once it is told.
        """
        found: list[tuple[int, DagsterEventType, str]] = []
        for change in CHANGES:
            asked = dg.RunStatusChangeRecordsFilter(
                event_type=change, after_storage_id=state.after.get(change.value, 0)
            )
            page = self.instance.fetch_run_status_changes(asked, MOST_RUNS, ascending=True)
            found += [(record.storage_id, change, record.event_log_entry.run_id) for record in page.records]
        for number, change, run_id in sorted(found, key=lambda one: one[0])[:MOST_RUNS]:
            state.after[change.value] = number
            if run_id not in state.told and self._about(run_id) is None:
                continue
            known = state.told.setdefault(run_id, [0, 0])
            known[1] = max(known[1], int(change is not DagsterEventType.RUN_START))

    def _about(self, run_id: str) -> About | None:
        run = self.instance.get_run_by_id(run_id)
        if run is None or not self._is_ours(run):
            return None
        tags = {key: value for key, value in run.tags.items() if key.startswith("detection/") or key in SHOWN_TAGS}
        tags = {key: value for key, value in tags.items() if key not in HIDDEN_TAGS}
        commit, repository = run.tags.get(revision.TAG, ""), revision.repository()
        return About(
            run_id,
            run.job_name,
            os.environ.get(NAMESPACE) or "detection",
            self.lake,
            dg.__version__,
            self.owner,
            tags,
            commit,
            repository,
        )

    def _is_ours(self, run: Any) -> bool:
        told = run.tags.get("detection/detector")
        if told:
            return told == self.detector
        # A run of some assets that the UI picked: it has no job of ours, and says by its assets whose it is.
        keys = run.asset_selection or ()
        return any(key.path[0] == self.detector for key in keys)

    def _log(self, run_id: str) -> Iterator[Happened]:
        cursor, more = None, True
        while more:
            page = self.instance.get_records_for_run(run_id, cursor, set(KINDS), PAGE)
            cursor, more = page.cursor, page.has_more
            for record in page.records:
                yield _happened(record.event_log_entry)

    def _load(self) -> _State:
        text = self.instance.daemon_cursor_storage.get_cursor_values({self._place}).get(self._place)
        try:
            return _State(**json.loads(text)) if text else _State()
        except (ValueError, TypeError):
            return _State()  # everything is told again, alike

    def _save(self, state: _State) -> None:
        self.instance.daemon_cursor_storage.set_cursor_values({self._place: json.dumps(state.__dict__)})


def _happened(entry: Any) -> Happened:
    event = entry.dagster_event
    kind, data = KINDS[event.event_type], event.event_specific_data
    error = getattr(data, "error", None)
    common: dict[str, Any] = {"kind": kind, "time": entry.timestamp, "step": event.step_key}
    if kind == "materialized":
        return Happened(**common, **_materialized(data.materialization))
    if kind == "checked":
        asset = data.asset_key.to_user_string()
        severity = data.severity.value.lower()
        return Happened(
            **common,
            asset=asset,
            check=data.check_name,
            passed=bool(data.passed),
            severity=severity,
            description=data.description or "",
        )
    if error is not None:
        trace = error.to_string()
        while error.cause is not None:  # the first cause is what a person has to know
            error = error.cause
        return Happened(**common, error=error.message.strip(), trace=trace)
    return Happened(**common, error=(event.message or "") if kind in ("failure", "canceled") else "")


def _materialized(made: Any) -> dict[str, Any]:
    tags, metadata = made.tags or {}, made.metadata
    rows = metadata.get("dagster/row_count")
    lineage = metadata.get("dagster/column_lineage")
    return {
        "asset": made.asset_key.to_user_string(),
        "partition": made.partition,
        "version": tags.get(DATA, ""),
        "code": tags.get(CODE, ""),
        "inputs": {key.removeprefix(INPUT): value for key, value in tags.items() if key.startswith(INPUT)},
        "rows": int(rows.value) if rows is not None else None,
        "columns": {
            column: [(dep.asset_key.to_user_string(), dep.column_name) for dep in deps]
            for column, deps in (lineage.value.deps_by_column if lineage is not None else {}).items()
        },
    }
