from __future__ import annotations

import http.server
import json
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dagster as dg
import httpx
import numpy as np
import pytest
from monitored import DAY, NAME, World, check, jpeg, metadata, picture, today

from detection_assets.captured_requests import capture_is_alive
from detection_assets.domain import layout
from resources import profiles


@pytest.fixture
def world(monitored: World) -> Iterator[World]:
    """The same with nothing captured yet."""
    monitored.write()
    yield monitored
    for folder in ("captures", "reports", "tables/captured_requests", "tables/drift_report", "tables/annotations"):
        monitored.storage.delete(folder)
    monitored.storage.delete("videos")
    shutil.rmtree(monitored.home / ".endpoints", ignore_errors=True)


def pictures(count: int, light: float = 1.0, seed: int = 1, **other: object) -> list[bytes]:
    rng = np.random.default_rng(seed)
    return [jpeg(picture(rng, light, **other)) for _ in range(count)]


def test_requests_become_a_table_with_pictures(world: World) -> None:
    world.capture(pictures(30), world.version)
    world.capture(pictures(5, seed=2), world.version, name="unsure", why="low confidence")
    result = world.monitor()
    table = world.table("captured_requests", DAY)
    assert len(table) == 35
    assert table["time"].is_monotonic_increasing
    assert table["request_id"].is_unique
    assert (table["day"] == DAY).all()
    assert table["boxes"].sum() == table["answer"].map(lambda text: len(json.loads(text))).sum() > 0
    assert all(world.storage.exists(key) for key in table["image"])
    told = metadata(result, "captured_requests")
    assert told["drawn at random"] == 30
    assert "data:image/jpeg;base64," in told["pictures"]
    assert check(result, "capture_is_alive").passed
    assert check(result, "lines_are_whole").passed


def test_broken_lines_are_left_out_and_told_with_file_and_line(world: World) -> None:
    world.capture(pictures(3), world.version)
    good = world.row(pictures(1)[0], "whole", world_time(), world.version, image=None)
    escaping = {**good, "request_id": "sly", "image": "../../secret.jpg"}
    lines = [json.dumps(good), json.dumps(good)[:60], "", json.dumps({**good, "width": 0}), json.dumps(escaping), "[]"]
    key = f"{layout.captures(DAY)}/09/part.jsonl"
    world.storage.put(key, "\n".join(lines).encode())
    world.storage.put(f"{layout.captures(DAY)}/09/.unfinished.jsonl", b"{")
    result = world.monitor()
    assert set(world.table("captured_requests", DAY)["request_id"]) == {"request-0", "request-1", "request-2", "whole"}
    told = check(result, "lines_are_whole")
    assert not told.passed
    assert told.metadata["skipped"].value == 4
    for line in (2, 4, 5, 6):
        assert f"line {line}" in told.metadata["lines"].value
    assert key.replace("_", r"\_") in told.metadata["lines"].value


def world_time():
    from datetime import datetime, timezone

    return datetime(2026, 3, 1, 9, tzinfo=timezone.utc)


def test_a_request_that_is_there_twice_is_one_and_two_of_one_name_are_two(world: World) -> None:
    world.capture(pictures(3), world.version)
    again = world.row(pictures(1, seed=9)[0], "request-1", world_time(), world.version)
    whole = next(item.key for item in world.storage.list(layout.captures(DAY)) if item.key.endswith(".jsonl"))
    world.storage.put(whole.replace(".jsonl", "-twice.jsonl"), world.storage.get(whole))
    world.storage.put(f"{layout.captures(DAY)}/09/other.jsonl", json.dumps(again).encode())
    world.monitor()
    ids = list(world.table("captured_requests", DAY)["request_id"])
    assert ids == ["request-0", "request-1", "request-2", "request-1~2"]


def test_a_day_without_requests_is_no_drift(world: World) -> None:
    result = world.monitor()
    assert world.table("captured_requests", DAY).empty
    assert world.table("drift_report", DAY).empty
    assert check(result, "drift").passed
    assert "No request was kept" in html(world, result)


def html(world: World, result: object) -> str:
    (item,) = [item for item in world.storage.list(f"reports/{DAY}") if item.key.endswith("report.html")]
    assert metadata(result, "drift_report")["report"] == world.storage.uri_of(item.key)
    return world.storage.get(item.key).decode()


def test_the_same_world_is_stable_and_the_reference_is_of_the_serving_version(world: World) -> None:
    world.capture(pictures(150), world.version)
    result = world.monitor()
    report = world.report()
    assert set(report["verdict"]) <= {"stable", "too few"}, report[["verdict", "why"]]
    assert check(result, "drift").passed
    assert (report["dataset_version"] == world.dataset).all()
    assert report.loc["brightness", "reference_n"] == len(world.frames)
    test_frames = sum(split == "test" for split in ("train", "train", "train", "val", *["test"] * 4)) * 12
    assert report.loc["boxes_a_frame", "reference_n"] == test_frames
    assert report.loc["boxes_a_frame", "verdict"] == "stable", report.loc["boxes_a_frame", "why"]
    assert world.storage.exists(report["report"].iloc[0])


def test_dark_pictures_are_named_told_and_shown(world: World) -> None:
    world.capture(pictures(80) + pictures(80, light=0.35, seed=3), world.version)
    result = world.monitor()
    report = world.report()
    drifted = set(report.index[report["verdict"] == "drift"])
    assert {"brightness", "red"} <= drifted
    assert report.loc[["width", "height"], "verdict"].tolist() == ["stable", "stable"]
    told = check(result, "drift")
    assert not told.passed
    assert "brightness" in told.description
    page = html(world, result)
    assert "Drift in" in page
    assert page.count("<svg") >= 10
    assert page.count("data:image/jpeg;base64,") == 8
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", ""), "nothing is loaded from anywhere"


def test_a_new_camera_size_is_found_though_most_pictures_are_as_before(world: World) -> None:
    world.capture(pictures(130) + pictures(60, seed=4, size=(192, 144)), world.version)
    world.monitor()
    report = world.report()
    assert report.loc["width", "verdict"] == "drift"
    assert report.loc["brightness", "verdict"] != "drift"


def test_requests_kept_for_low_confidence_do_not_count(world: World) -> None:
    world.capture(pictures(100), world.version)
    world.capture(pictures(100, light=0.3, seed=5), world.version, name="dark", why="low confidence")
    world.monitor()
    assert world.report().loc["brightness", "production_n"] == 100
    assert world.report().loc["brightness", "verdict"] == "stable"


def test_few_requests_are_not_judged(world: World) -> None:
    world.capture(pictures(49, light=0.3), world.version)
    world.monitor()
    assert set(world.report()["verdict"]) == {"too few"}
    world.write(drift={"min_requests": 40})
    world.monitor()
    assert world.report().loc["brightness", "verdict"] == "drift"


def test_one_picture_sent_again_and_again_tells_little(world: World) -> None:
    world.capture(pictures(1) * 200, world.version)
    world.monitor()
    report = world.report()
    assert report.loc["brightness", "production_size"] == 1
    assert set(report["verdict"]) == {"too few"}


def test_a_version_that_nobody_registered_has_no_reference(world: World) -> None:
    world.capture(pictures(60), "77")
    result = world.monitor()
    assert set(world.report()["verdict"]) == {"no reference"}
    assert "version 77 is not in the registry" in metadata(result, "drift_report")["notes"]


def test_two_versions_are_held_against_their_own_references(world: World) -> None:
    world.capture(pictures(80), world.version)
    world.capture(pictures(80, light=0.3, seed=6), "77", name="other")
    world.monitor()
    table = world.table("drift_report", DAY)
    assert set(table.loc[table["version"] == world.version, "verdict"]) <= {"stable", "too few"}
    assert set(table.loc[table["version"] == "77", "verdict"]) == {"no reference"}


def test_requests_without_figures_are_measured(world: World) -> None:
    bare = dict.fromkeys(("brightness", "contrast", "sharpness", "red", "green", "blue"))
    world.capture(pictures(70, light=0.35), world.version, **bare)
    world.monitor()
    report = world.report()
    assert report.loc["brightness", "production_n"] == 70
    assert report.loc["brightness", "verdict"] == "drift"


def test_without_pictures_the_figures_are_enough(world: World) -> None:
    world.capture(pictures(70, light=0.35), world.version, image=None)
    result = world.monitor()
    assert world.report().loc["brightness", "verdict"] == "drift"
    assert "Strangest" not in html(world, result)


def test_pictures_that_were_deleted_or_damaged_do_not_stop_the_report(world: World) -> None:
    world.capture(pictures(60), world.version)
    kept = sorted(item.key for item in world.storage.list(layout.captures(DAY)) if item.key.endswith(".jpg"))
    for key in kept[:20]:
        world.storage.put(key, b"\xff\xd8\xff no picture")
    for key in kept[20:50]:
        world.storage.delete(key)
    assert world.monitor().success


def test_the_profile_is_measured_once(world: World) -> None:
    world.capture(pictures(60), world.version)
    world.monitor()
    before = [item for item in world.storage.list("profiles")]
    world.capture(pictures(60, seed=8), world.version, name="later")
    world.monitor()
    assert [item for item in world.storage.list("profiles")] == before
    assert before


def test_the_same_day_twice_is_the_same_version(world: World) -> None:
    world.capture(pictures(60), world.version)
    versions = []
    for _ in range(2):
        event = world.monitor().asset_materializations_for_node("drift_report")[0]
        versions.append(event.tags["dagster/data_version"])
    assert versions[0] == versions[1]


def test_labels_of_captured_pictures_give_a_live_score(world: World) -> None:
    sent = pictures(30)
    world.capture(sent, world.version)
    label(world, sent, shift=0.0)
    world.monitor()
    live = world.report().loc["live_map50"]
    assert live["production_n"] == 30
    assert live["production_mean"] > 0.99
    assert live["verdict"] == "stable"
    label(world, sent, shift=25.0)
    world.monitor()
    live = world.report().loc["live_map50"]
    assert live["production_mean"] < 0.2
    assert live["verdict"] == "drift", live["why"]
    assert live["reference_mean"] > 0.9


def label(world: World, sent: list[bytes], shift: float) -> None:
    """What an annotator draws on captured pictures that were put in a folder of the lake."""
    import pandas as pd

    from resources import tables

    rows = []
    for number, data in enumerate(sent):
        world.storage.put(f"videos/found/{DAY}/request-{number}.jpg", data)
        frame = f"found/{DAY}#request-{number}.jpg"
        common = {"video": f"found/{DAY}", "frame": frame, "track": None, "source": "a.json", "annotator": "x"}
        boxes = world.boxes(data) or [dict.fromkeys(("class", "x1", "y1", "x2", "y2"))]
        for box in boxes:
            moved = {side: None if box[side] is None else box[side] + shift for side in ("x1", "y1", "x2", "y2")}
            rows.append({**common, "class": box["class"], **moved, "reviewed": True})
    tables.write(world.storage, "annotations", f"found/{DAY}", pd.DataFrame(rows), "run")


class Hook(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append(json.loads(body))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *args: object) -> None: ...


def test_drift_is_told_once_a_day(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Hook) as server:
        server.got = []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("DETECTION_ALERTS", f"http://127.0.0.1:{server.server_port}/hook")
        world.capture(pictures(80), world.version)
        world.monitor()
        assert server.got == []
        world.capture(pictures(80, light=0.35, seed=3), world.version, name="dark")
        world.monitor()
        (told,) = server.got
        assert "brightness" in told["text"]
        assert "report.html" in told["text"]
        world.monitor()
        assert len(server.got) == 1
        server.shutdown()


def test_a_hook_that_fails_does_not_fail_the_run(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTION_ALERTS", "http://127.0.0.1:9/secret-hook")
    world.capture(pictures(80, light=0.35), world.version)
    assert world.monitor().success


def test_names_from_outside_are_text_and_nothing_else(world: World) -> None:
    evil = "<img src=x onerror=alert(1)>"
    world.capture(pictures(60, light=0.35), world.version, request_id=evil, slot=evil)
    result = world.monitor()
    page = html(world, result)
    assert evil not in page
    assert "onerror=alert" in page
    assert "<img src=x" not in metadata(result, "captured_requests")["pictures"]


@contextmanager
def asked(world: World, sent: list[bytes], capture: dict[str, object] | None) -> Iterator[Any]:
    """A real endpoint that answered these pictures, for as long as the context lasts."""
    resources = profiles.resources_for(NAME, None, host="127.0.0.1", port=0, capture=capture)
    with dg.build_resources({"endpoints": resources["endpoints"]}) as opened:
        endpoints = opened.endpoints
        try:
            settings = {"confidence": 0.25, "iou": 0.7, "max_det": 300}
            endpoints.deploy("blue", world.onnx, world.predictor.sha256, world.version, settings)
            endpoints.wait_ready("blue", 60)
            endpoints.route({"blue": 100})
            key = endpoints.key_file.read_text().strip()
            with httpx.Client(base_url=endpoints.url, headers={"X-API-Key": key}, timeout=30) as client:
                for number, data in enumerate(sent):
                    headers = {"Content-Type": "image/jpeg", "X-Request-Id": f"camera-{number}"}
                    answer = client.post("/score", content=data, headers=headers)
                    assert answer.status_code == 200, answer.text
            yield endpoints
        finally:
            endpoints.stop()


@pytest.mark.slow
def test_what_a_real_server_keeps_is_what_is_tabled(world: World) -> None:
    world.write(capture={"rate": 1.0}, drift={"min_requests": 50})
    sent = pictures(60, light=0.35)
    with asked(world, sent, {"rate": 1.0, "below": 0.4, "images": True, "keep_days": 30}):
        ends = time.monotonic() + 30
        while time.monotonic() < ends:
            result = world.monitor(today())
            table = world.table("captured_requests", today())
            if len(table) == 60:
                break
            time.sleep(1)
        told = check(result, "capture_is_alive")
    assert len(table) == 60
    assert told.passed
    assert "60 requests since" in told.description
    row = table.set_index("request_id").loc["camera-7"]
    assert world.storage.get(row["image"]) == sent[7]
    expected = world.row(sent[7], "camera-7", world_time(), world.version)
    assert row["brightness"] == pytest.approx(expected["brightness"], abs=0.01)
    assert row["boxes"] == len(expected["boxes"])
    report = world.report(today())
    assert report.loc["brightness", "verdict"] == "drift"
    assert world.version in metadata(result, "drift_report")["the endpoint's own counters"]


@pytest.mark.slow
def test_an_endpoint_that_is_asked_and_keeps_nothing_is_told(world: World) -> None:
    world.write(capture={"rate": 0.5})
    with asked(world, pictures(20), None) as endpoints:
        found = capture_is_alive(world.storage, endpoints, today(), 0, 0.5)
        rare = capture_is_alive(world.storage, endpoints, today(), 0, 0.05)
        long_ago = capture_is_alive(world.storage, endpoints, DAY, 0, 0.5)
    assert not found.passed
    assert "none was kept" in found.description
    assert rare.passed, "one in twenty of twenty requests may well be none"
    assert long_ago.passed
