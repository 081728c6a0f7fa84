"""Dagster itself on AWS: its template, its instance's file, its workspace; each held against what reads it."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cfnlint.decode.cfn_yaml import load
from dagster._core.instance import InstanceRef
from dagster._core.instance.config import dagster_instance_config
from dagster._core.workspace.load import location_origins_from_yaml_paths
from project import ROOT
from ruamel.yaml import YAML

INFRA = ROOT / "infra" / "aws"
TEMPLATE = INFRA / "production.yaml"
MISSING = {
    "AWS::ServiceDiscovery::PrivateDnsNamespace",
    "AWS::ServiceDiscovery::Service",
    "AWS::SecretsManager::Secret",
}
"""What moto's CloudFormation does not make; the linter is all that has seen these."""


def resources(kind: str) -> dict[str, Any]:
    """The template's resources of one kind, by their names, short forms written out."""
    found = load(str(TEMPLATE))["Resources"]
    return {name: one["Properties"] for name, one in found.items() if one["Type"] == kind}


def containers() -> dict[str, Any]:
    """Every container of every task, by its name."""
    tasks = resources("AWS::ECS::TaskDefinition").values()
    return {one["Name"]: one for task in tasks for one in task["ContainerDefinitions"]}


def variables(container: Any) -> set[str]:
    """The names of what a container's environment has."""
    secrets = [one for one in container["Secrets"] if "Name" in one]
    return {str(one["Name"]) for one in [*container["Environment"], *secrets]}


def test_the_linter_has_nothing_to_say() -> None:
    linter = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([linter, "--include-checks", "W", "--", TEMPLATE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_cloudformation_reads_it() -> None:
    events = YAML(typ="safe").parse(TEMPLATE.read_text())
    assert not [event for event in events if getattr(event, "anchor", None)], "it knows no anchors"


# What a stack is made with ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stack(s3_server: str) -> Iterator[dict[str, Any]]:
    """The stack as it lies in an account, less what moto cannot make, and the clients to look with."""
    from boto3.session import Session
    from fakes import s3

    session = Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=s3.REGION)
    names = ("cloudformation", "ec2", "ecs", "rds", "iam", "logs")
    clients = {name: session.client(name, endpoint_url=s3_server) for name in names}
    vpc = clients["ec2"].create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
    subnets = [
        clients["ec2"].create_subnet(VpcId=vpc, CidrBlock=f"10.0.{number}.0/24", AvailabilityZone=f"{s3.REGION}{zone}")
        for number, zone in enumerate("ab")
    ]
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}]}
    first = clients["iam"].create_policy(PolicyName=uuid.uuid4().hex, PolicyDocument=json.dumps(policy))
    given = {
        "Vpc": vpc,
        "Subnets": ",".join(one["Subnet"]["SubnetId"] for one in subnets),
        "Image": f"123456789012.dkr.ecr.{s3.REGION}.amazonaws.com/detection-programs:1-dagster",
        "BucketName": "lake",
        "Lake": "s3://lake/detectors",
        "Role": "arn:aws:iam::123456789012:role/jobs",
        "Policy": first["Policy"]["Arn"],
        "ProgramsImage": f"123456789012.dkr.ecr.{s3.REGION}.amazonaws.com/detection-programs:1",
        "ServingImage": f"123456789012.dkr.ecr.{s3.REGION}.amazonaws.com/detection-serving:1",
        "Tracking": "https://mlflow.example.org",
    }
    name = f"dagster-{uuid.uuid4().hex[:8]}"
    clients["cloudformation"].create_stack(
        StackName=name,
        TemplateBody=json.dumps(makeable()),
        Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
        Capabilities=["CAPABILITY_IAM"],
    )
    made = clients["cloudformation"].describe_stacks(StackName=name)["Stacks"][0]
    assert made["StackStatus"] == "CREATE_COMPLETE", made
    found = clients["cloudformation"].list_stack_resources(StackName=name)["StackResourceSummaries"]
    yield {**clients, "name": name, "made": {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in found}}
    for client in clients.values():
        client.close()


def makeable() -> dict[str, Any]:
    """The template without what moto does not make, and without what points there."""
    whole = json.loads(json.dumps(load(str(TEMPLATE)), default=str))
    gone = {name for name, one in whole["Resources"].items() if one["Type"] in MISSING}
    assert len(gone) == 3
    for name in gone:
        del whole["Resources"][name]
    whole["Resources"]["Database"]["Properties"]["MasterUserPassword"] = "not-the-one-of-secrets-manager"
    del whole["Resources"]["Code"]["Properties"]["ServiceRegistries"]

    def standing_in(part: Any) -> Any:
        if isinstance(part, dict):
            if part.get("Ref") in gone:
                return f"arn:aws:secretsmanager:eu-central-1:123456789012:secret:{part['Ref']}"
            return {key: standing_in(value) for key, value in part.items()}
        return [standing_in(one) for one in part] if isinstance(part, list) else part

    return standing_in(whole)


def test_it_deploys(stack: dict[str, Any]) -> None:
    assert stack["made"].keys() == makeable()["Resources"].keys()
    services = stack["ecs"].list_services(cluster=stack["made"]["Cluster"])["serviceArns"]
    assert len(services) == 3
    described = stack["ecs"].describe_services(cluster=stack["made"]["Cluster"], services=services)["services"]
    assert {one["desiredCount"] for one in described} == {1}
    run = stack["ecs"].describe_task_definition(taskDefinition=f"{stack['name']}-run")["taskDefinition"]
    assert [one["name"] for one in run["containerDefinitions"]] == ["run"]


def test_the_launcher_of_the_instance_finds_its_task_there(
    stack: dict[str, Any], s3_lake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = instance_file()["run_launcher"]["config"]
    monkeypatch.setenv(config["task_definition"]["env"], stack["made"]["RunTask"])
    from dagster._core.launcher import RunLauncher
    from dagster._serdes import ConfigurableClassData

    data = ConfigurableClassData("dagster_aws.ecs", "EcsRunLauncher", as_yaml(config))
    launcher = data.rehydrate(as_type=RunLauncher)
    assert launcher.task_definition == stack["made"]["RunTask"]  # type: ignore[attr-defined]


def test_the_database_is_closed_encrypted_and_kept(stack: dict[str, Any]) -> None:
    (database,) = resources("AWS::RDS::DBInstance").values()
    assert database["StorageEncrypted"] is True
    assert database["PubliclyAccessible"] is False
    assert database["DeletionProtection"] is True
    assert load(str(TEMPLATE))["Resources"]["Database"]["DeletionPolicy"] == "Snapshot"
    assert "resolve:secretsmanager" in database["MasterUserPassword"]["Fn::Sub"], "the password stands nowhere"
    made = stack["rds"].describe_db_instances(DBInstanceIdentifier=stack["made"]["Database"])["DBInstances"][0]
    assert made["StorageEncrypted"]
    assert not made["PubliclyAccessible"]


def test_nobody_from_outside_reaches_anything() -> None:
    for group in resources("AWS::EC2::SecurityGroup").values():
        for rule in group.get("SecurityGroupIngress", []):
            assert "CidrIp" not in rule
            assert rule["SourceSecurityGroupId"] == {"Ref": "TasksGroup"}
    for rule in resources("AWS::EC2::SecurityGroupIngress").values():
        assert rule["SourceSecurityGroupId"] == {"Ref": "TasksGroup"}
    for service in resources("AWS::ECS::Service").values():
        assert service["NetworkConfiguration"]["AwsvpcConfiguration"]["AssignPublicIp"] == "DISABLED"
    assert not [name for name in load(str(TEMPLATE))["Resources"] if "LoadBalancer" in name]


# ecr, ecs, ec2 and ssmmessages give these for everything or not at all.
FOR_ALL = {
    *("ecr:GetAuthorizationToken", "ecs:DescribeTaskDefinition", "ec2:DescribeNetworkInterfaces"),
    *(f"ssmmessages:{verb}{kind}Channel" for verb in ("Create", "Open") for kind in ("Control", "Data")),
}


def test_no_right_is_for_everything() -> None:
    for name, role in resources("AWS::IAM::Role").items():
        (trusted,) = role["AssumeRolePolicyDocument"]["Statement"]
        assert trusted["Principal"] == {"Service": "ecs-tasks.amazonaws.com"}
        assert trusted["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
        for statement in (one for policy in role["Policies"] for one in policy["PolicyDocument"]["Statement"]):
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            where = f"{name}: {statement['Sid']}"
            assert not [action for action in actions if "*" in action], where
            assert statement["Resource"] != "*" or set(actions) <= FOR_ALL, where
            if "iam:PassRole" in actions:
                assert statement["Condition"] == {"StringEquals": {"iam:PassedToService": "ecs-tasks.amazonaws.com"}}
                assert [list(one["Fn::GetAtt"]) for one in statement["Resource"]] == [
                    ["StartingRole", "Arn"],
                    ["WorkRole", "Arn"],
                ]
    assert resources("AWS::IAM::Role")["WorkRole"]["ManagedPolicyArns"] == [{"Ref": "Policy"}]


def test_no_password_is_among_the_plain_settings() -> None:
    for container in containers().values():
        plain = {str(one["Name"]) for one in container["Environment"]}
        assert not [name for name in plain if "PASSWORD" in name or "ALERTS" in name or "KEY" in name]


def test_every_log_ends_some_day() -> None:
    groups = resources("AWS::Logs::LogGroup")
    assert all("RetentionInDays" in group for group in groups.values())
    written = {one["LogConfiguration"]["Options"]["awslogs-group"]["Ref"] for one in containers().values()}
    assert written == groups.keys()


# The instance's file and the workspace, held against Dagster itself ---------------------------------------------------


def instance_file() -> dict[str, Any]:
    return YAML(typ="safe").load(INFRA / "dagster" / "dagster.yaml")


def as_yaml(config: Any) -> str:
    return json.dumps(config) + "\n"


@pytest.fixture
def of_a_task(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the daemon's task."""
    for name in variables(containers()["daemon"]):
        monkeypatch.setenv(name, "given")


def test_the_instance_is_one_that_dagster_takes(of_a_task: None, tmp_path: Path) -> None:
    # Dagster's own schema for `storage.postgres` is in dagster-postgres' hands only when it connects.
    config, _ = dagster_instance_config(str(INFRA / "dagster"))
    assert config["storage"]["postgres"]["postgres_db"]["password"] == {"env": "DAGSTER_PG_PASSWORD"}
    without = {name: value for name, value in instance_file().items() if name != "storage"}
    (tmp_path / "dagster.yaml").write_text(json.dumps(without))
    ref = InstanceRef.from_dir(str(tmp_path))
    from dagster_aws.ecs import EcsRunLauncher
    from dagster_aws.s3 import S3ComputeLogManager

    for data, kind in ((ref.run_launcher_data, EcsRunLauncher), (ref.compute_logs_data, S3ComputeLogManager)):
        assert data is not None
        from dagster._config import process_config, resolve_to_config_type

        checked = process_config(resolve_to_config_type(kind.config_type()), data.config_dict)
        assert checked.success, checked.errors
    assert ref.run_coordinator_data.class_name == "QueuedRunCoordinator"


def test_what_the_files_ask_of_the_environment_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (INFRA / "dagster" / "dagster.yaml").read_text()
    asked = {line.partition("env: ")[2].partition("}")[0] for line in text.splitlines() if "env: " in line}
    assert asked == {"DAGSTER_PG_PASSWORD", "DAGSTER_PG_HOST", "DAGSTER_RUN_TASK", "DAGSTER_LOGS_BUCKET"}
    for name, container in containers().items():
        # Only who starts runs asks for what they are started from, and a task cannot name itself.
        assert asked - ({"DAGSTER_RUN_TASK"} if name == "run" else set()) <= variables(container), name


def test_the_instance_is_the_repositorys_but_for_where_things_are() -> None:
    ours, theirs = YAML(typ="safe").load(ROOT / "dagster.yaml"), instance_file()
    assert theirs.keys() - ours.keys() == {"storage", "run_launcher", "compute_logs", "retention", "schedules"}
    for section in ("telemetry", "run_retries", "nux"):
        assert ours[section] == theirs[section]
    assert ours["run_monitoring"].keys() == theirs["run_monitoring"].keys()
    assert ours["concurrency"]["pools"] == theirs["concurrency"]["pools"]


def test_each_entry_of_the_workspace_is_a_container_of_the_code_task() -> None:
    origins = location_origins_from_yaml_paths([str(INFRA / "dagster" / "workspace.yaml")])
    (namespace,) = resources("AWS::ServiceDiscovery::PrivateDnsNamespace").values()
    (named,) = resources("AWS::ServiceDiscovery::Service").values()
    task = resources("AWS::ECS::TaskDefinition")["CodeTask"]
    served = {one["Name"]: one for one in task["ContainerDefinitions"]}
    assert {origin.location_name for origin in origins} == served.keys()
    for origin in origins:
        command = served[origin.location_name]["Command"]
        assert origin.host == f"{named['Name']}.{namespace['Name']}"
        assert command[command.index("--port") + 1] == str(origin.port)
        assert command[command.index("--attribute") + 1] == origin.location_name
        assert (ROOT / "detectors" / f"{origin.location_name}.yaml").exists()
