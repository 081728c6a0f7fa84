"""What the doctor sees of an account: a moto server's, in which things are made one by one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from contract.test_doctor import found
from fakes import s3, sagemaker

from resources.storage import Storage

PLATFORMS = ["aws"]
pytestmark = pytest.mark.stand_in("it is about what an account lacks")
MANIFEST = {"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "layers": []}


@pytest.fixture
def account(s3_server: str) -> Iterator[Any]:
    """A client of a service of the account that moto keeps."""
    from boto3.session import Session

    session = Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=s3.REGION)
    clients: list[Any] = []

    def client(name: str) -> Any:
        clients.append(session.client(name, endpoint_url=s3_server))
        return clients[-1]

    yield client
    for one in clients:
        one.close()


def test_the_role_is_there_and_trusts_sagemaker(platform: Any, account: Any) -> None:
    role = f"jobs-{uuid.uuid4().hex[:8]}"
    compute = platform.compute.model_copy(update={"role": f"arn:aws:iam::{sagemaker.ACCOUNT}:role/{role}"})
    missing = found(compute)["role"]
    assert missing.state == "bad"
    assert "infra/aws/template.yaml" in missing.remedy

    def trust(service: str) -> str:
        allowed = {"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}
        return json.dumps({"Version": "2012-10-17", "Statement": [allowed]})

    iam = account("iam")
    iam.create_role(RoleName=role, AssumeRolePolicyDocument=trust("lambda.amazonaws.com"))
    assert found(compute)["role"].state == "bad"
    iam.update_assume_role_policy(RoleName=role, PolicyDocument=trust("sagemaker.amazonaws.com"))
    assert found(compute)["role"].state == "good"


@pytest.mark.parametrize(("room", "what"), [("compute", "image"), ("endpoints", "serving image")])
def test_the_images_are_there(platform: Any, account: Any, room: str, what: str) -> None:
    name = f"images-{uuid.uuid4().hex[:8]}"
    image = sagemaker.IMAGE.replace("detection-programs", name)
    resource = getattr(platform, room).model_copy(update={"image": image})
    assert "push it" in found(resource)[what].remedy
    ecr = account("ecr")
    ecr.create_repository(repositoryName=name)
    assert found(resource)[what].state == "bad"
    ecr.put_image(repositoryName=name, imageManifest=json.dumps(MANIFEST), imageTag="1")
    assert found(resource)[what].state == "good"
    elsewhere = getattr(platform, room).model_copy(update={"image": "docker.io/detection"})
    assert found(elsewhere)[what].state == "bad"


def test_who_asks_is_named_and_what_cannot_be_asked_is_no_fault(platform: Any) -> None:
    all_of_it = found(platform.compute)
    assert all_of_it["credentials"].state == "good"
    assert all_of_it["region"].told == s3.REGION
    quota = all_of_it["quota of gpu for spot training"]
    assert quota.state == "unknown", "moto knows no quotas"
    assert found(platform.batch)["quota of batch instances"].state == "unknown"


def test_a_lake_that_is_not_there_says_what_to_do(platform: Any, s3_lake: str) -> None:
    nowhere = found(Storage(root="s3://no-such-bucket/lake", prefix="fridge"))["lake"]
    assert nowhere.state == "bad"
    assert "DETECTION_LAKE" in nowhere.remedy


def test_without_credentials_it_says_which_to_set(platform: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    (finding,) = platform.compute.check()
    assert (finding.what, finding.state) == ("credentials", "bad")
    assert "AWS_ACCESS_KEY_ID" in finding.remedy
