"""What a store keeps of objects that were deleted or replaced: older versions, snapshots, deleted blobs.

The lake's own client knows the objects that there are now. A bucket or container that keeps versions, as those of
infra/ do, keeps what was deleted; who has something erased has these deleted, too, by the store's own interface.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import urlparse

from detection_assets.domain.problems import InputError
from resources.storage import Storage

AT_ONCE = 1000
"""Versions that S3 deletes in one request, at most."""


def erase(storage: Storage, areas: Iterable[str], keep: Callable[[str], bool]) -> tuple[int, str]:
    """Deletes what the store keeps of objects that are not there any more, or were replaced.

    Args:
        storage: The detector's storage.
        areas: Keys, and prefixes below which everything is meant.
        keep: Whether a key is somebody else's.

    Returns:
        How many versions were deleted, and what is left for a person to do, or "".

    Raises:
        InputError: The store refuses; the message says which right is lacking.
    """
    parts = urlparse(storage.uri)
    root = parts.path.strip("/")
    act = {"s3": _on_s3, "az": _on_blob}.get(parts.scheme)
    if act is None:
        return 0, ""
    count, left = 0, ""
    for area in areas:
        deleted, left = act(parts.netloc, f"{root}/{area}", lambda key: keep(key.removeprefix(f"{root}/")))
        count += deleted
    return count, left


def _is_in(area: str, key: str) -> bool:
    return key == area or key.startswith(f"{area}/")


def _on_s3(bucket: str, area: str, keep: Callable[[str], bool]) -> tuple[int, str]:
    from botocore.exceptions import ClientError

    from resources import amazon

    s3 = amazon.client("s3")
    count = 0
    try:
        for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket, Prefix=area):
            found = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
            there = {one["Key"] for one in page.get("Versions", ()) if one["IsLatest"]}
            old = [
                {"Key": one["Key"], "VersionId": one["VersionId"]}
                for one in found
                if _is_in(area, one["Key"]) and not keep(one["Key"]) and not (one["IsLatest"] and one["Key"] in there)
            ]
            for first in range(0, len(old), AT_ONCE):
                part = old[first : first + AT_ONCE]
                refused = s3.delete_objects(Bucket=bucket, Delete={"Objects": part, "Quiet": True}).get("Errors", ())
                if refused:
                    told = f"{refused[0]['Key']}: {refused[0].get('Message', refused[0]['Code'])}"
                    raise InputError(f"s3://{bucket}: {told}; whoever erases needs s3:DeleteObjectVersion (infra/aws)")
                count += len(part)
    except ClientError as error:
        needed = "whoever erases needs s3:ListBucketVersions and s3:DeleteObjectVersion: ErasurePolicy of infra/aws"
        raise InputError(f"s3://{bucket}/{area}: {amazon.refusal(error)}; {needed}") from error
    return count, ""


def _on_blob(container: str, area: str, keep: Callable[[str], bool]) -> tuple[int, str]:
    from azure.core.exceptions import HttpResponseError

    from resources import microsoft

    service = microsoft.blob_service()
    blobs = service.get_container_client(container)
    count = 0
    try:
        for one in blobs.list_blobs(name_starts_with=area, include=["versions", "snapshots"]):
            if not _is_in(area, one.name) or keep(one.name) or _is_now(one):
                continue
            which: dict[str, Any] = {"snapshot": one.snapshot} if one.snapshot else {"version_id": one.version_id}
            blobs.get_blob_client(one.name, **which).delete_blob()
            count += 1
        policy = service.get_service_properties().get("delete_retention_policy")
    except HttpResponseError as error:
        told, remedy = microsoft.explained(error)
        needed = remedy or "whoever erases needs the role Storage Blob Data Owner on the container"
        raise InputError(f"az://{container}/{area}: {told.splitlines()[0] if told else error}; {needed}") from error
    if policy is None or not policy.enabled:
        return count, ""
    return count, (
        f"the storage account keeps deleted blobs for {policy.days} days, for whoever may undelete them; they go by "
        "themselves after that"
    )


def _is_now(blob: Any) -> bool:
    """Whether a listed version is the blob as it is; where there are no versions, each is that is no snapshot."""
    return not blob.snapshot and (blob.is_current_version or not blob.version_id)
