"""What the questions of lineage stand on, for whoever asks: somebody by `detection_assets.lineage`, or an asset.

An asset tells on its own page what is known when it is made. That is never worth the asset: what cannot be answered
then says why, and the run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict

import dagster as dg
import pandas as pd
from dagster import DagsterInstance

from detection_assets.domain import answer_text, card, cost, history, lineage, lineage_changes
from detection_assets.domain.lineage_answers import answer
from detection_assets.domain.lineage_questions import QUESTIONS
from detection_assets.domain.problems import InputError
from resources import costs, model_facts, overrides, provenance, version_index
from resources.deployments import Deployments
from resources.registry.base import ModelVersion
from resources.storage import Storage
from resources.withdrawal import withdrawals


def told(
    context: dg.AssetExecutionContext, detector: str, command: str, ask: Callable[[], pd.DataFrame], **known: str
) -> dg.MarkdownMetadataValue:
    """The answer to a question as metadata of an asset, cut to some rows; why there is none, if it cannot be had.

    Args:
        context: Of the asset.
        detector: The detector's name.
        command: The question, by the word of the command line.
        ask: Answers it.
        known: What the question is asked of, such as the version.
    """
    question = QUESTIONS[command]
    try:
        return dg.MetadataValue.md(answer_text.markdown(question, detector, ask(), **known))
    except InputError as error:
        why = str(error)
    except Exception as error:  # whatever it is: what was made is good without it
        why = f"not answered: {type(error).__name__}: {error}"
        context.log.warning(f"{question.title} {why}")
    ways = answer_text.ways(question, detector, **known)
    return dg.MetadataValue.md(f"**{question.title}**\n\n{card.escape(why)}\n\n{ways}")


def models(known: Iterable[ModelVersion]) -> pd.DataFrame:
    """Registered versions as the table `models` of `domain.lineage`, in their order."""
    rows = [
        {**{name: one.tags.get(name) for name in lineage.MODEL}, "version": one.version, "sha256": one.sha256}
        | {"approval": one.approval}
        for one in known
    ]
    return pd.DataFrame(rows, columns=lineage.MODEL, dtype=object)


def periods(storage: Storage) -> pd.DataFrame:
    """Who served what, when: the table `deployment_history`, with the digest of each model as `sha256`."""
    found = Deployments(storage).periods()
    return history.table(found).assign(sha256=[one.sha256 for one in found])


def serving(storage: Storage, known: Iterable[ModelVersion]) -> pd.DataFrame:
    """What serves now: the answer `serving`."""
    return lineage.serving(periods(storage), models(known))


def taught(storage: Storage, detector: str, model: ModelVersion) -> pd.DataFrame:
    """What taught a version, a row a video: the answer `taught`.

    Raises:
        InputError: Its dataset has no table any more.
    """
    dataset = model.tags.get("dataset_version", "")
    found = version_index.videos(storage, dataset)
    if found.empty:
        raise InputError(f"{detector} version {model.version}: its dataset {dataset or '(not said)'} has no table")
    told = found.drop(columns="content", errors="ignore")
    return answer("taught", told.assign(version=model.version, dataset_version=dataset))


def judged(storage: Storage, evaluation: str) -> pd.DataFrame:
    """What an evaluation was made on, a row a video: the answer `judged_on` in short, as of `lineage.judged_by_video`.

    Raises:
        InputError: There is none that begins so, or it was made by a release that did not note it.
    """
    return lineage.judged_by_video(provenance.of(storage, evaluation).frames)


def before(detector: str, known: Sequence[ModelVersion], version: str) -> ModelVersion:
    """The version that was registered before another.

    Args:
        detector: The detector's name.
        known: The registered versions, the newest first.
        version: One of them.

    Raises:
        InputError: There was none.
    """
    older = known[[one.version for one in known].index(version) + 1 :]
    if not older:
        raise InputError(f"{detector} version {version} is the first: there is none to compare it with")
    return older[0]


def why(storage: Storage, instance: DagsterInstance, earlier: ModelVersion, later: ModelVersion) -> pd.DataFrame:
    """What differs between what two versions were made of: the answer `why`."""
    return lineage_changes.why(*model_facts.pair(storage, instance, earlier, later))


def spent(instance: DagsterInstance, detector: str, version: str, *, now: bool = False) -> pd.DataFrame:
    """What a version cost, asset by asset, between the registration before it and its own: the answer `cost`.

    Args:
        instance: The Dagster instance.
        detector: The detector's name.
        version: The registered version.
        now: Whether it is being registered.

    Raises:
        InputError: Dagster's log does not tell when it was registered, and it is not now.
    """
    times = _registered(instance, detector)
    if version not in times and not now:
        raise InputError(f"{detector}: Dagster's event log does not tell when version {version} was registered")
    until = times.get(version)
    begun = max((time for time in times.values() if until is None or time < until), default=0.0)
    found = cost.table(costs.since(instance, [detector], begun, until))
    return answer("cost", found.rename(columns={"ran on": "ran_on", "USD": "usd"}))


def _registered(instance: DagsterInstance, detector: str) -> dict[str, float]:
    """When each version was registered first, as Dagster's log tells: seconds since 1970."""
    key, first, cursor = dg.AssetKey([detector, "registered_model"]), dict[str, float](), None
    while True:
        page = instance.fetch_materializations(key, limit=1000, cursor=cursor, ascending=True)
        for record in page.records:
            event = record.asset_materialization
            said = event.metadata.get("version") if event else None
            if said is not None:
                first.setdefault(str(said.value), record.timestamp)
        cursor = page.cursor
        if not page.has_more:
            return first


def overridden(storage: Storage, known: Iterable[ModelVersion]) -> pd.DataFrame:
    """What somebody let pass: the answer `overridden`."""
    gates, log = map(asdict, overrides.all_of(storage)), Deployments(storage).entries()
    return lineage.overridden(gates, models(known), log, withdrawals.overridden(storage))
