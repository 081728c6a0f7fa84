"""The model behind an endpoint that answers.

Version: what serves, and the endpoint's settings. A new version goes to the idle slot, answers the golden frames there,
gets shares of the traffic step by step, and is watched; if anything fails, the slot that served serves on, untouched.
"""

import time
from collections.abc import Iterator, Mapping
from functools import cache, partial

import dagster as dg
import pandas as pd

from detection_assets.detector import Detector
from detection_assets.domain import answer_text, card, history, provenance_card, rollout
from detection_assets.domain.lineage_questions import QUESTIONS
from resources import answers, standards, tables
from resources.compute.base import version_of
from resources.deployments import Deployments, Overtaken
from resources.endpoints.base import EndpointError, Endpoints
from resources.registry.base import APPROVED, CHAMPION, PENDING, ModelVersion, Registry
from resources.rollouts import Rollouts, slots_table
from resources.storage import Storage
from resources.withdrawal import withdrawals

BY_ITSELF = ("dagster/sensor_name", "dagster/schedule_name", "dagster/from_automation_condition", "detection/process")
"""Tags of runs that nobody started for this very deployment: they do not try again what was rolled back."""
FORCED = "detection/forced"
"""Tag of a run that was started for this very deployment after all."""
NOT_ASKED = rollout.Verdict(True, "nothing was deployed, so no golden frame was asked", 0, 0, 0, 0.0)


@dg.asset(
    dagster_type=tables.TABLE,
    code_version="2",
    kinds={"python"},
    metadata={"settings": ["endpoint"]},
    check_specs=[
        dg.AssetCheckSpec(
            "golden_frames", asset="deployed_endpoint", blocking=True, description="Known frames get the known answers."
        ),
        dg.AssetCheckSpec(
            "nothing_withdrawn",
            asset="deployed_endpoint",
            blocking=True,
            description="What is deployed learned from no withdrawn video, unless somebody answers for that.",
        ),
        dg.AssetCheckSpec("latency", asset="deployed_endpoint", description="It answers in time."),
    ],
)
def deployed_endpoint(
    context: dg.AssetExecutionContext,
    detector: dg.ResourceParam[Detector],
    storage: Storage,
    registry: Registry,
    endpoints: Endpoints,
    registered_model: pd.DataFrame,
) -> Iterator[dg.MaterializeResult]:
    """A row a slot: which version it holds, its share of the traffic, its state, and where it answers."""
    log = Deployments(storage, context.run.run_id)
    driver = Rollouts(
        storage, registry, endpoints, plan_of(detector), context.run.run_id, lambda text: context.log.info(text)
    )
    settings = detector.endpoint.model_dump(mode="json", include={"confidence", "iou", "max_det"})
    alone = by_itself(context.run)
    driver.retire_if_due()
    if alone:
        driver.finish_way_back()
    registry.adopt_aliases()
    chosen, note = choose(str(registered_model.iloc[0]["version"]), registry, log, endpoints, alone)
    failure = ""
    refused = driver.refusal(chosen.version, chosen.sha256) if chosen is not None else None
    try:
        if chosen is None:
            driver.settle()
        elif refused and not _serves_already(driver, chosen, settings):
            driver.settle()
            failure = f"version {chosen.version} was not deployed: {refused}"
        elif not _serves_already(driver, chosen, settings):
            ended = driver.roll_out(chosen, settings).rollout
            if ended is not None and ended.stage == "rolled_back":
                failure = f"version {ended.version} was rolled back: {ended.why}"
    except (Overtaken, EndpointError) as error:
        failure = f"version {chosen.version if chosen else ''} was not deployed: {error}"
    last = log.last().rollout
    verdict, notes = NOT_ASKED, [note] if note else []
    if last is not None and chosen is not None and last.version == chosen.version:
        verdict = last.golden or verdict
        notes += [*last.notes, *([failure] if failure else [])]
    saw = nothing_withdrawn(storage, registry, endpoints, refused if failure else None)
    provenance = _provenance(detector, storage, registry, endpoints, log)
    told = {"provenance": dg.MetadataValue.md(provenance), **answered(context, detector.name, storage, registry)}
    yield _state(context, detector, endpoints, log, settings, verdict, notes, saw, told)
    if failure:
        serving = endpoints.status().serving
        still = f"version {serving.version} serves" if serving else "nothing serves"
        if refused:
            raise dg.Failure(f"{failure}. Now {still}.", allow_retries=False)
        raise dg.Failure(
            f"{failure}. Now {still}. To try the same version again, materialize deployed_endpoint by hand or run "
            f"`detection deploy {detector.name}`; `detection history {detector.name}` tells what happened.",
            allow_retries=False,
        )


def plan_of(detector: Detector) -> rollout.Plan:
    """How this detector's rollouts go."""
    rules = detector.rollout.model_dump()
    return rollout.Plan(p95_ms=detector.endpoint.p95_ms, **rules)


def by_itself(run: dg.DagsterRun) -> bool:
    """Whether a run was started by a sensor, a schedule or an update of everything, and not for this very asset."""
    return any(tag in run.tags for tag in BY_ITSELF) and run.tags.get(FORCED) != "true"


def choose(
    registered: str, registry: Registry, log: Deployments, endpoints: Endpoints, by_itself: bool
) -> tuple[ModelVersion | None, str]:
    """Which version is to serve now, or None to leave everything as it is, and a note that says why.

    Args:
        registered: The version that was registered last.
        registry: The registry.
        log: The endpoint's log.
        endpoints: The endpoint.
        by_itself: Whether nobody asked for this very deployment: then what was rolled back is not tried again.
    """
    known = list(registry.history())
    newest = next((item for item in known if item.version == registered), None)
    if newest is None:
        return None, f"version {registered} is not in the registry any more; register it again"
    serving = endpoints.status().serving
    note = ""
    if newest.approval != APPROVED:
        note = f"version {registered} is {newest.approval}"
        if newest.approval == PENDING:
            name = endpoints.detector
            note = f"waiting for approval: detection approve {name} {registered} --by ... --reason ..."
        # Somebody may have approved an earlier one that waited, too; never one from before what serves.
        versions = [item.version for item in known]
        end = versions.index(serving.version) if serving and serving.version in versions else len(versions)
        newest = next((item for item in known[:end] if item.approval == APPROVED), None)
    why = log.rolled_back(newest.version) if newest else None
    if newest is not None and why is not None and by_itself:
        note = f"version {newest.version} is not tried again by itself: {why}"
        newest = None
    if newest is None and serving is None:
        # Nothing answers: then what served last is better than nothing.
        return registry.get(CHAMPION), note
    return newest, note


def _serves_already(driver: Rollouts, wanted: ModelVersion, settings: dict[str, object]) -> bool:
    """Whether there is nothing to do: the version serves, with these settings, and no rollout is open."""
    if driver.log.open() is not None:
        return False
    driver.settle()
    serving = driver.endpoints.status().serving
    if serving is None or (serving.version, serving.sha256) != (wanted.version, wanted.sha256):
        return False
    return dict(driver.settings_of(wanted.version) or {}) == settings


def _provenance(
    detector: Detector, storage: Storage, registry: Registry, endpoints: Endpoints, log: Deployments
) -> str:
    """Where the version that serves comes from, as Markdown."""
    slot = endpoints.status().serving
    entry = next((known for known in registry.history() if slot and known.version == slot.version), None)
    if slot is None or entry is None:
        return "nothing serves that the registry knows"
    share = f"{slot.traffic} % on {slot.name}, {slot.state}"
    of = standards.provenance(storage, entry, detector.name, detector.said, log.previous() or "", share)
    return provenance_card.markdown(of)


def answered(
    context: dg.AssetExecutionContext, detector: str, storage: Storage, registry: Registry
) -> Mapping[str, dg.MarkdownMetadataValue]:
    """What is asked of the endpoint, answered as it is now, by the names that its page shows."""
    told, known = partial(answers.told, context, detector), cache(lambda: tuple(registry.history()))
    return {
        "serving": told("serving", lambda: answers.serving(storage, known())),
        "overridden": told("overridden", lambda: answers.overridden(storage, known())),
    }


def _state(
    context: dg.AssetExecutionContext,
    detector: Detector,
    endpoints: Endpoints,
    log: Deployments,
    settings: dict[str, object],
    verdict: rollout.Verdict,
    notes: list[str],
    saw: dg.AssetCheckResult,
    told: Mapping[str, dg.MarkdownMetadataValue],
) -> dg.MaterializeResult:
    """The endpoint as it is now, with its history."""
    periods = log.write_table()
    table = slots_table(endpoints, periods)
    status = endpoints.status()
    serving = status.serving
    if serving is not None:
        context.log.info(f"{status.url} answers with version {serving.version}")
    return dg.MaterializeResult(
        value=table,
        data_version=dg.DataVersion(
            version_of(serving.version if serving else "", serving.sha256 if serving else "", settings)
        ),
        metadata={
            "url": dg.MetadataValue.url(status.url),
            **told,
            "slots": dg.MetadataValue.md(card.frame_table(table.drop(columns=["sha256", "url"]))),
            "version": serving.version if serving else "none",
            "rollout": dg.MetadataValue.md("\n".join(f"- {card.escape(note)}" for note in notes) or "as before"),
            "shares": dg.MetadataValue.md(history.markdown(periods, time.time())),
            "history": dg.MetadataValue.md(
                f"{card.frame_table(history.shown(periods), 30)}\n\n{answer_text.ways(QUESTIONS['at'], detector.name)}"
            ),
            "golden frames": verdict.frames,
        },
        check_results=[golden_frames(verdict), saw, latency(verdict, detector.endpoint.p95_ms)],
    )


def golden_frames(verdict: rollout.Verdict) -> dg.AssetCheckResult:
    """What the endpoint answers is what was evaluated."""
    return dg.AssetCheckResult(
        check_name="golden_frames",
        passed=verdict.passed,
        description=verdict.why,
        metadata={"frames": verdict.frames, "expected boxes": verdict.expected, "found again": verdict.found},
    )


def nothing_withdrawn(
    storage: Storage, registry: Registry, endpoints: Endpoints, refused: str | None
) -> dg.AssetCheckResult:
    """What was to be deployed is refused; what serves already is told: to take it away is a person's decision.

    Args:
        storage: The detector's storage.
        registry: Its registry.
        endpoints: Its endpoint.
        refused: Why a version was not deployed, if one was not.
    """
    serving = endpoints.status().serving
    model = next((known for known in registry.history() if serving and known.version == serving.version), None)
    seen = withdrawals.refusal(storage, model, endpoints.detector) if model else None
    answered = withdrawals.answered_for(storage, model) if model else ""
    return dg.AssetCheckResult(
        check_name="nothing_withdrawn",
        passed=not refused and not seen,
        severity=dg.AssetCheckSeverity.ERROR if refused else dg.AssetCheckSeverity.WARN,
        description=refused or seen or answered or None,
    )


def latency(verdict: rollout.Verdict, limit_ms: float) -> dg.AssetCheckResult:
    """The 95th percentile over the golden frames, as the server measures it."""
    return dg.AssetCheckResult(
        check_name="latency",
        passed=verdict.p95_ms <= limit_ms,
        severity=dg.AssetCheckSeverity.WARN,
        metadata={"p95_ms": verdict.p95_ms, "limit_ms": limit_ms},
    )
