from typing import Any

import dagster as dg
import pytest

TAGS = {"detector": "tiny", "weights_version": "w1"}


def track(platform: Any, body: Any) -> None:
    @dg.asset
    def trained(context: dg.AssetExecutionContext) -> None:
        with platform.tracking.run(context, TAGS) as run:
            body(run)

    dg.materialize([trained])


def test_what_is_logged_is_found_and_the_run_has_ended(platform: Any) -> None:
    def body(run: Any) -> None:
        run.log_params({"epochs": 3})
        run.log_metrics({"metrics/mAP50(B)": 0.5, "nan": float("nan")}, step=1)
        run.log_metrics({"metrics/mAP50(B)": 0.75}, step=2)

    track(platform, body)
    (found,) = platform.tracking.find(TAGS)
    assert found.info.status == "FINISHED"
    assert found.data.params["epochs"] == "3"
    assert found.data.metrics == {"metrics/mAP50_B_": 0.75}
    assert found.data.tags["dagster_run_id"]


@pytest.mark.parametrize(("error", "status"), [(RuntimeError("x"), "FAILED"), (KeyboardInterrupt(), "KILLED")])
def test_a_run_always_ends(platform: Any, error: BaseException, status: str) -> None:
    def body(run: Any) -> None:
        run.log_metrics({"a": 1.0})
        raise error

    with pytest.raises(BaseException):  # noqa: B017, PT011 - Dagster wraps an interrupt in its own way
        track(platform, body)
    assert len(platform.tracking.find(TAGS, status)) == 1
    assert platform.tracking.find(TAGS, "RUNNING") == []


def test_nothing_logged_is_no_run(platform: Any) -> None:
    track(platform, lambda run: None)
    assert platform.tracking.find(TAGS) == []


def test_a_run_that_a_dead_process_left_open_is_closed_by_the_next(platform: Any) -> None:
    client = platform.tracking.client()
    left = client.create_run(platform.tracking.experiment_id(), tags=TAGS)
    track(platform, lambda run: run.log_metrics({"a": 1.0}))
    assert client.get_run(left.info.run_id).info.status == "KILLED"
    assert len(platform.tracking.find(TAGS)) == 1
