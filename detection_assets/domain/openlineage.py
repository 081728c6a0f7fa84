"""What a run did, in OpenLineage's words: a pure fold over what Dagster's log tells.

A job is a stage of a detector (`fridge.trained_weights`), its run is that stage in one run of Dagster, and the run of
Dagster is its parent. A dataset is a table of the lake. The same log gives the same events, byte for byte, and a longer
log the same ones and more: whoever knows how many were told can go on from there.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any, Literal

from detection_assets.domain import layout, schemas

PRODUCER = "urn:detection-assets"
SPEC = "https://openlineage.io/spec"
RUN_EVENT = f"{SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
STEPS = uuid.UUID("6f1a1f62-6c5b-5c0b-9d3e-6d4b8c1f7a55")
"""What the ids of steps are made from, with the run and the step: an id is the same whoever tells it, and when."""
INITIAL = "INITIAL"
"""What Dagster calls the version of what was never made."""
LONGEST_TRACE = 20_000
SOURCES = {"raw_videos": layout.VIDEOS, "annotations": layout.ANNOTATIONS}
"""Stages that read what people put into the lake, and where from."""

Kind = Literal["start", "success", "failure", "canceled", "materialized", "checked"]


@dataclass(frozen=True)
class Happened:
    """An entry of a run's log.

    Attributes:
        kind: What happened.
        time: Seconds since 1970.
        step: The step's key; None: it is about the run as a whole.
        error: Of a failure: its message.
        trace: Of a failure: its stack.
        asset: Of a materialization or a check: the asset's key, with `/` between parts.
        partition: Its partition, or None.
        version: Its data version.
        code: Its code version.
        inputs: Version of each asset that was read, by key.
        rows: How many rows were written, or None if nobody counted.
        columns: By column of its table, the columns that it comes from: (asset, column).
        check: Of a check: its name.
        passed: Whether it passed.
        severity: `error` or `warn`.
        description: What it says.
    """

    kind: Kind
    time: float
    step: str | None = None
    error: str = ""
    trace: str = ""
    asset: str = ""
    partition: str | None = None
    version: str = ""
    code: str = ""
    inputs: Mapping[str, str] = field(default_factory=dict)
    rows: int | None = None
    columns: Mapping[str, Sequence[tuple[str, str]]] = field(default_factory=dict)
    check: str = ""
    passed: bool = True
    severity: str = ""
    description: str = ""


@dataclass(frozen=True)
class About:
    """What is the same for all events of a run.

    Attributes:
        run: Dagster's id of the run, a UUID.
        job: Dagster's name of the job.
        namespace: Of jobs: tells installations of this software apart in one catalogue.
        lake: URI of the detector's part of the lake.
        engine: Version of Dagster.
        owner: Who answers for the detector, or "".
        tags: What is to be seen of the run, such as what triggered it.
        revision: The code's git commit, or "".
        repository: Address of its repository, or "".
    """

    run: str
    job: str
    namespace: str
    lake: str
    engine: str
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    revision: str = ""
    repository: str = ""


def events(about: About, log: Iterable[Happened]) -> list[dict[str, Any]]:
    """The events of a run.

    Args:
        about: The run.
        log: What its log tells so far, in order.

    Returns:
        START, COMPLETE, FAIL and ABORT events of the run, its steps, and the checks of their tables, in order.
    """
    told: list[dict[str, Any]] = []
    steps: dict[str, list[Happened]] = {}
    opened = False
    for one in log:
        if one.step is None:
            if one.kind == "start" or not opened:
                told.append(_event("START", one.time, about, about.run, about.job, "JOB"))
                opened = True
            if one.kind == "start":
                continue
            state = {"success": "COMPLETE", "failure": "FAIL", "canceled": "ABORT"}[one.kind]
            # What a killed process left open ends with its run.
            for step in sorted(steps):
                told.append(_of_step("ABORT" if state == "ABORT" else "FAIL", one, about, step, steps[step]))
            steps.clear()
            told.append(_event(state, one.time, about, about.run, about.job, "JOB", run=_error(one)))
        elif one.kind == "start":
            steps[one.step] = []
            told.append(_of_step("START", one, about, one.step, []))
        elif one.kind in ("materialized", "checked"):
            steps.setdefault(one.step, []).append(one)
        else:
            if one.step not in steps:  # it failed before it could start, for what it stands on is not there
                told.append(_of_step("START", one, about, one.step, []))
            found = steps.pop(one.step, [])
            told.append(_of_step("COMPLETE" if one.kind == "success" else "FAIL", one, about, one.step, found))
            told += _checks(one.time, about, one.step, [item for item in found if item.kind == "checked"])
    return told


def dataset(lake: str, path: str) -> dict[str, Any]:
    """Names a folder of the lake, by OpenLineage's rules: the store, and the path in it."""
    scheme, _, rest = lake.partition("://")
    store, _, folder = rest.partition("/")
    # file:///lake: the store is this machine, which has no name there.
    namespace, name = ("file", f"/{folder}") if scheme == "file" else (f"{scheme}://{store}", folder)
    return {"namespace": namespace, "name": f"{name.rstrip('/')}/{path}"}


def _stage(step: str) -> str:
    """The stage of a step or an asset, whichever way Dagster writes its prefix."""
    return step.rpartition("/")[2].rpartition("__")[2]


def _job(about: About, step: str) -> str:
    return f"{about.lake.rstrip('/').rpartition('/')[2]}.{_stage(step)}"


def _step_id(about: About, step: str, what: str = "") -> str:
    return str(uuid.uuid5(STEPS, f"{about.run}/{step}{what}"))


def _facet(name: str, version: str, /, **values: Any) -> dict[str, Any]:
    return {
        "_producer": PRODUCER,
        "_schemaURL": f"{SPEC}/facets/{version}/{name}.json#/$defs/{name}",
        **values,
    }


def _event(
    state: str,
    when: float,
    about: About,
    run_id: str,
    name: str,
    kind: str,
    *,
    run: Mapping[str, Any] | None = None,
    job: Mapping[str, Any] | None = None,
    inputs: Sequence[Mapping[str, Any]] = (),
    outputs: Sequence[Mapping[str, Any]] = (),
) -> dict[str, Any]:
    tags = [{"key": key, "value": value, "source": "DAGSTER"} for key, value in sorted(about.tags.items())]
    code = {"type": "git", "url": about.repository, "repoUrl": about.repository, "version": about.revision}
    return {
        "eventType": state,
        "eventTime": datetime.fromtimestamp(when, timezone.utc).isoformat(timespec="milliseconds"),
        "producer": PRODUCER,
        "schemaURL": RUN_EVENT,
        "run": {
            "runId": run_id,
            "facets": {
                "processing_engine": _facet("ProcessingEngineRunFacet", "1-1-1", name="dagster", version=about.engine),
                **({"tags": _facet("TagsRunFacet", "1-0-0", tags=tags)} if tags else {}),
                **(run or {}),
            },
        },
        "job": {
            "namespace": about.namespace,
            "name": name,
            "facets": {
                "jobType": _facet(
                    "JobTypeJobFacet", "2-0-4", processingType="BATCH", integration="DAGSTER", jobType=kind
                ),
                **(
                    {"ownership": _facet("OwnershipJobFacet", "1-0-1", owners=[{"name": about.owner, "type": "OWNER"}])}
                    if about.owner
                    else {}
                ),
                **(
                    {"sourceCodeLocation": _facet("SourceCodeLocationJobFacet", "1-1-0", **code)}
                    if about.revision and about.repository
                    else {}
                ),
                **(job or {}),
            },
        },
        "inputs": list(inputs),
        "outputs": list(outputs),
    }


def _parent(about: About) -> dict[str, Any]:
    job = {"namespace": about.namespace, "name": about.job}
    return {"parent": _facet("ParentRunFacet", "1-2-0", run={"runId": about.run}, job=job)}


def _error(one: Happened) -> dict[str, Any]:
    if one.kind not in ("failure", "canceled") or not (one.error or one.trace):
        return {}
    trace = {"stackTrace": one.trace[-LONGEST_TRACE:]} if one.trace else {}
    told = _facet("ErrorMessageRunFacet", "1-0-1", message=one.error or "failed", programmingLanguage="python", **trace)
    return {"errorMessage": told}


def _of_step(state: str, one: Happened, about: About, step: str, found: Sequence[Happened]) -> dict[str, Any]:
    made = [item for item in found if item.kind == "materialized"]
    code = sorted({item.code for item in made if item.code})
    tags = [{"key": "code_version", "value": version, "source": "DAGSTER"} for version in code]
    return _event(
        state,
        one.time,
        about,
        _step_id(about, step),
        _job(about, step),
        "ASSET",
        run={**_parent(about), **_error(one)},
        job={"tags": _facet("TagsJobFacet", "1-0-0", tags=tags)} if tags else None,
        inputs=[] if state == "START" else _inputs(about, made),
        outputs=_outputs(about, made),
    )


def _latest(made: Sequence[Happened]) -> dict[str, dict[str | None, Happened]]:
    """The last materialization of each asset and partition: a run over many videos tells each twice."""
    found: dict[str, dict[str | None, Happened]] = {}
    for item in made:
        found.setdefault(item.asset, {})[item.partition] = item
    return found


def _as_input(made: Happened) -> str:
    """The version as Dagster tells it to readers: of a partition a digest of it. So what is read is found again."""
    if made.partition is None or not made.version:
        return made.version
    return hashlib.sha256(made.version.encode()).hexdigest()


def _together(versions: Mapping[str | None, str]) -> str:
    """The version of a table of several partitions: of one its own, of more a digest over all."""
    if len(versions) == 1:
        return next(iter(versions.values()))
    digest = hashlib.sha256()
    for key, version in sorted(versions.items(), key=lambda item: item[0] or ""):
        digest.update(f"{key}\0{version}\n".encode())
    return digest.hexdigest()[:16]


def _table(about: About, asset: str, version: str, **facets: Any) -> dict[str, Any]:
    stage = _stage(asset)
    columns = schemas.SCHEMAS.get(stage, {})
    fields = [{"name": name, "type": column.dtype, "description": column.meaning} for name, column in columns.items()]
    return {
        **dataset(about.lake, layout.table_folder(stage, None)),
        "facets": {
            **({"schema": _facet("SchemaDatasetFacet", "1-2-0", fields=fields)} if fields else {}),
            **(
                {"version": _facet("DatasetVersionDatasetFacet", "1-0-1", datasetVersion=version)}
                if version and version != INITIAL
                else {}
            ),
            **facets,
        },
    }


def _inputs(about: About, made: Sequence[Happened]) -> list[dict[str, Any]]:
    read: dict[str, dict[str | None, str]] = {}
    for partitions in _latest(made).values():
        for partition, item in partitions.items():
            for asset, version in item.inputs.items():
                if version != INITIAL:  # there was nothing to read
                    read.setdefault(asset, {})[partition] = version
    people = sorted({SOURCES[_stage(item.asset)] for item in made if _stage(item.asset) in SOURCES})
    return [
        *({**dataset(about.lake, folder), "facets": {}} for folder in people),
        *(_table(about, asset, _together(versions)) for asset, versions in sorted(read.items())),
    ]


def _outputs(about: About, made: Sequence[Happened]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for asset, partitions in sorted(_latest(made).items()):
        version = _together({partition: _as_input(item) for partition, item in partitions.items()})
        counted = [item.rows for item in partitions.values() if item.rows is not None]
        last = next(reversed(partitions.values()))
        told = _table(about, asset, version, **_columns(about, last))
        if counted:
            told["outputFacets"] = {
                "outputStatistics": _facet("OutputStatisticsOutputDatasetFacet", "1-0-2", rowCount=sum(counted))
            }
        found.append(told)
    return found


def _columns(about: About, made: Happened) -> dict[str, Any]:
    fields = {
        column: {
            "inputFields": [
                {**dataset(about.lake, layout.table_folder(_stage(asset), None)), "field": name}
                for asset, name in sources
            ]
        }
        for column, sources in made.columns.items()
    }
    return {"columnLineage": _facet("ColumnLineageDatasetFacet", "1-2-0", fields=fields)} if fields else {}


def _checks(when: float, about: About, step: str, found: Sequence[Happened]) -> list[dict[str, Any]]:
    """What checks say of tables, as a run that reads them: assertions are of what is read, by OpenLineage's rules."""
    if not found:
        return []
    of: dict[str, list[dict[str, Any]]] = {}
    for one in found:
        described = {"description": one.description} if one.description else {}
        assertion = {"assertion": one.check, "name": one.check, "success": one.passed, "severity": one.severity}
        of.setdefault(one.asset, []).append({**assertion, **described})
    inputs = [
        {
            **dataset(about.lake, layout.table_folder(_stage(asset), None)),
            "facets": {},
            "inputFacets": {
                "dataQualityAssertions": _facet("DataQualityAssertionsDatasetFacet", "1-1-0", assertions=assertions)
            },
        }
        for asset, assertions in sorted(of.items())
    ]
    run_id, name = _step_id(about, step, "/checks"), f"{_job(about, step)}.checks"
    return [
        _event(state, when, about, run_id, name, "CHECKS", run=_parent(about), inputs=inputs if last else ())
        for state, last in (("START", False), ("COMPLETE", True))
    ]
