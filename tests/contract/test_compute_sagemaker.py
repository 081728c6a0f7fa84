"""What only jobs of SageMaker do: how they are asked for, and how they are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from contract.a_training import put_in_place, run, training
from contract.clouds import OnSageMaker
from fakes import sagemaker

from resources.compute.base import Input, Step, StepFailed

PLATFORMS = ["aws"]


@pytest.fixture
def service(sagemaker_service: sagemaker.SageMaker) -> sagemaker.SageMaker:
    return OnSageMaker(sagemaker_service).service


@pytest.fixture(autouse=True)
def scripted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: Any, service: sagemaker.SageMaker) -> None:
    put_in_place(tmp_path, monkeypatch, platform)


def test_a_training_takes_spare_capacity(platform: Any, service: sagemaker.SageMaker) -> None:
    run(platform, training(1))
    (job,) = service.jobs.values()
    assert job.kind == "TrainingJob"
    assert job.asked["EnableManagedSpotTraining"]


def test_refusals_say_what_to_ask_for(
    platform: Any, service: sagemaker.SageMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sagemaker.INSTANCES, "ml.g5.xlarge", 0)
    with pytest.raises(StepFailed, match=r"ml\.g5\.xlarge for TrainingJob usage.*Service Quotas"):
        run(platform, training())
    assert not service.jobs
    monkeypatch.setitem(sagemaker.INSTANCES, "ml.g5.xlarge", 1)
    service.no_capacity.add("ml.g5.xlarge")
    try:
        with pytest.raises(StepFailed, match=r"CapacityError.*different ML instance type"):
            run(platform, training())
    finally:
        service.no_capacity.clear()
    with pytest.raises(StepFailed, match=r"(?s)No S3 objects found.*datasets/ds-2"):
        run(platform, Step(**{**vars(training()), "inputs": {"dataset": Input("datasets/ds-2")}, "version": "f" * 16}))
    monkeypatch.setattr(sagemaker, "ROLE", "arn:aws:iam::123456789012:role/another")
    with pytest.raises(StepFailed, match=r"Could not assume role.*DETECTION_AWS_ROLE"):
        run(platform, training())
