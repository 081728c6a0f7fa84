from __future__ import annotations

import uuid
from typing import Any

import lineage_events
import pytest

from detection_assets.domain.openlineage import About, Happened, dataset, events

RUN = "5e061d95-468a-418e-aa4c-8a7ab4268c15"
ABOUT = About(
    RUN,
    "shelf_ingest",
    "detection",
    "file:///srv/lake/shelf",
    "1.13.1",
    "team:vision",
    {"dagster/partition": "a.mp4"},
    "c0ffee",
    "https://example.org/code.git",
)
FRAMES = "shelf__extracted_frames"


def made(asset: str, partition: str | None, version: str, rows: int = 1, **more: Any) -> Happened:
    return Happened(
        "materialized", 3.0, FRAMES, asset=f"shelf/{asset}", partition=partition, version=version, rows=rows, **more
    )


READ = {"shelf/raw_videos": "r1"}
CHECK = Happened("checked", 3.5, FRAMES, asset="shelf/extracted_frames", check="enough", passed=False, severity="warn")
RUN_START, STEP_START = Happened("start", 1.0), Happened("start", 2.0, FRAMES)
DONE, FAILED = Happened("success", 4.0, FRAMES), Happened("failure", 4.0, FRAMES, error="no disk", trace="at line 1")
WRITTEN = made("extracted_frames", None, "f1", 7, inputs=READ, code="1-abc")
LOGS = {
    "done": (
        [RUN_START, STEP_START, WRITTEN, CHECK, DONE, Happened("success", 5.0)],
        ["START job", "START frames", "COMPLETE frames", "START checks", "COMPLETE checks", "COMPLETE job"],
    ),
    "failed": (
        [RUN_START, STEP_START, FAILED, Happened("failure", 5.0, error="steps failed")],
        ["START job", "START frames", "FAIL frames", "FAIL job"],
    ),
    "failed by a check": (
        [RUN_START, STEP_START, WRITTEN, CHECK, FAILED, Happened("failure", 5.0)],
        ["START job", "START frames", "FAIL frames", "START checks", "COMPLETE checks", "FAIL job"],
    ),
    "killed": (
        [RUN_START, STEP_START, Happened("failure", 5.0, error="The process that ran it was killed.")],
        ["START job", "START frames", "FAIL frames", "FAIL job"],
    ),
    "canceled": (
        [RUN_START, STEP_START, Happened("canceled", 5.0)],
        ["START job", "START frames", "ABORT frames", "ABORT job"],
    ),
    "never started": ([Happened("failure", 5.0, error="no machine")], ["START job", "FAIL job"]),
    "a step that could not start": ([RUN_START, FAILED], ["START job", "START frames", "FAIL frames"]),
}


def short(told: list[dict[str, Any]]) -> list[str]:
    names = {"shelf_ingest": "job", "shelf.extracted_frames": "frames", "shelf.extracted_frames.checks": "checks"}
    return [f"{one['eventType']} {names[one['job']['name']]}" for one in told]


@pytest.mark.parametrize(("log", "expected"), LOGS.values(), ids=LOGS)
def test_a_log_becomes_events_that_openlineage_takes(log: list[Happened], expected: list[str]) -> None:
    told = events(ABOUT, log)
    assert short(told) == expected
    for one in told:
        lineage_events.check(one)


@pytest.mark.parametrize("log", [log for log, _ in LOGS.values()], ids=LOGS)
def test_a_longer_log_gives_the_same_events_and_more(log: list[Happened]) -> None:
    whole = events(ABOUT, log)
    for end in range(len(log)):
        so_far = events(ABOUT, log[:end])
        assert so_far == whole[: len(so_far)]


def test_what_was_read_and_written_is_told_with_version_schema_and_rows() -> None:
    (told,) = (one for one in events(ABOUT, LOGS["done"][0]) if short([one]) == ["COMPLETE frames"])
    (read,), (written,) = told["inputs"], told["outputs"]
    assert read["name"] == "/srv/lake/shelf/tables/raw_videos"
    assert read["facets"]["version"]["datasetVersion"] == "r1"
    assert written["name"] == "/srv/lake/shelf/tables/extracted_frames"
    assert written["facets"]["version"]["datasetVersion"] == "f1"
    assert written["outputFacets"]["outputStatistics"]["rowCount"] == 7
    assert [one["name"] for one in written["facets"]["schema"]["fields"]][:2] == ["video", "frame"]
    assert told["run"]["facets"]["parent"]["run"]["runId"] == RUN
    assert told["job"]["facets"]["sourceCodeLocation"]["version"] == "c0ffee"
    assert told["job"]["facets"]["tags"]["tags"][0] == {"key": "code_version", "value": "1-abc", "source": "DAGSTER"}


def test_checks_are_assertions_about_the_table_they_looked_at() -> None:
    told = events(ABOUT, LOGS["done"][0])[4]
    (looked_at,) = told["inputs"]
    (assertion,) = looked_at["inputFacets"]["dataQualityAssertions"]["assertions"]
    assert assertion == {"assertion": "enough", "name": "enough", "success": False, "severity": "warn"}


def test_a_failure_says_why() -> None:
    told = events(ABOUT, LOGS["failed"][0])[2]
    assert told["run"]["facets"]["errorMessage"]["message"] == "no disk"
    assert told["run"]["facets"]["errorMessage"]["stackTrace"] == "at line 1"


def test_a_step_is_the_same_run_from_its_beginning_to_its_end_and_in_every_telling() -> None:
    told = events(ABOUT, LOGS["done"][0])
    ids = [one["run"]["runId"] for one in told]
    assert ids[1] == ids[2] != ids[3] == ids[4]
    assert ids[0] == ids[5] == RUN
    assert all(str(uuid.UUID(one)) == one for one in ids)
    assert told == events(ABOUT, LOGS["done"][0])


def step(name: str, *happened: Happened) -> list[dict[str, Any]]:
    log = [Happened("start", 2.0, FRAMES), *happened, DONE]
    (told,) = (one for one in events(ABOUT, log) if one["eventType"] == "COMPLETE")
    return told[name]


def test_what_many_videos_wrote_is_what_the_next_stage_says_it_read() -> None:
    import hashlib

    def seen(version: str) -> dict[str, str]:
        return {"shelf/raw_videos": hashlib.sha256(version.encode()).hexdigest()}

    for videos in (["a"], ["a", "b"]):
        # The first time with one version over all of them, as Dagster does it.
        wrote = step("outputs", *(made("raw_videos", video, "all") for video in videos),
                     *(made("raw_videos", video, f"v-{video}") for video in videos))  # fmt: skip
        read = step("inputs", *(made("extracted_frames", v, "x", inputs=seen(f"v-{v}")) for v in videos))
        (table,) = [one for one in read if one["name"].endswith("tables/raw_videos")]
        assert wrote[0]["facets"]["version"] == table["facets"]["version"]
        assert wrote[0]["outputFacets"]["outputStatistics"]["rowCount"] == len(videos)


def test_what_was_never_made_was_not_read_and_what_people_put_there_was() -> None:
    assert step("inputs", made("trained_weights", None, "w", inputs={"shelf/tuned_hyperparameters": "INITIAL"})) == []
    (videos,) = step("inputs", made("raw_videos", "a.mp4", "v"))
    assert videos["name"] == "/srv/lake/shelf/videos"


def test_where_columns_come_from_is_told_where_the_table_says_so() -> None:
    (table,) = step("outputs", made("extracted_frames", None, "f", columns={"video": [("shelf/raw_videos", "video")]}))
    (field,) = table["facets"]["columnLineage"]["fields"]["video"]["inputFields"]
    assert (field["name"], field["field"]) == ("/srv/lake/shelf/tables/raw_videos", "video")


LAKES = {
    "file:///srv/lake/shelf": ("file", "/srv/lake/shelf/tables/x"),
    "s3://bucket/detectors/shelf": ("s3://bucket", "detectors/shelf/tables/x"),
    "az://container/shelf": ("az://container", "shelf/tables/x"),
}


@pytest.mark.parametrize(("lake", "named"), LAKES.items())
def test_tables_are_named_by_the_store_and_the_path_in_it(lake: str, named: tuple[str, str]) -> None:
    assert dataset(lake, "tables/x") == {"namespace": named[0], "name": named[1]}
