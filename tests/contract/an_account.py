"""A real AWS account as a platform: its settings, a place in it of a test's own, and nothing left there afterwards."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
from dotenv import dotenv_values
from project import ROOT

from resources import amazon, amazon_hosting
from resources.storage import Storage

GIVEN: Mapping[str, str] = {**{key: value or "" for key, value in dotenv_values(ROOT / ".env").items()}, **os.environ}
"""What `.env` and the environment say before any test changes it."""
NEEDED = ("DETECTION_LAKE", "DETECTION_AWS_ROLE", "DETECTION_AWS_PROGRAMS_IMAGE", "DETECTION_AWS_SERVING_IMAGE")
OURS = ("DETECTION_HOME", "DETECTION_DETECTORS", "DETECTION_ALERTS")
"""What a test has of its own, or has not, whatever is given."""


def wrong() -> str:
    """What is to be set, or not to be, before an account can be tested, in one line; "" if nothing is."""
    needed = [name for name in NEEDED if not GIVEN.get(name)]
    if not any(GIVEN.get(name) for name in ("AWS_REGION", "AWS_DEFAULT_REGION")):
        needed.append("AWS_REGION")
    if needed:
        return f"a real account is needed: set {', '.join(needed)} in .env or the environment; see docs/aws.md"
    elsewhere = sorted(name for name, value in GIVEN.items() if name.startswith("AWS_ENDPOINT_URL") and value)
    if elsewhere:
        return f"a real account is needed: unset {', '.join(elsewhere)}, which leads elsewhere"
    lake = GIVEN["DETECTION_LAKE"]
    return "" if lake.startswith("s3://") else f"a real account is needed: DETECTION_LAKE is {lake}; set s3://..."


def surround(patch: pytest.MonkeyPatch) -> None:
    """Sets the environment that is given, whatever other tests have made of it."""
    for key, value in GIVEN.items():
        if key.startswith(("AWS_", "DETECTION_", "MLFLOW_")) and key not in OURS:
            patch.setenv(key, value)
    # Tests wait for servers that tell and look that often.
    patch.setenv("DETECTION_REPORT_S", "0.2")


@contextmanager
def fresh_lake() -> Iterator[str]:
    """A lake below the given one, which is emptied in the end: later than any server of an endpoint writes to it."""
    reason = wrong()
    if reason:
        pytest.skip(reason)
    above, below = GIVEN["DETECTION_LAKE"].rstrip("/"), f"contract-{uuid.uuid4().hex[:8]}"
    try:
        yield f"{above}/{below}"
    finally:
        with pytest.MonkeyPatch.context() as patch:
            surround(patch)
            Storage(root=above, prefix=below).delete("")


def clear(platform: Any) -> None:
    """Deletes what a detector has of SageMaker, but for its jobs, which SageMaker keeps on its list for good."""
    hosting = platform.endpoints.hosting
    told = hosting.settled()
    if told is not None:
        for slot in amazon_hosting.weights(told):
            hosting.scale(slot, active=False)
        hosting.delete()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(amazon_hosting, "OLD_S", -1.0)
        hosting.tidy([], lambda _: None)
    versions = platform.registry.history()
    if versions:
        sagemaker = amazon.client("sagemaker")
        for known in versions:
            sagemaker.delete_model_package(ModelPackageName=platform.registry.arn(known.version))
        sagemaker.delete_model_package_group(ModelPackageGroupName=platform.registry.group)
    if GIVEN.get("MLFLOW_TRACKING_URI"):
        client = platform.tracking.client()
        experiment = client.get_experiment_by_name(platform.tracking.experiment)
        if experiment is not None:
            client.delete_experiment(experiment.experiment_id)
