"""The front of an endpoint: its template, held against the linter and deployed, and what its function may do."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cfnlint.decode.cfn_yaml import load
from project import ROOT

TEMPLATE = ROOT / "infra" / "aws" / "front.yaml"
UNMADE = ("AWS::ApiGatewayV2::", "AWS::CloudWatch::")
"""What moto's CloudFormation does not make; the services themselves do, and are asked for it apart."""


def resources() -> dict[str, Any]:
    """The template's resources by their names, short forms written out."""
    return json.loads(json.dumps(load(str(TEMPLATE))["Resources"], default=str))


def test_the_linter_has_nothing_to_say() -> None:
    linter = Path(sys.executable).with_name("cfn-lint")
    done = subprocess.run([linter, "--include-checks", "W", "--", TEMPLATE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def stack(s3_server: str) -> Iterator[dict[str, Any]]:
    """The stack as it lies in an account, less what moto cannot make, and the clients to look with."""
    from boto3.session import Session
    from fakes import s3

    session = Session(aws_access_key_id="test", aws_secret_access_key="test", region_name=s3.REGION)
    names = ("cloudformation", "lambda", "iam", "logs", "cloudwatch", "apigatewayv2")
    clients = {name: session.client(name, endpoint_url=s3_server) for name in names}
    template = json.loads(json.dumps(load(str(TEMPLATE)), default=str))
    gone = {name for name, one in template["Resources"].items() if one["Type"].startswith(UNMADE)}
    template["Resources"] = {name: one for name, one in template["Resources"].items() if name not in gone}
    template["Outputs"] = {}
    api = clients["apigatewayv2"].create_api(Name="front", ProtocolType="HTTP")
    text = json.dumps(template).replace('{"Ref": "Api"}', json.dumps(api["ApiId"])).replace("${Api}", api["ApiId"])
    name = f"front-{uuid.uuid4().hex[:8]}"
    clients["cloudformation"].create_stack(
        StackName=name,
        TemplateBody=text,
        Parameters=[{"ParameterKey": "Detector", "ParameterValue": "shelf_2"}],
        Capabilities=["CAPABILITY_IAM"],
    )
    made = clients["cloudformation"].describe_stacks(StackName=name)["Stacks"][0]
    assert made["StackStatus"] == "CREATE_COMPLETE", made
    found = clients["cloudformation"].list_stack_resources(StackName=name)["StackResourceSummaries"]
    assert {one["LogicalResourceId"] for one in found} == template["Resources"].keys()
    yield {**clients, "api": api["ApiId"]}
    for client in clients.values():
        client.close()


def test_the_function_may_ask_one_endpoint_and_write_one_log(stack: dict[str, Any]) -> None:
    told = stack["lambda"].get_function(FunctionName="detection-shelf_2-front")["Configuration"]
    assert told["Environment"]["Variables"] == {"ENDPOINT": "detection-shelf-2"}
    role = told["Role"].rpartition("/")[2]
    (name,) = stack["iam"].list_role_policies(RoleName=role)["PolicyNames"]
    assert stack["iam"].list_attached_role_policies(RoleName=role)["AttachedPolicies"] == []
    document = stack["iam"].get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    # moto hands back what it was made with, written as Python writes it.
    asking, logging = (ast.literal_eval(document) if isinstance(document, str) else document)["Statement"]
    assert (asking["Action"], asking["Resource"].rpartition(":")[2]) == (
        "sagemaker:InvokeEndpoint",
        "endpoint/detection-shelf-2",
    )
    assert set(logging["Action"]) == {"logs:CreateLogStream", "logs:PutLogEvents"}
    assert "log-group:/aws/lambda/detection-shelf_2-front" in logging["Resource"]


def test_nobody_but_the_api_may_ask_the_function(stack: dict[str, Any]) -> None:
    policy = json.loads(stack["lambda"].get_policy(FunctionName="detection-shelf_2-front")["Policy"])
    (statement,) = policy["Statement"]
    assert statement["Principal"] == {"Service": "apigateway.amazonaws.com"}
    assert statement["Action"] == "lambda:InvokeFunction"
    (source,) = statement["Condition"]["ArnLike"].values()
    assert source.endswith(f":{stack['api']}/*/POST/score")


def settled(part: Any, tokens: bool, **known: Any) -> Any:
    """A part of the template as CloudFormation would hand it on: conditions decided, references followed."""
    if isinstance(part, list):
        return [settled(one, tokens, **known) for one in part]
    if not isinstance(part, dict):
        return part
    if "Fn::If" in part:
        condition, yes, no = part["Fn::If"]
        return settled(yes if tokens and condition == "ByToken" else no, tokens, **known)
    if len(part) == 1 and next(iter(part)).startswith(("Ref", "Fn::")):
        ((kind, what),) = part.items()
        if kind == "Fn::Split":
            return settled(what[1], tokens, **known).split(what[0])
        text = what if isinstance(what, str) else ".".join(what)
        for name, value in known.items():
            text = text.replace(f"${{{name}}}", str(value))
        return known.get(text, None if text == "AWS::NoValue" else text)
    return {key: value for key, one in part.items() if (value := settled(one, tokens, **known)) is not None}


def test_logs_end_and_failures_are_told(stack: dict[str, Any]) -> None:
    groups = stack["logs"].describe_log_groups()["logGroups"]
    kept = {one["logGroupName"]: one.get("retentionInDays") for one in groups}
    assert kept["/aws/vendedlogs/detection-shelf_2-front"] == kept["/aws/lambda/detection-shelf_2-front"] == 30
    asked = settled(resources()["FailsAlarm"]["Properties"], False, Api=stack["api"], Errors=5, Detector="shelf_2")
    stack["cloudwatch"].put_metric_alarm(AlarmName="front", **asked)
    (alarm,) = stack["cloudwatch"].describe_alarms(AlarmNames=["front"])["MetricAlarms"]
    assert (alarm["MetricName"], alarm["Dimensions"]) == ("5xx", [{"Name": "ApiId", "Value": stack["api"]}])


@pytest.mark.parametrize("tokens", [False, True], ids=["iam", "tokens"])
def test_api_gateway_takes_it_and_knows_every_caller(stack: dict[str, Any], tokens: bool) -> None:
    client, found = stack["apigatewayv2"], resources()
    known: dict[str, Any] = {"Api": stack["api"], "RatePerSecond": 10, "Burst": 20}
    known |= {"Issuer": "https://issuer.example.org", "Audience": "detection,another"}

    def asked(name: str) -> dict[str, Any]:
        return settled(found[name]["Properties"], tokens, **known)

    known["PassingOn"] = client.create_integration(**asked("PassingOn"))["IntegrationId"]
    if tokens:
        made = client.create_authorizer(**asked("Tokens"))
        assert made["JwtConfiguration"]["Audience"] == ["detection", "another"]
        known["Tokens"] = made["AuthorizerId"]
    route = client.create_route(**asked("Score"))
    stage = client.create_stage(**{**asked("Stage"), "StageName": f"stage-{tokens}"})
    assert stage["DefaultRouteSettings"] == {"ThrottlingRateLimit": 10, "ThrottlingBurstLimit": 20}
    assert route["RouteKey"] == "POST /score"
    assert route["Target"] == f"integrations/{known['PassingOn']}"
    assert route["AuthorizationType"] == ("JWT" if tokens else "AWS_IAM")
    assert route.get("AuthorizerId") == known.get("Tokens")
    routes = [one for one in found.values() if one["Type"].endswith("::Route")]
    assert len(routes) == 1, "there is no way past the one that asks who it is"
    client.delete_route(ApiId=stack["api"], RouteId=route["RouteId"])


def test_the_function_fits_into_the_template() -> None:
    assert len(resources()["Front"]["Properties"]["Code"]["ZipFile"]) <= 4096
