"""The CloudFormation template: held against its linter, deployed, and asked for no more than is used."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_plus

import pytest

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "infra" / "aws" / "template.yaml"


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


def properties(resource: str) -> dict[str, Any]:
    """What the template says of a resource, its short forms written out."""
    from cfnlint.decode.cfn_yaml import load

    return load(str(TEMPLATE))["Resources"][resource]["Properties"]


def test_the_linter_has_nothing_to_say() -> None:
    linter = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([linter, "--include-checks", "W", "--", TEMPLATE], capture_output=True, text=True)
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


def test_the_queue_hears_of_what_is_put_below_the_prefix_and_of_nothing_else(stack: dict[str, Any]) -> None:
    (notice,) = properties("Lake")["NotificationConfiguration"]["QueueConfigurations"]
    queue = stack["sqs"].get_queue_attributes(QueueUrl=stack["outputs"]["Queue"], AttributeNames=["QueueArn"])
    (rule,) = notice["Filter"]["S3Key"]["Rules"]
    wanted = {
        "QueueArn": queue["Attributes"]["QueueArn"],
        "Events": [notice["Event"]],
        "Filter": {
            "Key": {"FilterRules": [{**rule, "Value": rule["Value"]["Fn::Sub"].replace("${Prefix}", "detectors")}]}
        },
    }
    stack["s3"].put_bucket_notification_configuration(
        Bucket=stack["bucket"], NotificationConfiguration={"QueueConfigurations": [wanted]}
    )
    for key in ("detectors/fridge/videos/a.mp4", "elsewhere/b.mp4"):
        stack["s3"].put_object(Bucket=stack["bucket"], Key=key, Body=b"video")
    told = stack["sqs"].receive_message(QueueUrl=stack["outputs"]["Queue"], MaxNumberOfMessages=10, WaitTimeSeconds=1)
    bodies = [json.loads(message["Body"]) for message in told.get("Messages", [])]
    keys = [unquote_plus(record["s3"]["object"]["key"]) for body in bodies for record in body.get("Records", [])]
    assert keys == ["detectors/fridge/videos/a.mp4"]


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
        # Fetching a token for the registry is the one right that AWS gives for everything or not at all.
        assert statement["Resource"] != "*" or actions == ["ecr:GetAuthorizationToken"], statement["Sid"]
    (passing,) = [statement for statement in statements if statement["Action"] == "iam:PassRole"]
    assert passing["Condition"] == {"StringEquals": {"iam:PassedToService": "sagemaker.amazonaws.com"}}
    assert passing["Resource"] == stack["outputs"]["Role"]
