"""A model that learned from a withdrawn video is not deployed in any way, unless somebody answers for that by name."""

from __future__ import annotations

import io
from dataclasses import replace

import dagster as dg
import orjson
import pandas as pd
import pytest
from assets.deployment_world import NAME, World
from assets.deployments import driver_of, failure
from dagster import AssetCheckKey, AssetKey, DagsterInstance
from rich.console import Console

from detection_assets import lineage
from detection_assets.commands import deployment, running
from detection_assets.domain import schemas
from detection_assets.domain.problems import InputError
from detection_assets.domain.withdrawal import Withdrawal
from jobs.deployment import sensors_of
from resources import tables
from resources.instance import open_instance
from resources.withdrawal import withdrawals

VIDEO = "store-1/monday.mp4"


def withdraw(world: World, *datasets: str) -> None:
    made = Withdrawal(VIDEO, "ada", "she objects", withdrawals.now(), datasets=datasets)
    withdrawals.mark(world.storage, made, [])


def check(instance: DagsterInstance) -> dg.AssetCheckEvaluation:
    key = AssetCheckKey(AssetKey([NAME, "deployed_endpoint"]), "nothing_withdrawn")
    record = instance.event_log_storage.get_latest_asset_check_execution_by_key([key])[key]
    assert record.event is not None
    assert record.event.dagster_event is not None
    return record.event.dagster_event.asset_check_evaluation_data


def told(act: object, *args: str) -> str:
    out = io.StringIO()
    act(Console(file=out, width=400), *args)  # type: ignore[operator]
    return out.getvalue()


def test_it_is_not_deployed_and_what_to_do_is_told_until_somebody_answers_for_it(world: World) -> None:
    version = world.model("good", dataset_version="ds-2")
    withdraw(world, "ds-2")
    assert not world.deploy()
    assert world.served() == (None, {}), "nothing was begun"
    with open_instance() as instance:
        assert "learned from a withdrawn video" in failure(instance)
        found = check(instance)
        assert (found.passed, found.severity.value, found.blocking) == (False, "ERROR", True)
        assert f"detection override {NAME} --withdrawn {version}" in str(found.description)
        # The sensor does not try what cannot succeed.
        world.registry.approve(version, "bob", "looks good")
        approved = next(one for one in sensors_of(NAME, driver_of(world).plan) if one.name.endswith("approved_models"))
        resources = {"storage": world.storage, "registry": world.registry, "endpoints": world.endpoints}
        with dg.build_sensor_context(instance=instance, resources=resources) as context:
            ticked = approved.evaluate_tick(context)
        assert not ticked.run_requests
        assert "learned from a withdrawn video" in str(ticked.skip_message)
    with pytest.raises(InputError, match="a name and a reason"):
        deployment.override_withdrawn(Console(file=io.StringIO()), NAME, version, "", "")
    said = told(deployment.override_withdrawn, NAME, version, "grace", "no other model until Monday")
    assert f"grace answers for version {version}, which learned from {VIDEO}" in said
    assert world.deploy()
    assert world.served()[0] == version
    with open_instance() as instance:
        assert check(instance).passed
    assert "answered for by grace: no other model until Monday" in told(deployment.history, NAME)
    tags = next(one.tags for one in world.registry.history() if one.version == version)
    assert "grace: no other model until Monday" in tags["withdrawn_override"]


def test_what_serves_serves_on_and_is_told_and_no_way_leads_back_to_it(served: World) -> None:
    withdraw(served, "ds-1")
    assert "it serves: version 1 learned from a withdrawn video" in told(running.status, NAME)
    assert served.deploy(), "what serves is not deployed again"
    with open_instance() as instance:
        assert (check(instance).passed, check(instance).severity.value) == (False, "WARN")
    clean = served.model("good", size=96, dataset_version="ds-3")
    assert served.deploy()
    assert served.served()[0] == clean
    with open_instance() as instance:
        assert check(instance).passed
    # Its slot still has it loaded, and it would take nothing to route back.
    with pytest.raises(InputError, match=r"version 1 learned from a withdrawn video.*detection override tiny"):
        driver_of(served).roll_back("bob", "I liked the old one")
    assert served.served()[0] == clean
    deployment.override_withdrawn(Console(file=io.StringIO()), NAME, "1", "grace", "the new one is wrong")
    driver_of(served).roll_back("bob", "I liked the old one")
    assert served.served()[0] == "1"
    # What is withdrawn later was not answered for.
    withdrawals.mark(served.storage, Withdrawal("b.mp4", "ada", "he, too", withdrawals.now(), datasets=["ds-1"]), [])
    (model,) = [one for one in served.registry.history() if one.version == "1"]
    assert [one.video for one in withdrawals.barred(served.storage, model)] == ["b.mp4"]
    # In a lake that was copied the registry counts from 1 again: nobody answered for that model.
    another = replace(model, sha256="ab" * 32)
    # Nor has who registers weights by hand to tell what taught them.
    row = {**dict.fromkeys(schemas.SCHEMAS["trained_weights"]), "sha256": another.sha256, "dataset_version": "ds-1"}
    tables.write(served.storage, "trained_weights", None, pd.DataFrame([row]), "run")
    assert [one.video for one in withdrawals.seen_by(served.storage, replace(another, tags={}))] == ["b.mp4", VIDEO]
    assert driver_of(served).refusal("no such version", another.sha256)
    # Nor who goes on training from the weights of a model that saw it.
    for name, digest, base in (
        ("first", "11" * 32, ""),
        ("second", "22" * 32, "11" * 32),
        ("third", "33" * 32, "44" * 32),
    ):
        made = {"pt": f"weights/{name}/best.pt", "sha256": f"onnx of {name}", "sha256_pt": digest}
        made |= {"dataset_version": "ds-1" if name == "first" else "ds-9"}
        tables.write(served.storage, "trained_weights", None, pd.DataFrame([{**row, **made}]), "run")
        served.storage.put(f"weights/{name}/training.json", orjson.dumps({"base_sha256": base}))
    tuned = [replace(model, sha256=f"onnx of {name}", tags={"dataset_version": "ds-9"}) for name in ("second", "third")]
    assert [bool(withdrawals.seen_by(served.storage, one)) for one in tuned] == [True, False]
    assert not driver_of(served).refusal("no such version", "cd" * 32)
    assert [one.video for one in withdrawals.barred(served.storage, another)] == ["b.mp4", VIDEO]
    with lineage.of(NAME) as asked:
        found = asked.overridden()
    assert found[["what", "of", "version", "by", "reason"]].to_numpy().tolist() == [
        ["withdrawal", VIDEO, "1", "grace", "the new one is wrong"]
    ]
    assert found["said"].iloc[0].startswith(f"{VIDEO} was withdrawn by ada")


def test_a_rollout_that_a_withdrawal_overtakes_goes_back(served: World) -> None:
    clean = served.served()[0]
    version = served.model("good", size=96, dataset_version="ds-2")
    target = next(one for one in served.registry.history() if one.version == version)
    driver = driver_of(served)
    driver.begin(target, {"confidence": 0.25, "iou": 0.7, "max_det": 300})
    withdraw(served, "ds-2")
    ended = driver.go_on().rollout
    assert ended is not None
    assert ended.stage == "rolled_back"
    assert "learned from a withdrawn video" in ended.why
    assert served.served()[0] == clean
