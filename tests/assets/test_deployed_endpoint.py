from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from assets.deployment_world import World, picture
from assets.deployments import at_canary, deploying, driver_of, failure, last_event

from detection_assets import definitions
from detection_assets.domain import history
from resources import tables
from resources.instance import open_instance
from resources.registry.base import CHAMPION
from resources.rollouts import Rollouts

pytestmark = [pytest.mark.slow, pytest.mark.long]


def test_the_first_version_goes_straight_to_all_of_the_traffic(world: World) -> None:
    assert world.model("good") == "1"
    assert world.deploy()
    assert world.served() == ("1", {"blue": 100})
    table = tables.read(world.storage, "deployed_endpoint")
    assert table[["slot", "version", "traffic", "state"]].to_numpy().tolist() == [["blue", "1", 100, "ready"]]
    assert world.registry.get(CHAMPION).version == "1"
    assert world.registry.get(CHAMPION).tags["rollout"] == "complete"
    told = last_event("deployed_endpoint").metadata
    assert "boxes on 4 golden frames found again" in str(told["rollout"].value)
    assert "data:image/svg+xml;base64," in str(told["shares"].value)


def test_a_good_version_is_rolled_out_by_canary_while_traffic_runs_and_no_request_fails(served: World) -> None:
    served.write(bake=3.0, canary="[30]")
    served.model("good", size=96)
    with served.traffic() as going:
        assert served.deploy()
        assert served.served() == ("2", {"blue": 0, "green": 100})
        time.sleep(0.5)
    assert set(going.statuses) == {200}
    assert len(going.statuses) > 100
    assert set(going.versions) == {"1", "2"}
    assert going.versions[-1] == "2"
    assert served.registry.get(CHAMPION).version == "2"
    found = history.periods(served.log.entries())
    assert [(p.version, p.share) for p in found if p.share] == [("1", 100), ("1", 70), ("2", 30), ("2", 100)]
    canary = next(p for p in found if p.share == 30)
    assert canary.end is not None
    assert 2.9 < canary.end - canary.start < 8
    table = tables.read(served.storage, "deployment_history")
    assert table["until"].isna().sum() == 2, "the new version, and the old one that is kept"
    note = str(last_event("deployed_endpoint").metadata["rollout"].value)
    assert "canary 30 %: " in note.replace("\\", "")
    assert "requests, 0 failed" in note

    # The old slot is kept, then retired.
    driver = Rollouts(served.storage, served.registry, served.endpoints, definitions.deployed_endpoint.plan_of(
        served.project.detector
    ))  # fmt: skip
    assert not driver.retire_if_due()
    served.write(keep=0)
    assert served.deploy()
    assert served.served() == ("2", {"green": 100})


BAD = {
    "never loads": ("nan", None, "slot green failed to load"),
    "other boxes than when it was evaluated": ("wrong", "good", "golden frames: only"),
}


@pytest.mark.parametrize(("kind", "golden_of", "why"), BAD.values(), ids=BAD)
def test_a_model_that_is_bad_from_the_start_never_gets_traffic(
    served: World, kind: str, golden_of: str | None, why: str
) -> None:
    served.model(kind, golden_of=golden_of)
    with served.traffic() as going:
        assert not served.deploy()
    assert served.served() == ("1", {"blue": 100})
    assert set(going.statuses) == {200}
    assert set(going.versions) == {"1"}
    assert why in (served.log.rolled_back("2") or "")
    tagged = next(known for known in served.registry.history() if known.version == "2")
    assert tagged.tags["rollout"] == "rolled back"
    assert why in tagged.tags["rollout_reason"]
    assert served.registry.get(CHAMPION).version == "1"
    table = tables.read(served.storage, "deployed_endpoint")
    assert table[["version", "traffic"]].to_numpy().tolist() == [["1", 100]], "the table says what is"
    with open_instance() as instance:
        assert why in failure(instance)
        assert "Now version 1 serves" in failure(instance)


FAILS_LATER = {
    # kind, golden frames of, levels of the pictures sent, settings, why
    "answers that are not numbers": ("bright", None, (0.35, 0.8), {}, "requests failed|tripped"),
    "raises": ("raises", None, (0.35, 0.8), {}, "requests failed|tripped"),
    "slow": ("slow", "good", (0.35,), {"slowdown": 3.0}, "at most 3 times as much may be"),
    "other answers than the version that serves": ("wrong", "wrong", (0.5,), {}, "were answered differently"),
}


@pytest.mark.parametrize(("kind", "golden_of", "levels", "settings", "why"), FAILS_LATER.values(), ids=FAILS_LATER)
def test_a_model_that_fails_under_traffic_is_taken_back_and_no_caller_notices(
    served: World, kind: str, golden_of: str | None, levels: tuple[float, ...], settings: dict, why: str
) -> None:
    served.write(bake=20.0, **settings)
    served.model(kind, golden_of=golden_of or "good")
    with served.traffic(levels) as going:
        assert not served.deploy()
        assert served.served() == ("1", {"blue": 100})
        time.sleep(0.5)
    assert set(going.statuses) == {200}
    reason = served.log.rolled_back("2") or ""
    assert any(part in reason for part in why.split("|")), reason
    assert "at 50 % of the traffic" in reason
    shares = [(p.version, p.share) for p in served.log.periods() if p.share]
    assert shares == [("1", 100), ("1", 50), ("2", 50), ("1", 100)]


def test_what_was_rolled_back_is_tried_again_only_when_somebody_asks(served: World) -> None:
    version = served.model("wrong", golden_of="good")
    assert not served.deploy()
    before = served.log.last().number
    assert served.deploy(**{"dagster/sensor_name": "a sensor"})
    assert served.log.last().number == before, "nothing was tried"
    assert f"version {version} is not tried again by itself" in str(
        last_event("deployed_endpoint").metadata["rollout"].value
    )
    assert not served.deploy()
    assert served.log.last().number > before


@pytest.mark.timeout(1500)
def test_ten_thousand_requests_pass_through_rollouts_and_rollbacks(served: World, tmp_path: Path) -> None:
    """Callers in a process of their own; good versions that stay, are taken back by hand, and bad ones."""
    served.write(bake=6.0, canary="[20, 50]")
    (tmp_path / "pictures").mkdir()
    for index in range(20):
        (tmp_path / "pictures" / f"{index}.jpg").write_bytes(picture(200 + index, 0.8 if index % 4 == 0 else 0.35))
    log = tmp_path / "answers.jsonl"
    command = [sys.executable, "-m", "detection_assets.samples.traffic", "--url", served.endpoints.url]
    command += ["--key-file", str(served.endpoints.key_file), "--pictures", str(tmp_path / "pictures")]
    running = subprocess.Popen([*command, "--out", str(log), "--rate", "40", "--callers", "2", "--requests", "10000"])
    rounds = itertools.cycle(("good", "good, taken back", "bright", "raises"))
    outcomes: list[tuple[str, bool]] = []
    size = 64
    while running.poll() is None:
        kind, _, taken_back = next(rounds).partition(", ")
        size += 32
        served.model(kind, size=size, golden_of="good")
        outcomes.append((kind, served.deploy()))
        if taken_back:
            driver_of(served).roll_back("Ada", "again")
    assert running.returncode == 0, "a request failed"
    answers = pd.DataFrame([json.loads(line) for line in log.read_text().splitlines()])
    assert len(answers) == 10_000
    assert set(answers["status"]) == {200}
    whole = outcomes[:-1]  # at the end of the last one nobody may have asked any more
    assert {kind for kind, _ in whole} == {"good", "bright", "raises"}
    assert all(good == (kind == "good") for kind, good in whole)
    # A route takes effect within a second, so the first second of each period does not count.
    asked, got, shares = 0, 0.0, []
    for period in history.periods(served.log.entries()):
        if period.share not in (20, 50) or period.end is None:
            continue
        during = answers[answers["time"].between(period.start + 1, period.end)]
        if len(during) < 150:
            continue  # a bad version that was taken back after some seconds
        share = (during["version"] == period.version).mean()
        shares.append(f"{period.share} %: {share:.2%} of {len(during)}")
        asked, got = asked + len(during), got + abs(share - period.share / 100) * len(during)
        assert abs(share - period.share / 100) < 0.02, shares
    print(f"{len(outcomes)} deployments; {shares}; {got / asked:.2%} away from the shares on average")
    assert len(shares) >= 12


@pytest.mark.parametrize("stage", ["golden", "canary", "full"])
def test_a_killed_rollout_goes_on_in_the_next_run(served: World, stage: str) -> None:
    served.write(bake=4.0)
    served.model("good", size=96)
    with served.traffic() as going:
        running = deploying(served, lambda rollout: (rollout.version, rollout.stage) == ("2", stage))
        running.send_signal(signal.SIGKILL)
        running.wait()
        shares = served.served()[1]
        assert sum(shares.values()) == 100
        assert stage != "golden" or not shares.get("green"), "no traffic before the golden frames"
        served.write(bake=0.5)
        assert served.deploy()
    assert served.served() == ("2", {"blue": 0, "green": 100})
    assert set(going.statuses) == {200}
    ids = {entry.rollout.id for entry in served.log.entries() if entry.rollout and entry.rollout.version == "2"}
    assert len(ids) == 1, "it was gone on with, not begun anew"
    numbers = [entry.number for entry in served.log.entries()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_a_killed_rollout_is_rolled_back_if_another_version_is_asked_for(served: World) -> None:
    served.write(bake=60.0)
    served.model("good", size=96)
    running = at_canary(served)
    running.send_signal(signal.SIGKILL)
    running.wait()
    served.endpoints.stop()  # the machine went down, too
    served.write(bake=0.5)
    served.model("good", size=128)
    assert served.deploy()
    assert served.served()[0] == "3"
    assert "version 3 was asked for instead" in (served.log.rolled_back("2") or "")
    assert [(p.version, p.share) for p in served.log.periods() if p.share] == [
        *(("1", 100), ("1", 50), ("2", 50), ("1", 100), ("1", 50), ("3", 50), ("3", 100))
    ]
