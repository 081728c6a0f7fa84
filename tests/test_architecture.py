"""Who knows whom, what loading costs, and what the graph looks like: the rules of the house, checked."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from detection_assets.domain import column_sources

ROOT = Path(__file__).parents[1]
ROOMS = ("detection_assets", "resources", "jobs")
STAGES = [
    *("raw_videos", "extracted_frames", "annotations", "detection_dataset", "tuned_hyperparameters"),
    *("trained_weights", "evaluation", "registered_model", "deployed_endpoint"),
    *("batch_predictions", "captured_requests", "drift_report", "label_requests"),
]
HEAVY = (
    *("torch", "ultralytics", "mlflow", "dagster_mlflow", "azure", "sagemaker", "boto3", "botocore"),
    *("cv2", "onnxruntime", "openvino", "onnx", "matplotlib", "fastapi", "hotcoco", "optuna", "cvat_sdk"),
)

# A room, and what of ours it may import. The longest prefix that fits decides.
MAY_KNOW = {
    "detection_assets.domain": ("detection_assets.domain",),
    "detection_assets.programs": (
        "detection_assets.domain",
        "detection_assets.programs",
        # What is scored is what is served: one predictor (docs/decisions).
        "detection_assets.serving.predictor",
    ),
    # How a store is opened is one rule for whoever opens one.
    "detection_assets.object_store": (),
    "detection_assets.checkpoints": ("detection_assets.object_store",),
    "detection_assets.launcher": (
        *("detection_assets.domain", "detection_assets.object_store", "detection_assets.checkpoints"),
        "detection_assets.figures",
    ),
    "detection_assets.figures": ("detection_assets.domain",),
    "detection_assets.serving": (
        *("detection_assets.domain", "detection_assets.serving", "detection_assets.object_store"),
    ),
    "detection_assets.samples": ("detection_assets.domain", "detection_assets.samples"),
    "detection_assets.detector_part": (),
    "detection_assets.detector_labeling": ("detection_assets.detector_part",),
    "detection_assets.detector": (
        *("detection_assets.domain", "detection_assets.detector_part", "detection_assets.detector_labeling"),
    ),
    "detection_assets.detector_file": ("detection_assets.detector",),
    "detection_assets.pictures": ("detection_assets.domain", "resources.storage"),
    **{
        f"detection_assets.{stage}": (
            *("detection_assets.domain", "detection_assets.detector", "detection_assets.pictures", "resources"),
        )
        for stage in STAGES
    },
    # What annotations tell, apart from their asset.
    "detection_assets.annotation_reports": ("detection_assets.domain", "detection_assets.pictures", "resources"),
    "detection_assets.annotations": (
        *("detection_assets.domain", "detection_assets.detector", "detection_assets.pictures", "resources"),
        "detection_assets.annotation_reports",
    ),
    # What the drift report is made of, apart from its asset.
    "detection_assets.drift_reference": ("detection_assets.domain", "detection_assets.pictures", "resources"),
    "detection_assets.live_labels": ("detection_assets.domain", "resources"),
    "detection_assets.drift_report": (
        *("detection_assets.domain", "detection_assets.detector", "detection_assets.pictures", "resources"),
        *("detection_assets.drift_reference", "detection_assets.live_labels"),
    ),
    # What label requests are chosen from, apart from their asset.
    "detection_assets.label_candidates": ("detection_assets.domain", "detection_assets.live_labels", "resources"),
    "detection_assets.label_looks": ("detection_assets.domain", "resources"),
    "detection_assets.label_requests": (
        *("detection_assets.domain", "detection_assets.detector", "detection_assets.pictures", "resources"),
        *("detection_assets.label_candidates", "detection_assets.label_drift", "detection_assets.label_looks"),
    ),
    "detection_assets.label_drift": ("detection_assets.domain", "detection_assets.drift_reference", "resources"),
    "detection_assets.definitions": ("detection_assets", "resources", "jobs"),
    # Questions go through everything, as the command line does, and change nothing.
    "detection_assets.lineage": ("detection_assets", "resources", "jobs"),
    "detection_assets.lineage_alike": ("detection_assets", "resources", "jobs"),
    "detection_assets.lineage_plans": ("detection_assets", "resources", "jobs"),
    # The command line is a face over everything; nothing imports it.
    "detection_assets.cli": ("detection_assets", "resources", "jobs"),
    "detection_assets.commands": ("detection_assets", "resources", "jobs"),
    "resources": ("resources", "detection_assets.domain", "detection_assets.object_store"),
    "jobs": ("jobs", "resources", "detection_assets.domain"),
    "detection_assets": (),
}


BESIDE = {
    "arrivals": {"managed.py"},
    "compute": {"managed.py", "messages.py", "searches.py", "trials.py"},
    "endpoints": {"managed.py", "desk.py"},
    "labeling": {"label_studio.py", "cvat.py"},
}
"""What a room may have beside its base and its backends: what those of clouds share, and tools that are no cloud's."""


SUBJECTS = {"withdrawal"}
"""Folders of resources that are one subject and have no backends."""


def modules() -> Iterator[tuple[str, Path]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            yield name.removesuffix(".__init__"), path


def imports(path: Path, *, top_only: bool = False) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    guarded = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for child in ast.walk(node)
    }
    inside = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for child in ast.walk(node)
    }
    for node in ast.walk(tree):
        if top_only and (id(node) in inside or id(node) in guarded):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: a relative import hides which room is meant"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(module: str) -> str:
    return max((room for room in MAY_KNOW if f"{module}.".startswith(f"{room}.")), key=len)


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_a_room_knows_only_whom_it_may(module: str, path: Path) -> None:
    allowed = MAY_KNOW[room_of(module)]
    for name in imports(path):
        if name.split(".")[0] in ROOMS:
            assert any(f"{name}.".startswith(f"{room}.") for room in allowed), f"{module} imports {name}"


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_only_programs_know_the_trainer(module: str, path: Path) -> None:
    if not module.startswith("detection_assets.programs"):
        assert not {name.split(".")[0] for name in imports(path)} & {"torch", "ultralytics", "torchvision"}


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_the_domain_is_pure(module: str, path: Path) -> None:
    if module.startswith("detection_assets.domain"):
        assert not {name.split(".")[0] for name in imports(path)} & {
            *("dagster", "mlflow", "boto3", "azure", "sagemaker", "obstore", "torch", "ultralytics")
        }


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_heavy_packages_are_imported_where_they_are_used(module: str, path: Path) -> None:
    if module in ("detection_assets.serving.app", "detection_assets.serving.errors"):
        return  # the program that is the server, and a part of it alone; nothing else imports them
    assert not {name.split(".")[0] for name in imports(path, top_only=True)} & set(HEAVY), module


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: value if isinstance(value, str) else "")
def test_platforms_are_named_in_profiles_alone(module: str, path: Path) -> None:
    if module == "resources.profiles":
        return
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Compare):
            words = {getattr(part, "value", None) for part in [node.left, *node.comparators]}
            assert not words & {"local", "aws", "azure"}, f"{module}:{node.lineno} switches on the platform"


def test_modules_say_what_they_are_for_and_stay_readable() -> None:
    for module, path in modules():
        assert ast.get_docstring(ast.parse(path.read_text())), f"{module} has no docstring"
        assert len(path.read_text().splitlines()) <= 450, f"{module} is too long to be read at once"
        assert path.stem != "utils", module


def test_resource_folders_have_the_same_files() -> None:
    names = {
        folder.name: {path.name for path in folder.glob("*.py")}
        for folder in (ROOT / "resources").iterdir()
        if folder.is_dir() and (folder / "__init__.py").exists() and folder.name not in SUBJECTS
    }
    assert names
    for room, files in names.items():
        assert {"__init__.py", "base.py", "local.py"} <= files, room
        others = files - {"__init__.py", "base.py", "local.py", "aws.py", "azure.py"}
        assert others <= BESIDE.get(room, set()), room


BACKENDS = [
    path
    for path in sorted((ROOT / "resources").rglob("*.py"))
    if path.stem in ("local", "aws", "azure") or path.stem.startswith(("amazon", "microsoft"))
]
ABOUT_300, RUN = 330, 6


def test_backends_are_short_and_none_has_a_run_of_lines_of_another() -> None:
    """An algorithm that two backends need is their base's."""
    assert len(BACKENDS) > 20
    first: dict[tuple[str, ...], Path] = {}
    for path in BACKENDS:
        text = path.read_text().splitlines()
        assert len(text) <= ABOUT_300 or path.parent.name == "resources", f"{path}: {len(text)} lines"
        lines = [line.strip() for line in text if line.strip() and not line.startswith(("import ", "from "))]
        for start in range(len(lines) - RUN + 1):
            run = tuple(lines[start : start + RUN])
            assert first.setdefault(run, path) == path, f"{path} and {first[run]}: {run}"


def test_the_lock_pins_and_names_no_index() -> None:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    assert lines
    assert all(re.match(r"^[A-Za-z0-9_.-]+==[^ ]+( ; .*)?$", line) for line in lines)


LOAD = """
import json, sys
from detection_assets import definitions
found = {}
for name in ("fridge", "surgical"):
    graph = getattr(definitions, name).resolve_asset_graph()
    found[name] = {
        key.to_user_string(): {
            "group": graph.get(key).group_name,
            "upstream": sorted(parent.to_user_string() for parent in graph.get(key).parent_keys),
            "checks": sorted(check.name for check in graph.get(key).check_keys),
            "partitioned": graph.get(key).is_partitioned,
            "kinds": sorted(graph.get(key).kinds),
            "part": graph.get(key).tags["detection/part"],
        }
        for key in graph.toposorted_asset_keys
    }
print(json.dumps({"graph": found, "modules": sorted({name.split(".")[0] for name in sys.modules})}))
"""


@pytest.fixture(scope="module")
def loaded() -> dict:
    env = {key: value for key, value in os.environ.items() if not key.startswith("DETECTION_")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def test_loading_the_definitions_imports_nothing_heavy(loaded: dict) -> None:
    assert not set(loaded["modules"]) & set(HEAVY)


def test_edges_point_from_an_earlier_stage_to_a_later_one(loaded: dict) -> None:
    for assets in loaded["graph"].values():
        for asset, about in assets.items():
            place = STAGES.index(asset.split("/")[-1])
            assert all(STAGES.index(parent.split("/")[-1]) < place for parent in about["upstream"]), asset


def test_columns_come_from_tables_that_a_stage_reads(loaded: dict) -> None:
    for asset, about in loaded["graph"]["fridge"].items():
        named = {table for sources in column_sources.of(asset.split("/")[-1]).values() for table, _ in sources}
        assert {f"fridge/{table}" for table in named} <= {*about["upstream"]}, asset


def test_two_detectors_have_nothing_in_common(loaded: dict) -> None:
    fridge, surgical = loaded["graph"]["fridge"], loaded["graph"]["surgical"]
    assert not set(fridge) & set(surgical)
    assert all(key.startswith("fridge/") for key in fridge)


def test_the_graph_is_the_one_that_was_agreed_on(loaded: dict) -> None:
    """A change of the graph is made on purpose: run with UPDATE_SNAPSHOTS=1 and read the difference."""
    frozen = ROOT / "tests" / "snapshots" / "definitions.json"
    found = json.dumps(loaded["graph"], indent=1, sort_keys=True) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        frozen.write_text(found)
    assert found == frozen.read_text()


@pytest.mark.slow
def test_the_workspace_validates(tmp_path: Path) -> None:
    dagster = Path(sys.executable).parent / "dagster"
    done = subprocess.run(
        [dagster, "definitions", "validate", "-w", "workspace.yaml"],
        cwd=ROOT,
        env={**os.environ, "DAGSTER_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "All code locations passed validation" in done.stdout + done.stderr
