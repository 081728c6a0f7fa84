"""What there is in the AWS account and what it may have, looked at before anything depends on it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from resources import amazon
from resources.findings import Finding

Look = Callable[[], tuple[bool, str, str]]
"""Whether it is good, what was found, and what to do if it is not."""
MISSING = ("NoSuchEntity", "RepositoryNotFound", "ImageNotFound", "NoSuchResource")


def looked(what: str, look: Look, remedy: str = "", missing: tuple[str, ...] = MISSING) -> Finding:
    """Looks, and says what was found also if that was refused.

    Args:
        what: What is looked at.
        look: Looks.
        remedy: What to do if there is no such thing.
        missing: How the service's words begin where there is none.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        good, told, why = look()
    except ClientError as error:
        code = amazon.code_of(error)
        if code in amazon.DENIED:
            return Finding(what, "unknown", "these credentials may not look", "look at it in the console")
        return Finding(what, "bad" if code.startswith(missing) else "unknown", amazon.refusal(error), remedy)
    except BotoCoreError as error:
        return Finding(what, "unknown", str(error))
    return Finding(what, "good" if good else "bad", told, "" if good else why)


def role(arn: str) -> Finding:
    """Whether SageMaker may have a role."""

    def look() -> tuple[bool, str, str]:
        told = amazon.client("iam").get_role(RoleName=arn.rpartition("/")[2])["Role"]
        trusts = "sagemaker.amazonaws.com" in str(told["AssumeRolePolicyDocument"])
        return trusts, arn, "let sagemaker.amazonaws.com assume it, as infra/aws/template.yaml does"

    return looked("role", look, "set DETECTION_AWS_ROLE to the output Role of infra/aws/template.yaml")


def image(what: str, address: str, setting: str) -> Finding:
    """Whether an image was pushed.

    Args:
        what: Which it is.
        address: `<account>.dkr.ecr.<region>.amazonaws.com/<name>:<tag>`.
        setting: The setting that names it.
    """

    def look() -> tuple[bool, str, str]:
        place, _, tag = address.partition(":")
        host, _, name = place.partition("/")
        if ".dkr.ecr." not in host or not tag:
            return False, address, "it is no <account>.dkr.ecr.<region>.amazonaws.com/<name>:<tag>; see docs/aws.md"
        amazon.client("ecr").describe_images(
            registryId=host.partition(".")[0], repositoryName=name, imageIds=[{"imageTag": tag}]
        )
        return True, address, ""

    return looked(what, look, f"push it, as docs/aws.md says, or correct {setting}")


def workteam(arn: str) -> Finding:
    """Whether there is a team of workers of one's own, or a vendor's that one has subscribed to."""

    def look() -> tuple[bool, str, str]:
        sagemaker, name = amazon.client("sagemaker"), arn.rpartition("/")[2]
        if ":workteam/public-crowd/" in arn:
            return False, arn, "set DETECTION_AWS_WORKTEAM to a private team; the public crowd would see your pictures"
        if ":workteam/vendor-crowd/" in arn:
            told = sagemaker.describe_subscribed_workteam(WorkteamArn=arn)["SubscribedWorkteam"]
        else:
            told = sagemaker.describe_workteam(WorkteamName=name)["Workteam"]
        where = "it is another team's; correct DETECTION_AWS_WORKTEAM"
        return told["WorkteamArn"] == arn, told["WorkteamArn"], where

    remedy = "make one in the console (Ground Truth, Labeling workforces), and set DETECTION_AWS_WORKTEAM to its ARN"
    return looked("team of workers", look, remedy, missing=("ValidationException", "ResourceNotFound"))


def shown_in_browsers(uri: str) -> Finding:
    """Whether a page of another address may load pictures of a lake, given a signed link.

    Args:
        uri: The lake's, `s3://bucket/prefix`.
    """

    def look() -> tuple[bool, str, str]:
        bucket = uri.removeprefix("s3://").partition("/")[0]
        rules = amazon.client("s3").get_bucket_cors(Bucket=bucket)["CORSRules"]
        shown = any("GET" in rule["AllowedMethods"] and "*" in rule["AllowedOrigins"] for rule in rules)
        return shown, f"CORS of {bucket}", remedy

    remedy = "let the bucket's CORS allow GET from *, as infra/aws/template.yaml does; links are signed all the same"
    return looked("pictures in workers' browsers", look, remedy, missing=("NoSuchCORSConfiguration",))


class Quotas:
    """SageMaker's quotas; there are pages of them, which are asked for once."""

    def finding(self, what: str, name: str, needed: int, setting: str) -> Finding:
        """Whether one is large enough.

        Args:
            what: What it is a quota of.
            name: Its name.
            needed: The instances that are needed.
            setting: The setting that names the instance type.
        """

        def look() -> tuple[bool, str, str]:
            most = self._all.get(name)
            if most is None:
                return False, f"{name}: nobody knows such an instance", f"correct {setting}"
            return most >= needed, f"{name}: {most:g}", f"ask for more at Service Quotas, Amazon SageMaker, {name}"

        return looked(what, look)

    @functools.cached_property
    def _all(self) -> Mapping[str, float]:
        pages = amazon.client("service-quotas").get_paginator("list_service_quotas").paginate(ServiceCode="sagemaker")
        return {one["QuotaName"]: one["Value"] for page in pages for one in page["Quotas"]}
