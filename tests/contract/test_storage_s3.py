"""What only a store across a network does: it refuses, it conflicts, it loses its answers."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fakes.s3 import BUCKET, Answer, Asked, Between, refusal
from fakes.telling import telling

from resources import storage as module
from resources.storage import Storage
from resources.store_errors import LakeError


@pytest.fixture
def storage(s3_lake: str) -> Storage:
    return Storage(root=s3_lake, prefix="tiny")


def once(matches: Callable[[Asked], bool], answer: Answer) -> Callable[[Asked], Answer | None]:
    """Answers the first request that matches."""
    left = [answer]

    def act(asked: Asked) -> Answer | None:
        return left.pop() if left and matches(asked) else None

    return act


def folder_with(tmp_path: Path, content: str) -> Path:
    folder = tmp_path / content
    folder.mkdir()
    (folder / "a").write_text(content)
    return folder


ASK = {
    "get": lambda one: one.get("a"),
    "put": lambda one: one.put("a", b"x"),
    "create": lambda one: one.put_if_absent("a", b"x"),
    "list": lambda one: list(one.list("")),
    "glance": lambda one: one.glance(""),
}


def says_what_to_do(between: Between, storage: Storage, ask: str, answer: Answer, remedy: str) -> None:
    """Whatever is asked of a store that refuses, it is said once, in a line, with what helps."""
    between.before = lambda _: answer
    with pytest.raises(LakeError, match=remedy) as raised:
        ASK[ask](storage)
    assert len(str(raised.value)) < 400, "a line, not a page of the library's"
    assert len(between.seen) == 1, "what is refused is not asked again and again"


@pytest.mark.parametrize("ask", ASK)
def test_a_missing_bucket_is_not_taken_for_a_missing_object(s3_lake: str, ask: str) -> None:
    with pytest.raises(LakeError, match=r"no such bucket.*DETECTION_LAKE.*s3://not-there/"):
        ASK[ask](Storage(root=s3_lake.replace(BUCKET, "not-there"), prefix="tiny"))


@pytest.mark.parametrize("ask", ASK)
@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (403, "AccessDenied", "the right to list, read, write and delete"),
        (403, "InvalidAccessKeyId", "does not know these credentials"),
        (403, "SignatureDoesNotMatch", "does not know these credentials"),
        (400, "ExpiredToken", "have expired; log in again"),
    ],
)
def test_a_refusal_says_what_to_do(
    between: Between, storage: Storage, ask: str, status: int, code: str, remedy: str
) -> None:
    says_what_to_do(between, storage, ask, refusal(status, code), remedy)


@pytest.mark.parametrize("name", ["a//b", "a/../b"])
def test_a_name_that_cannot_be_read_is_said(s3_server: str, storage: Storage, name: str) -> None:
    with telling(s3_server, "notification") as told:
        told.put(f"videos/{name}")
        with pytest.raises(LakeError, match=f"rename it: .*videos/{name}"):
            Storage(root=told.lake, prefix="tiny").glance("videos")


def test_a_write_that_meets_another_one_is_tried_again(between: Between, storage: Storage) -> None:
    between.before = once(lambda asked: asked.method == "PUT", refusal(409, "ConditionalRequestConflict"))
    assert storage.put_if_absent("a", b"mine")
    assert storage.get("a") == b"mine"
    assert not storage.put_if_absent("a", b"another's")


def test_a_store_that_conflicts_for_ever_is_not_asked_for_ever(
    between: Between, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.time, "sleep", lambda _: None)
    between.before = lambda _: refusal(409, "ConditionalRequestConflict")
    with pytest.raises(LakeError, match="other writes to it did not end; run again"):
        storage.put_if_absent("a", b"mine")
    assert len(between.seen) == module.ATTEMPTS


def test_a_manifest_whose_answer_was_lost_is_still_ours(between: Between, storage: Storage, tmp_path: Path) -> None:
    between.after = once(
        lambda asked: asked.method == "PUT" and asked.path.endswith("manifest.json"), refusal(500, "InternalError")
    )
    published = storage.publish(folder_with(tmp_path, "mine"), "v/1", {})
    assert storage.get(published.key("a")) == b"mine"


def test_of_many_publishers_one_wins_and_its_files_stay(storage: Storage, tmp_path: Path) -> None:
    folders = [folder_with(tmp_path, str(number)) for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda folder: storage.publish(folder, "v/1", {}), folders))
    assert len({one.folder for one in found}) == 1
    assert storage.get(found[0].key("a")) in {str(number).encode() for number in range(6)}
    assert len(list(storage.list("v/1"))) == 2


def test_a_file_that_is_replaced_while_it_is_read_is_no_mixture(
    between: Between, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RANGE", 1000)
    storage.put("long", b"a" * 3000)

    def replace(asked: Asked) -> None:
        if asked.headers.get("range", asked.headers.get("Range", "")).startswith("bytes=1000"):
            between.before = lambda _: None
            storage.put("long", b"b" * 3000)

    between.before = replace
    with pytest.raises(LakeError, match="replaced while it was being read; run again"):
        storage.download({"long": tmp_path / "got"})


def test_an_upload_has_few_enough_parts_however_long_it_is() -> None:
    for size in (0, 1, 100 << 30, 5 << 40):
        part = module._part(size)
        assert size / part <= 10_000
        assert part >= 5 << 20, "S3 takes no shorter ones"


@pytest.mark.parametrize("kind", ["AES256", "aws:kms"])
def test_objects_are_encrypted_as_the_settings_say(
    between: Between, storage: Storage, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SERVER_SIDE_ENCRYPTION", kind)
    storage.put("a", b"x")
    (asked,) = between.seen
    assert {name.lower(): value for name, value in asked.headers.items()}["x-amz-server-side-encryption"] == kind
