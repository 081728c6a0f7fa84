"""Bringing a detector up to date with a person watching."""

from __future__ import annotations

import fcntl
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from detection_assets.commands.context import Project
from detection_assets.domain.problems import InputError
from jobs import jobs
from resources import label_batches, tables
from resources.deployments import Deployments
from resources.instance import dagster_home, open_instance
from resources.withdrawal import withdrawals

if TYPE_CHECKING:
    import pandas as pd

    from jobs.progress import Told


@dataclass
class Stage:
    """What became of a stage in this call."""

    seconds: float = 0.0
    state: str = ""
    note: str = ""


@dataclass
class Watch:
    """Shows what a run tells, line by line or, on a terminal, on a line that moves."""

    out: Console
    stages: dict[str, Stage] = field(default_factory=dict)
    _started: dict[str, float] = field(default_factory=dict)
    _shown: float = 0.0
    status: Any = None

    def __call__(self, told: Told) -> None:
        """Takes one thing that happened."""
        now = time.monotonic()
        stage = self.stages.setdefault(told.stage, Stage())
        if told.kind == "start":
            self._started[told.stage] = now
            self._say(f"{told.stage} ...")
        elif told.kind == "progress":
            self._line(f"{told.stage} {_bar(told.done, told.total)} {told.done}/{told.total} {told.text}", now)
        elif told.kind in ("success", "failure"):
            stage.seconds += now - self._started.get(told.stage, now)
            stage.state = "made" if told.kind == "success" else "failed"
            mark = "[green]done[/green]" if told.kind == "success" else "[red]failed[/red]"
            self.out.print(f"{mark} {told.stage} in {stage.seconds:.1f} s")

    def _say(self, text: str) -> None:
        if self.status is not None:
            self.status.update(text)
        else:
            self.out.print(text, markup=False)

    def _line(self, text: str, now: float) -> None:
        if self.status is not None:
            self.status.update(text)
        elif now - self._shown > 2:
            self._shown = now
            self.out.print(text, markup=False)


def _bar(done: int, total: int, width: int = 24) -> str:
    filled = round(width * done / total) if total else 0
    return "━" * filled + "╌" * (width - filled)


@contextmanager
def only_one(name: str) -> Iterator[IO[str]]:
    """Keeps a second `run` of the same detector out.

    Raises:
        InputError: If one is under way.
    """
    path = dagster_home() / f"{name}.lock"
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{name}: another `detection run {name}` is under way; wait for it or stop it") from None
        yield lock


def run(out: Console, name: str, until: str, watch: Watch | None = None) -> int:
    """Syncs partitions, materializes what is stale, and shows a summary.

    Returns:
        0 if everything is up to date now, 1 if a stage failed.
    """
    if until not in jobs.STAGES:
        raise InputError(f"--until {until}: no such stage; there are: {', '.join(jobs.STAGES)}")
    project = Project.of(name)
    watch = watch or Watch(out)
    with only_one(name), open_instance() as instance:
        from jobs import progress, runs, update

        defs = project.definitions
        if runs.close_dead(instance, name):
            out.print("a run that was killed is marked as failed; going on from where it was")
        synced = update.sync_partitions(instance, name, project.storage)
        for path, why in synced.refused.items():
            out.print(f"left out {path}: {why}", style="yellow", markup=False)
        if not synced.videos:
            raise InputError(
                f"{name}: no videos in {project.storage.uri_of('videos')}; `detection add {name} FILES...`"
            )
        ended: dict[str, bool] = {}
        with progress.listening(watch):
            found = update.stale(instance, defs, name, project.storage, synced)
            for planned in update.plan_ingest(found, name, synced, until):
                good, run_id = _execute(out, instance, defs, name, planned, watch)
                ended[run_id] = good
            # What could not be taken in must not be missing from a dataset unnoticed.
            if ended:
                found = update.stale(instance, defs, name, project.storage, synced)
            planned = update.plan_build(found, name, until) if all(ended.values()) else None
            if planned is None and until == "deployed_endpoint" and all(ended.values()):
                planned = _revive(project)
            if planned is not None:
                good, run_id = _execute(out, instance, defs, name, planned, watch)
                ended[run_id] = good
        if not ended:
            out.print(f"{name} is up to date: nothing to do")
        tell_problems(out, instance, name, ended)
        summary(out, project, instance, until, watch)
    return 0 if all(ended.values()) else 1


def _execute(out: Console, instance: Any, defs: Any, name: str, planned: Any, watch: Watch) -> tuple[bool, str]:
    from jobs import update

    what = f" for {planned.count} videos" if planned.count else ""
    out.print(f"[bold]{planned.stages[0]}[/bold] to [bold]{planned.stages[-1]}[/bold]{what}: {planned.why}")
    if out.is_terminal:
        with out.status("starting ...") as watch.status:
            done = update.execute(instance, defs, name, planned)
        watch.status = None
        return done
    return update.execute(instance, defs, name, planned)


def _revive(project: Project) -> Any:
    """An endpoint that should answer and does not is started again; one that lost its state is deployed again."""
    from jobs import update

    if Deployments(project.storage).open() is not None:
        return update.plan_deploy(project.detector.name, "a rollout was left open")
    status = project.endpoints.status()
    if status.alive and status.serving is not None:
        return None
    if status.serving is not None:
        project.endpoints.wake()
        project.endpoints.wait_ready(status.serving.name, project.endpoints.ready_s)
        return None
    return update.plan_deploy(project.detector.name, "the endpoint is gone")


def tell_problems(out: Console, instance: Any, name: str, runs: Iterable[str]) -> None:
    """Shows why a stage failed, and what the checks of these runs had to say, once each."""
    import dagster as dg

    for run_id in runs:
        for record in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
            error = record.dagster_event.event_specific_data.error
            while error.cause is not None:
                error = error.cause
            out.print(error.message.strip(), style="red", markup=False)
        for record in instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION):
            found = record.dagster_event.event_specific_data
            if not found.passed:
                told = [found.description or "", *(_plain(value) for value in found.metadata.values())]
                text = "\n  ".join(part for part in told if part)[:1500]
                out.print(f"check {found.asset_key.path[-1]}/{found.check_name}: {text}", style="yellow", markup=False)


def _plain(value: Any) -> str:
    text = str(getattr(value, "value", value))
    lines = [line.strip("| ") for line in text.splitlines() if line.strip("|-: ")]
    return "\n  ".join(line.replace(" | ", "  ") for line in lines[:12] if "data:image" not in line)


def summary(out: Console, project: Project, instance: Any, until: str, watch: Watch) -> None:
    """A line a stage: what it holds now, and what this call did."""
    table = Table(title=project.detector.name, title_justify="left")
    for column, justify in (("stage", "left"), ("holds", "left"), ("this run", "left"), ("seconds", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]
    videos = instance.get_dynamic_partitions(f"{project.detector.name}_videos")
    for stage in jobs.STAGES[: jobs.STAGES.index(until) + 1]:
        done = watch.stages.get(stage, Stage(state="unchanged"))
        style = {"made": "green", "failed": "red"}.get(done.state, "dim")
        seconds = f"{done.seconds:.1f}" if done.seconds else ""
        table.add_row(stage, holds(project, stage, videos), f"[{style}]{done.state}[/{style}]", seconds)
    out.print(table)
    if until == "deployed_endpoint":
        from detection_assets.commands import serving

        status = project.endpoints.status()
        if status.alive and status.serving is not None:
            out.print(f"[bold]{status.url}[/bold] answers with version {status.serving.version}")
            serving.tell_how(out, project.endpoints)


def holds(project: Project, stage: str, videos: Sequence[str]) -> str:
    """What a stage's table holds, in a few words."""
    try:
        table = tables.read(project.storage, stage, videos if stage in jobs.INGEST else None)
    except FileNotFoundError:
        return "nothing yet"
    return _described(stage, table)


def _described(stage: str, table: pd.DataFrame) -> str:
    if table.empty:
        return "nothing"
    first = table.iloc[0]
    if stage == "raw_videos":
        bad = int(table["problem"].notna().sum())
        return f"{len(table)} videos" + (f", {bad} with a problem" if bad else "")
    if stage == "extracted_frames":
        return f"{int(table['kept'].sum())} frames kept of {len(table)} looked at"
    if stage == "annotations":
        named = table.dropna(subset=["class"])
        return f"{len(named)} boxes of {named['class'].nunique()} classes on {table['frame'].nunique()} frames"
    if stage == "detection_dataset":
        splits = table["split"].value_counts()
        return f"{first['dataset_version']}: " + ", ".join(
            f"{splits.get(split, 0)} {split}" for split in ("train", "val", "test")
        )
    if stage == "trained_weights":
        return f"{first['sha256'][:12]}: {first['epochs']} epochs, {first['bytes'] / 1e6:.1f} MB"
    if stage == "evaluation":
        overall = table[(table["model"] == "challenger") & (table["slice_kind"] == "all")].iloc[0]
        interval = f"{overall['low']:.3f} to {overall['high']:.3f}"
        return f"mAP50 {overall['ap50']:.3f} ({interval}), mAP50-95 {overall['ap50_95']:.3f}"
    if stage == "registered_model":
        return f"{first['name']} version {first['version']}, {first['alias']}"
    return ", ".join(f"{row.slot}: version {row.version}, {row.traffic} %" for row in table.itertuples())


def _tell_open_batches(out: Console, project: Project) -> None:
    for batch in label_batches.watched(project.storage):
        far = label_batches.progress(project.storage, batch)
        if far.open:
            told = f"labels {batch}: {len(far.finished)} of {far.pictures} pictures finished, {far.link or far.place}"
            out.print(told, markup=False)


def _reasons(found: Mapping[str | None, str]) -> str:
    """Why a stage is stale, in a few words: each reason with how many videos it is about."""
    counted = Counter(found.values())
    return "; ".join(f"{why} ({many} videos)" if None not in found else why for why, many in counted.most_common())


def status(out: Console, name: str) -> None:
    """Shows what there is, and what is stale and why; changes nothing."""
    project = Project.of(name)
    with open_instance() as instance:
        from jobs import update

        listed = update.Listed(project.storage)
        seen = update.look(instance, name, project.storage)
        found = update.stale(instance, project.definitions, name, project.storage, seen, listed=listed)
        table = Table(title=name, title_justify="left")
        for column in ("stage", "holds", "state"):
            table.add_column(column)
        begun = False
        for stage in jobs.STAGES:
            why = _reasons(found[stage])
            begun = begun or bool(why)
            state = (
                f"[yellow]stale: {why}[/yellow]"
                if why
                else "[yellow]behind[/yellow]"
                if begun
                else "[green]fresh[/green]"
            )
            table.add_row(stage, holds(project, stage, seen.videos), state)
        out.print(table)
        for what, videos in (("new videos in the lake", seen.added), ("videos are gone from the lake", seen.removed)):
            if videos:
                out.print(f"{len(videos)} {what}: {', '.join(videos[:5])}{' ...' if len(videos) > 5 else ''}")
        _tell_open_batches(out, project)
        endpoint = project.endpoints.status()
        serving = endpoint.serving
        _tell_withdrawn(out, project)
        if endpoint.alive and serving is not None:
            out.print(f"{endpoint.url} answers with version {serving.version} from slot {serving.name}")
        else:
            out.print(f"the endpoint does not answer; `detection run {name}` or `detection serve {name}` starts it")


def _tell_withdrawn(out: Console, project: Project) -> None:
    """Which videos are withdrawn, and which models that saw them serve all the same."""
    storage, name = project.storage, project.detector.name
    records = withdrawals.read_all(storage)
    if not records:
        return
    for one in records:
        done = withdrawals.tombstone(storage, one.video)
        state = f"; erased on {done.ended[:10]}" if done else ""
        if withdrawals.begun(storage, one.video):
            state = f"; its erasure was begun: `detection withdraw {name} {one.video} --erase` goes on"
        out.print(f"{one.why()}{state}", style="dim", markup=False)
    serving = {slot.version for slot in project.endpoints.status().slots if slot.traffic}
    for model in project.resources["registry"].history():
        if model.version in serving and (why := withdrawals.refusal(storage, model, name)):
            out.print(f"it serves: {why}", style="yellow", markup=False, soft_wrap=True)
