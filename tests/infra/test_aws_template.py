"""The CloudFormation template: held against its linter, deployed, and asked for no more than is used."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import pytest

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "infra" / "aws" / "template.yaml"
DETECTOR = ROOT / "infra" / "aws" / "detector.yaml"


FOR_ALL = {"ecr:GetAuthorizationToken", "sagemaker:ListModels", "sagemaker:ListEndpointConfigs"}


@pytest.fixture(scope="module")
def stack(s3_server: str) -> Iterator[dict[str, Any]]:
    """The stack as it lies in an account: its outputs, and the clients to look with."""
    from boto3.session import Session
    from fakes import s3

    session = Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=s3.REGION)
    names = ("cloudformation", "s3", "sqs", "iam")
    clients = {name: session.client(name, endpoint_url=s3_server) for name in names}
    name = f"detection-{uuid.uuid4().hex[:8]}"
    clients["cloudformation"].create_stack(
        StackName=name,
        TemplateBody=TEMPLATE.read_text(),
        Parameters=[{"ParameterKey": "BucketName", "ParameterValue": name}],
        Capabilities=["CAPABILITY_IAM"],
    )
    made = clients["cloudformation"].describe_stacks(StackName=name)["Stacks"][0]
    assert made["StackStatus"] == "CREATE_COMPLETE", made
    outputs = {item["OutputKey"]: item["OutputValue"] for item in made["Outputs"]}
    yield {**clients, "bucket": name, "outputs": outputs}
    for client in clients.values():
        client.close()


def properties(resource: str, template: Path = TEMPLATE) -> dict[str, Any]:
    """What a template says of a resource, its short forms written out."""
    from cfnlint.decode.cfn_yaml import load

    return load(str(template))["Resources"][resource]["Properties"]


def statements(policy: str) -> list[dict[str, Any]]:
    """What a policy of the template allows."""
    return properties(policy)["PolicyDocument"]["Statement"]


@pytest.mark.parametrize("template", [TEMPLATE, DETECTOR], ids=lambda path: path.stem)
def test_the_linter_has_nothing_to_say(template: Path) -> None:
    linter = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([linter, "--include-checks", "W", "--", template], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_lake_is_closed_encrypted_and_remembers(stack: dict[str, Any]) -> None:
    s3, bucket = stack["s3"], stack["bucket"]
    assert stack["outputs"]["Lake"] == f"s3://{bucket}/detectors"
    # Of a bucket's properties moto's CloudFormation makes only some.
    assert properties("Lake")["VersioningConfiguration"] == {"Status": "Enabled"}
    rules = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rules[0]["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    assert all(properties("Lake")["PublicAccessBlockConfiguration"].values())
    (denied,) = properties("LakePolicy")["PolicyDocument"]["Statement"]
    assert denied["Effect"] == "Deny"
    assert denied["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}


@pytest.fixture(scope="module")
def queues(stack: dict[str, Any]) -> dict[str, str]:
    """The queues of two detectors in that account; their names are made of the detectors' names alone."""
    found: dict[str, str] = {}
    for detector in ("fridge", "surgical"):
        name = f"{stack['bucket']}-{detector}"
        given = {"Detector": detector, "BucketName": stack["bucket"]}
        stack["cloudformation"].create_stack(
            StackName=name,
            TemplateBody=DETECTOR.read_text(),
            Parameters=[{"ParameterKey": key, "ParameterValue": value} for key, value in given.items()],
        )
        (made,) = stack["cloudformation"].describe_stacks(StackName=name)["Stacks"]
        assert made["StackStatus"] == "CREATE_COMPLETE", made
        found[detector] = made["Outputs"][0]["OutputValue"]
    # Of a bucket's properties moto's CloudFormation makes only some.
    assert properties("Lake")["NotificationConfiguration"] == {"EventBridgeConfiguration": {"EventBridgeEnabled": True}}
    stack["s3"].put_bucket_notification_configuration(
        Bucket=stack["bucket"], NotificationConfiguration={"EventBridgeConfiguration": {}}
    )
    return found


def test_each_detector_hears_of_its_own_videos_and_of_nothing_else(
    stack: dict[str, Any], queues: dict[str, str]
) -> None:
    names = ("fridge/videos/a b.mp4", "surgical/videos/c.mp4", "fridge/frames/d", "fridge2/videos/e.mp4")
    for key in (*(f"detectors/{name}" for name in names), "fridge/videos/f.mp4"):
        stack["s3"].put_object(Bucket=stack["bucket"], Key=key, Body=b"video")
    stack["s3"].delete_object(Bucket=stack["bucket"], Key="detectors/surgical/videos/c.mp4")
    heard: dict[str, list[tuple[str, str]]] = {}
    for detector, queue in queues.items():
        told = stack["sqs"].receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages", [])
        bodies = [json.loads(message["Body"]) for message in told]
        heard[detector] = [(body["detail-type"], body["detail"]["object"]["key"]) for body in bodies]
    assert heard == {
        "fridge": [("Object Created", "detectors/fridge/videos/a b.mp4")],
        "surgical": [
            ("Object Created", "detectors/surgical/videos/c.mp4"),
            ("Object Deleted", "detectors/surgical/videos/c.mp4"),
        ],
    }


def test_the_setting_that_the_stack_tells_leads_to_the_queue_of_each(
    stack: dict[str, Any], queues: dict[str, str]
) -> None:
    setting = stack["outputs"]["Queue"]
    for detector, queue in queues.items():
        # moto's queues have its own address before the account's number.
        assert urlparse(setting.replace("{detector}", detector)).path == urlparse(queue).path
        about = stack["sqs"].get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn", "RedrivePolicy"])
        (taking,) = [one for one in statements("DagsterPolicy") if one["Sid"] == "NewVideos"]
        allowed = taking["Resource"]["Fn::Sub"].rpartition(":")[2]
        assert fnmatch(about["Attributes"]["QueueArn"].rpartition(":")[2], allowed)
        assert json.loads(about["Attributes"]["RedrivePolicy"])["maxReceiveCount"] == 5


def test_only_the_rule_may_tell_the_queues(queues: dict[str, str]) -> None:
    policy = properties("NewVideosPolicy", DETECTOR)
    assert {queue["Ref"] for queue in policy["Queues"]} == {"NewVideos", "NobodyTook"}
    (statement,) = policy["PolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "events.amazonaws.com"}
    assert statement["Action"] == "sqs:SendMessage"
    assert statement["Condition"] == {"ArnEquals": {"aws:SourceArn": {"Fn::GetAtt": ["NewVideosRule", "Arn"]}}}


def test_no_right_is_for_everything(stack: dict[str, Any]) -> None:
    iam = stack["iam"]
    policy = iam.get_policy(PolicyArn=stack["outputs"]["Policy"])["Policy"]
    document = iam.get_policy_version(PolicyArn=policy["Arn"], VersionId=policy["DefaultVersionId"])
    role = stack["outputs"]["Role"].rpartition("/")[2]
    inline = iam.get_role_policy(RoleName=role, PolicyName="jobs")["PolicyDocument"]
    documents = [document["PolicyVersion"]["Document"], inline]
    # moto hands back what it was made with, written as Python writes it.
    parsed = [ast.literal_eval(one) if isinstance(one, str) else one for one in documents]
    statements = [statement for one in parsed for statement in one["Statement"]]
    for statement in statements:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert not [action for action in actions if "*" in action], statement["Sid"]
        # What AWS gives for everything or not at all; what can be narrowed by a condition is.
        assert statement["Resource"] != "*" or set(actions) <= FOR_ALL or "Condition" in statement, statement["Sid"]
    (passing,) = [statement for statement in statements if statement["Action"] == "iam:PassRole"]
    assert passing["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
    assert passing["Resource"] == stack["outputs"]["Role"]
