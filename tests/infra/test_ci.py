"""Pipelines: each held against its own schema, and against what it calls."""

from __future__ import annotations

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
BINARIES = Path(sys.executable).parent
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
    return found


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_githubs_schema_has_nothing_to_say(workflow: Path) -> None:
    command = [BINARIES / "check-jsonschema", "--builtin-schema", "vendor.github-workflows", workflow]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_linter_has_nothing_to_say() -> None:
    command = [BINARIES / "cfn-lint", "--include-checks", "W", "--", PIPELINE]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_they_call_is_there() -> None:
    called = {
        target for lines in commands().values() for line in lines for target in re.findall(r"make ([a-z-]+)", line)
    }
    assert called == {"images", "smoke", "promote-aws"}
    assert called <= targets()
    assert [name for name, lines in commands().items() if lines == ["bash .ci/run"]] == ["test/test", "pipeline/Test"]


def test_both_ways_do_the_same_in_the_same_order() -> None:
    deploy = read(ROOT / ".github" / "workflows" / "deploy.yaml")["jobs"]
    assert {name: job.get("needs") for name, job in deploy.items()} == {
        "images": None, "staging": "images", "production": "staging",
    }  # fmt: skip
    assert deploy["production"]["environment"] == "production", "its reviewers are asked before it begins"
    stages = [stage["Name"] for stage in resources()["Pipeline"]["Properties"]["Stages"]]
    assert stages == ["Source", "Test", "Images", "Staging", "Approval", "Production"]


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
            logs_in = any("configure-aws-credentials" in step.get("uses", "") for step in job["steps"])
            assert ("id-token" in job.get("permissions", {})) == logs_in
            checkout = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout")]
            assert all(step["with"]["persist-credentials"] is False for step in checkout)
            # What a stranger can write, as a branch's name, must reach no shell: scripts take it from the environment.
            assert not [step["run"] for step in job["steps"] if "${{" in step.get("run", "")]
            assert all(re.search(r"@v\d+$", step["uses"]) for step in job["steps"] if "uses" in step)


def test_the_settings_that_they_take_are_documented() -> None:
    documented = (ROOT / "docs" / "ci.md").read_text()
    for path in WORKFLOWS:
        for name in set(re.findall(r"(?:vars|secrets)\.([A-Z_]+)", path.read_text())):
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


@pytest.mark.parametrize("target", ["images", "promote-aws", "smoke"])
def test_what_is_missing_is_said(target: str) -> None:
    done = subprocess.run(
        ["make", "-o", "setup", target, "REGISTRY=", "DETECTORS="], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "is not set" in done.stdout
