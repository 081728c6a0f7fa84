"""What only the SageMaker registry does: people decide in Studio, and its metadata takes little."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources import amazon
from resources.registry.aws import CHARS, TAKEN, packed, unpacked
from resources.registry.base import APPROVED, PENDING, REJECTED

PLATFORMS = ["aws"]
REASON = 'looks right, "very" right: 100 % über alles\n' + "x" * 1000


@given(st.dictionaries(st.from_regex(r"[a-z][a-z_0-9]{0,30}", fullmatch=True), st.text(max_size=700), max_size=8))
def test_whatever_a_tag_says_comes_back(tags: dict[str, str]) -> None:
    tags = {key: value.encode("utf-8", "replace").decode() for key, value in tags.items()}
    metadata = packed(tags)
    assert unpacked(metadata) == tags
    for value in metadata.values():
        assert 1 <= len(value) <= CHARS
        assert not TAKEN.search(value.replace("=", ""))


@pytest.fixture
def studio(platform: Any) -> Any:
    """A person in SageMaker Studio: sets the status of a version."""
    platform.storage.put("weights/w1/best.onnx", b"onnx")
    made = platform.registry.register(
        "weights/w1/best.onnx", platform.storage.uri_of("weights/w1/best.onnx"), "aaa", {"evaluation_version": "e1"}, ""
    )
    platform.registry.tag(made.version, {"approval": PENDING})
    client = amazon.client("sagemaker")
    arn = platform.registry.arn(made.version)

    def decide(status: str) -> None:
        before = client.describe_model_package(ModelPackageName=arn)["CustomerMetadataProperties"]
        client.update_model_package(
            ModelPackageArn=arn, ModelApprovalStatus=status, CustomerMetadataProperties=before
        )  # moto forgets what is not said

    decide.arn = arn
    return decide


def test_an_approval_in_studio_is_written_down(platform: Any, studio: Any) -> None:
    assert [version.version for version in platform.registry.pending()] == ["1"]
    studio("Approved")
    assert platform.registry.history()[0].approval == APPROVED
    assert [version.version for version in platform.registry.adopt_aliases()] == ["1"]
    assert platform.registry.history()[0].tags["approved_by"] == "registry"
    assert list(platform.registry.adopt_aliases()) == []


def test_a_rejection_in_studio_holds(platform: Any, studio: Any) -> None:
    studio("Rejected")
    assert platform.registry.history()[0].approval == REJECTED
    assert list(platform.registry.adopt_aliases()) == []


def test_a_decision_by_command_is_seen_in_studio(platform: Any, studio: Any) -> None:
    decided = platform.registry.approve("1", "Ada", REASON)
    assert decided.tags["approval_reason"] == REASON.strip()
    told = amazon.client("sagemaker").describe_model_package(ModelPackageName=studio.arn)
    assert told["ModelApprovalStatus"] == "Approved"
    (container,) = told["InferenceSpecification"]["Containers"]
    source = container["ModelDataSource"]["S3DataSource"]
    assert source["S3Uri"] == platform.storage.uri_of("weights/w1/best.onnx")
    platform.registry.reject("1", "Bea", "no")
    told = amazon.client("sagemaker").describe_model_package(ModelPackageName=studio.arn)
    assert told["ModelApprovalStatus"] == "Rejected"
    assert unpacked(told["CustomerMetadataProperties"])["approval_reason"] == "no", "the longer reason left no rest"


def test_figures_of_the_evaluation_are_found_in_studio(platform: Any, tmp_path: Any) -> None:
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "summary.json").write_text("{}")
    platform.storage.publish(folder, "evaluations/e2", {})
    platform.storage.put("weights/w2/best.onnx", b"onnx")
    uri = platform.storage.uri_of("weights/w2/best.onnx")
    made = platform.registry.register("weights/w2/best.onnx", uri, "bbb", {"evaluation_version": "e2"}, "run-1")
    assert made.tags["mlflow_run"] == "run-1"
    told = amazon.client("sagemaker").describe_model_package(ModelPackageName=platform.registry.arn(made.version))
    where = told["ModelMetrics"]["ModelQuality"]["Statistics"]["S3Uri"]
    assert where.startswith(platform.storage.uri_of("evaluations/e2"))
    assert where.endswith("/summary.json")
