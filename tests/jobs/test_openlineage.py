import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dagster as dg
import lineage_events
import pytest

from detection_assets.domain.problems import InputError
from jobs import openlineage as sensor
from jobs import runs
from resources import collectors, openlineage
from resources.storage import Storage


@dg.asset(key_prefix="shelf")
def raw_videos() -> dg.MaterializeResult:
    return dg.MaterializeResult(data_version=dg.DataVersion("r1"), metadata={"dagster/row_count": 3})


@dg.asset(key_prefix="shelf", deps=[raw_videos], check_specs=[dg.AssetCheckSpec("enough", asset=["shelf", "frames"])])
def frames(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    if context.run.tags.get("fail"):
        raise ValueError("no disk")
    check = dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, description="few")
    return dg.MaterializeResult(data_version=dg.DataVersion("f1"), check_results=[check])


DEFS = dg.Definitions(
    [raw_videos, frames],
    jobs=[dg.define_asset_job("shelf_ingest", tags={"detection/detector": "shelf"})],
    executor=dg.in_process_executor,
)
STATE = "detection/openlineage/shelf"
EVENTS = ["START", "START", "COMPLETE", "START", "COMPLETE", "START", "COMPLETE", "COMPLETE"]
"""Of a run that goes well: its own, of the first asset, of the second, of its check."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dg.DagsterInstance]:
    """An instance with one run that went well: making one takes seconds."""
    folder = tmp_path_factory.mktemp("instance")
    (folder / "dagster.yaml").touch()
    with dg.DagsterInstance.local_temp(str(folder)) as instance:
        run(instance)
        yield instance


@pytest.fixture
def instance(
    shared: dg.DagsterInstance, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dg.DagsterInstance:
    """The instance, all of whose runs are told but the first."""
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "dagster"))
    monkeypatch.setattr(collectors, "WAITS_S", (0.0, 0.0))
    for name in (collectors.KEY, openlineage.NAMESPACE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(collectors.SETTING, (tmp_path / "before.jsonl").as_uri())
    openlineage.tell(shared, "shelf", storage)
    state = json.loads(shared.daemon_cursor_storage.get_cursor_values({STATE})[STATE])
    first = shared.get_runs(ascending=True, limit=1)[0].run_id
    shared.daemon_cursor_storage.set_cursor_values({STATE: json.dumps({**state, "told": {first: [0, 1]}})})
    monkeypatch.delenv(collectors.SETTING)
    return shared


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(root=str(tmp_path / "lake"), prefix="shelf")


def run(instance: dg.DagsterInstance, **tags: str) -> str:
    job = DEFS.resolve_job_def("shelf_ingest")
    return job.execute_in_process(instance=instance, tags=tags, raise_on_error=False).run_id


class Collector:
    """A server that takes events as a collector does, and refuses as it is told."""

    def __init__(self) -> None:
        self.taken: list[dict[str, Any]] = []
        self.asked: list[tuple[str, str | None]] = []
        self.refuse: list[int] = []
        """Statuses of the next answers."""

    @contextmanager
    def open(self) -> Iterator[str]:
        of = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                of.asked.append((self.path, self.headers.get("Authorization")))
                status = of.refuse.pop(0) if of.refuse else 201
                if status < 300:
                    of.taken.append(json.loads(body))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


@pytest.fixture
def collector(instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    one = Collector()
    with one.open() as url:
        monkeypatch.setenv(collectors.SETTING, url)
        monkeypatch.setenv(collectors.KEY, "secret")
        yield one


def test_a_collector_is_told_of_every_run_once_and_takes_what_it_is_told(
    instance: dg.DagsterInstance, storage: Storage, collector: Collector
) -> None:
    assert openlineage.tell(instance, "shelf", storage, "team:vision") == f"{len(EVENTS)} events told"
    assert openlineage.tell(instance, "shelf", storage) == "0 events told"
    second = run(instance, fail="yes")
    assert openlineage.tell(instance, "shelf", storage) == "6 events told"
    assert [one["eventType"] for one in collector.taken] == [
        *EVENTS,
        "START",
        "START",
        "COMPLETE",
        "START",
        "FAIL",
        "FAIL",
    ]
    for one in collector.taken:
        lineage_events.check(one)
    assert set(collector.asked) == {("/api/v1/lineage", "Bearer secret")}
    assert collector.taken[0]["run"]["runId"] != collector.taken[-1]["run"]["runId"] == second
    assert "no disk" in collector.taken[-2]["run"]["facets"]["errorMessage"]["message"]
    made = collector.taken[4]
    assert [one["name"].rpartition("/")[2] for one in made["inputs"] + made["outputs"]] == ["raw_videos", "frames"]
    assert made["inputs"][0]["facets"]["version"]["datasetVersion"] == "r1"


def test_runs_of_other_detectors_are_theirs_to_tell(
    instance: dg.DagsterInstance, storage: Storage, collector: Collector
) -> None:
    assert openlineage.tell(instance, "fridge", storage) == "0 events told"


def test_a_run_of_assets_picked_in_the_ui_is_told_too(
    instance: dg.DagsterInstance, storage: Storage, collector: Collector
) -> None:
    picked = DEFS.resolve_implicit_global_asset_job_def()
    picked.execute_in_process(instance=instance, asset_selection=[dg.AssetKey(["shelf", "raw_videos"])])
    assert openlineage.tell(instance, "shelf", storage) == f"{len(EVENTS) + 4} events told"


def test_a_collector_that_is_down_loses_nothing_and_fails_nothing(
    instance: dg.DagsterInstance, storage: Storage, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    with openlineage.telling(instance, "shelf", storage):
        collector.refuse = [201, 201, 503, 503]
    assert len(collector.taken) == 2, "it was asked twice for the third"
    with monkeypatch.context() as down:
        down.setenv(collectors.SETTING, "http://127.0.0.1:9")
        assert "events wait" in openlineage.tell(instance, "shelf", storage)
    assert openlineage.tell(instance, "shelf", storage) == f"{len(EVENTS) - 2} events told"
    assert [one["eventType"] for one in collector.taken] == EVENTS


def test_a_hiccup_is_tried_again_and_what_is_refused_as_such_is_left_out(
    instance: dg.DagsterInstance, storage: Storage, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    collector.refuse = [503, 201, 400]
    openlineage.tell(instance, "shelf", storage)
    assert [one["eventType"] for one in collector.taken] == [EVENTS[0], *EVENTS[2:]]
    assert "refuses an event, which is left out" in caplog.text
    assert "secret" not in caplog.text


def test_a_wrong_key_is_told_at_once_and_everything_waits(
    instance: dg.DagsterInstance, storage: Storage, collector: Collector
) -> None:
    collector.refuse = [401]
    told = openlineage.tell(instance, "shelf", storage)
    assert "answers 401" in told
    assert "secret" not in told
    assert len(collector.asked) == 1
    assert openlineage.tell(instance, "shelf", storage) == f"{len(EVENTS)} events told"


def test_a_run_that_was_killed_ends_when_somebody_notices(
    instance: dg.DagsterInstance, storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(collectors.SETTING, (tmp_path / "events" / "e.jsonl").as_uri())
    job = DEFS.resolve_job_def("shelf_ingest")
    gone = instance.create_run_for_job(
        job, tags={"detection/detector": "shelf", runs.PROCESS: f"{runs.socket.gethostname()}/999999999"}
    )
    instance.report_dagster_event(dg.DagsterEvent("PIPELINE_STARTING", gone.job_name), gone.run_id)
    instance.report_dagster_event(dg.DagsterEvent("PIPELINE_START", gone.job_name), gone.run_id)
    instance.report_dagster_event(dg.DagsterEvent("STEP_START", gone.job_name, step_key="shelf__frames"), gone.run_id)
    assert openlineage.tell(instance, "shelf", storage) == f"{len(EVENTS) + 2} events told"
    assert runs.close_dead(instance, "shelf") == 1
    assert openlineage.tell(instance, "shelf", storage) == "2 events told"
    told = [json.loads(line) for line in (tmp_path / "events" / "e.jsonl").read_text().splitlines()[len(EVENTS) :]]
    assert [one["eventType"] for one in told] == ["START", "START", "FAIL", "FAIL"]
    assert "killed" in told[-1]["run"]["facets"]["errorMessage"]["message"]


def test_a_file_that_ends_within_a_line_takes_whole_ones_again(tmp_path: Path) -> None:
    path = tmp_path / "e.jsonl"
    path.write_bytes(b'{"torn": ')
    collectors.FileTarget(path).tell(b"{}")
    collectors.FileTarget(path).tell(b"[]")
    assert path.read_bytes() == b'{"torn": \n{}\n[]\n'


def test_a_state_that_cannot_be_read_tells_everything_again_alike(
    instance: dg.DagsterInstance, storage: Storage, collector: Collector
) -> None:
    openlineage.tell(instance, "shelf", storage)
    instance.daemon_cursor_storage.set_cursor_values({STATE: '{"after": 3'})
    openlineage.tell(instance, "shelf", storage)
    assert collector.taken[len(EVENTS) : 2 * len(EVENTS)] == collector.taken[: len(EVENTS)]


def test_a_long_history_is_told_once_over_many_ticks(
    instance: dg.DagsterInstance, storage: Storage, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of runs that end in different ways each way is a list of its own, and the shorter ones are through first."""
    for fails in (True, False, True, False):
        run(instance, **({"fail": "yes"} if fails else {}))
    monkeypatch.setattr(openlineage, "MOST_RUNS", 2)
    instance.daemon_cursor_storage.set_cursor_values({STATE: ""})
    while openlineage.tell(instance, "shelf", storage) != "0 events told":
        assert len(collector.taken) < 500
    told = [(one["run"]["runId"], one["eventType"]) for one in collector.taken]
    assert len(set(told)) == len(told), "nothing is told twice"
    whole = [one for one in told if one[0] in {made.run_id for made in instance.get_runs()}]
    assert [kind for _, kind in whole[::2]] == ["START"] * len(instance.get_runs()), "one run after the other"
    assert state(instance)["told"] == {}


def test_a_run_that_was_deleted_is_waited_for_no_more(
    instance: dg.DagsterInstance, storage: Storage, collector: Collector
) -> None:
    gone = instance.create_run_for_job(DEFS.resolve_job_def("shelf_ingest"), tags={"detection/detector": "shelf"})
    instance.report_dagster_event(dg.DagsterEvent("PIPELINE_START", gone.job_name), gone.run_id)
    openlineage.tell(instance, "shelf", storage)
    assert list(state(instance)["told"]) == [gone.run_id]
    instance.delete_run(gone.run_id)
    openlineage.tell(instance, "shelf", storage)
    assert state(instance)["told"] == {}


def state(instance: dg.DagsterInstance) -> dict[str, Any]:
    return json.loads(instance.daemon_cursor_storage.get_cursor_values({STATE})[STATE])


def test_the_sensor_tells_and_is_on_only_where_it_has_somewhere_to_tell(
    instance: dg.DagsterInstance, storage: Storage, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made,) = sensor.sensors_of("shelf", "")
    assert made.default_status is dg.DefaultSensorStatus.RUNNING
    with dg.build_sensor_context(instance, resources={"storage": storage}) as context:
        assert made(context).skip_message == f"{len(EVENTS)} events told"
        monkeypatch.delenv(collectors.SETTING)
        (made,) = sensor.sensors_of("shelf", "")
        assert made.default_status is dg.DefaultSensorStatus.STOPPED
        assert made(context).skip_message == "DETECTION_OPENLINEAGE is not set"


REFUSED = {
    "ftp://there": "neither a file nor a collector",
    "collector:5000": "neither a file nor a collector",
    "file://relative/path": "neither a file nor a collector",
    "https://me:hunter2@there": "put the key into",
    "https://there:port": "is no address",
    "http://there": "use https",
}


@pytest.mark.parametrize(("setting", "why"), REFUSED.items())
def test_a_setting_that_names_nothing_is_refused_without_its_secrets(
    setting: str, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(collectors.SETTING, setting)
    monkeypatch.setenv(collectors.KEY, "secret")
    with pytest.raises(InputError, match=why) as refused:
        collectors.target()
    assert "hunter2" not in str(refused.value)
    assert "secret" not in str(refused.value)
