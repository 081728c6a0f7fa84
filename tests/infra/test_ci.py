"""Pipelines: each held against its own schema, and against what it calls."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from project import ROOT
from ruamel.yaml import YAML

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
PIPELINE = ROOT / "infra" / "aws" / "pipeline.yaml"
AZURE = ROOT / "infra" / "azure" / "pipeline.yaml"
BINARIES = Path(sys.executable).parent
LOGINS = {"aws-actions/configure-aws-credentials", "azure/login"}
ALONE = {"ecr:GetAuthorizationToken", "cloudformation:GetTemplateSummary"}
"""Actions that know no resource, or one that is not there yet."""


def read(path: Path) -> Any:
    return YAML(typ="safe").load(path.read_text())


def resources() -> dict[str, Any]:
    from cfnlint.decode.cfn_yaml import load

    return load(str(PIPELINE))["Resources"]


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def commands() -> dict[str, list[str]]:
    """What each step of each pipeline runs."""
    found = {
        f"{path.stem}/{name}": [step["run"] for step in job["steps"] if "run" in step]
        for path in WORKFLOWS
        for name, job in read(path)["jobs"].items()
    }
    for name, one in resources().items():
        if one["Type"] == "AWS::CodeBuild::Project":
            found[f"pipeline/{name}"] = YAML(typ="safe").load(one["Properties"]["Source"]["BuildSpec"])["phases"][
                "build"
            ]["commands"]
    for stage, steps in stages().items():
        lines = [line for step in steps for line in script(step).splitlines()]
        found[f"azure/{stage}"] = [line for line in lines if line]
    return found


def stages() -> dict[str, list[Any]]:
    """The steps of each stage of Azure's pipeline."""
    found: dict[str, list[Any]] = {}
    for stage in read(AZURE)["stages"]:
        (job,) = stage["jobs"]
        found[stage["stage"]] = job["steps"] if "steps" in job else job["strategy"]["runOnce"]["deploy"]["steps"]
    return found


def script(step: Any) -> str:
    """What a step of Azure's pipeline runs; "" if it runs nothing of ours."""
    return step.get("bash") or step.get("inputs", {}).get("inlineScript") or ""


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_githubs_schema_has_nothing_to_say(workflow: Path) -> None:
    command = [BINARIES / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", workflow]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_azures_schema_has_nothing_to_say() -> None:
    how = [
        "--builtin-schema",
        "vendor.azure-pipelines",
        "--data-transform",
        "azure-pipelines",
        "--regex-variant",
        "python",
    ]
    done = subprocess.run([BINARIES / "check-jsonschema", *how, AZURE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linter_has_nothing_to_say() -> None:
    command = [BINARIES / "cfn-lint", "--include-checks", "W", "--", PIPELINE]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_they_call_is_there() -> None:
    called = {
        target for lines in commands().values() for line in lines for target in re.findall(r"make ([a-z-]+)", line)
    }
    assert called == {"images", "smoke", "promote-aws", "promote-azure"}
    assert called <= targets()
    testing = [name for name, lines in commands().items() if len(lines) == 1 and lines[0].endswith("bash .ci/run")]
    assert testing == ["test/test", "pipeline/Test", "azure/Test"]


def test_both_ways_do_the_same_in_the_same_order() -> None:
    deploy = read(ROOT / ".github" / "workflows" / "deploy.yaml")["jobs"]
    assert {name: job.get("needs") for name, job in deploy.items()} == {
        "images": None, "staging": "images", "production": "staging",
    }  # fmt: skip
    assert deploy["production"]["environment"] == "production", "its reviewers are asked before it begins"
    stages = [stage["Name"] for stage in resources()["Pipeline"]["Properties"]["Stages"]]
    assert stages == ["Source", "Test", "Images", "Staging", "Approval", "Production"]
    on_azure = read(AZURE)["stages"]
    assert {stage["stage"]: stage.get("dependsOn") for stage in on_azure} == {
        "Test": None, "Images": "Test", "Staging": "Images", "Production": "Staging",
    }  # fmt: skip
    assert on_azure[-1]["jobs"][0]["environment"] == "production", "its approvers are asked before it begins"
    assert "refs/heads/main" in on_azure[1]["condition"], "of what is no main's only the tests run"


def test_azures_pipeline_gives_a_step_no_more_than_it_needs() -> None:
    for stage, steps in stages().items():
        assert steps[0] == {"checkout": "self", "persistCredentials": "false"}
        for step in steps:
            # What a stranger can write, as a branch's name, must reach no shell: scripts take it from the environment.
            assert "$(" not in script(step)
            assert "${{" not in script(step)
            if "inlineScript" in step.get("inputs", {}):
                assert step["inputs"]["azureSubscription"] == f"detection-{stage.lower()}", (
                    "each stage is somebody else"
                )
    assert not [step for step in stages()["Test"] if "task" in step], "what strangers propose is given no login"


def test_a_login_is_renewed_for_as_long_as_a_command_runs(tmp_path: Path) -> None:
    for name, does in {
        "curl": 'echo "$*" > "$OUT/asked"; echo \'{"value": "a-token"}\'',
        "az": 'echo "$*" >> "$OUT/part"; mv "$OUT/part" "$OUT/said"',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    env = {
        **os.environ,
        "OUT": str(tmp_path),
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "AZURE_LOGIN_EVERY_S": "0.05",
    }
    env |= {"AZURE_LOGIN_CLIENT": "who", "AZURE_LOGIN_TENANT": "where"}
    env |= {"ACTIONS_ID_TOKEN_REQUEST_TOKEN": "ask", "ACTIONS_ID_TOKEN_REQUEST_URL": "https://given.test/?a=b"}
    waiting = 'until test -e "$OUT/said"; do sleep 0.05; done; exit 7'
    command = [ROOT / ".ci" / "with-azure-login", "sh", "-c", waiting]
    done = subprocess.run(command, env=env, timeout=60, capture_output=True, text=True)  # to the end of all it began
    assert done.returncode == 7, done.stderr
    assert "bearer ask https://given.test/?a=b&audience=api://AzureADTokenExchange" in (tmp_path / "asked").read_text()
    assert "--username who --tenant where" in (tmp_path / "said").read_text()
    assert "--federated-token a-token" in (tmp_path / "said").read_text()


def test_every_python_that_is_supported_is_tested() -> None:
    project = (ROOT / "pyproject.toml").read_text()
    said = set(re.findall(r"Programming Language :: Python :: (3\.\d+)", project))
    matrix = read(ROOT / ".github" / "workflows" / "test.yaml")["jobs"]["test"]["strategy"]["matrix"]["python"]
    assert set(matrix) == (said or {"3.10", "3.11", "3.12", "3.13"})
    assert 'requires-python = ">=3.10,<3.14"' in project


def test_workflows_may_no_more_than_they_need() -> None:
    for path in WORKFLOWS:
        workflow = read(path)
        assert workflow["permissions"] == {"contents": "read"}
        for job in workflow["jobs"].values():
            logins = {step["uses"].partition("@")[0] for step in job["steps"] if "uses" in step} & LOGINS
            assert logins in (set(), LOGINS), "one is for AWS, the other for Azure"
            assert ("id-token" in job.get("permissions", {})) == bool(logins)
            checkout = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout")]
            assert all(step["with"]["persist-credentials"] is False for step in checkout)
            # What a stranger can write, as a branch's name, must reach no shell: scripts take it from the environment.
            assert not [step["run"] for step in job["steps"] if "${{" in step.get("run", "")]
            assert all(re.search(r"@v\d+$", step["uses"]) for step in job["steps"] if "uses" in step)


def test_each_step_that_is_about_a_cloud_asks_which() -> None:
    for job in read(ROOT / ".github" / "workflows" / "deploy.yaml")["jobs"].values():
        for step in job["steps"]:
            said = json.dumps({key: value for key, value in step.items() if key != "if"}).lower()
            both = "make images" in said or ("actions/" in step.get("uses", "") and "aws" not in said)
            asked = {"== 'azure'": "azure", "!= 'azure'": "aws"}.get(step.get("if", "").partition("PLATFORM ")[2], "")
            assert both or asked, step
            assert not both or not asked, step
            assert {"azure": "aws", "aws": "azure", "": "none"}[asked] not in said, "it is not about the other one"


def test_the_settings_that_they_take_are_documented() -> None:
    documented = (ROOT / "docs" / "ci.md").read_text()
    for path in WORKFLOWS:
        for name in set(re.findall(r"(?:vars|secrets)\.([A-Z_]+)", path.read_text())):
            assert f"`{name}`" in documented, name
    for group in re.findall(r"group: (\S+)", AZURE.read_text()):
        assert f"`{group}`" in documented, group
    scripts = " ".join(script(step) for steps in stages().values() for step in steps)
    for name in set(re.findall(r"\$\{?([A-Z]\w+)", scripts)) - {"PWD", "BUILD_SOURCEVERSION"}:
        assert f"`{name}`" in documented, name


def test_roles_of_the_pipeline_name_what_they_may_and_on_what() -> None:
    for name, one in resources().items():
        if one["Type"] not in ("AWS::IAM::Role", "AWS::IAM::ManagedPolicy"):
            continue
        documents = [policy["PolicyDocument"] for policy in one["Properties"].get("Policies", [])]
        documents += [one["Properties"]["PolicyDocument"]] if "PolicyDocument" in one["Properties"] else []
        for statement in (item for document in documents for item in document["Statement"] if "Effect" in item):
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            assert not [action for action in actions if action.endswith("*")], name
            assert statement["Resource"] != "*" or set(actions) <= ALONE, name
            assert "iam:PassRole" not in actions or statement["Condition"], name


def test_images_are_named_after_the_commit_and_reach_production_together() -> None:
    def dry(*words: str) -> str:
        return subprocess.run(["make", "-n", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    built = set(re.findall(r"docker build .* -t (\S+)", dry("images", "REGISTRY=here", "TAG=abc")))
    assert built == {"here/detection-programs:abc", "here/detection-programs:abc-dagster", "here/detection-serving:abc"}
    pushed = set(re.findall(r"docker push (\S+)", dry("images", "REGISTRY=here", "TAG=abc")))
    promoted = dict(re.findall(r"(\w*Image)=(\S+)", dry("promote-aws", "REGISTRY=here", "TAG=abc")))
    assert pushed == built == set(promoted.values())
    from cfnlint.decode.cfn_yaml import load

    assert set(promoted) <= set(load(str(ROOT / "infra" / "aws" / "production.yaml"))["Parameters"])


def test_on_azure_they_reach_production_together_and_the_old_daemon_ends_first(tmp_path: Path) -> None:
    (tmp_path / "az").write_text('#!/bin/sh\necho "$*" >> "$OUT"\necho daemon--old\n')
    (tmp_path / "az").chmod(0o755)
    env = {**os.environ, "OUT": str(tmp_path / "out"), "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    words = ["promote-azure", "REGISTRY=here", "TAG=abc", "GROUP=mine", "DETECTORS=fridge cold_shelf"]
    subprocess.run(["make", *words], cwd=ROOT, env=env, check=True, capture_output=True)
    show, end, *updates = (tmp_path / "out").read_text().splitlines()
    assert show.startswith("containerapp show --resource-group mine --name daemon")
    assert end.startswith("containerapp revision deactivate --resource-group mine --name daemon --revision daemon--old")
    names = [re.findall(r"--name (\S+)", line)[0] for line in updates]
    assert names == ["code-fridge", "code-cold-shelf", "web", "daemon"], "the daemon begins once there is what it asks"
    for line in updates:
        assert "--image here/detection-programs:abc-dagster" in line
        assert set(re.findall(r"(\w+IMAGE)=(\S+)", line)) == {
            ("DAGSTER_CURRENT_IMAGE", "here/detection-programs:abc-dagster"),
            ("DETECTION_AZURE_PROGRAMS_IMAGE", "here/detection-programs:abc"),
            ("DETECTION_AZURE_SERVING_IMAGE", "here/detection-serving:abc"),
        }


@pytest.mark.parametrize(
    ("target", "missing"),
    [
        *(("images", "REGISTRY"), ("smoke", "DETECTORS"), ("promote-aws", "REGISTRY")),
        *(("promote-azure", name) for name in ("REGISTRY", "GROUP", "DETECTORS")),
    ],
)
def test_what_is_missing_is_said(target: str, missing: str) -> None:
    given = {name: "x" for name in ("REGISTRY", "GROUP", "DETECTORS") if name != missing}
    words = [f"{name}={given.get(name, '')}" for name in ("REGISTRY", "GROUP", "DETECTORS")]
    done = subprocess.run(["make", "-o", "setup", target, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert f"{missing} is not set" in done.stdout
