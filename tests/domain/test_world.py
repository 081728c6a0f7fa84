from __future__ import annotations

import json

import pytest

from detection_assets.domain.problems import InputError
from detection_assets.domain.world import World


def hosts(current: str, *names: str, **more: str) -> str:
    return json.dumps({"current_host": current, "hosts": list(names), **more})


def test_who_is_told_nothing_is_alone_and_leads() -> None:
    assert World.of({"PATH": "/bin"}) == World(1, 0)
    assert World().leads
    assert World().settings == {}


def test_what_hosts_are_told_reaches_their_programs() -> None:
    names = ("algo-2", "algo-1", "algo-3")
    worlds = [World.among_hosts(hosts(name, *names, network_interface_name="eth0"), 4000) for name in names]
    assert [world.instance for world in worlds] == [1, 0, 2]
    assert [world.leads for world in worlds] == [False, True, False]
    assert {world.first for world in worlds} == {"algo-1:4000"}
    assert [World.of(world.settings) for world in worlds] == worlds
    assert World.among_hosts(hosts("algo-2", "algo-1", "algo-2")).interface == ""
    assert World.among_hosts(hosts("algo-1", "algo-1")) == World()


def test_what_torch_would_tell_a_process_is_told_of_an_instance() -> None:
    told = {"WORLD_SIZE": "2", "RANK": "1", "MASTER_ADDR": "10.0.0.4", "MASTER_PORT": "6105"}
    assert World.among_ranks(told) == World(2, 1, "10.0.0.4:6105")
    assert World.among_ranks(told, 4000).first == "10.0.0.4:4000"
    assert World.among_ranks({**told, "WORLD_SIZE": "1", "RANK": "0"}) == World()
    for name in ("WORLD_SIZE", "RANK", "MASTER_ADDR"):
        with pytest.raises(InputError, match=f"{name} is not set"):
            World.among_ranks({key: value for key, value in told.items() if key != name})


@pytest.mark.parametrize("text", ["", "[]", "{}", hosts("algo-9", "algo-1"), hosts("algo-1"), '{"hosts": 3}'])
def test_hosts_that_are_not_told_are_an_error(text: str) -> None:
    with pytest.raises(InputError, match="current_host"):
        World.among_hosts(text)


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [
        ({"DETECTION_INSTANCES": "two"}, "two whole numbers"),
        ({"DETECTION_INSTANCE": ""}, "two whole numbers"),
        ({"DETECTION_INSTANCE": "2"}, "from 0 to 1"),
        ({"DETECTION_INSTANCE": "-1"}, "from 0 to 1"),
        ({"DETECTION_FIRST": ""}, "name:29500"),
        ({"DETECTION_FIRST": "algo-1"}, "name:29500"),
    ],
)
def test_settings_that_make_no_whole_are_an_error(changed: dict[str, str], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        World.of({**World(2, 1, "algo-1:29500").settings, **changed})
