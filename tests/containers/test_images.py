"""The images, as far as they can be made without a builder: what is copied, what is installed, what then works."""

from __future__ import annotations

import ast
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import dockerfile
import httpx
import pytest
from networks import network
from project import ROOT, free_port
from serving.served import grey

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SERVING, PROGRAMS, BATCH = (ROOT / "containers" / f"{name}.Dockerfile" for name in ("serving", "programs", "batch"))
IMAGES = pytest.mark.parametrize("image", [SERVING, PROGRAMS, BATCH], ids=["serving", "programs", "batch"])
USER = 10001
LEFT_OUT = ("--no-cache", "--compile-bytecode", "${ALSO}")
"""Words of an installation that nothing here depends on; an argument is empty unless somebody gives one."""
OTHERS = {"azureml_inference_server_http", "sagemaker_inference"}
"""Servers of the clouds that bring themselves."""


@IMAGES
def test_python_is_one_that_the_project_runs_on_and_is_named_in_full(image: Path) -> None:
    first = dockerfile.stages(image)[0]
    version = re.fullmatch(r"python:3\.(\d+)\.\d+-slim-\w+", first.base)
    assert version, first.base
    assert 10 <= int(version[1]) < 14
    assert len(dockerfile.stages(image)) > 1, "what installs is left behind"


@IMAGES
def test_whatever_is_copied_is_there_and_is_sent(image: Path) -> None:
    for stage in dockerfile.stages(image):
        for sources, _ in stage.copies():
            for source in sources:
                assert dockerfile.sources(source), f"{image.name}: {source}"


@pytest.mark.parametrize(
    "private",
    [".env", "lake/fridge/videos/a.mp4", ".dagster/storage/runs.db", ".git/config", "shared/key", "tests/x.py"],
)
def test_nothing_private_is_sent(private: str) -> None:
    assert not dockerfile.is_sent(private)
    assert not dockerfile.is_sent("detection_assets/domain/__pycache__/layout.cpython-311.pyc")
    assert dockerfile.is_sent("detection_assets/domain/layout.py")


@IMAGES
def test_everything_that_is_installed_is_pinned(image: Path) -> None:
    installs = [one.rest for stage in dockerfile.stages(image) for one in stage.every("RUN") if "install" in one.rest]
    assert installs
    for line in installs:
        assert "--constraint requirements.lock" in line or line.endswith("--requirement batch.lock")
        assert "apt-get" not in line


def test_the_runtime_and_the_decoders_are_the_same_in_both_locks() -> None:
    pinned, batch = (
        dict(line.split(" ;")[0].split("==") for line in path.read_text().splitlines())
        for path in (ROOT / "requirements.lock", ROOT / "containers" / "batch.lock")
    )
    for name in ("openvino", "pillow", "simplejpeg", "opencv-python-headless", "orjson", "obstore"):
        assert batch[name] == pinned[name], f"{name}: make containers/batch.lock again, as its Dockerfile says"


def test_a_group_names_nothing_new() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = project["project"]["optional-dependencies"]
    wanted = [*project["project"]["dependencies"], *extras["aws"], *extras["azure"]]
    known = {re.split(r"[\[<>=; ]", name)[0] for name in wanted}
    locked = {line.split("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines()}
    for group in project["dependency-groups"].values():
        names = {re.split(r"[\[<>=; ]", name)[0] for name in group}
        assert names <= locked
        # ultralytics brings OpenCV; the serving image has it without ultralytics.
        assert names - known <= {"opencv-python-headless"}


def reachable(*modules: str) -> set[str]:
    """The packages of others that modules of ours import, and those of ours that they import; also inside functions."""
    known, found = set[str](), set[str]()
    ahead = list(modules)
    while ahead:
        name = ahead.pop()
        path = ROOT.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if name in known or not path.is_file():
            continue
        known.add(name)
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
            else:
                continue
            for one in names:
                if one.startswith("detection_assets"):
                    ahead.append(one)
                else:
                    found.add(one.split(".")[0])
    return found - sys.stdlib_module_names - OTHERS


def installed(image: Path, folder: Path) -> tuple[Path, Path]:
    """Carries out what an image's build installs and what its first real stage copies.

    Returns:
        The environment, and the root below which its files lie.
    """
    build, image_stage = dockerfile.stages(image)[:2]
    environment, source, root = folder / "venv", folder / "src", folder / "root"
    dockerfile.copy(build, folder / "build")
    shutil.move(folder / "build" / "src", source)
    for one in build.every("RUN"):
        words = shlex.split(one.rest)
        if words[:2] == ["python", "-m"]:
            continue  # uv itself: it is here already
        told = {"/opt/venv": str(environment), "/opt/venv/bin/python": str(environment / "bin" / "python")}
        told |= {"/usr/local/bin/python": interpreter(), "uv": str(Path(sys.executable).with_name("uv"))}
        command = [told.get(word, word) for word in words if word not in LEFT_OUT]
        done = subprocess.run(command, cwd=source, capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stderr}"
    dockerfile.copy(image_stage, root)
    return environment, root


def interpreter() -> str:
    """A Python of this version that others than its owner may start, if there is one: the server changes its user."""
    name = f"python3.{sys.version_info.minor}"
    here = [str(Path(sys.executable).resolve()), shutil.which(name, path="/usr/local/bin:/usr/bin")]
    for one in filter(None, here):
        if all(folder.stat().st_mode & 0o001 for folder in Path(one).parents):
            return one
    return sys.executable


def missing(environment: Path, packages: set[str]) -> list[str]:
    look = f"import importlib.util as u; print(*[name for name in {sorted(packages)!r} if u.find_spec(name) is None])"
    done = subprocess.run([environment / "bin" / "python", "-c", look], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.fixture(scope="module")
def serving() -> Iterator[tuple[Path, Path]]:
    # Not in pytest's own folder, which is closed to others: the server is to be somebody else.
    with tempfile.TemporaryDirectory(prefix="serving-image-") as folder:
        Path(folder).chmod(0o755)
        yield installed(SERVING, Path(folder))


def test_the_serving_image_has_what_the_server_imports_and_no_trainer(serving: tuple[Path, Path]) -> None:
    environment, root = serving
    # Problems as a table are the graph's business.
    assert missing(environment, reachable("detection_assets.serving.app") - {"pandas"}) == []
    gone = {"torch", "ultralytics", "dagster", "mlflow", "pandas", "pip"}
    assert set(missing(environment, gone)) == gone
    alone = subprocess.run(
        [environment / "bin" / "python", "-c", "import detection_assets.serving.app as app; print(app.__file__)"],
        env={"PYTHONPATH": str(root / "opt" / "detection")}, cwd="/", capture_output=True, text=True,
    )  # fmt: skip
    assert alone.returncode == 0, alone.stderr
    assert alone.stdout.startswith(str(root))


@pytest.mark.parametrize("words", [["serve"], ["serve", "--log-level", "debug"]], ids=["serve", "with options"])
def test_the_serving_image_serves(serving: tuple[Path, Path], words: list[str]) -> None:
    environment, root = serving
    stage = dockerfile.stages(SERVING)[-1]
    assert [one.rest for one in stage.every("CMD")] == ['["serve"]'], "and SageMaker says the same word"
    assert not list(stage.every("ENTRYPOINT"))
    with tempfile.TemporaryDirectory(prefix="serving-model-") as folder:
        model, port = Path(folder) / "model", free_port()
        network(model)
        for path in (Path(folder), model):
            path.chmod(0o755)
        told = {"/opt/venv": str(environment), "/opt/detection": str(root / "opt" / "detection")}
        env = {name: value for name, value in stage.environment().items() if name != "PATH"}
        env = {name: told.get(value, value) for name, value in env.items()} | {
            "PATH": f"{environment / 'bin'}:{root / 'usr' / 'local' / 'bin'}:/usr/bin:/bin",
            "AZUREML_MODEL_DIR": str(model),
            "SAGEMAKER_BIND_TO_PORT": str(port),
        }
        with (Path(folder) / "log").open("w+") as log:
            running = subprocess.Popen(
                [root / "usr" / "local" / "bin" / words[0], *words[1:]], env=env, cwd="/", stdout=log, stderr=log
            )
            try:
                client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30)
                ends = time.monotonic() + 60
                while not alive(client):
                    assert running.poll() is None, Path(log.name).read_text()
                    assert time.monotonic() < ends, Path(log.name).read_text()
                    time.sleep(0.1)
                answer = client.post("/invocations", content=grey(200), headers={"Content-Type": "image/jpeg"})
                assert answer.status_code == 200, answer.text
                assert {box["class"] for box in answer.json()["boxes"]} == {"apple", "kéfir $5"}
                assert uid_of(running.pid) == (USER if os.getuid() == 0 else os.getuid())
                assert checked(stage, environment, env) == 0, "the health check agrees"
                client.close()
            finally:
                running.terminate()
                running.wait(timeout=60)
        assert checked(stage, environment, env) != 0, "and sees that the server is gone"


def alive(client: httpx.Client) -> bool:
    try:
        return client.get("/ping").status_code == 200
    except httpx.TransportError:
        return False


def uid_of(pid: int) -> int:
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("Uid:")]
    return int(line.split()[1])


def checked(stage: dockerfile.Stage, environment: Path, env: dict[str, str]) -> int:
    """What the image's HEALTHCHECK says."""
    (check,) = stage.every("HEALTHCHECK")
    command = ast.literal_eval(check.rest.partition("CMD ")[2])
    return subprocess.run([environment / "bin" / command[0], *command[1:]], env=env, capture_output=True).returncode


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_batch_image_has_what_the_script_and_azures_driver_import() -> None:
    with tempfile.TemporaryDirectory(prefix="batch-image-") as folder:
        environment, root = installed(BATCH, Path(folder))
        assert missing(environment, reachable("detection_assets.serving.batch") | {"azureml", "fuse", "pandas"}) == []
        look = "import azureml.core, detection_assets.serving.batch as batch; print(batch.__file__)"
        env = {"PYTHONPATH": str(root / "opt" / "detection"), "HOME": folder}
        words = [environment / "bin" / "python", "-c", look]
        done = subprocess.run(words, env=env, cwd="/", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert str(root) in done.stdout


@pytest.fixture
def programs() -> Iterator[tuple[Path, Path]]:
    # Not in pytest's own folder, which keeps what is left there: this is several GB.
    with tempfile.TemporaryDirectory(prefix="programs-image-") as folder:
        yield installed(PROGRAMS, Path(folder))


@pytest.mark.long
@pytest.mark.timeout(900)
def test_the_programs_image_has_what_the_programs_import_and_no_graph(
    programs: tuple[Path, Path], tmp_path: Path
) -> None:
    environment, root = programs
    names = ["extract", "train", "evaluate", "predict"]
    modules = ["detection_assets.launcher", *(f"detection_assets.programs.{name}" for name in names)]
    needed = reachable(*modules)
    assert {"torch", "av", "obstore"} <= needed
    assert missing(environment, needed) == []
    gone = {"dagster", "mlflow", "dagster_webserver"}
    assert set(missing(environment, gone)) == gone
    for module in modules:
        done = subprocess.run(
            [environment / "bin" / "python", "-m", module, "--help"],
            env={"PYTHONPATH": str(root / "opt" / "detection"), "HOME": str(tmp_path)}, cwd="/", capture_output=True,
            text=True,
        )  # fmt: skip
        assert done.returncode == 0, f"{module}: {done.stderr}"
