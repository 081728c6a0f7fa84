"""How many instances share a job, and which of them this one is: what a program is told of it on any platform.

Whoever starts the program puts it into the environment. A program that is told nothing is alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from detection_assets.domain.problems import InputError

PORT = 29500
"""Where the first instance listens for the others."""
SETTINGS = ("DETECTION_INSTANCES", "DETECTION_INSTANCE", "DETECTION_FIRST", "DETECTION_INTERFACE")

TORCH = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What torch's own launcher tells a process of the others, and some platforms do in its place. A program that found it
in its environment would take itself for one of these processes."""


@dataclass(frozen=True)
class World:
    """The instances of a job, seen from one of them.

    Attributes:
        instances: How many there are.
        instance: Which of them this is, from 0. The first one speaks for all.
        first: Where the first one listens, as `name:port`; nothing if there is no other.
        interface: The network interface that leads to the others; nothing if that is not told.
    """

    instances: int = 1
    instance: int = 0
    first: str = ""
    interface: str = ""

    @property
    def leads(self) -> bool:
        """Whether this is the instance that tells, writes and delivers."""
        return self.instance == 0

    @property
    def settings(self) -> dict[str, str]:
        """The environment that tells a program of it; empty if it is alone."""
        if self.instances == 1:
            return {}
        values = (str(self.instances), str(self.instance), self.first, self.interface)
        return {name: value for name, value in zip(SETTINGS, values, strict=True) if value}

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> World:
        """What a program was told.

        Raises:
            InputError: The settings do not make a whole.
        """
        instances, instance, first, interface = (environment.get(name, "") for name in SETTINGS)
        if not instances:
            return cls()
        try:
            world = cls(int(instances), int(instance), first, interface)
        except ValueError as error:
            raise InputError(
                f"{SETTINGS[0]}={instances}, {SETTINGS[1]}={instance}: two whole numbers: {error}"
            ) from error
        if not 0 <= world.instance < world.instances:
            raise InputError(f"{SETTINGS[1]}={instance}: has to be from 0 to {world.instances - 1}")
        if world.instances > 1 and not first.rpartition(":")[2].isdecimal():
            raise InputError(f"{SETTINGS[2]}={first}: has to be where the first instance listens, as name:{PORT}")
        return world

    @classmethod
    def among_hosts(cls, text: str | bytes, port: int = PORT) -> World:
        """What a document of the form that SageMaker puts into each container says.

        Args:
            text: JSON with `hosts`, `current_host` and `network_interface_name`.
            port: Where the first of the hosts is to listen.

        Raises:
            InputError: It is not of that form.
        """
        try:
            told = json.loads(text)
            # Every host sorts the same names, so all agree on the first.
            hosts = sorted(told["hosts"])
            number = hosts.index(told["current_host"])
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"the hosts of this job are not told as `hosts` and `current_host`: {error!r}") from error
        if len(hosts) == 1:
            return cls()
        return cls(len(hosts), number, f"{hosts[0]}:{port}", str(told.get("network_interface_name") or ""))

    @classmethod
    def among_ranks(cls, environment: Mapping[str, str], port: int | None = None) -> World:
        """What a platform says that starts one process on each instance, and tells it what torch's launcher would.

        Args:
            environment: Has `WORLD_SIZE`, `RANK`, `MASTER_ADDR` and `MASTER_PORT`.
            port: Where the first instance is to listen; None for where the platform says.

        Raises:
            InputError: It does not say it.
        """
        missing = [name for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR") if not environment.get(name)]
        if missing:
            raise InputError(f"the instances of this job are not told: {missing[0]} is not set")
        first = f"{environment['MASTER_ADDR']}:{port or environment.get('MASTER_PORT') or PORT}"
        told = cls.of(dict(zip(SETTINGS, (environment["WORLD_SIZE"], environment["RANK"], first), strict=False)))
        return cls() if told.instances == 1 else told
