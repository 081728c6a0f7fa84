"""What only Blob storage does: its own refusals, its own credentials, and answers that get lost on the way."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from contract.test_storage_s3 import ASK, folder_with, once, says_what_to_do
from fakes import blob
from fakes.s3 import Asked, Between, refusal
from project import free_port

from detection_assets import object_store
from resources import storage as module
from resources.profiles import SettingsError, azure
from resources.storage import Storage
from resources.store_errors import LakeError


@pytest.fixture
def storage(blob_lake: str) -> Storage:
    return Storage(root=blob_lake, prefix="tiny")


@pytest.fixture
def between(blob_server: str, blob_lake: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Between]:
    one = Between()
    with one.open(blob_server) as url:
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"{url}/{blob.ACCOUNT}")
        yield one


@pytest.mark.parametrize("ask", ASK)
def test_a_missing_container_is_not_taken_for_a_missing_object(blob_lake: str, ask: str) -> None:
    with pytest.raises(LakeError, match=r"no such bucket or container.*DETECTION_LAKE.*az://not-there/"):
        ASK[ask](Storage(root=blob_lake.replace(blob.CONTAINER, "not-there", 1), prefix="tiny"))


@pytest.mark.parametrize("ask", ASK)
def test_a_wrong_key_says_so(storage: Storage, ask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", base64.b64encode(b"x" * 64).decode())
    with pytest.raises(LakeError, match=r"does not know these credentials; correct them in \.env") as raised:
        ASK[ask](storage)
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("ask", ASK)
@pytest.mark.parametrize(
    ("status", "code", "remedy"),
    [
        (403, "AuthorizationPermissionMismatch", "the right to list, read, write and delete"),
        (403, "AuthenticationFailed", "does not know these credentials; correct them in .env"),
        (403, "AuthorizationFailure", "firewall"),
        (403, "KeyBasedAuthenticationNotPermitted", "takes no keys"),
        (401, "InvalidAuthenticationInfo", "does not know these credentials"),
    ],
)
def test_a_refusal_says_what_to_do(
    between: Between, storage: Storage, ask: str, status: int, code: str, remedy: str
) -> None:
    says_what_to_do(between, storage, ask, refusal(status, code), remedy)


@pytest.mark.parametrize("ask", ASK)
def test_a_store_that_does_not_answer_says_so(storage: Storage, ask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_store, "RETRIES", {"max_retries": 1, "retry_timeout": timedelta(seconds=5)})
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", f"http://127.0.0.1:{free_port()}/{blob.ACCOUNT}")
    with pytest.raises(LakeError, match="does not answer; correct DETECTION_LAKE, the account or the network"):
        ASK[ask](storage)


@pytest.mark.parametrize(
    ("name", "value", "remedy"),
    [
        ("AZURE_STORAGE_ACCOUNT_NAME", "", "AZURE_STORAGE_ACCOUNT_NAME"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "not-base64!", "AZURE_STORAGE_ACCOUNT_KEY"),
    ],
)
def test_settings_that_make_no_store_say_which(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, name: str, value: str, remedy: str
) -> None:
    monkeypatch.setenv(name, value)
    if not value:
        monkeypatch.delenv(name)
    with pytest.raises(LakeError, match=remedy) as raised:
        storage.get("a")
    assert "not-base64" not in str(raised.value), "no secret is told"
    (finding,) = storage.check()
    assert (finding.what, finding.state) == ("lake", "bad")
    assert remedy in finding.remedy


def test_a_connection_string_is_enough(blob_server: str, blob_lake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"{blob_server}/{blob.ACCOUNT}"
    for name in ("ACCOUNT_NAME", "ACCOUNT_KEY", "ENDPOINT"):
        monkeypatch.delenv(f"AZURE_STORAGE_{name}")
    said = f"DefaultEndpointsProtocol=https;AccountName={blob.ACCOUNT};AccountKey={blob.KEY};BlobEndpoint={address}/;"
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", said)
    monkeypatch.setenv("DETECTION_LAKE", blob_lake)
    storage = Storage(root=blob_lake, prefix="tiny")
    storage.put("a", b"x")
    assert storage.get("a") == b"x"


@pytest.mark.parametrize(
    ("said", "found"),
    [
        (
            "DefaultEndpointsProtocol=https;AccountName=me;AccountKey=a2V5==;EndpointSuffix=core.windows.net",
            {"account_name": "me", "account_key": "a2V5==", "endpoint": "https://me.blob.core.windows.net"},
        ),
        (
            "BlobEndpoint=https://me.blob.core.windows.net/;SharedAccessSignature=?sv=2024&sig=a%3D",
            {"account_name": "me", "sas_key": "sv=2024&sig=a%3D", "endpoint": "https://me.blob.core.windows.net"},
        ),
    ],
)
def test_a_connection_string_is_read(said: str, found: dict[str, str]) -> None:
    assert object_store.account_of(said) == found


@pytest.mark.parametrize("said", ["", "nonsense", "AccountName=me", "AccountKey=a2V5", "UseDevelopmentStorage=true"])
def test_what_is_no_connection_string_says_where_there_is_one(said: str) -> None:
    with pytest.raises(ValueError, match=r"AZURE_STORAGE_CONNECTION_STRING.*Access keys"):
        object_store.account_of(said)


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"DETECTION_LAKE": ""}, "DETECTION_LAKE is not set; set it to a container"),
        ({"DETECTION_LAKE": "s3://bucket"}, "DETECTION_LAKE is s3://bucket; set it to a container"),
        ({"AZURE_STORAGE_ACCOUNT_NAME": ""}, "AZURE_STORAGE_ACCOUNT_NAME is not set"),
        ({"AZURE_STORAGE_CONNECTION_STRING": "nonsense"}, "is no connection string"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(
    blob_lake: str, home: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, str], remedy: str
) -> None:
    for name, value in {"DETECTION_LAKE": blob_lake, **settings}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=f"^platform azure: .*{remedy}"):
        azure("tiny", host="127.0.0.1", port=0)


def test_a_manifest_whose_answer_was_lost_is_still_ours(between: Between, storage: Storage, tmp_path: Path) -> None:
    between.after = once(
        lambda asked: asked.method == "PUT" and asked.path.split("?")[0].endswith("manifest.json"),
        refusal(500, "InternalError"),
    )
    published = storage.publish(folder_with(tmp_path, "mine"), "v/1", {})
    assert storage.get(published.key("a")) == b"mine"


def test_a_file_that_is_replaced_while_it_is_read_is_no_mixture(
    between: Between, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RANGE", 1000)
    storage.put("long", b"a" * 3000)

    def replace(asked: Asked) -> None:
        if {name.lower(): value for name, value in asked.headers.items()}.get("range", "").startswith("bytes=1000"):
            between.before = lambda _: None
            storage.put("long", b"b" * 3000)

    between.before = replace
    with pytest.raises(LakeError, match="replaced while it was being read; run again"):
        storage.download({"long": tmp_path / "got"})
