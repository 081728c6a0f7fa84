"""What only transform jobs do: a model of SageMaker's own for each, quotas, roles and rights."""

from __future__ import annotations

from typing import Any

import pytest
from contract.a_batch import run, steps
from contract.test_batch import batch_service as batch_service
from contract.test_batch import world as world
from e2e.test_aws import rights_of
from fakes import sagemaker

from detection_assets.serving.scoring import Limits
from resources.batch.aws import AT_ONCE
from resources.compute.base import StepFailed, TookTooLong

PLATFORMS = ["aws"]
pytestmark = pytest.mark.usefixtures("batch_service")


def test_requests_at_once_are_what_the_server_takes() -> None:
    assert Limits().queue + 1 == AT_ONCE


def test_a_quota_is_named_and_a_model_whose_run_was_killed_goes_with_the_next(
    world: Any, sagemaker_service: sagemaker.SageMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        # As if the run had been killed between SageMaker's model and the job.
        patch.setattr(type(world.batch), "forget", lambda *_: None)
        patch.setitem(sagemaker.INSTANCES, "ml.c5.xlarge", 0)
        with pytest.raises(StepFailed, match=r"ml\.c5\.xlarge for transform job usage.*Service Quotas"):
            run(world, steps())
    assert len(sagemaker_service.endpoints.models) == 1
    run(world, steps())
    assert not sagemaker_service.endpoints.models


def test_a_role_that_nobody_has_is_refused_with_the_setting(
    world: Any, sagemaker_service: sagemaker.SageMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sagemaker_service.endpoints, "role", "arn:aws:iam::123456789012:role/another")
    with pytest.raises(StepFailed, match=r"Could not assume role.*DETECTION_AWS_ROLE"):
        run(world, steps())
    assert not sagemaker_service.transform.jobs
    assert not sagemaker_service.endpoints.models


def test_the_rights_are_those_that_are_used(world: Any, sagemaker_service: sagemaker.SageMaker) -> None:
    sagemaker_service.transform.pause = 30.0
    with pytest.raises(TookTooLong):
        run(world, steps(timeout_s=1))
    used = {f"sagemaker:{operation}" for operation in sagemaker_service.calls if "TransformJob" in operation}
    assert used | {"sagemaker:AddTags"} == rights_of("DagsterPolicy", "Batch"), "no right too few, and none too many"
