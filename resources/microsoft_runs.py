"""How Dagster starts its runs on Azure: each as a job of Container Apps, with what is secret from Key Vault.

dagster-azure's launcher gives a job what it is told as plain settings, which everybody can read who may look at the
resource group. This one has Container Apps fetch secrets from the vault with the run's own identity, waits until Azure
has made the job before it is started, and tells the run which identity is its own.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster_azure.container_apps.launcher import AcaRunLauncher

if TYPE_CHECKING:
    from azure.mgmt.appcontainers import ContainerAppsAPIClient
    from dagster._serdes.config_class import ConfigurableClassData

MAKING_S = 300.0
"""Seconds that Azure has to make a job; it takes about one minute."""


class VaultRunLauncher(AcaRunLauncher):
    """Each run in a Container Apps job of its own, whose secrets are references to a vault."""

    def __init__(self, *, secrets: Mapping[str, str], run_client_id: str, **more: Any) -> None:
        """As the launcher that it is made from.

        Args:
            secrets: Addresses of the vault's secrets, by the environment variable of the run that each is for.
            run_client_id: Client id of the identity that runs have.
            **more: What that launcher takes.
        """
        self._secrets, self._run_client_id = dict(secrets), run_client_id
        super().__init__(**more)

    @classmethod
    def config_type(cls) -> Mapping[str, Any]:
        """What `dagster.yaml` may say."""
        return {
            **super().config_type(),
            "secrets": dg.Field(dg.StringSource, description="JSON: address of a vault's secret by variable."),
            "run_client_id": dg.Field(dg.StringSource, description="Client id of the runs' identity."),
        }

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData, config_value: Mapping[str, Any]) -> VaultRunLauncher:
        """A launcher as `dagster.yaml` says.

        Raises:
            ValueError: `secrets` is no JSON object of texts.
        """
        # Of what may be left out, all has to be said; and a name that is not set here the launcher would refuse.
        optional: dict[str, Any] = dict.fromkeys(("run_resources", "identity_id", "run_job_replica_timeout"))
        said: dict[str, Any] = {name: value for name, value in config_value.items() if name != "server_resources"}
        said["env_vars"] = [one for one in said.get("env_vars") or () if "=" in one or os.environ.get(one)]
        said["secrets"] = _addresses(said["secrets"])
        return cls(inst_data=inst_data, **{**optional, **said})

    def _get_client(self) -> ContainerAppsAPIClient:
        client = super()._get_client()
        if "begin_create_or_update" in vars(client.jobs):
            return client
        make = client.jobs.begin_create_or_update

        def made(group: str, name: str, job: Any, **more: Any) -> Any:
            poller = make(group, name, self._complete(job), **more)
            poller.wait(MAKING_S)
            if not poller.done():
                raise TimeoutError(f"{name}: Azure has not made this job in {MAKING_S:.0f} s; look at it in the portal")
            return poller

        vars(client.jobs)["begin_create_or_update"] = made
        return client

    def _complete(self, job: Any) -> Any:
        """A job with references to its secrets, and the identity that its own requests are to be made with."""
        from azure.mgmt.appcontainers.models import EnvironmentVar, Secret

        named = {variable: variable.lower().replace("_", "-") for variable in self._secrets}
        job.configuration.secrets = [
            Secret(name=named[variable], key_vault_url=address, identity=self.identity_id)
            for variable, address in self._secrets.items()
        ]
        for container in job.template.containers:
            container.env = [
                *(one for one in container.env or () if one.name not in self._secrets),
                EnvironmentVar(name="AZURE_CLIENT_ID", value=self._run_client_id),
                *(EnvironmentVar(name=variable, secret_ref=name) for variable, name in named.items()),
            ]
        return job


def _addresses(text: str) -> dict[str, str]:
    try:
        found: Any = json.loads(text)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise ValueError(
            "dagster.yaml: run_launcher: secrets is no JSON object of addresses by variable, as in "
            '{"DAGSTER_PG_PASSWORD": "https://myvault.vault.azure.net/secrets/detection-database"}'
        )
    return found
