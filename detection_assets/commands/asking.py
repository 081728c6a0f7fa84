"""Asking an endpoint, as a smoke test or out of curiosity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from detection_assets.commands.context import Project
from detection_assets.domain.problems import InputError
from resources import golden
from resources.endpoints.base import EndpointError, Endpoints


def ask(out: Console, name: str, pictures: Sequence[Path]) -> int:
    """Sends pictures to the endpoint, as any client does, and shows what it finds.

    Without pictures it is asked for the golden frames of the version that serves, and judged by their known boxes.

    Returns:
        0 if it answered each of them, and rightly where that is known; 1 if not.
    """
    project = Project.of(name)
    serving = project.endpoints.status().serving
    if serving is None:
        raise InputError(f"{name}: nothing serves; `detection run {name}` deploys what passes its gates")
    if pictures:
        return _found(out, project.endpoints, pictures)
    known = next((item for item in project.resources["registry"].history() if item.version == serving.version), None)
    tags = known.tags if known else {}
    versions = tags.get("evaluation_version", ""), tags.get("dataset_version", "")
    frames = golden.frames_of(project.storage, *versions, project.detector.endpoint.confidence)
    if not frames:
        raise InputError(f"{name}: version {serving.version} has no golden frames; name pictures to send")
    verdict = golden.ask(project.endpoints, None, frames, project.detector.endpoint.p95_ms)
    latency = f"; 95 of 100 answers within {verdict.p95_ms:.0f} ms" if verdict.p95_ms else ""
    out.print(f"version {serving.version}: {verdict.why}{latency}", soft_wrap=True)
    return 0 if verdict.passed else 1


def _found(out: Console, endpoints: Endpoints, pictures: Sequence[Path]) -> int:
    table = Table()
    for column in ("picture", "version", "class", "confidence", "x1", "y1", "x2", "y2"):
        table.add_column(column, justify="left" if column in ("picture", "class") else "right", overflow="fold")
    failures: list[str] = []
    for path in pictures:
        try:
            answer = endpoints.invoke(None, path.read_bytes())
        except OSError as error:
            failures.append(f"{path}: {error.strerror}")
            continue
        except EndpointError as error:
            failures.append(f"{path}: {error}")
            continue
        for box in answer["boxes"] or [None]:
            found = ("nothing", *[""] * 5) if box is None else _row(box)
            table.add_row(str(path), str(answer["model_version"]), *found)
    if table.row_count:
        out.print(table)
    for failure in failures:
        out.print(failure, style="red", markup=False, soft_wrap=True)
    return 1 if failures else 0


def _row(box: dict[str, object]) -> tuple[str, ...]:
    return (str(box["class"]), f"{box['confidence']:.2f}", *(f"{box[side]:.0f}" for side in ("x1", "y1", "x2", "y2")))
