"""The SageMaker Model Registry: a package group a detector, a package a version.

Approving or rejecting a version in SageMaker Studio is as good as doing it by command. A package's metadata takes few
characters and short values, so what it cannot take is written in those that it can.
"""

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import unquote

import dagster as dg

from resources import amazon
from resources.registry.base import (
    APPROVED,
    PENDING,
    REJECTED,
    ModelVersion,
    Registry,
    in_parts,
    summary_of,
    whole,
)
from resources.storage import LakeError, Storage

CHARS = 256
"""Characters that a value of a package's metadata may have."""
TAKEN = re.compile(r"[^A-Za-z0-9 _.:/+\-@]")
"""What stands for itself in a value; `=` does not, for it begins a character that does not."""
STATES = {APPROVED: "Approved", PENDING: "PendingManualApproval", REJECTED: "Rejected"}
ALIAS = "alias/"
"""How a group's tags that are our aliases begin."""
PARALLEL = 8
"""Versions that are asked for at once; SageMaker counts requests by the second."""
INSTANCES = ["ml.m5.xlarge", "ml.c5.xlarge", "ml.g4dn.xlarge", "ml.g5.xlarge"]
"""Where the model is meant to run; SageMaker wants to know some."""


class SageMakerRegistry(Registry):
    """Model packages on Amazon SageMaker.

    Attributes:
        image: The image that serves.
    """

    storage: dg.ResourceDependency[Storage]
    image: str

    @property
    def group(self) -> str:
        """The package group's name."""
        return amazon.name_of(self.model)

    def arn(self, version: str | None = None) -> str:
        """The ARN of a version's package, or of the group.

        Raises:
            ClientError: botocore's, as if there is no group yet.
        """
        told = amazon.client("sagemaker").describe_model_package_group(ModelPackageGroupName=self.group)
        group = str(told["ModelPackageGroupArn"])
        return group if version is None else f"{group.replace(':model-package-group/', ':model-package/')}/{version}"

    def create(self, tags: Mapping[str, str], uri: str, run_id: str) -> ModelVersion:
        """Makes a package whose model is the published ONNX, as it lies there."""
        from botocore.exceptions import ClientError

        sagemaker = amazon.client("sagemaker")
        try:
            sagemaker.create_model_package_group(
                ModelPackageGroupName=self.group, ModelPackageGroupDescription=f"Detection Assets: {self.model}"
            )
        except ClientError as error:
            if "already exists" not in amazon.message_of(error):
                raise LakeError(f"{self.group}: no package group: {amazon.refusal(error)}") from error
        quality = self._quality(tags)
        made = sagemaker.create_model_package(
            ModelPackageGroupName=self.group,
            ModelPackageDescription=f"{self.model}, dataset {tags.get('dataset_version', '')}"[:1024],
            InferenceSpecification={
                "Containers": [
                    {
                        "Image": self.image,
                        "ModelDataSource": {
                            "S3DataSource": {"S3Uri": uri, "S3DataType": "S3Object", "CompressionType": "None"}
                        },
                    }
                ],
                "SupportedContentTypes": ["image/jpeg", "image/png", "application/octet-stream", "application/json"],
                "SupportedResponseMIMETypes": ["application/json"],
                "SupportedRealtimeInferenceInstanceTypes": INSTANCES,
                "SupportedTransformInstanceTypes": INSTANCES,
            },
            ModelApprovalStatus=STATES[PENDING],
            CustomerMetadataProperties=packed({**tags, **({"mlflow_run": run_id} if run_id else {})}),
            **({"ModelMetrics": {"ModelQuality": {"Statistics": quality}}} if quality else {}),
        )
        return self._version(sagemaker.describe_model_package(ModelPackageName=made["ModelPackageArn"]), {})

    def _quality(self, tags: Mapping[str, str]) -> Mapping[str, str] | None:
        """Where the evaluation's figures lie, for SageMaker Studio to show."""
        found = summary_of(self.storage, tags)
        return {"ContentType": "application/json", "S3Uri": self.storage.uri_of(found)} if found else None

    def history(self) -> Sequence[ModelVersion]:
        """All versions, newest first."""
        from botocore.exceptions import ClientError

        sagemaker = amazon.client("sagemaker")
        try:
            arn = self.arn()
        except ClientError as error:
            if "does not exist" in amazon.message_of(error):
                return []
            raise LakeError(f"{self.group}: {amazon.refusal(error)}") from error
        listed = sagemaker.get_paginator("list_model_packages").paginate(ModelPackageGroupName=self.group)
        arns = [item["ModelPackageArn"] for page in listed for item in page["ModelPackageSummaryList"]]
        aliases = self._aliases(arn)
        # The list has no metadata, so each is asked for.
        with ThreadPoolExecutor(PARALLEL) as pool:
            told = list(pool.map(lambda one: sagemaker.describe_model_package(ModelPackageName=one), arns))
        return sorted((self._version(item, aliases) for item in told), key=lambda one: int(one.version), reverse=True)

    def _aliases(self, arn: str) -> Mapping[str, str]:
        pages = amazon.client("sagemaker").get_paginator("list_tags").paginate(ResourceArn=arn)
        tags = {tag["Key"]: tag["Value"] for page in pages for tag in page["Tags"]}
        return {key.removeprefix(ALIAS): value for key, value in tags.items() if key.startswith(ALIAS)}

    def _version(self, told: Mapping[str, Any], aliases: Mapping[str, str]) -> ModelVersion:
        version = str(told["ModelPackageVersion"])
        tags = unpacked(told.get("CustomerMetadataProperties") or {})
        state = next((state for state, word in STATES.items() if word == told.get("ModelApprovalStatus")), "")
        arn = told["ModelPackageArn"]
        region = arn.split(":")[3]
        return ModelVersion(
            name=self.model,
            version=version,
            sha256=tags.get("sha256", ""),
            onnx=tags.get("onnx", ""),
            aliases=sorted(alias for alias, target in aliases.items() if target == version),
            tags=tags,
            link=f"https://{region}.console.aws.amazon.com/sagemaker/home?region={region}#/model-packages/{arn}",
        ).heard(state)

    def point(self, alias: str, version: str) -> None:
        """Points an alias at a version, by a tag of the group."""
        amazon.client("sagemaker").add_tags(ResourceArn=self.arn(), Tags=[{"Key": f"{ALIAS}{alias}", "Value": version}])

    def tag(self, version: str, tags: Mapping[str, str]) -> None:
        """Adds to a package's metadata; what says that it is approved or not sets the package's own status, too."""
        sagemaker = amazon.client("sagemaker")
        arn = self.arn(version)
        told = sagemaker.describe_model_package(ModelPackageName=arn)
        before = told.get("CustomerMetadataProperties") or {}
        after = packed({**unpacked(before), **tags})
        reason = tags.get("approval_reason", "")
        gone = sorted(set(before) - set(after))
        sagemaker.update_model_package(
            ModelPackageArn=arn,
            ModelApprovalStatus=STATES[tags["approval"]] if "approval" in tags else told["ModelApprovalStatus"],
            CustomerMetadataProperties=after,
            **({"CustomerMetadataPropertiesToRemove": gone} if gone else {}),
            **(
                {"ApprovalDescription": " ".join(f"{tags.get('approved_by', '')}: {reason}".split())[:1024]}
                if reason
                else {}
            ),
        )


def packed(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as a package's metadata takes them: `=` and two digits for what it does not take, long ones in parts."""
    taken = {
        key: TAKEN.sub(lambda one: "".join(f"={byte:02X}" for byte in one[0].encode()), str(value))
        for key, value in tags.items()
    }
    # An empty value is not told from none.
    return in_parts({key: text or "=" for key, text in taken.items()}, CHARS)


def unpacked(metadata: Mapping[str, str]) -> dict[str, str]:
    """The tags that `packed` wrote."""
    return {
        key: "" if text == "=" else unquote(text.replace("%", "%25").replace("=", "%"))
        for key, text in whole(metadata).items()
    }
