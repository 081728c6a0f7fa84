"""What everything that speaks to AWS has in common: clients, and what to do when one is refused."""

from __future__ import annotations

import functools
import os
from typing import Any

QUOTA = ("ResourceLimitExceeded", "ServiceQuotaExceededException", "LimitExceededException")
DENIED = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation")
EXPIRED = ("ExpiredToken", "ExpiredTokenException")
NOBODY = ("InvalidClientTokenId", "UnrecognizedClientException", "SignatureDoesNotMatch")


def client(name: str) -> Any:
    """A boto3 client for a service, as the environment says; made once.

    Args:
        name: boto3's name of the service, as `sagemaker`.
    """
    return _client(name, tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))))


@functools.lru_cache(maxsize=32)
def _client(name: str, _: tuple[tuple[str, str], ...]) -> Any:
    from boto3.session import Session
    from botocore.config import Config

    patient = Config(retries={"mode": "standard", "max_attempts": 6}, connect_timeout=10, read_timeout=60)
    # A session of its own: the one that boto3 keeps knows the environment as it once was.
    return Session().client(name, config=patient)


def name_of(detector: str) -> str:
    """What a detector's things are called where a name holds letters, digits and hyphens."""
    return f"detection-{detector.replace('_', '-')}"


def code_of(error: Any) -> str:
    """The service's word for an error of botocore's."""
    return str(error.response["Error"]["Code"])


def message_of(error: Any) -> str:
    """What the service says of it."""
    return str(error.response["Error"].get("Message", ""))


def refusal(error: Any, instance: str = "") -> str:
    """What a service says, and what is to be done about it.

    Args:
        error: botocore's `ClientError`.
        instance: The instance type that was asked for.
    """
    code, message = code_of(error), message_of(error)
    if code in QUOTA:
        remedy = f"ask for more at Service Quotas, Amazon SageMaker, {instance}; or set another instance type"
    elif code in DENIED:
        remedy = "give the credentials that Dagster runs with this right; infra/aws has the policy"
    elif code in EXPIRED:
        remedy = "the credentials have expired; log in again, or renew them in .env"
    elif code in NOBODY:
        remedy = "AWS does not know these credentials; correct them in .env"
    elif "assume role" in message:
        remedy = "DETECTION_AWS_ROLE has to be a role that sagemaker.amazonaws.com may assume"
    else:
        return f"{code}: {message}"
    return f"{code}: {message} ({remedy})"
