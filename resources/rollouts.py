"""Drives a rollout over an endpoint: what the state machine asks for is written down, then done, then seen.

Whoever is killed in between leaves a log from which the next one goes on: what was decided and not done is done again,
which changes nothing where it was done. Two drivers at once do the same things, and only one of them gets to decide.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from detection_assets.domain import rollout as machine
from detection_assets.domain.history import Entry, Period, moment
from detection_assets.domain.problems import InputError
from detection_assets.domain.rollout import Plan, Rollout, Seen, Verdict
from resources import golden
from resources.deployments import Deployments, Overtaken
from resources.endpoints.base import EndpointError, Endpoints, EndpointStatus
from resources.registry.base import CHAMPION, ModelVersion, Registry
from resources.storage import Storage
from resources.withdrawal import withdrawals

LOOK_S = 0.5
"""Seconds between two looks at a rollout that goes on."""
PULSE_S = 10.0
"""Seconds between two signs of life."""
PATIENCE_S = 10.0
"""Seconds that an endpoint may not answer before it counts as down: a busy machine answers late."""
TRIES = 3
FOUND = "found so: it was changed by hand"


@dataclass
class Rollouts:
    """A driver.

    Attributes:
        storage: The detector's storage.
        registry: Its registry.
        endpoints: Its endpoint.
        plan: How rollouts go.
        run: The Dagster run that drives, or "".
        tell: Takes progress, a line each.
    """

    storage: Storage
    registry: Registry
    endpoints: Endpoints
    plan: Plan = field(default_factory=Plan)
    run: str = ""
    tell: Callable[[str], None] = field(default=lambda _: None)
    _frames: tuple[str, golden.Frames] | None = None
    _pulsed: float = 0.0

    def __post_init__(self) -> None:
        """How long a slot may take to load is the platform's matter."""
        self.plan = replace(self.plan, ready_s=self.endpoints.ready_s)

    @property
    def log(self) -> Deployments:
        """The endpoint's log."""
        return Deployments(self.storage, self.run)

    # What a caller asks for ------------------------------------------------------------------------------------------

    def roll_out(self, target: ModelVersion, settings: Mapping[str, Any], instead_of: str = "", why: str = "") -> Entry:
        """Lets a version take the traffic over; goes on with its open rollout if there is one.

        A rollout that is open for another version is rolled back first.

        Args:
            target: The registered version.
            settings: `confidence`, `iou`, `max_det`.
            instead_of: The version that this is the way back from, or "".
            why: Why it may serve; the version's approval if "".

        Returns:
            The log's last entry: its rollout is `kept` or `retired`, or `rolled_back` with the reason.

        Raises:
            InputError: If it learned from a withdrawn video, and nobody answers for that.
        """
        if refused := self.refusal(target.version, target.sha256):
            raise InputError(f"{self.endpoints.detector}: {refused}")
        self.settle(target, settings)
        last = self.log.last()
        if last.rollout is None or not last.rollout.open:
            self.begin(target, settings, instead_of, why)
        return self.go_on()

    def settle(self, target: ModelVersion | None = None, settings: Mapping[str, Any] | None = None) -> None:
        """Brings what somebody left open to an end: the first version goes on, any other is rolled back.

        Args:
            target: A version whose rollout is left open, to be gone on with; None: no rollout is.
            settings: The settings that it is to have.
        """
        self.endpoints.wake()
        self.log.observe(self.endpoints.status(), FOUND)
        now = self.log.last().rollout
        wanted = now is not None and target is not None and (now.version, now.sha256) == (target.version, target.sha256)
        refused = self.refusal(now.version, now.sha256) if now is not None and now.open else None
        if now is not None and now.open and not (wanted and dict(now.settings) == dict(settings or {})):
            if not (now.stage == "full" and now.old is None):
                why = f"version {target.version} was asked for instead" if target else "it was left open"
                self._go_back(now.id, refused or why)
            self.go_on()
        elif now is not None and not now.open and not self.log.last().settled:
            self.go_on()

    def finish_way_back(self) -> None:
        """Goes on with a way back that somebody asked for and whose driver died; nothing else is touched."""
        now = self.log.last().rollout
        if now is not None and now.open and now.instead_of:
            self.endpoints.wake()
            self.go_on()

    def begin(self, target: ModelVersion, settings: Mapping[str, Any], instead_of: str = "", why: str = "") -> Entry:
        """Writes down that a version is to take the traffic over; nothing is done yet."""
        serving = self.endpoints.status().serving
        answered = withdrawals.answered_for(self.storage, target)
        approval = "; ".join(part for part in (why or target.tags.get("approval_reason", ""), answered) if part)
        rollout = Rollout(
            id=uuid.uuid4().hex[:12],
            version=target.version,
            sha256=target.sha256,
            onnx=target.onnx,
            settings=dict(settings),
            slot=self.endpoints.idle_slot(),
            old=serving.name if serving else None,
            old_version=serving.version if serving else "",
            approved_by=target.tags.get("approved_by", ""),
            approval=approval,
            instead_of=instead_of,
            entered=time.time(),
            why=f"version {target.version}: {approval}" if approval else f"version {target.version}",
        )
        return self.log.decide(self.log.last(), rollout)

    def roll_back(self, by: str, reason: str) -> Entry:
        """Goes back to the version that served before: at once if its slot still has it, else by deploying it again.

        Args:
            by: Who decides it.
            reason: Why.

        Raises:
            InputError: If there is no version to go back to, or it learned from a withdrawn video.
            EndpointError: If the endpoint does not do it; the next run goes on.
        """
        self.endpoints.wake()
        now = self.log.observe(self.endpoints.status(), FOUND).rollout
        why = f"rolled back by {by}: {reason}" if reason else f"rolled back by {by}"
        if now is not None and now.old is not None and (now.open or (now.stage == "kept" and self._still(now))):
            # While a rollout is open the old version serves; after it, going back is to deploy it again.
            old = self.log.last().slots.get(now.old)
            if not now.open and (refused := self.refusal(now.old_version, old.sha256 if old else "")):
                raise InputError(f"{self.endpoints.detector}: {refused}")
            self._go_back(now.id, why, by)
            return self.go_on()
        serving = self.endpoints.status().serving
        version = self.log.previous()
        if serving is None or version is None:
            what = f"version {serving.version} is the first" if serving else "nothing serves"
            raise InputError(f"{self.endpoints.detector}: {what}; there is no version to go back to")
        target = next((known for known in self.registry.history() if known.version == version), None)
        if target is None:
            raise InputError(f"{self.endpoints.detector}: version {version} served before and is not registered now")
        settings = self.settings_of(version) or {}
        decided = replace(target, tags={**target.tags, "approved_by": by})
        return self.roll_out(decided, settings, serving.version, why)

    def refusal(self, version: str, sha256: str = "") -> str | None:
        """Why a version may not be deployed: it learned from a withdrawn video; None if it may.

        Args:
            version: The version.
            sha256: Its model's digest, if it is known: a registry that is begun anew knows another by the same number.
        """
        if not withdrawals.videos(self.storage):
            return None
        model = next((known for known in self.registry.history() if known.version == version), None)
        if sha256 and (model is None or model.sha256 != sha256):
            model = ModelVersion(self.registry.model, version, sha256, "")
        return withdrawals.refusal(self.storage, model, self.endpoints.detector) if model else None

    def retire_if_due(self) -> bool:
        """Unloads the old slot if its time is over; returns whether it did."""
        last = self.log.last()
        if last.rollout is None or last.rollout.stage != "kept" or not last.settled:
            return False
        following, _ = machine.advance(last.rollout, Seen(time.time(), "ready"), self.plan)
        if following is last.rollout:
            return False
        self._decide(last, following)
        self.go_on()
        return True

    def settings_of(self, version: str) -> Mapping[str, Any] | None:
        """With which settings a version was rolled out last."""
        told = [entry.rollout for entry in self.log.entries() if entry.rollout]
        of = [rollout for rollout in told if rollout.version == version] or told
        return of[-1].settings if of else None

    # The loop --------------------------------------------------------------------------------------------------------

    def go_on(self) -> Entry:
        """Drives the rollout of the log's last entry until it rests.

        Raises:
            Overtaken: If somebody began another rollout meanwhile.
            EndpointError: If not even the way back could be gone; the next run tries again.
        """
        last = self.log.last()
        assert last.rollout is not None, "there is a rollout to go on with"
        name = last.rollout.id
        verdict: Verdict | None = None
        try:
            while True:
                last = self._now(name)
                rollout = last.rollout
                assert rollout is not None
                self._pulse()
                if not last.settled:
                    self._say(rollout)
                    try:
                        self._do(rollout)
                    except EndpointError:
                        if self._now(name).number == last.number:
                            raise
                        continue  # somebody else decided meanwhile; what he wants is done instead
                    self._settle(last)
                    continue
                if rollout.stage == "golden":
                    verdict = verdict or golden.ask(
                        self.endpoints, rollout.slot, self._golden(rollout), self.plan.p95_ms
                    )
                elif not rollout.open and rollout.stage != "kept":
                    return last
                following, _ = machine.advance(rollout, self._look(rollout, verdict), self.plan)
                if following is not rollout:
                    # Who withdraws a video must not find a model that saw it get more of the traffic.
                    turns = following.open and (rollout.old or rollout.stage != "full")
                    if turns and (refused := self.refusal(rollout.version, rollout.sha256)):
                        self._go_back(name, refused)
                    else:
                        self._decide(last, following)
                elif rollout.stage == "kept":
                    return last
                else:
                    time.sleep(max(self.endpoints.look_s, min(LOOK_S, self.plan.bake_s / 10)))
        except Overtaken:
            raise
        except BaseException as error:
            self._give_up(name, error)
            if isinstance(error, EndpointError):
                return self.log.last()
            raise

    def _give_up(self, name: str, error: BaseException) -> None:
        """Goes back after what no stage foresees, also after a cancelled run."""
        last = self._now(name)
        if last.rollout is None or not last.rollout.open:
            raise error
        if last.rollout.stage == "full" and last.rollout.old is None:
            raise error  # nothing else could answer
        what = str(error) if isinstance(error, EndpointError) else f"interrupted: {type(error).__name__} {error}"
        self._go_back(name, what.strip())
        last = self._now(name)
        assert last.rollout is not None
        self._do(last.rollout)
        self._settle(last)

    def _go_back(self, name: str, why: str, by: str = "") -> None:
        """Writes down that a rollout is rolled back, whatever somebody else decides at the same time."""
        while True:
            last = self._now(name)
            if last.rollout is None or last.rollout.stage in ("retired", "rolled_back"):
                return
            try:
                self.log.decide(last, machine.roll_back(last.rollout, time.time(), why, by))
                return
            except Overtaken:
                continue

    def _now(self, name: str) -> Entry:
        last = self.log.last()
        if last.rollout is None or last.rollout.id != name:
            raise Overtaken(f"{self.endpoints.detector}: another rollout was begun while this one went on")
        return last

    def _decide(self, after: Entry, rollout: Rollout) -> None:
        try:
            self.log.decide(after, rollout)
        except Overtaken:
            return  # somebody else decided; the loop looks what

    def _settle(self, after: Entry) -> None:
        try:
            self.log.settle(after, self.endpoints.status())
        except Overtaken:
            return
        self.log.write_table()

    def _look(self, rollout: Rollout, verdict: Verdict | None) -> Seen:
        ends = time.monotonic() + self.plan.ready_s
        while True:
            new = next((slot for slot in self._status().slots if slot.name == rollout.slot), None)
            # A server that was started again loads what it held: that is not the version's fault.
            reloads = rollout.stage in machine.WATCHED and new is not None and new.state == "loading"
            if not reloads or time.monotonic() > ends:
                break
            time.sleep(max(self.endpoints.look_s, LOOK_S))
        there = new is not None and (new.version, new.sha256) == (rollout.version, rollout.sha256)
        return Seen(
            now=time.time(),
            state=new.state if new and there else "absent",
            error=new.error if new else "",
            golden=verdict,
            new=self._health(rollout.slot),
            old=self._health(rollout.old) if rollout.old else None,
        )

    def _status(self) -> EndpointStatus:
        ends = time.monotonic() + PATIENCE_S
        status = self.endpoints.status()
        while not status.alive and time.monotonic() < ends:
            time.sleep(max(self.endpoints.look_s, LOOK_S))
            status = self.endpoints.status()
        return status

    def _health(self, slot: str) -> machine.Health | None:
        try:
            return self.endpoints.health(slot)
        except EndpointError:
            return None

    # What the actions are --------------------------------------------------------------------------------------------

    def _do(self, rollout: Rollout) -> None:
        """Does what a stage asks for; the way back is tried several times."""
        tries = TRIES if rollout.stage == "rolled_back" else 1
        for left in reversed(range(tries)):
            try:
                for action in machine.entry(rollout, self.plan):
                    self._act(action, rollout)
                if rollout.stage == "rolled_back":
                    self.endpoints.wake()
                return
            except EndpointError:
                if not left:
                    raise
                time.sleep(LOOK_S)

    def _act(self, action: machine.Action, rollout: Rollout) -> None:
        match action:
            case machine.Deploy(slot):
                self.endpoints.deploy(slot, rollout.onnx, rollout.sha256, rollout.version, rollout.settings)
            case machine.Mirror(slot, share):
                self.endpoints.mirror(slot, share)
            case machine.Route(traffic):
                self.endpoints.route(traffic)
            case machine.Remove(slot, version):
                found = next((item for item in self.endpoints.status().slots if item.name == slot), None)
                if found is not None and found.version == version and not found.traffic:
                    self.endpoints.remove(slot)
            case machine.Point(version):
                if any(known.version == version for known in self.registry.history()):
                    self.registry.point(CHAMPION, version)
            case machine.Tag(version, outcome, why):
                if any(known.version == version for known in self.registry.history()):
                    told = {"rollout": outcome, "rollout_reason": why[:500], "rollout_at": moment(time.time())}
                    self.registry.tag(version, told)
            case machine.AskGolden():
                pass  # asked by the loop, which judges the answers

    def _golden(self, rollout: Rollout) -> golden.Frames:
        if self._frames is None or self._frames[0] != rollout.version:
            tags = next((item.tags for item in self.registry.history() if item.version == rollout.version), {})
            frames = golden.frames_of(
                self.storage,
                tags.get("evaluation_version", ""),
                tags.get("dataset_version", ""),
                float(rollout.settings.get("confidence", 0.25)),
            )
            self._frames = (rollout.version, frames)
        return self._frames[1]

    def _still(self, rollout: Rollout) -> bool:
        """Whether the old slot could take the traffic at once."""
        return any(
            slot.name == rollout.old and slot.version == rollout.old_version and slot.state == "ready"
            for slot in self._status().slots
        )

    def _pulse(self) -> None:
        if time.monotonic() - self._pulsed > PULSE_S:
            self._pulsed = time.monotonic()
            self.log.pulse()

    def _say(self, rollout: Rollout) -> None:
        path = machine.path(rollout, self.plan)
        here: tuple[machine.Stage, int] = (rollout.stage, rollout.step)
        done = path.index(here) if rollout.open and here in path else len(path)
        share = machine.share_of(rollout, self.plan)
        words = {
            "prepare": f"loading version {rollout.version}",
            "golden": "answering golden frames",
            "shadow": f"mirrored requests for {self.plan.shadow_s:g} s",
            "canary": f"{share} % of the traffic for {self.plan.bake_s:g} s",
            "full": "taking the traffic",
            "kept": f"version {rollout.version} serves; slot {rollout.old} is kept for {self.plan.keep_s:g} s",
            "retired": f"version {rollout.version} serves alone",
            "rolled_back": f"rolled back: {rollout.why}",
        }
        self.tell(f"[{done}/{len(path)}] slot {rollout.slot}: {words[rollout.stage]}")


def slots_table(endpoints: Endpoints, periods: Iterable[Period]) -> pd.DataFrame:
    """The `deployed_endpoint` table: the slots as they are now, and since when by the history."""
    status = endpoints.status()
    since = {period.slot: period.start for period in periods if period.end is None}
    columns = ["endpoint", "slot", "version", "sha256", "traffic", "state", "url", "deployed_at"]
    rows = [
        {
            "endpoint": endpoints.detector,
            "slot": slot.name,
            "version": slot.version,
            "sha256": slot.sha256,
            "traffic": slot.traffic,
            "state": slot.state,
            "url": status.url,
            "deployed_at": moment(since.get(slot.name, time.time())),
        }
        for slot in status.slots
    ]
    return pd.DataFrame(rows, columns=columns)
