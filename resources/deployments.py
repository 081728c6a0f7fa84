"""The endpoint's log in the lake: how far a rollout is, and who served what, when, at what share.

Entries are numbered without a gap and put with create-if-absent, so that of two who want to write the next one exactly
one succeeds and the other learns that it was overtaken. The log is all there is; `rollout/state.json` only says where
its end was a moment ago, so that finding the end does not take a listing.
"""

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import orjson

from detection_assets.domain import history, layout
from detection_assets.domain.history import Entry, Held
from detection_assets.domain.rollout import Rollout
from resources import tables
from resources.endpoints.base import EndpointStatus
from resources.storage import Storage

DEAD_S = 120.0
"""An open rollout whose driver gave no sign of life for so long has none any more."""
TABLE = "deployment_history"


class Overtaken(RuntimeError):
    """Somebody else wrote the next entry first."""


@dataclass(frozen=True)
class Deployments:
    """The log of one detector's endpoint.

    Attributes:
        storage: The detector's storage.
        run: The Dagster run that writes, or "".
    """

    storage: Storage
    run: str = ""

    # Reading ---------------------------------------------------------------------------------------------------------

    def last(self) -> Entry:
        """The log's last entry; one with number 0 if there is none."""
        found = Entry(0, 0.0)
        with suppress(FileNotFoundError, ValueError):  # it is only a hint
            found = Entry.load(orjson.loads(self.storage.get(layout.ROLLOUT_STATE)))
        while (following := self._entry(found.number + 1)) is not None:
            found = following
        return found

    def entries(self) -> list[Entry]:
        """The whole log."""
        keys = [layout.rollout_entry(number) for number in range(1, self.last().number + 1)]
        return [Entry.load(orjson.loads(data)) for data in self.storage.get_many(keys) if data is not None]

    def periods(self) -> list[history.Period]:
        """Who served what, when, at what share."""
        return history.periods(self.entries())

    def open(self) -> Rollout | None:
        """The rollout that somebody has to go on with, if there is one."""
        last = self.last()
        return last.rollout if last.rollout and (last.rollout.open or not last.settled) else None

    def rolled_back(self, version: str) -> str | None:
        """Why a version was rolled back; None if it was not, or serves again since."""
        return self.last().rolled_back.get(version)

    def previous(self) -> str | None:
        """The version that had all the traffic before the one that has it now and was not rolled back."""
        last = self.last()
        serving = max(last.slots.values(), key=lambda held: held.share, default=None)
        if serving is None or not serving.share:
            return None
        return history.previous(self.periods(), serving.version, last.rolled_back)

    def _entry(self, number: int) -> Entry | None:
        try:
            data = self.storage.get(layout.rollout_entry(number))
        except FileNotFoundError:
            return None
        return Entry.load(orjson.loads(data))

    # Writing ---------------------------------------------------------------------------------------------------------

    def decide(self, after: Entry, rollout: Rollout, who: str = "") -> Entry:
        """Writes down what is to be, before it is done.

        Args:
            after: The entry that this was decided on.
            rollout: The new state.
            who: Who decided it, if a person did.

        Raises:
            Overtaken: If there is an entry after `after` already.
        """
        rolled_back = dict(after.rolled_back)
        if rollout.stage == "rolled_back":
            rolled_back[rollout.version] = rollout.why
        elif rollout.stage in ("kept", "retired"):
            rolled_back.pop(rollout.version, None)
            if rollout.instead_of:
                rolled_back[rollout.instead_of] = rollout.approval
        return self._append(
            replace(
                after,
                number=after.number + 1,
                at=max(time.time(), after.at),
                rollout=rollout,
                settled=False,
                why=f"{rollout.stage.replace('_', ' ')}: {rollout.why}",
                who=who or rollout.by or rollout.approved_by,
                run=self.run,
                rolled_back=rolled_back,
            )
        )

    def settle(self, after: Entry, status: EndpointStatus) -> Entry:
        """Writes down that what was decided is done, and what the slots are now.

        Raises:
            Overtaken: If there is an entry after `after` already.
        """
        return self._append(
            replace(after, number=after.number + 1, at=self._since(after, status), slots=held(status), settled=True)
        )

    def observe(self, status: EndpointStatus, why: str, who: str = "") -> Entry:
        """Writes down what the slots are if that is not what the log says.

        After a decision that nobody noted as done they are what its driver still did before it was killed; otherwise
        somebody changed the endpoint by hand.

        Args:
            status: The endpoint as it is.
            why: Why the slots may be as they are, if no rollout made them so.
            who: Who may have done it.
        """
        while True:
            after = self.last()
            found = held(status)
            if found == dict(after.slots):
                return after
            fresh = replace(after, number=after.number + 1, at=self._since(after, status), slots=found)
            if after.settled:
                fresh = replace(fresh, why=why, who=who, run=self.run)
            try:
                return self._append(fresh)
            except Overtaken:
                continue

    def write_table(self) -> list[history.Period]:
        """Writes the `deployment_history` table as it is now, and returns its periods."""
        found = self.periods()
        tables.write(self.storage, TABLE, None, history.table(found), self.run)
        return found

    @staticmethod
    def _since(after: Entry, status: EndpointStatus) -> float:
        # An endpoint that knows when its routes were changed knows it better than who looks later.
        routed = status.routed_at
        return max(after.at, min(time.time(), routed)) if routed is not None and routed > after.at else time.time()

    def _append(self, entry: Entry) -> Entry:
        data = orjson.dumps(entry.dump())
        if not self.storage.put_if_absent(layout.rollout_entry(entry.number), data):
            raise Overtaken(f"{self.storage.prefix}: somebody else changed the endpoint's rollout at the same time")
        self.storage.put(layout.ROLLOUT_STATE, data)
        return entry

    # The driver's sign of life ---------------------------------------------------------------------------------------

    def pulse(self) -> None:
        """Says that the open rollout is being driven."""
        self.storage.put(layout.ROLLOUT_PULSE, orjson.dumps({"run": self.run, "at": time.time()}))

    def abandoned(self) -> bool:
        """Whether there is an open rollout that nobody drives."""
        if self.open() is None:
            return False
        try:
            told: dict[str, Any] = orjson.loads(self.storage.get(layout.ROLLOUT_PULSE))
            return time.time() - float(told["at"]) > DEAD_S
        except (FileNotFoundError, ValueError, KeyError):
            return time.time() - self.last().at > DEAD_S


def held(status: EndpointStatus) -> dict[str, Held]:
    """What the slots of an endpoint hold, as the log says it."""
    return {slot.name: Held(slot.version, slot.traffic, slot.sha256) for slot in status.slots}
