"""Decisions about what serves, by a person at a terminal: what the jobs of the same names do."""

from __future__ import annotations

import getpass
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from detection_assets.commands.context import Project
from detection_assets.commands.running import Watch, only_one, tell_problems
from detection_assets.domain.history import shown
from detection_assets.domain.problems import InputError
from resources import overrides, tables
from resources.deployments import Deployments
from resources.endpoints.base import EndpointError
from resources.instance import open_instance
from resources.rollouts import Rollouts
from resources.withdrawal import withdrawals


def history(out: Console, name: str) -> None:
    """Prints the periods of the endpoint's history, oldest first."""
    found = shown(Deployments(Project.of(name).storage).periods())
    if found.empty:
        out.print(f"{name}: nothing has served yet; `detection run {name}` deploys what passes its gates")
        return
    table = Table(title=f"{name}: who served what, when", title_justify="left")
    for column in ("from", "until", "slot", "version", "share"):
        table.add_column(column, no_wrap=column not in ("from", "until"), max_width=10)
    table.add_column("why")
    for row in found[::-1].to_dict("records"):
        why = f"{row['why']} ({row['who']})" if row["who"] else str(row["why"])
        cells = (row["from"], row["until"], row["slot"], row["version"], f"{row['share']} %", why)
        table.add_row(*(escape(str(cell)) for cell in cells))
    out.print(table)


def deploy(out: Console, name: str) -> int:
    """Runs the deployment alone, as somebody who wants it.

    Returns:
        0 if the version serves, 1 if not.
    """
    project = Project.of(name)
    from jobs import update

    _needs(project, "registered_model")
    return _run(out, project, update.plan_deploy(name, "asked for"), {"detection/forced": "true"})


def rollback(out: Console, name: str, by: str, reason: str) -> None:
    """Goes back, and says which version serves now.

    Raises:
        InputError: If there is no version to go back to, or the endpoint does not do it.
    """
    project = Project.of(name)
    from detection_assets.deployed_endpoint import plan_of
    from jobs import deployment

    driver = Rollouts(
        project.storage,
        project.resources["registry"],
        project.endpoints,
        plan_of(project.detector),
        tell=lambda text: out.print(text, markup=False),
    )
    try:
        driver.roll_back(by.strip() or getpass.getuser(), reason.strip())
    except EndpointError as error:
        raise InputError(f"{name}: {error}. `detection rollback {name}` again goes on.") from error
    with open_instance() as instance:
        instance.report_runless_asset_event(deployment.endpoint_changed(instance, name, driver))
    serving = project.endpoints.status().serving
    out.print(f"{name}: version {serving.version if serving else 'none'} serves")


def decide(out: Console, name: str, version: str | None, by: str, reason: str, *, reject: bool) -> None:
    """Approves or rejects a version.

    Raises:
        InputError: If none waits, there is no such version, or the name or the reason is missing.
    """
    project = Project.of(name)
    registry = project.resources["registry"]
    if version is None:
        waiting = registry.pending()
        if not waiting:
            raise InputError(f"{name}: no version waits for approval; name the version to decide about it again")
        version = waiting[0].version
    decided = (registry.reject if reject else registry.approve)(version, by, reason)
    from jobs import deployment

    with open_instance() as instance:
        event = deployment.approval_changed(instance, name, project.storage, decided, "")
        if event is not None:
            instance.report_runless_asset_event(event)
    out.print(f"{name}: version {version} is {decided.approval}, by {decided.tags['approved_by']}", markup=False)
    if not reject:
        out.print(
            f"the sensor `{name}_approved_models` rolls it out where `detection dev` runs; "
            f"`detection deploy {name}` does it here and now"
        )


def override(out: Console, name: str, by: str, reason: str) -> int:
    """Writes the override down, then evaluates, registers and deploys the weights.

    Returns:
        0 if they serve or wait for approval, 1 if a stage failed.

    Raises:
        InputError: If there are no weights, no gate failed, or the name or the reason is missing.
    """
    project = Project.of(name)
    weights = _needs(project, "trained_weights").iloc[0]
    evaluation = _needs(project, "evaluation")
    version = str(weights["weights_version"])
    judged = evaluation[(evaluation["model"] == "challenger") & (evaluation["sha256"] == weights["sha256"])]
    if judged.empty:
        raise InputError(f"{name}: weights {version} are not evaluated yet; `detection run {name}` does that")
    failed = overrides.failed_gates(project.storage, str(judged["evaluation_version"].iloc[0]))
    made = overrides.write(project.storage, version, by, reason, failed)
    out.print(f"{name}: {made.by} answers for weights {version}:", markup=False)
    for why in made.failed:
        out.print(f"  {why}", markup=False)
    from jobs import update

    stages = ("evaluation", "registered_model", "deployed_endpoint")
    planned = update.Planned(f"{name}_retrain", stages, None, None, 0, f"gates overridden by {made.by}")
    return _run(out, project, planned, {})


def override_withdrawn(out: Console, name: str, version: str, by: str, reason: str) -> None:
    """Writes down who answers for it that a version is deployed which learned from withdrawn videos.

    Raises:
        InputError: If there is no such version, it learned from none, or the name or the reason is missing.
    """
    project = Project.of(name)
    registry = project.resources["registry"]
    model = next((known for known in registry.history() if known.version == version), None)
    if model is None:
        there = ", ".join(known.version for known in registry.history()) or "none"
        raise InputError(f"{name}: there is no version {version}; there are: {there}")
    made = withdrawals.override(project.storage, model, by, reason)
    # What the registry's own pages show; the records in the lake are what is read.
    registry.tag(version, {"withdrawn_override": withdrawals.answered_for(project.storage, model)})
    for one in made:
        out.print(f"{name}: {one.by} answers for version {version}, which learned from {one.video}", markup=False)
    out.print(f"`detection deploy {name}` or `detection rollback {name}` may deploy it now")


def _needs(project: Project, stage: str) -> Any:
    try:
        return tables.read(project.storage, stage)
    except FileNotFoundError:
        raise InputError(f"{project.detector.name}: no {stage} yet; `detection run {project.detector.name}`") from None


def _run(out: Console, project: Project, planned: Any, labels: dict[str, str]) -> int:
    from jobs import progress, runs, update

    name = project.detector.name
    with only_one(name), open_instance() as instance:
        runs.close_dead(instance, name)
        with progress.listening(Watch(out)):
            good, run_id = update.execute(instance, project.definitions, name, planned, labels=labels)
        tell_problems(out, instance, name, [run_id])
    serving = project.endpoints.status().serving
    out.print(f"{name}: version {serving.version if serving else 'none'} serves")
    return 0 if good else 1
