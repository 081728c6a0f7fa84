"""The report on a detector: gathered from pointers and aggregates, never from what there is of each video."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import orjson
import pandas as pd
from rich.console import Console

from detection_assets.commands.context import Project
from detection_assets.commands.labels import finished
from detection_assets.commands.written import whole
from detection_assets.domain import cost, layout, report_html
from detection_assets.domain.problems import InputError, Told
from detection_assets.domain.report_html import ALL, MOST_DAYS, Report, columns_of
from resources import costs, label_batches, lake, overrides, standards, tables
from resources.deployments import Deployments
from resources.home import home
from resources.instance import open_instance
from resources.registry.base import ModelVersion
from resources.storage import PARALLEL, Published, Storage

VERSIONS = 100
"""The newest registered versions, and datasets, that a report tells of."""
COST_DAYS = 90.0
T = TypeVar("T")
R = TypeVar("R")


def report(out: Console, name: str, file: Path | None, ui: str) -> None:
    """Writes the report, and says where it is.

    Args:
        out: Where to say it.
        name: The detector.
        file: The file; None for one in the project's scratch.
        ui: Address of the Dagster UI, for links.

    Raises:
        InputError: The address is none, or the file cannot be written.
    """
    if not ui.startswith(("http://", "https://")):
        raise InputError(f"--ui {ui}: an address begins with http:// or https://")
    project = Project.of(name)
    target = (file or home() / ".scratch" / "report" / f"{project.detector.name}.html").absolute()
    if target.is_dir():
        raise InputError(f"--out {target}: is a folder; name a file in it")
    page = report_html.page(gather(project, time.time(), ui))
    with whole(target, "--out") as part:
        part.write_text(page, encoding="utf-8", errors="replace")
    out.print(str(target), markup=False, soft_wrap=True)


def gather(project: Project, now: float, ui: str) -> Report:
    """Reads what a report tells.

    Args:
        project: The detector.
        now: Until when, epoch seconds.
        ui: Address of the Dagster UI.
    """
    storage, detector = project.storage, project.detector
    entries = list(project.resources["registry"].history())[:VERSIONS]
    judged = list(_abreast(lambda entry: _judged(storage, entry), entries))
    growth = _growth(storage)
    days = _drift(storage)
    with open_instance() as instance:
        videos = len(lake.known_videos(instance, detector.name))
        spent = cost.table(costs.since(instance, [detector.name], now - COST_DAYS * 86400))
    return Report(
        detector.name,
        detector.said,
        now,
        f"Read: the endpoint's log, {len(entries)} registered versions with their evaluations, {len(growth)} datasets' "
        f"descriptions, the drift reports of {days['day'].nunique()} days, costs of {COST_DAYS:g} days, open batches. "
        "No video, frame or annotation was opened.",
        Deployments(storage).periods(),
        columns_of(
            (_version(storage, entry, figures, gates) for entry, (figures, gates) in zip(entries, judged, strict=True)),
            *("version", "approval", "by", "when", "reason", "dataset", "ap50", "low", "high", "gates", "override"),
        ),
        columns_of(
            (
                {"version": entry.version, **row}
                for entry, (figures, _) in reversed(list(zip(entries, judged, strict=True)))
                for row in figures
            ),
            *("version", "class", "ap50", "low", "high"),
        ),
        growth,
        videos,
        days,
        spent,
        f"the last {COST_DAYS:g} days",
        _labels(storage),
        ui,
    )


def _abreast(each: Callable[[T], R], those: Sequence[T]) -> Iterator[R]:
    with ThreadPoolExecutor(PARALLEL) as pool:
        yield from pool.map(each, those)


def _judged(storage: Storage, entry: ModelVersion) -> tuple[list[dict[str, Any]], list[str]]:
    """Figures of a version as a whole and by class, and what its gates say that failed; nothing if that is gone."""
    made = storage.published(layout.evaluation(entry.tags.get("evaluation_version") or "-"))
    if made is None or not {"metrics.parquet", "summary.json"} <= made.files.keys():
        return [], []
    try:
        return _figures(storage, made)
    except Told:
        raise  # of the lake
    except (OSError, ValueError, KeyError, TypeError) as error:
        # One that was damaged is no reason to tell nothing of the others.
        return [], [f"{made.prefix} cannot be read ({type(error).__name__})"]


def _figures(storage: Storage, made: Published) -> tuple[list[dict[str, Any]], list[str]]:
    table = pd.read_parquet(io.BytesIO(storage.get(made.key("metrics.parquet"))))
    table = table[(table["model"] == "challenger") & table["slice_kind"].isin(["all", "class"])]
    figures = table.assign(**{"class": table["slice"].where(table["slice_kind"] == "class", ALL)})
    summary = orjson.loads(storage.get(made.key("summary.json")))
    failed = [str(gate["why"]) for gate in summary.get("gates", []) if not gate["passed"]]
    return figures[["class", "ap50", "low", "high"]].to_dict("records"), failed


def _version(
    storage: Storage, entry: ModelVersion, figures: Sequence[Mapping[str, Any]], failed: Sequence[str]
) -> dict[str, Any]:
    tags, nan = entry.tags, float("nan")
    whole = next((row for row in figures if row["class"] == ALL), {})
    override = overrides.read(storage, tags.get("weights_version") or "-") if failed else None
    return {
        "version": entry.version,
        "approval": entry.approval,
        "by": tags.get("approved_by", ""),
        "when": tags.get("approved_at", "")[:16].replace("T", " "),
        "reason": "; ".join(filter(None, (tags.get("approval_reason"), tags.get("withdrawn_override")))),
        "dataset": tags.get("dataset_version", ""),
        **{name: float(whole.get(name, nan)) for name in ("ap50", "low", "high")},
        "gates": "; ".join(failed),
        "override": f"{override.by}: {override.reason}" if override else "",
    }


def _growth(storage: Storage) -> pd.DataFrame:
    """The datasets by when they were published, oldest first; of each its description and not its tables."""
    made_at = {
        item.key.split("/")[1]: datetime.fromtimestamp(item.written, timezone.utc)
        for item in storage.list("datasets")
        if item.key.endswith(f"/{layout.MANIFEST}") and item.key.count("/") == 2
    }
    made_at |= standards.noted(storage, "detection_dataset", list(made_at))
    newest = sorted(made_at, key=lambda version: made_at[version])[-VERSIONS:]

    def one(version: str) -> dict[str, Any] | None:
        made = storage.published(layout.dataset(version))
        if made is None or "dataset.json" not in made.files:
            return None
        at = f"{made_at[version].astimezone(timezone.utc):%Y-%m-%d %H:%M}"
        try:
            meta = orjson.loads(storage.get(made.key("dataset.json")))
            return {"dataset": version, "at": at, **{name: int(meta[name]) for name in ("images", "boxes", "videos")}}
        except Told:
            raise
        except (OSError, ValueError, KeyError, TypeError):
            return None

    found = [row for row in _abreast(one, newest) if row is not None]
    return columns_of(found, "dataset", "at", "images", "boxes", "videos")


def _drift(storage: Storage) -> pd.DataFrame:
    """What the newest days' reports say."""
    folder = f"{layout.table_folder('drift_report', None)}/"
    days = {item.key.removeprefix(folder).partition("/")[0] for item in storage.list(folder.rstrip("/"))}
    table = tables.read(storage, "drift_report", sorted(days)[-MOST_DAYS:])
    return table[["day", "version", "feature", "verdict", "why"]]


def _labels(storage: Storage) -> pd.DataFrame:
    far = _abreast(lambda batch: label_batches.progress(storage, batch), label_batches.known(storage))
    return columns_of(
        (
            {
                "batch": one.batch,
                "asked": f"{datetime.fromtimestamp(one.asked, timezone.utc):%Y-%m-%d}" if one.asked else "",
                "tool": one.tool or "not handed over",
                "where": one.link or one.place,
                "finished": finished(one),
            }
            for one in far
            if one.open
        ),
        *("batch", "asked", "tool", "where", "finished"),
    )
