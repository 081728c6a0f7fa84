"""The twelve answers after the story, a rollback and an override, beside the raw event log and the lake's files."""

from __future__ import annotations

import itertools
import json
import os
import re
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from e2e import terminal
from e2e.test_secrets import running
from PIL import Image
from project import DETECTION, ROOT, free_port, make_home

from detection_assets import lineage
from detection_assets.domain.lineage_questions import QUESTIONS

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1200)]
NAME = "fridge"
PAGE = ROOT / "docs" / "lineage.md"
PICTURES = PAGE.parent / "images" / "lineage"


class After:
    """What is left when the story is told, read as files."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.lake = home / "lake" / NAME

    def run(self, *words: str) -> tuple[int, str]:
        done = subprocess.run([DETECTION, *words], capture_output=True, text=True, env={**os.environ, "COLUMNS": "240"})
        return done.returncode, f"{done.stdout}\n{done.stderr}"

    def log(self) -> list[dict[str, Any]]:
        return [json.loads(path.read_bytes()) for path in sorted((self.lake / "rollout" / "history").glob("*.json"))]

    def snapshots(self) -> dict[str, pd.DataFrame]:
        found = sorted((self.lake / "datasets").glob("*/*/images.parquet"))
        return {path.parts[-3]: pd.read_parquet(path) for path in found}

    def tags(self) -> dict[str, dict[str, str]]:
        """The registry's tags by version, out of its database."""
        with sqlite3.connect(self.home / ".mlflow" / "mlflow.db") as database:
            rows = database.execute("select version, key, value from model_version_tags where name = ?", [NAME])
            found: dict[str, dict[str, str]] = {}
            for version, key, value in rows:
                found.setdefault(str(version), {})[key] = value
        return found

    def events(self, stage: str) -> list[tuple[str, dict[str, Any]]]:
        """Partition and metadata of each materialization of an asset, oldest first, out of Dagster's database."""
        with sqlite3.connect(self.home / ".dagster" / "history" / "runs" / "index.db") as database:
            rows = database.execute(
                "select partition, event from event_logs where dagster_event_type = 'ASSET_MATERIALIZATION' "
                "and asset_key = ? order by id",
                [json.dumps([NAME, stage])],
            ).fetchall()
        found = []
        for partition, event in rows:
            told = json.loads(event)["dagster_event"]["event_specific_data"]["materialization"]["metadata_entries"]
            found.append((partition, {one["label"]: one["entry_data"] for one in told}))
        return found


@pytest.fixture(scope="module")
def after(tmp_path_factory: pytest.TempPathFactory) -> Iterator[After]:
    with pytest.MonkeyPatch.context() as patch:
        home = make_home(tmp_path_factory.mktemp("after") / "home", patch.setenv)
        report = home / "story.json"
        done = subprocess.run(
            [DETECTION, "story", "--size", "small", "--report", str(report)], capture_output=True, text=True
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        story = home / ".story"
        for name, value in {
            "DETECTION_HOME": story,
            "DETECTION_DETECTORS": story / "detectors",
            "DAGSTER_HOME": story / ".dagster",
        }.items():
            patch.setenv(name, str(value))
        made = After(story)
        try:
            code, told = made.run("rollback", NAME, "--by", "bob", "--reason", "the shop complains")
            assert code == 0, told
            file = story / "detectors" / f"{NAME}.yaml"
            file.write_text(file.read_text().replace("gates: {map50: 0.0", "gates: {map50: 0.99"))
            code, told = made.run("run", NAME)
            assert code == 1, told
            code, told = made.run("override", NAME, "--by", "ada", "--reason", "the fair is tomorrow")
            assert code == 0, told
            yield made
        finally:
            made.run("stop", NAME)


def test_the_answers_are_what_the_files_and_the_event_log_say(after: After) -> None:
    log, tags, snapshots = after.log(), after.tags(), after.snapshots()
    with lineage.of(NAME) as of:
        # 1. What serves.
        last = {slot: (held["version"], held["share"]) for slot, held in log[-1]["slots"].items()}
        serving = of.serving()
        assert {row.slot: (row.version, row.share) for row in serving.itertuples()} == last
        assert serving["approved_by"].iloc[0] == tags[str(serving["version"].iloc[0])]["approved_by"] == "ada"
        # 2. and 3. What taught each version, and who saw a video.
        for version, said in tags.items():
            images = snapshots[said["dataset_version"]]
            assert set(of.taught(version)["video"]) == set(images["video"])
            assert dict(of.frames(version)[["frame", "split"]].to_numpy()) == dict(
                images[["frame", "split"]].to_numpy()
            )
        for video in {str(video) for images in snapshots.values() for video in images["video"]}:
            saw = of.saw(video)
            having = {name for name, images in snapshots.items() if video in set(images["video"])}
            assert set(saw.loc[saw["kind"] == "dataset", "what"]) == having
            models = {version for version, said in tags.items() if said["dataset_version"] in having}
            assert set(saw.loc[saw["kind"] == "model", "what"]) == models
        # 4. What served, between any two entries of the log.
        for one, following in itertools.pairwise(log):
            if following["at"] - one["at"] > 0.01:
                moment = pd.Timestamp((one["at"] + following["at"]) / 2, unit="s", tz="UTC")
                found = of.served_at(moment)
                held = {slot: (held["version"], held["share"]) for slot, held in one["slots"].items()}
                assert {row.slot: (row.version, row.share) for row in found.itertuples()} == held, one["number"]
        # 5. What judged.
        judged = of.judged_on()
        images = snapshots[str(judged["dataset_version"].iloc[0])]
        assert set(judged["frame"]) == set(images.loc[images["split"] == "test", "frame"])
        # 6. Why the second version differs from the first.
        one, other = (snapshots[tags[version]["dataset_version"]] for version in ("1", "2"))
        why = of.why("2", "1")
        added = why.loc[why["what"].str.startswith("frames added"), "later"].astype(int).sum()
        assert added == len(set(other["frame"]) - set(one["frame"]))
        # 7. and 8. Nothing is stale but what the changed gates would have; what they would run follows the graph.
        assert set(of.stale()["asset"]) <= {"evaluation", "registered_model", "deployed_endpoint"}
        expected = ["evaluation", "registered_model", "deployed_endpoint"]
        assert of.would_run(setting="gates")["asset"].tolist() == expected
        # 10. What was dropped.
        dropped = of.dropped()
        frames = pd.concat(map(pd.read_parquet, (after.lake / "tables" / "extracted_frames").glob("*/*.parquet")))
        by_extraction = dropped.loc[dropped["by"] == "extraction", "frame"]
        assert set(by_extraction) == set(frames.loc[~frames["kept"], "frame"])
        # 11. What the first version cost: each run once, and all before its registration.
        cost = of.cost("1").set_index("asset")
        (_, told), *_ = after.events("trained_weights")
        assert cost.loc["trained_weights", "seconds"] == pytest.approx(told["seconds"]["value"], abs=0.06)
        # 12. Who overrode.
        (file,) = (after.lake / "overrides").glob("*.json")
        gates = of.overridden().set_index("what").loc["gates"]
        assert gates["by"] == json.loads(file.read_bytes())["by"] == "ada"
        assert gates["of"] == file.stem
        assert tags[str(gates["version"])]["override_by"] == "ada"


def test_a_captured_request_leads_to_its_version_and_dataset(after: After) -> None:
    paths = list((after.lake / "captures").rglob("*.jsonl"))
    rows = [json.loads(line) for path in paths for line in path.read_bytes().splitlines()]
    tabled = pd.concat(map(pd.read_parquet, (after.lake / "tables" / "captured_requests").glob("*/*.parquet")))
    row = next(row for row in rows if row["boxes"] and row["request_id"] in set(tabled["request_id"]))
    surest = max(row["boxes"], key=lambda box: box["confidence"])
    with lineage.of(NAME) as of:
        found = of.alike(request=row["request_id"])
    assert set(found["version"]) == {row["version"]}
    assert set(found["dataset_version"]) == {after.tags()[row["version"]]["dataset_version"]}
    assert set(found["class"]) == {surest["class"]}
    assert found["distance"].is_monotonic_increasing


def known_for_pictures(after: After) -> dict[str, tuple[int, dict[str, str], str]]:
    """For each question which of its ways is shown, of what it is asked, and how much of a long answer is shown."""
    shared = [entry for entry in after.log() if sum(held["share"] > 0 for held in entry["slots"].values()) > 1]
    moment = pd.Timestamp(shared[0]["at"] + 0.5, unit="s", tz="UTC").strftime("%Y-%m-%dT%H:%M:%S")
    tabled = pd.concat(map(pd.read_parquet, (after.lake / "tables" / "captured_requests").glob("*/*.parquet")))
    request = str(tabled.loc[(tabled["boxes"] > 0) & tabled["image"].notna(), "request_id"].iloc[0])
    with lineage.of(NAME) as of:
        video = str(of.dropped()["video"].iloc[0])
    return {
        "serving": (0, {}, ""),
        "taught": (0, {"version": "2"}, ""),
        "saw": (0, {"video": video}, " | head -16"),
        "at": (0, {"moment": moment}, ""),
        "judged": (0, {"evaluation": after.tags()["2"]["evaluation_version"][:6]}, " | head -12"),
        "why": (1, {"version": "2", "earlier": "1"}, " | head -24"),
        "what-if": (2, {"section": "training"}, ""),
        "alike": (0, {"request": request}, " | head -7"),
        "dropped": (0, {"video": video}, ""),
        "cost": (0, {"version": "2"}, ""),
        "overridden": (0, {}, ""),
        "stale": (0, {}, ""),
    }


def test_the_documentation_shows_each_question_with_its_line_and_its_answer(after: After, tmp_path: Path) -> None:
    """With UPDATE_SNAPSHOTS=1 the pictures of docs/lineage.md are made anew, from what is there now."""
    page = PAGE.read_text()
    asked = known_for_pictures(after)
    assert set(asked) == set(QUESTIONS)
    for name, (way, known, cut) in asked.items():
        if name == "stale":
            file = next((after.lake / "annotations").rglob("*.json"))
            file.write_bytes(file.read_bytes() + b"\n")
        line, command = QUESTIONS[name].asking(NAME, **known)[way]
        with lineage.of(NAME) as of:
            found = eval(line, {"lineage": SimpleNamespace(of=lambda name, of=of: {NAME: of}[name])})
        assert len(found), line
        (tmp_path / f"{name}.svg").write_text(terminal.picture(line, command + cut, terminal.said(command + cut)))
        assert (tmp_path / f"{name}.svg").stat().st_size < 60_000
        words = f"{command}: {terminal.in_words(found)}"
        page, count = re.subn(
            rf"!\[[^\]]*\]\(images/lineage/{name}\.svg\)",
            lambda _, words=words, name=name: f"![{words}](images/lineage/{name}.svg)",
            page,
        )
        assert count == 1, name
    if os.environ.get("UPDATE_SNAPSHOTS"):
        PAGE.write_text(page)
        PICTURES.mkdir(exist_ok=True)
        for name in asked:
            shutil.copyfile(tmp_path / f"{name}.svg", PICTURES / f"{name}.svg")


def test_pages_in_dagster_offer_the_questions_and_show_answers(after: After, browser: Any, tmp_path: Path) -> None:
    """With UPDATE_SNAPSHOTS=1 the pictures of a page with answers, and of what a page offers to ask, are made anew."""
    port = free_port()
    command = ["dagster-webserver", "-m", "detection_assets.definitions", "-a", NAME, "-p", str(port)]
    with (
        running(command, tmp_path, f"http://127.0.0.1:{port}/server_info", {}),
        browser.new_page(viewport={"width": 1560, "height": 1000}) as page,
    ):
        page.goto(f"http://127.0.0.1:{port}/assets/{NAME}/deployed_endpoint?view=overview")
        page.get_by_text("overridden", exact=True).wait_for(timeout=60_000)
        for word in ("Hide navigation", "Status", "Columns", "Description"):
            page.get_by_text(word, exact=True).first.click()
        for name in ("serving", "overridden"):
            assert QUESTIONS[name].title in page.inner_text("body")
        page.wait_for_timeout(1000)
        beside = page.get_by_text("Definition", exact=True).first.bounding_box()
        clip = {"x": 0, "y": 0, "width": beside["x"] - 30, "height": 1000}
        page.screenshot(path=tmp_path / "questions-answered.png", clip=clip)
        page.set_viewport_size({"width": 1080, "height": 800})
        page.goto(f"http://127.0.0.1:{port}/assets/{NAME}/registered_model?view=overview")
        page.get_by_text("taught by", exact=True).wait_for(timeout=60_000)
        for name in ("taught", "judged", "cost"):
            assert QUESTIONS[name].title in page.inner_text("body")
        page.locator("tr", has_text="questions").last.get_by_text("[Show Markdown]").click()
        page.get_by_role("dialog").get_by_text(QUESTIONS["why"].title).wait_for()
        page.wait_for_timeout(1000)
        page.screenshot(path=tmp_path / "questions-offered.png")
    for name in ("questions-answered.png", "questions-offered.png"):
        Image.open(tmp_path / name).convert("RGB").quantize(32).save(tmp_path / name, optimize=True)
        if os.environ.get("UPDATE_SNAPSHOTS"):
            shutil.copyfile(tmp_path / name, PICTURES.parent / name)
