"""Dagster itself on Azure: its template, its instance's file, its workspace; each held against what reads it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bicep
import pytest
from dagster import DagsterInstance, DagsterRunStatus, job, op
from dagster._core.instance import InstanceRef
from dagster._core.instance.config import dagster_instance_config
from dagster._core.workspace.load import location_origins_from_yaml_paths
from fakes import azureml
from fakes.certificates import Certificate
from fakes.container_apps import ContainerApps
from project import ROOT
from ruamel.yaml import YAML

INFRA = ROOT / "infra" / "azure"
GROUP = f"/subscriptions/{azureml.SUBSCRIPTION}/resourceGroups/detection/providers"
WORK = f"{GROUP}/Microsoft.ManagedIdentity/userAssignedIdentities/mydetection-work"


def app(name: str) -> Any:
    """What the template says of one app's container."""
    (container,) = bicep.properties("production", name)["template"]["containers"]
    return container


def told(name: str) -> dict[str, Any]:
    """What an app is told, by variable."""
    variables = bicep.parsed("production")["variables"]
    found: dict[str, Any] = {}
    for part in app(name)["env"]["function"]["parameters"].values():
        for one in variables[part]["value"] if isinstance(part, str) else part if isinstance(part, list) else ():
            found[one["name"]] = one.get("value", one.get("secretRef"))
    return found


def instance_file() -> dict[str, Any]:
    return YAML(typ="safe").load(INFRA / "dagster" / "dagster.yaml")


# The template --------------------------------------------------------------------------------------------------------


def test_every_name_that_is_used_is_one_that_is_there() -> None:
    assert bicep.unknown("production") == set()


def test_every_parameter_is_explained_and_used() -> None:
    for name, parameter in bicep.parsed("production")["parameters"].items():
        assert any("description" in str(decorator) for decorator in parameter["decorators"]), name
        assert len(re.findall(rf"\b{name}\b", bicep.text("production"))) > 1, name


def test_what_it_builds_on_has_the_names_that_the_first_template_gives() -> None:
    theirs = {(one["type"], str(_name(one))) for one in bicep.parsed("template")["resources"].values()}
    ours = bicep.parsed("production")["resources"].values()
    built_on = {(one["type"], str(_name(one))) for one in ours if one["existing"] and "parent" not in one["config"]}
    assert len(built_on) == 4
    assert built_on <= theirs


def _name(one: Any) -> Any:
    return one["config"].get("config", one["config"])["name"]


def test_the_database_is_closed_and_kept() -> None:
    database = bicep.properties("production", "database")
    assert database["network"]["publicNetworkAccess"] == "Disabled"
    assert database["backup"]["backupRetentionDays"] >= 7
    lock = bicep.config("production", "databaseStays")
    assert (lock["scope"], lock["properties"]["level"]) == ("database", "CanNotDelete")
    decorators = bicep.parsed("production")["parameters"]["databasePassword"]["decorators"]
    assert {"type": "secure"} in decorators
    assert "databasePassword" not in json.dumps(bicep.parsed("production")["outputs"])


def test_no_password_is_among_the_plain_settings() -> None:
    for one in bicep.parsed("production")["variables"]["settings"]["value"]:
        assert not re.search(r"PASSWORD|ALERTS|KEY|TOKEN", one["name"]), one
    for name in ("code", "daemon", "web"):
        assert told(name)["DAGSTER_PG_PASSWORD"] == "database-password"
        secrets = json.dumps(bicep.properties("production", name)["configuration"]["secrets"])
        assert "keyVaultUrl" in secrets
        assert '"value"' not in secrets, "what is secret is in the vault alone"
    text = bicep.text("production")
    assert "listKeys" not in text
    assert "connectionString" not in text


def test_nobody_reaches_the_pages_without_a_login() -> None:
    outside = {
        name: bicep.properties("production", name)["configuration"].get("ingress", {}).get("external")
        for name in bicep.of_kind("production", "containerApps")
    }
    assert outside == {"code": False, "daemon": None, "web": True}
    asks = bicep.config("production", "webAsksWho")
    assert asks["parent"] == "web"
    assert asks["properties"]["platform"]["enabled"] is True
    assert asks["properties"]["globalValidation"]["unauthenticatedClientAction"] == "RedirectToLoginPage"
    known = asks["properties"]["identityProviders"]["azureActiveDirectory"]["validation"]
    assert known["defaultAuthorizationPolicy"]["allowedPrincipals"] == {"identities": "people"}
    people = bicep.parsed("production")["parameters"]["people"]
    assert people["default"] is None
    assert "min_length" in str(people["decorators"]), "an empty list would let in everybody of the tenant"


def test_rights_are_for_one_thing_and_no_more_than_is_said() -> None:
    assert bicep.rights("production") == {
        "controlFetchesImages": ("registry", "acrPull", "control"),
        "workFetchesImages": ("registry", "acrPull", "work"),
        "controlOpensTheDatabase": ("password", "secretsUser", "control"),
        "workOpensTheDatabase": ("password", "secretsUser", "work"),
        "workTellsPeople": ("alerts", "secretsUser", "work"),
        "controlReadsWhatIsPrinted": ("printed", "blobContributor", "control"),
        "controlSigns": ("account", "blobDelegator", "control"),
        "workPrints": ("printed", "blobContributor", "work"),
        "controlStartsRuns": ("the resource group", "starter", "control"),
        "controlGivesIdentity": ("work", "identityOperator", "control"),
    }
    (permission,) = bicep.properties("production", "starter")["permissions"]
    assert not [action for action in permission["actions"] if "*" in action]
    assert permission["dataActions"] == []


def test_each_app_has_the_identity_that_is_its() -> None:
    for name, whose in {"code": "work", "daemon": "control", "web": "control"}.items():
        assert list(bicep.config("production", name)["identity"]["userAssignedIdentities"]) == [f"'${{{whose}.id}}'"]
        client = told(name)["AZURE_CLIENT_ID"]["operator"]["operands"]
        assert client["operand_1"] == whose


def test_there_is_one_daemon() -> None:
    assert bicep.properties("production", "daemon")["template"]["scale"] == {"minReplicas": 1, "maxReplicas": 1}


def test_what_the_platform_needs_is_told() -> None:
    asked = "".join((ROOT / "resources" / name).read_text() for name in ("profiles.py", "settings.py"))
    needed = set(re.findall(r'needed\(\s*(?:"platform azure"|whom),\s*"(\w+)"', asked))
    assert len(needed) >= 7
    assert needed | {"DETECTION_LAKE", "DETECTION_PLATFORM", "AZURE_STORAGE_ACCOUNT_NAME"} <= told("code").keys()


# The instance's file and the workspace, held against Dagster itself ---------------------------------------------------


@pytest.fixture
def of_the_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the daemon's app."""
    for name in told("daemon"):
        monkeypatch.setenv(name, f"given-{name.lower()}")
    for name, value in {
        "DAGSTER_RUN_IDENTITY": WORK,
        "DAGSTER_RUN_SECRETS": json.dumps(
            {"DAGSTER_PG_PASSWORD": "https://v.vault.azure.net/secrets/detection-database"}
        ),
        "DETECTION_AZURE_SUBSCRIPTION": azureml.SUBSCRIPTION,
        "DETECTION_AZURE_RESOURCE_GROUP": "detection",
        "DAGSTER_ENVIRONMENT": f"{GROUP}/Microsoft.App/managedEnvironments/mydetection-dagster",
        "DETECTION_AZURE_QUEUE": "",
    }.items():
        monkeypatch.setenv(name, value)


def test_the_instance_is_one_that_dagster_takes(of_the_daemon: None, tmp_path: Path) -> None:
    # Dagster's own schema for `storage.postgres` is in dagster-postgres' hands only when it connects.
    config, _ = dagster_instance_config(str(INFRA / "dagster"))
    assert config["storage"]["postgres"]["postgres_db"]["password"] == {"env": "DAGSTER_PG_PASSWORD"}
    ref = without_storage(tmp_path)
    from dagster._config import process_config, resolve_to_config_type
    from dagster_azure.blob.compute_log_manager import AzureBlobComputeLogManager

    from resources.microsoft_runs import VaultRunLauncher

    for data, kind in (
        (ref.run_launcher_data, VaultRunLauncher),
        (ref.compute_logs_data, AzureBlobComputeLogManager),
    ):
        assert data is not None
        checked = process_config(resolve_to_config_type(kind.config_type()), data.config_dict)
        assert checked.success, checked.errors
    assert ref.run_coordinator_data.class_name == "QueuedRunCoordinator"


def without_storage(folder: Path) -> InstanceRef:
    """The instance's file as it is but for its database, which is one in a folder."""
    without = {name: value for name, value in instance_file().items() if name != "storage"}
    (folder / "dagster.yaml").write_text(json.dumps(without))
    return InstanceRef.from_dir(str(folder))


def test_what_the_files_ask_of_the_environment_is_given() -> None:
    text = (INFRA / "dagster" / "dagster.yaml").read_text()
    asked = set(re.findall(r"\{env: (\w+)\}", text))
    assert "DAGSTER_PG_PASSWORD" in asked
    run = {*instance_file()["run_launcher"]["config"]["env_vars"], "DAGSTER_PG_PASSWORD", "AZURE_CLIENT_ID"}
    for name, known in {**{name: told(name).keys() for name in ("code", "daemon", "web")}, "run": run}.items():
        assert asked <= known, name
    assert run - {"AZURE_CLIENT_ID"} <= told("daemon").keys(), "a run is told what the daemon was told"
    secret = {"DAGSTER_PG_PASSWORD", "DAGSTER_CURRENT_IMAGE", "DETECTION_ALERTS"}
    assert told("code").keys() - run <= secret, "and as much as its code server"


def test_the_instance_is_that_of_aws_but_for_where_things_are() -> None:
    theirs, ours = YAML(typ="safe").load(ROOT / "infra" / "aws" / "dagster" / "dagster.yaml"), instance_file()
    assert ours.keys() == theirs.keys()
    for section in ours.keys() - {"run_launcher", "compute_logs"}:
        assert ours[section] == theirs[section], section


def test_each_entry_of_the_workspace_is_a_detector_with_a_code_server() -> None:
    origins = location_origins_from_yaml_paths([str(INFRA / "dagster" / "workspace.yaml")])
    assert [origin.location_name for origin in origins] == bicep.parsed("production")["parameters"]["detectors"][
        "default"
    ]
    ingress = bicep.properties("production", "code")["configuration"]["ingress"]
    assert bicep.config("production", "code")["name"] == "code-${replace(detector, '_', '-')}"
    for origin in origins:
        assert origin.host == f"code-{origin.location_name}"
        assert origin.port == ingress["exposedPort"] == ingress["targetPort"]
        assert (ROOT / "detectors" / f"{origin.location_name}.yaml").exists()
    command = app("code")["command"]
    assert command[command.index("--port") + 1] == str(ingress["targetPort"])
    assert command[command.index("--attribute") + 1] == "detector"


def test_commands_and_instance_are_where_the_image_has_them() -> None:
    dockerfile = (ROOT / "containers" / "programs.Dockerfile").read_text()
    home = told("daemon")["DAGSTER_HOME"]
    assert f"COPY infra/azure/dagster {home}\n" in dockerfile
    for name in ("daemon", "web"):
        assert f"{home}/workspace.yaml" in app(name)["command"]
    for name in ("code", "daemon", "web"):
        assert shutil.which(app(name)["command"][0], path=str(Path(sys.executable).parent)), name


# The launcher ------------------------------------------------------------------------------------------------------


@pytest.fixture
def apps() -> ContainerApps:
    (permission,) = bicep.properties("production", "starter")["permissions"]
    return ContainerApps({action for action in permission["actions"] if "/jobs/" in action})


@op
def nothing() -> None:
    """Does nothing."""


@job
def a_job() -> None:
    nothing()


@pytest.fixture
def instance(
    apps: ContainerApps,
    certificate: Certificate,
    of_the_daemon: None,
    azureml_service: azureml.AzureML,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[DagsterInstance]:
    """An instance with that launcher, before a stand-in of Container Apps."""
    for name, value in azureml_service.settings.items():
        if name.startswith(("MSI_", "SSL_", "REQUESTS_")):
            monkeypatch.setenv(name, value)
    monkeypatch.delenv("AZURE_CLIENT_ID")  # this machine's identity has none
    without = {name: value for name, value in instance_file().items() if name in ("run_launcher", "telemetry")}
    (tmp_path / "dagster.yaml").write_text(json.dumps(without))
    from azure.mgmt.appcontainers import ContainerAppsAPIClient
    from dagster_azure.container_apps import launcher

    with apps.serve(certificate) as url, DagsterInstance.from_ref(InstanceRef.from_dir(str(tmp_path))) as made:
        monkeypatch.setattr(
            launcher,
            "ContainerAppsAPIClient",
            lambda who, subscription: ContainerAppsAPIClient(who, subscription, base_url=url, polling_interval=0.05),
        )
        yield made


def launched(instance: DagsterInstance) -> Any:
    """A run that the instance's launcher has started."""
    from dagster import reconstructable
    from dagster._core.launcher import LaunchRunContext
    from dagster._core.remote_origin import InProcessCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
    from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

    origin = reconstructable(a_job).get_python_origin()
    image = "mydetectionimages.azurecr.io/detection-programs:1-dagster"
    repository = origin.repository_origin._replace(container_image=image)
    location = InProcessCodeLocationOrigin(LoadableTargetOrigin(python_file=__file__), location_name="fridge")
    run = instance.create_run_for_job(
        a_job,
        job_code_origin=origin._replace(repository_origin=repository),
        remote_job_origin=RemoteJobOrigin(RemoteRepositoryOrigin(location, "r"), "a_job"),
        status=DagsterRunStatus.STARTING,
    )
    instance.run_launcher.launch_run(LaunchRunContext(run, workspace=None))
    return instance.get_run_by_id(run.run_id)


def test_a_run_is_a_job_with_its_secrets_from_the_vault(instance: DagsterInstance, apps: ContainerApps) -> None:
    run = launched(instance)
    (name, made), *others = apps.jobs.items()
    assert not others
    assert run.tags["azure/container_apps/job_name"] == name
    assert list(made.executions.values()) == ["Running"], "it was started once it had been made"
    configuration = made.asked["properties"]["configuration"]
    assert configuration["secrets"] == [
        {
            "name": "dagster-pg-password",
            "identity": WORK,
            "keyVaultUrl": "https://v.vault.azure.net/secrets/detection-database",
        }
    ]
    assert configuration["registries"] == [{"server": "mydetectionimages.azurecr.io", "identity": WORK}]
    (container,) = made.asked["properties"]["template"]["containers"]
    env = {one["name"]: one for one in container["env"]}
    assert env["DAGSTER_PG_PASSWORD"] == {"name": "DAGSTER_PG_PASSWORD", "secretRef": "dagster-pg-password"}
    assert env["AZURE_CLIENT_ID"]["value"] == "given-dagster_run_client"
    assert env["DETECTION_LAKE"]["value"] == "given-detection_lake"
    assert "DETECTION_AZURE_QUEUE" not in env, "what is not set is not told"
    assert "given-dagster_pg_password" not in json.dumps(made.asked), "and the password is nowhere"
    assert container["resources"] == {"cpu": 2.0, "memory": "4Gi"}


def test_a_run_is_watched_and_stopped_with_the_rights_that_the_template_gives(
    instance: DagsterInstance, apps: ContainerApps
) -> None:
    from dagster._core.launcher import WorkerStatus

    run = launched(instance)
    launcher = instance.run_launcher
    assert launcher.check_run_worker_health(run).status == WorkerStatus.RUNNING
    (made,) = apps.jobs.values()
    made.executions = dict.fromkeys(made.executions, "Failed")
    assert launcher.check_run_worker_health(run).status == WorkerStatus.FAILED
    assert launcher.terminate(run.run_id)
    assert not apps.jobs
    assert apps.rights == apps.allowed, "what is asked for is allowed, and nothing else is"


@pytest.mark.parametrize("said", ["none", "[]", '{"DAGSTER_PG_PASSWORD": 1}'])
def test_secrets_that_are_no_addresses_are_refused(said: str) -> None:
    from dagster._serdes import ConfigurableClassData

    from resources.microsoft_runs import VaultRunLauncher

    data = ConfigurableClassData("resources.microsoft_runs", "VaultRunLauncher", "")
    with pytest.raises(ValueError, match="run_launcher: secrets is no JSON object of addresses by variable"):
        VaultRunLauncher.from_config_value(data, {"secrets": said})


def test_a_job_that_is_never_made_is_not_started(
    instance: DagsterInstance, apps: ContainerApps, monkeypatch: pytest.MonkeyPatch
) -> None:
    from resources import microsoft_runs

    monkeypatch.setattr(microsoft_runs, "MAKING_S", 0.0)
    with pytest.raises(TimeoutError, match="Azure has not made this job"):
        launched(instance)
    assert not any(one.executions for one in apps.jobs.values())
