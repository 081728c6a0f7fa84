"""What is erased in a lake of a cloud is not kept there in an older version, either."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from assets.withdrawn_world import CLIP, KINDS, NAME, OTHER, World
from fakes.s3 import BUCKET, Between, refusal
from project import closed_again, give_mlflow
from rich.console import Console

from detection_assets.commands import withdrawing
from detection_assets.domain.problems import InputError
from resources import amazon
from resources.storage import Storage
from resources.withdrawal import old_versions, withdrawals


def filled(home: Path, empty_mlflow: Path, lake: str, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world whose lake is elsewhere, with a video in it whose file was replaced once."""
    monkeypatch.setenv("DETECTION_LAKE", lake)
    give_mlflow(home, empty_mlflow)
    made = World(home)
    made.storage.put(f"videos/{CLIP}", b"what the video once was")
    made.fill()
    return made


def withdraw() -> str:
    out = io.StringIO()
    withdrawing.withdraw(
        Console(file=out, width=250), NAME, CLIP, "ada", "she objects", erase=True, dry_run=False, yes=True
    )
    return out.getvalue()


def holds(world: World, video: str, found: dict[str, bytes]) -> list[str]:
    """The objects that have a picture of a video in them."""
    pieces = [data[700:760] for data in world.pictures[video]]
    return sorted(key for key, data in found.items() if any(piece in data for piece in pieces))


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    with closed_again():
        yield


@pytest.fixture
def keeping_versions(s3_lake: str) -> Iterator[Any]:
    """S3, whose bucket keeps versions as that of infra/aws does."""
    client = amazon.client("s3")
    client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Enabled"})
    yield client
    client.put_bucket_versioning(Bucket=BUCKET, VersioningConfiguration={"Status": "Suspended"})


def versions(client: Any, lake: str) -> dict[str, bytes]:
    """Every version of every object of a lake, by key and version."""
    found: dict[str, bytes] = {}
    prefix = lake.partition(f"{BUCKET}/")[2]
    for page in client.get_paginator("list_object_versions").paginate(Bucket=BUCKET, Prefix=prefix):
        for one in page.get("Versions", ()):
            body = client.get_object(Bucket=BUCKET, Key=one["Key"], VersionId=one["VersionId"])["Body"]
            found[f"{one['Key']} {one['VersionId']}"] = body.read()
    return found


def test_s3_keeps_no_version_of_it_and_every_version_of_the_others(
    home: Path, empty_mlflow: Path, s3_lake: str, keeping_versions: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = filled(home, empty_mlflow, s3_lake, monkeypatch)
    world.storage.put(f"videos/{OTHER}", b"".join(world.pictures[OTHER]))
    before = versions(keeping_versions, s3_lake)
    theirs = holds(world, OTHER, before)
    assert len(holds(world, CLIP, before)) > 5
    withdraw()
    after = versions(keeping_versions, s3_lake)
    assert holds(world, CLIP, after) == []
    assert b"what the video once was" not in after.values()
    assert not [key for key in after if f"videos/{CLIP}" in key or f"frames/{CLIP}" in key]
    kept = [key for key in theirs if "/evaluations/" not in key]
    assert {key: after.get(key) for key in kept} == {key: before[key] for key in kept}
    stone = withdrawals.tombstone(world.storage, CLIP)
    assert stone is not None
    assert len(stone.left) == 1, "the file that speaks for others"


def test_whoever_may_not_delete_versions_is_told_which_right_is_lacking(between: Between, s3_lake: str) -> None:
    storage = Storage(root=s3_lake, prefix=NAME)
    between.before = lambda asked: refusal(403, "AccessDenied") if "versions" in asked.path else None
    with pytest.raises(InputError, match=r"s3:ListBucketVersions and s3:DeleteObjectVersion: ErasurePolicy"):
        old_versions.erase(storage, [f"videos/{CLIP}"], lambda _: False)


def test_blob_storage_keeps_nothing_of_it(
    home: Path, empty_mlflow: Path, blob_lake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = filled(home, empty_mlflow, blob_lake, monkeypatch)
    before = world.objects()
    assert "proof: " in withdraw()
    after = world.objects()
    assert holds(world, CLIP, after) == []
    digests = [hashlib.sha256(data).hexdigest().encode() for data in world.pictures[CLIP]]
    assert not [key for key, data in after.items() if any(digest in data for digest in digests)]
    for other in set(KINDS) - {CLIP}:
        kept = {key: data for key, data in before.items() if key.startswith((f"videos/{other}", f"frames/{other}/0"))}
        assert kept
        assert all(after[key] == data for key, data in kept.items())
