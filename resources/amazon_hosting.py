"""One SageMaker endpoint, call by call: models, configurations, variants, weights, scaling.

What is refused comes out as `EndpointError`, with what to do about it.
"""

import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

from detection_assets.domain.rollout import TRIAL
from resources import amazon
from resources.endpoints.base import EndpointError

BUSY = frozenset(["Creating", "Updating", "SystemUpdating", "RollingBack", "Deleting"])
"""What SageMaker says of an endpoint that takes no change now."""
ANSWERS = frozenset(["InService", "Updating", "SystemUpdating", "RollingBack"])
GONE = "Could not find endpoint"
IN_USE = ("Cannot update in-progress endpoint", "Cannot create already existing endpoint")
"""What it says to somebody whom another one's change has overtaken."""
STARTUP_S = 300
"""Seconds that a server has to answer `/ping` once it runs; SageMaker gives up then, and goes back."""
OLD_S = 3600.0
"""Configurations and models that nobody uses are deleted after so many seconds; before, somebody may be about to."""
POLICY = "detection-invocations"

Described = Mapping[str, Any]
"""An endpoint as `describe_endpoint` tells it."""
Variant = Mapping[str, Any]
"""A production variant as a configuration tells it."""


@dataclass
class Hosting:
    """An endpoint of SageMaker's.

    Attributes:
        name: The endpoint's name; configurations and models are called after it.
        role: ARN of the role that the servers have.
        image: The image that serves.
        instance: Instance type of each server.
        count: Instances of each variant, at least.
        most: Instances of a variant with traffic, at most.
        per_minute: Requests a minute that one instance is to have, where `most` is above `count`.
        subnets: Subnets to run in; none for SageMaker's own network.
        security_groups: Security groups in these subnets.
        tags: Tags of all that is made.
    """

    name: str
    role: str
    image: str
    instance: str
    count: int
    most: int
    per_minute: int
    subnets: Sequence[str]
    security_groups: Sequence[str]
    tags: Mapping[str, str]
    _configs: dict[str, Sequence[Variant]] = field(default_factory=dict)

    # Looking ---------------------------------------------------------------------------------------------------------

    def described(self) -> Described | None:
        """The endpoint as it is; None if there is none."""
        from botocore.exceptions import ClientError

        with _told("describe the endpoint"):
            try:
                return amazon.client("sagemaker").describe_endpoint(EndpointName=self.name)
            except ClientError as error:
                if amazon.message_of(error).startswith(GONE):
                    return None
                raise

    def variants(self, config: str) -> Sequence[Variant]:
        """The variants of a configuration, which never changes."""
        if config not in self._configs:
            with _told("describe the endpoint's configuration"):
                told = amazon.client("sagemaker").describe_endpoint_config(EndpointConfigName=config)
            self._configs[config] = told["ProductionVariants"]
        return self._configs[config]

    def held(self, config: str) -> dict[str, str]:
        """Which model each variant of a configuration holds."""
        return {str(item["VariantName"]): str(item["ModelName"]) for item in self.variants(config)}

    def as_they_are(self, told: Described) -> list[Variant]:
        """The variants as one would ask for them now: with the weights and the instances that they have got since."""
        now = {item["VariantName"]: item for item in told.get("ProductionVariants", [])}
        return [
            {
                **item,
                "InitialVariantWeight": now[item["VariantName"]].get("CurrentWeight", item["InitialVariantWeight"]),
                "InitialInstanceCount": now[item["VariantName"]].get("CurrentInstanceCount", self.count) or self.count,
            }
            for item in self.variants(told["EndpointConfigName"])
        ]

    # Changing --------------------------------------------------------------------------------------------------------

    def model(self, name: str, folder: str) -> None:
        """Makes a model whose servers get a folder of the lake."""
        source = {"S3Uri": f"{folder}/", "S3DataType": "S3Prefix", "CompressionType": "None"}
        network = {"Subnets": list(self.subnets), "SecurityGroupIds": list(self.security_groups)}
        with _told("make the model"):
            amazon.client("sagemaker").create_model(
                ModelName=name,
                PrimaryContainer={"Image": self.image, "ModelDataSource": {"S3DataSource": source}},
                ExecutionRoleArn=self.role,
                Tags=self._tags,
                **({"VpcConfig": network} if self.subnets else {}),
            )

    def variant(self, name: str, model: str, weight: float, count: int) -> Variant:
        """A variant that is to be, with so many instances."""
        return {
            "VariantName": name,
            "ModelName": model,
            "InstanceType": self.instance,
            "InitialInstanceCount": count,
            "InitialVariantWeight": weight,
            "ContainerStartupHealthCheckTimeoutInSeconds": STARTUP_S,
        }

    def config(self, variants: Iterable[Variant]) -> str:
        """Makes a configuration, and returns its name."""
        name = f"{self.name}-{uuid.uuid4().hex[:8]}"
        with _told("make the endpoint's configuration"):
            amazon.client("sagemaker").create_endpoint_config(
                EndpointConfigName=name, ProductionVariants=list(variants), Tags=self._tags
            )
        return name

    def create(self, config: str) -> bool:
        """Makes the endpoint; False if somebody else just has."""
        return self._unless_overtaken(
            "make the endpoint", "create_endpoint", EndpointConfigName=config, Tags=self._tags
        )

    def update(self, config: str) -> bool:
        """Gives the endpoint another configuration; False if somebody else changes it just now."""
        return self._unless_overtaken("change the endpoint", "update_endpoint", EndpointConfigName=config)

    def weigh(self, weights: Mapping[str, float]) -> bool:
        """Sets the variants' weights; False if somebody else changes the endpoint just now."""
        wanted = [{"VariantName": name, "DesiredWeight": float(weight)} for name, weight in weights.items()]
        return self._unless_overtaken(
            "set the endpoint's weights", "update_endpoint_weights_and_capacities", DesiredWeightsAndCapacities=wanted
        )

    def delete(self) -> None:
        """Begins to delete the endpoint."""
        with _told("delete the endpoint"):
            amazon.client("sagemaker").delete_endpoint(EndpointName=self.name)

    def tidy(self, kept: Iterable[str], forget: Callable[[str], None]) -> None:
        """Deletes what earlier changes have left.

        Args:
            kept: The configurations that are in use.
            forget: Called with the name of each model that was deleted.
        """
        sagemaker, before = amazon.client("sagemaker"), time.time() - OLD_S
        used = {*kept, *(model for name in kept for model in self.held(name).values())}
        with _told("delete what is not used any more"):
            for kind, delete, listed in (
                ("EndpointConfig", sagemaker.delete_endpoint_config, "list_endpoint_configs"),
                ("Model", sagemaker.delete_model, "list_models"),
            ):
                for page in sagemaker.get_paginator(listed).paginate(NameContains=f"{self.name}-"):
                    for item in page[f"{kind}s"]:
                        name, made = str(item[f"{kind}Name"]), item["CreationTime"].timestamp()
                        if name.startswith(f"{self.name}-") and name not in used and made < before:
                            delete(**{f"{kind}Name": name})
                            if kind == "Model":
                                forget(name)

    def scale(self, variant: str, *, active: bool) -> None:
        """Lets SageMaker add and remove instances of a variant with traffic, and of no other."""
        if self.most <= self.count:
            return
        where = f"endpoint/{self.name}/variant/{variant}"
        of = {
            "ServiceNamespace": "sagemaker",
            "ResourceId": where,
            "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
        }
        metric = {"PredefinedMetricType": "SageMakerVariantInvocationsPerInstance"}
        tracking = {"TargetValue": float(self.per_minute), "PredefinedMetricSpecification": metric}
        scaling = amazon.client("application-autoscaling")
        with _told("set the endpoint's scaling"):
            if active:
                scaling.register_scalable_target(**of, MinCapacity=self.count, MaxCapacity=self.most)
                scaling.put_scaling_policy(
                    **of,
                    PolicyName=POLICY,
                    PolicyType="TargetTrackingScaling",
                    TargetTrackingScalingPolicyConfiguration=tracking,
                )
                return
            found = scaling.describe_scalable_targets(ServiceNamespace="sagemaker", ResourceIds=[where])
            if found["ScalableTargets"]:
                scaling.deregister_scalable_target(**of)

    # Requests --------------------------------------------------------------------------------------------------------

    def invoke(self, variant: str | None, image: bytes) -> Mapping[str, Any]:
        """Sends one picture; what names a variant is marked as a trial, because the server does not see the name."""
        from botocore.exceptions import ClientError

        named = {"TargetVariant": variant, "CustomAttributes": TRIAL} if variant else {}
        with _told("ask the endpoint"):
            try:
                answer = amazon.client("sagemaker-runtime").invoke_endpoint(
                    EndpointName=self.name,
                    Body=image,
                    ContentType="application/octet-stream",
                    Accept="application/json",
                    **named,
                )
            except ClientError as error:
                if "OriginalStatusCode" not in error.response:
                    raise
                status, said = error.response["OriginalStatusCode"], error.response.get("OriginalMessage", "")
                raise EndpointError(f"{self.name} answered {status}: {str(said)[:500]}") from error
            return orjson.loads(answer["Body"].read())

    @property
    def _tags(self) -> list[dict[str, str]]:
        return [{"Key": key, "Value": value} for key, value in self.tags.items()]

    def _unless_overtaken(self, what: str, operation: str, **asked: Any) -> bool:
        from botocore.exceptions import ClientError

        with _told(what):
            try:
                getattr(amazon.client("sagemaker"), operation)(EndpointName=self.name, **asked)
            except ClientError as error:
                if amazon.message_of(error).startswith(IN_USE):
                    return False
                raise
        return True


def weights(told: Described | None) -> dict[str, float]:
    """The variants' weights as they are now."""
    items = [] if told is None else told.get("ProductionVariants", [])
    return {str(item["VariantName"]): float(item.get("CurrentWeight", 0)) for item in items}


def shares(weights: Mapping[str, float]) -> dict[str, int]:
    """The shares of the traffic, per cent."""
    total = sum(weights.values())
    return {name: round(100 * weight / total) if total else 0 for name, weight in weights.items()}


@contextmanager
def _told(what: str) -> Iterator[None]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield
    except ClientError as error:
        raise EndpointError(f"SageMaker refuses to {what}: {amazon.refusal(error)}") from error
    except BotoCoreError as error:
        raise EndpointError(f"SageMaker was not reached to {what}: {error}") from error
