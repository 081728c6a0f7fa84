"""Secrets that stand in `.env` are found nowhere else: not where Dagster keeps runs, not in the lake, not in the UI.

One project with a secret of each kind goes through a run that succeeds and through runs that fail in the ways that make
programs talkative; then every byte is looked at.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import secrets
import sqlite3
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest
import search
from fakes import blob, certificates, s3
from project import DETECTION, free_port, make_home, write_detector

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]
SCRIPTS = Path(sys.executable).parent

# A program that has something to hide nothing from: it fails, and tells all that it knows.
TALKATIVE = """\
import os, sys
if any(word.startswith("detection_assets.programs.") for word in sys.orig_argv):
    print("this is my environment:", dict(os.environ), flush=True)
    os._exit(1)
"""
ALERT = """\
import os, sys
from pathlib import Path
from dotenv import load_dotenv
load_dotenv(Path(os.environ["DETECTION_HOME"]) / ".env")
import dagster as dg
from resources import profiles
from resources.alerts.base import Alert, Alerts
from resources.instance import open_instance

@dg.asset(key_prefix="fridge")
def alerted(alerts: Alerts) -> None:
    alerts.send(Alert("fridge", "the light failed", "look at it"))

with open_instance() as instance:
    resources = profiles.resources_for("fridge", None, host="127.0.0.1", port=0)
    dg.materialize([alerted], instance=instance, resources={"alerts": resources["alerts"]})
"""


def canary(name: str) -> str:
    """A secret that there is only one of, with what real ones have: characters that are written otherwise elsewhere."""
    return f"{name}/{secrets.token_hex(8)}+{secrets.token_hex(4)}"


@dataclass
class OnS3:
    """A lake on S3 whose credentials are secrets."""

    url: str
    folder: str

    def settings(self, hidden: dict[str, str]) -> dict[str, str]:
        """What `.env` says of it; adds its secrets to what is hidden."""
        own = {name: canary(name[-6:].strip("_").lower()) for name in ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")}
        hidden |= own
        return {**s3.environment(self.url), **own, "DETECTION_LAKE": f"s3://{s3.BUCKET}/{self.folder}"}

    def objects(self) -> Iterator[tuple[str, bytes]]:
        """All that lies in it, by a client of its own."""
        from boto3.session import Session

        made = Session(aws_access_key_id="x", aws_secret_access_key="x", region_name=s3.REGION)
        client = made.client("s3", endpoint_url=self.url)
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=s3.BUCKET, Prefix=self.folder):
            for item in page.get("Contents", []):
                data = client.get_object(Bucket=s3.BUCKET, Key=item["Key"])["Body"].read()
                for part in search.unpacked(data):
                    yield f"s3: {item['Key']}", part + item["Key"].encode()
        client.close()

    @contextmanager
    def refusing(self) -> Iterator[tuple[dict[str, str], str, int]]:
        """Settings with which it refuses what is put there, what is said then, and the exit code."""
        one = s3.Between(
            before=lambda one: s3.refusal(403, "SignatureDoesNotMatch") if one.method in ("PUT", "POST") else None
        )
        with one.open(self.url) as url:
            yield {"AWS_ENDPOINT_URL": url}, "does not know these credentials", 1


@dataclass
class OnBlob:
    """A lake on Blob storage whose account's key is a secret."""

    url: str
    folder: str
    certificate: certificates.Certificate

    def settings(self, hidden: dict[str, str]) -> dict[str, str]:
        """What `.env` says of it; adds its secrets to what is hidden."""
        hidden["AZURE_STORAGE_ACCOUNT_KEY"] = blob.KEY
        lake = {"DETECTION_LAKE": f"az://{blob.CONTAINER}/{self.folder}"}
        return {**blob.environment(self.url, self.certificate), **lake}

    def objects(self) -> Iterator[tuple[str, bytes]]:
        """All that lies in it, by a client of its own."""
        from obstore.store import AzureStore

        options: Any = {"allow_http": True, "root_certificate": self.certificate.authority.read_bytes()}
        account: Any = {"account_name": blob.ACCOUNT, "account_key": blob.KEY, "endpoint": f"{self.url}/{blob.ACCOUNT}"}
        store = AzureStore(blob.CONTAINER, client_options=options, **account)
        for batch in store.list(self.folder):
            for item in batch:
                for part in search.unpacked(bytes(store.get(item["path"]).bytes())):
                    yield f"blob: {item['path']}", part + item["path"].encode()

    @contextmanager
    def refusing(self) -> Iterator[tuple[dict[str, str], str, int]]:
        """Settings with which it refuses all, what is said then, and the exit code."""
        other = base64.b64encode(b"another key than the account's").decode()
        yield {"AZURE_STORAGE_ACCOUNT_KEY": other}, "does not know these credentials", 2


@dataclass
class World:
    """A project whose `.env` has secrets."""

    home: Path
    secrets: Mapping[str, str]
    lake: OnS3 | OnBlob
    whole: bool
    said: list[tuple[str, bytes]] = field(default_factory=list)

    @property
    def key(self) -> Path:
        """The one place that may hold a secret: who asks the endpoint reads its key there."""
        return self.home / ".endpoints" / "fridge" / "key"

    def detection(self, *words: str, code: int = 0, **env: str) -> str:
        """Runs a command as somebody does whose secrets are in `.env`, and remembers what it said."""
        env = {**os.environ, "COLUMNS": "300", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", **env}
        done = subprocess.run([DETECTION, *words], capture_output=True, text=True, env=env, cwd=self.home)
        told = done.stdout + done.stderr
        self.said.append((f"detection {' '.join(words)}", told.encode()))
        assert done.returncode == code, f"{words}: {done.returncode}\n{told}"
        return told


@contextmanager
def hook(status: int) -> Iterator[tuple[str, list[str]]]:
    """A webhook that answers so; gives its address and the paths that were asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status, "go away")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def running(command: list[str], folder: Path, url: str, env: Mapping[str, str]) -> Iterator[str]:
    """A server that answers at an address before the block begins."""
    with (folder / f"{Path(command[0]).name}.out").open("w+") as out:
        process = subprocess.Popen(
            [str(SCRIPTS / command[0]), *command[1:]], stdout=out, stderr=out, env={**os.environ, **env}, cwd=folder
        )
        try:
            ends = time.monotonic() + 120
            while True:
                assert process.poll() is None, Path(out.name).read_text()
                assert time.monotonic() < ends, Path(out.name).read_text()
                try:
                    if httpx.get(url, timeout=5).status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            process.wait(timeout=60)


@pytest.fixture(scope="module", params=["frames", "endpoint", "frames on Blob"])
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, certificate: certificates.Certificate
) -> Iterator[World]:
    """A project that has been through a good run, as far as its frames or its endpoint, and through bad ones."""
    folder = tmp_path_factory.mktemp("secrets")
    with pytest.MonkeyPatch.context() as patch, ExitStack() as opened:
        home = make_home(folder / "home", patch.setenv)
        for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_"))]:
            patch.delenv(name)
        for name in certificate.environment:
            patch.delenv(name, raising=False)
        if "Blob" in request.param:
            lake = OnBlob(request.getfixturevalue("blob_server"), folder.name, certificate)
        else:
            lake = OnS3(request.getfixturevalue("s3_server"), folder.name)
        kinds = ("DETECTION_ENDPOINT_KEY", "MLFLOW", "DETECTION_ALERTS")
        hidden = {kind: canary(kind[-6:].strip("_").lower()) for kind in kinds}
        hidden["MLFLOW"] = re.sub(r"\W", "-", hidden["MLFLOW"])  # a password in an address is quoted by its owner
        port, (where, asked) = free_port(), opened.enter_context(hook(403))
        settings = {
            **lake.settings(hidden),
            "DETECTION_ENDPOINT_KEY": hidden["DETECTION_ENDPOINT_KEY"],
            "DETECTION_ALERTS": f"http://{where}/services/{hidden['DETECTION_ALERTS']}",
            "MLFLOW_TRACKING_URI": f"http://detection:{hidden['MLFLOW']}@127.0.0.1:{port}",
        }
        (home / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
        made = World(home, hidden, lake, request.param == "endpoint")
        write_detector(home, "fridge")
        made.detection("sample", "fridge", "--clips", "3")
        if made.whole:
            opened.enter_context(tracking_server(folder / "mlflow", port))
            opened.callback(made.detection, "stop")
            assert "answers with version 1" in made.detection("run", "fridge")
            write_detector(home, "fridge", epochs=2)
            nobody = re.sub(r":\d+$", f":{free_port()}", settings["MLFLOW_TRACKING_URI"])
            made.detection("run", "fridge", code=1, MLFLOW_TRACKING_URI=nobody)
        else:
            made.detection("run", "fridge", "--until", "extracted_frames")
        fails(made, asked)
        yield made


@contextmanager
def tracking_server(folder: Path, port: int) -> Iterator[str]:
    folder.mkdir()
    command = ["mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        str(folder / "files"),
    ]
    jobs = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with running(command, folder, f"http://127.0.0.1:{port}/health", jobs) as url:
        yield url


def fails(world: World, asked: list[str]) -> None:
    """What makes things fail and talk: a program, a webhook, the lake."""
    detector = world.home / "detectors" / "fridge.yaml"
    detector.write_text(detector.read_text().replace("rate: 2.0", "rate: 1.0"))
    (world.home / "talkative").mkdir()
    (world.home / "talkative" / "sitecustomize.py").write_text(TALKATIVE)
    told = world.detection("run", "fridge", code=1, PYTHONPATH=str(world.home / "talkative"))
    assert "this is my environment" in told
    done = subprocess.run([sys.executable, "-c", ALERT], capture_output=True, cwd=world.home)
    world.said.append(("an alert", done.stdout + done.stderr))
    assert done.returncode == 0, done.stderr
    assert len(asked) == 3, "the hook was asked, and refused"
    with world.lake.refusing() as (settings, why, code):
        assert why in world.detection("run", "fridge", code=code, **settings)


def test_the_search_finds_what_is_hidden_in_every_way(tmp_path: Path) -> None:
    hidden = canary("hidden")
    database = sqlite3.connect(tmp_path / "runs.db")
    database.execute("CREATE TABLE snapshots (body BLOB)")
    database.execute("INSERT INTO snapshots VALUES (?)", [zlib.compress(json.dumps({"uri": hidden}).encode())])
    database.commit()
    database.close()
    pd.DataFrame({"note": [hidden] * 3}).to_parquet(tmp_path / "table.parquet")
    (tmp_path / "log.gz").write_bytes(gzip.compress(f"Basic {hidden}".encode()))
    for before in ("", "u", "ab", "user:"):
        text = base64.b64encode(f"{before}{hidden}@host".encode())
        (tmp_path / f"{len(before)}.out").write_bytes(b"Authorization: Basic " + text)
    (tmp_path / "url.out").write_text(f"http://x/{httpx.QueryParams({'a': hidden})}")
    places = {line.split(": ...")[0] for line in search.found({"it": hidden}, search.everything(tmp_path))}
    names = ["0.out", "1.out", "2.out", "5.out", "log.gz", "runs.db: snapshots", "table.parquet", "url.out"]
    assert places == {f"it in {tmp_path / name}" for name in names}
    assert search.found({"it": canary("hidden")}, search.everything(tmp_path)) == []


def test_no_secret_is_in_what_a_project_keeps(world: World) -> None:
    assert not world.whole or world.key.read_text() == world.secrets["DETECTION_ENDPOINT_KEY"], "the endpoint has it"
    but = {world.home / ".env", world.key}
    places = list(search.everything(world.home, but))
    kept = {place.removeprefix(str(world.home)).split("/")[1] for place, _ in places}
    assert {".dagster", "detectors", *([".endpoints"] if world.whole else [])} <= kept
    assert any(": snapshots" in place for place, _ in places), "packed rows were looked into"
    assert any("compute_logs" in place or place.endswith((".out", ".err")) for place, _ in places)
    assert search.found(world.secrets, places) == []


def test_no_secret_is_in_the_lake_or_at_the_tracking_server(world: World) -> None:
    objects = list(world.lake.objects())
    assert len(objects) > 20
    assert search.found(world.secrets, objects) == []
    if world.whole:
        tracked = list(search.everything(world.home.parent / "mlflow"))
        assert any("mlflow.db: runs" in place for place, _ in tracked)
        assert search.found(world.secrets, tracked) == []


def test_no_secret_is_in_what_a_command_says(world: World) -> None:
    assert len(world.said) >= 5
    # Whoever runs a detector is given the address of its page, which opens with the key.
    secrets = {name: secret for name, secret in world.secrets.items() if name != "DETECTION_ENDPOINT_KEY"}
    assert search.found(secrets, world.said) == []


QUERIES = {
    "resources": """{repositoriesOrError{... on RepositoryConnection{nodes{name allTopLevelResourceDetails{
        name description resourceType configFields{name description configTypeKey isRequired defaultValueAsJson}
        configuredValues{key value type} nestedResources{name type}}}}}}""",
    "runs": """{runsOrError{... on Runs{results{runId status runConfigYaml runConfig tags{key value} stats{__typename}
        rootConcurrencyKeys parentPipelineSnapshotId assetSelection{path}}}}}""",
    "assets": """{assetsOrError{... on AssetConnection{nodes{key{path} assetMaterializations(limit:20){runId label
        description metadataEntries{%s} tags{key value}} definition{description metadataEntries{%s} configField{name
        defaultValueAsJson configType{key}} requiredResources{resourceKey} opVersion}}}}}""",
    "locations": """{workspaceOrError{... on Workspace{locationEntries{name displayMetadata{key value}
        locationOrLoadError{... on PythonError{message stack} ... on RepositoryLocation{name environmentPath
        repositories{name displayMetadata{key value} pipelines{name runTags{key value} modes{resources{name description
        configField{name defaultValueAsJson}}}} schedules{name defaultStatus executionTimezone} sensors{name
        metadata{assetKeys{path}} sensorState{ticks(limit:5){error{message stack}
        logEvents{events{message}}}}}}}}}}}}""",
    "instance": """{instance{info runLauncher{name} concurrencyLimits{concurrencyKey}
        daemonHealth{allDaemonStatuses{daemonType lastHeartbeatErrors{message stack}}}}}""",
}  # fmt: skip
METADATA = """label description ... on TextMetadataEntry{text} ... on UrlMetadataEntry{url}
    ... on PathMetadataEntry{path} ... on JsonMetadataEntry{jsonString} ... on MarkdownMetadataEntry{mdStr}
    ... on FloatMetadataEntry{floatValue}"""
EVENTS = """query($id:ID!){logsForRun(runId:$id,limit:1000){... on EventConnection{events{
    ... on MessageEvent{message level}
    ... on ErrorEvent{error{message stack causes{message stack} errorChain{error{message stack}}}}
    ... on DisplayableEvent{description metadataEntries{%s}} ... on LogsCapturedEvent{fileKey stepKeys}}}}}"""
PRINTED = "query($key:[String!]!){capturedLogs(logKey:$key){stdout stderr}}"


def test_no_secret_is_shown_in_the_user_interface(world: World) -> None:
    (world.home / "workspace.yaml").write_text(
        "load_from:\n  - python_module:\n      module_name: detection_assets.definitions\n"
        "      attribute: fridge\n      location_name: fridge\n"
    )
    port = free_port()
    env = dict(line.split("=", 1) for line in (world.home / ".env").read_text().splitlines())
    command = ["dagster-webserver", "--port", str(port), "--workspace", str(world.home / "workspace.yaml")]
    (out := world.home.parent / "webserver").mkdir()
    with running(command, out, f"http://127.0.0.1:{port}/server_info", env) as url, httpx.Client(timeout=60) as client:

        def ask(query: str, **variables: object) -> Any:
            said = client.post(
                url.replace("server_info", "graphql"), json={"query": query, "variables": variables}
            ).json()
            assert not said.get("errors"), said["errors"]
            answers.append((query[:60], json.dumps(said, ensure_ascii=False).encode()))
            return said["data"]

        answers: list[tuple[str, bytes]] = []
        told = {name: ask(query.replace("%s", METADATA)) for name, query in QUERIES.items()}
        shown = json.dumps(told["resources"])
        for name in ("MLFLOW_TRACKING_URI", "DETECTION_ALERTS", "DETECTION_LAKE"):
            assert f'"{name}"' in shown, "a setting shows by its name"
        runs = told["runs"]["runsOrError"]["results"]
        assert {run["status"] for run in runs} == {"SUCCESS", "FAILURE"}
        printed = 0
        for run in runs:
            events = ask(EVENTS.replace("%s", METADATA), id=run["runId"])["logsForRun"]["events"]
            for event in events:
                if "fileKey" in event:
                    key = [run["runId"], "compute_logs", event["fileKey"]]
                    captured = ask(PRINTED, key=key)["capturedLogs"]
                    printed += len(captured["stdout"] or "") + len(captured["stderr"] or "")
        assert printed > 1000
        assert b"this is my environment" in b"".join(data for _, data in answers)
    answers += search.everything(out)
    assert search.found(world.secrets, answers) == []
