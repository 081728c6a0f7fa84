from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dagster import AssetKey, AssetMaterialization
from monitored import CLASSES, FRAMES_A_VIDEO, NAME, World, check, decoded, jpeg, metadata, picture, today
from project import give_mlflow, make_home
from rich.console import Console

from detection_assets.commands import label
from detection_assets.domain import labels, layout, quality, schemas
from detection_assets.domain.problems import InputError
from detection_assets.domain.withdrawal import Withdrawal
from resources import label_batches, tables
from resources.labeling.base import LabelingError
from resources.withdrawal import withdrawals

VIDEOS = [f"store-{number}/clip.mp4" for number in range(8)]
LABELLED, PICTURES = 3, 8 * FRAMES_A_VIDEO


@pytest.fixture
def world(monitored: World) -> Iterator[World]:
    """The same, with hashes of its frames and labels on those of the first videos, and nothing asked for yet."""
    monitored.write_detector(labeling={"budget": 12})
    for video in VIDEOS:
        frames = monitored.table("extracted_frames", video)
        hashes = [quality.phash_of(decoded(monitored.storage.get(key))) for key in frames["key"]]
        tables.write(monitored.storage, "extracted_frames", video, frames.assign(phash=hashes), "run")
    for video in VIDEOS[:LABELLED]:
        annotate(monitored, video)
    yield monitored
    for folder in ("label_requests", "labeling", "looks", "captures", "reports", "annotations", "withdrawn"):
        monitored.storage.delete(folder)
    for asset in ("annotations", "label_requests", "captured_requests", "drift_report"):
        monitored.storage.delete(f"tables/{asset}")


def annotate(world: World, video: str) -> None:
    """Gives each frame of a video an apple."""
    rows = schemas.empty("annotations").reindex(range(FRAMES_A_VIDEO))
    frames = world.table("extracted_frames", video)["frame"].tolist()
    box: dict[str, Any] = {"x1": 8.0, "y1": 8.0, "x2": 24.0, "y2": 24.0, "source": "by hand", "reviewed": True}
    rows = rows.assign(video=video, frame=frames, **{"class": CLASSES[0]}, **box)
    tables.write(world.storage, "annotations", video, rows, "run")


def asked(world: World) -> pd.DataFrame:
    return world.table("label_requests")


def test_a_batch_is_chosen_published_and_handed_over_with_reasons_and_proposals(world: World) -> None:
    result = world.label()
    table = asked(world)
    assert len(table) == 12
    assert table["frame"].is_unique
    assert not set(table["video"]) & set(VIDEOS[:LABELLED])
    assert table["video"].value_counts().max() <= 3, "a fifth of twelve"
    assert table["rank"].tolist() == list(range(12))
    assert set(table["reason"]) == {"unsure", "rare", "diverse"}
    rare = table[table["reason"] == "rare"]["why"]
    assert rare.str.contains("of banana at 0").all()
    assert rare.str.endswith("0 labelled of banana so far, 18 of the average class").all()
    assert table["why"].str.contains(r"\d").all()
    (batch,) = label_batches.known(world.storage)
    found, keys = label_batches.read(world.storage, batch)
    assert found.frames["name"].tolist() == table["name"].tolist()
    assert found.model == world.version
    assert len(found.proposals) == table["proposals"].sum() > 0
    for name, rows in found.proposals.groupby("name"):
        expected = world.boxes(world.storage.get(keys[str(name)]))
        assert sorted(rows["class"]) == sorted(box["class"] for box in expected)
        assert sorted(rows["confidence"]) == pytest.approx(sorted(box["confidence"] for box in expected), abs=1e-4)
    folder = world.home / "labeling" / NAME / batch
    assert sorted(path.name for path in (folder / "pictures").iterdir()) == sorted(table["name"])
    told = metadata(result, "label_requests")
    assert str(folder) in told["work on it"]
    assert "data:image/jpeg;base64," in told["pictures"]
    assert told["looked at"] == PICTURES - LABELLED * FRAMES_A_VIDEO
    assert check(result, "enough_candidates").passed
    assert check(result, "budget_kept").passed


def test_nobody_is_asked_about_a_withdrawn_video(world: World) -> None:
    made = Withdrawal(VIDEOS[-1], "ada", "she objects", withdrawals.now())
    withdrawals.mark(world.storage, made, [])
    result = world.label()
    assert VIDEOS[-1] not in set(asked(world)["video"])
    assert metadata(result, "label_requests")["looked at"] == PICTURES - (LABELLED + 1) * FRAMES_A_VIDEO


def test_the_command_shows_an_open_batch_again_and_more_is_something_else(world: World) -> None:
    with pytest.raises(InputError, match="no frames to ask about yet; `detection run tiny"):
        label.label(Console(), NAME, None, more=False)
    with world.instance() as instance:
        event = AssetMaterialization(AssetKey([NAME, "extracted_frames"]), partition=VIDEOS[0])
        instance.report_runless_asset_event(event)
        instance.add_dynamic_partitions(f"{NAME}_videos", VIDEOS)

    def shown(**told: Any) -> str:
        out = Console(file=io.StringIO(), width=300)
        assert label.label(out, NAME, **{"budget": None, "more": False, **told}) == 0
        assert isinstance(out.file, io.StringIO)
        return out.file.getvalue()

    text = shown(budget=5)
    first = asked(world)
    assert len(first) == 5
    assert "5 pictures to label" in text
    assert all(f"{row.reason}: {row.why}" in text for row in first.itertuples())
    assert str(world.home / "labeling" / NAME / first["batch"].iloc[0]) in text
    result = world.label()
    pd.testing.assert_frame_equal(asked(world), first)
    assert check(result, "enough_candidates").passed
    assert "an open batch" in str(check(result, "enough_candidates").description)
    assert len(label_batches.known(world.storage)) == 1
    shown(budget=6, more=True)
    more = asked(world)
    assert len(more) == 6
    assert not set(more["frame"]) & set(first["frame"])
    assert len(label_batches.known(world.storage)) == 2


def test_a_batch_that_the_tool_refused_is_handed_over_by_the_next_run(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = world.home / "a-file"
    blocked.write_text("")
    with monkeypatch.context() as patch:
        patch.setenv("DETECTION_LABELING_FOLDER", str(blocked))
        with pytest.raises(LabelingError, match="a-file"):
            world.label(budget=4)
    (batch,) = label_batches.known(world.storage)
    world.label(budget=9)
    assert set(asked(world)["batch"]) == {batch}
    assert len(asked(world)) == 4


def test_requests_like_what_drifted_are_asked_about_with_their_pictures(world: World) -> None:
    rng = np.random.default_rng(7)
    usual = [jpeg(picture(rng)) for _ in range(40)]
    dark = [jpeg(picture(rng, 0.35)) for _ in range(30)]
    world.capture(usual + dark, world.version, day=today())
    world.monitor(today())
    assert (world.report(today()).loc["brightness", "verdict"]) == "drift"
    world.label(budget=20)
    table = asked(world)
    drifted = table[table["reason"] == "drifted"]
    assert len(drifted) == 4, "a fifth of the batch"
    assert drifted["why"].str.contains(f"what taught version {world.version} \\(verdict: drift\\)").all()
    assert (drifted["source"] == "request").all()
    numbers = drifted["name"].str.extract(r"request-(\d+)\.jpg")[0].astype(int)
    assert (numbers >= 40).sum() > len(numbers) / 2, "the dark ones"
    batch = table["batch"].iloc[0]
    assert (drifted["video"] == labels.folder_of(batch)).all()
    assert (drifted["frame"] == drifted["video"] + "#" + drifted["name"]).all()
    # Captured pictures are deleted some day: those of a batch are its own.
    before = {key: world.storage.get(key) for key in drifted["key"]}
    assert all(key.startswith(layout.label_request(batch)) for key in before)
    world.storage.delete(layout.CAPTURES)
    world.label()
    assert {key: world.storage.get(key) for key in before} == before
    # They wait, so neither they nor what looks like them is asked for again.
    world.label(budget=60, more=True)
    assert not set(asked(world)["name"]) & set(table["name"])


def test_a_picture_that_cannot_be_read_is_told_and_the_rest_is_asked_about(world: World) -> None:
    key = world.table("extracted_frames", VIDEOS[5])["key"].iloc[2]
    whole = world.storage.get(key)
    world.storage.put(key, whole[:40])
    try:
        result = world.label(budget=PICTURES)
    finally:
        world.storage.put(key, whole)
    table = asked(world)
    assert key not in set(table["key"])
    assert len(table) > 12
    assert "cannot be read as a picture" in metadata(result, "label_requests")["problems"]
    assert not check(result, "enough_candidates").passed


def test_without_a_model_only_variety_counts_and_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_mlflow: Path
) -> None:
    home = make_home(tmp_path / "other", monkeypatch.setenv)
    give_mlflow(home, empty_mlflow)
    other = World(home)
    other.frames_alone(VIDEOS[0])
    result = other.label()
    table = asked(other)
    assert len(table) == 1
    assert table["why"].iloc[0].startswith("no model serves yet, so only variety counts: ")
    assert table["model"].iloc[0] == ""
    assert metadata(result, "label_requests")["model"] == "none: only variety counts"
    assert not check(result, "enough_candidates").passed


def test_when_everything_is_labelled_nothing_is_asked_for(world: World) -> None:
    for video in VIDEOS:
        annotate(world, video)
    result = world.label()
    assert asked(world).empty
    assert not label_batches.known(world.storage)
    assert "0 could be chosen" in str(check(result, "enough_candidates").description)
