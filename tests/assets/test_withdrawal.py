"""A video that was withdrawn is found, left out and, where that is asked for, erased: all of it, and nothing else."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest
import search
from assets.withdrawn_world import (
    BATCH,
    CLIP,
    DAY,
    FOLDER,
    INSIDE,
    KINDS,
    NAME,
    ODD,
    OTHER,
    REQUESTED,
    SHARED,
    VERSION,
    World,
    jpeg,
    parquet,
)
from project import closed_again, give_mlflow, make_home
from rich.console import Console

from detection_assets.commands import report, setup, withdrawing
from detection_assets.domain import card, layout, problem_report, snapshot
from detection_assets.domain.problems import InputError
from detection_assets.pictures import thumbnail
from jobs import update
from resources import label_batches, lake, tables, temporary, version_index
from resources.instance import open_instance
from resources.storage import Storage
from resources.tables import ErasedError
from resources.withdrawal import event_pictures, old_versions, withdrawals


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    with closed_again():
        yield


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Iterator[World]:
    """A world that is made once; each test has a copy of it."""
    with pytest.MonkeyPatch.context() as patch:
        home = make_home(tmp_path_factory.mktemp("filled") / "home", patch.setenv)
        give_mlflow(home, empty_mlflow)
        made = World(home)
        made.fill()
        made.close()
        yield made


@pytest.fixture
def world(filled: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    yield from copied(filled, tmp_path / "home", monkeypatch)


def copied(filled: World, home: Path, patch: pytest.MonkeyPatch) -> Iterator[World]:
    make_home(home, patch.setenv)
    for name in ("lake", ".dagster", ".mlflow", ".scratch"):
        shutil.copytree(filled.home / name, home / name)
    made = World(home)
    made.pictures, made.dataset, made.version = filled.pictures, filled.dataset, filled.version
    made.report = filled.report
    yield made
    made.close()


def withdraw(video: str, *, by: str = "ada", reason: str = "she objects", **more: Any) -> str:
    out = io.StringIO()
    asked = {"erase": False, "dry_run": False, "yes": True, **more}
    withdrawing.withdraw(Console(file=out, width=250), NAME, video, by, reason, **asked)
    return out.getvalue()


def partitions() -> list[str]:
    with open_instance() as instance:
        return list(instance.get_dynamic_partitions(f"{NAME}_videos"))


# Marked ---------------------------------------------------------------------------------------------------------------


def test_a_dry_run_shows_all_and_changes_nothing(world: World) -> None:
    before = world.objects()
    told = withdraw(CLIP, dry_run=True, by="", reason="")
    assert world.dataset in told
    assert CLIP in partitions()
    assert world.objects() == before


def test_what_was_made_with_it_is_found_and_written_down_once(world: World) -> None:
    told = withdraw(CLIP)
    made = withdrawals.read(world.storage, CLIP)
    assert made is not None
    assert (made.by, made.reason, made.kind) == ("ada", "she objects", "video")
    assert made.datasets == [world.dataset]
    assert made.evaluations == ["0000000000000001", "0000000000000003"]
    assert made.profiles == [f"{world.dataset}/{VERSION}"]
    assert [one.version for one in made.models] == [world.version]
    assert made.shared == [SHARED]
    assert f"version {world.version}" in told
    assert withdraw(CLIP, by="eve", reason="another") != ""
    assert withdrawals.read(world.storage, CLIP) == made, "what a person decided stays"


def test_it_leaves_the_graph_and_is_not_taken_in_again(world: World) -> None:
    withdraw(CLIP)
    assert CLIP not in partitions()
    with open_instance() as instance:
        synced = update.sync_partitions(instance, NAME, world.storage)
    assert synced.added == []
    assert "withdrawn by ada" in synced.refused[CLIP]
    assert set(partitions()) == set(KINDS) - {CLIP}


@pytest.mark.parametrize("video", ["é[/b]x/c [a].mp4", " led by a blank.mp4"])
def test_whatever_a_video_is_called_it_is_withdrawn_under_its_name(world: World, video: str) -> None:
    world.storage.put(f"videos/{video}", b"of somebody who objects")
    told = withdraw(video, erase=True)
    assert f"{NAME}: {video} " in told
    assert f"{video.strip()}: erased" in " ".join(told.split())
    assert not world.storage.exists(f"videos/{video}")
    assert withdrawals.videos(world.storage) == {video}
    stone = withdrawals.tombstone(world.storage, video)
    assert stone is not None
    assert stone.video == video


def test_its_annotations_speak_for_nobody_else(world: World) -> None:
    """A file that names no video would speak for every video beside it."""
    world.storage.put("videos/store-2/sibling.mp4", b"x")
    withdraw(CLIP)
    files = lake.annotation_files(world.storage, ["store-2/sibling.mp4"], partitions())
    assert [item.key for item in files["store-2/sibling.mp4"]] == [SHARED]


def test_a_video_is_refused_by_name_and_by_content(world: World, tmp_path: Path) -> None:
    withdraw(CLIP)
    copy, picture, harmless = tmp_path / "renamed.mp4", tmp_path / "x" / "a.jpg", tmp_path / "store-2" / "clip.mp4"
    for path, data in ((copy, world.storage.get(f"videos/{CLIP}")), (picture, b"p"), (harmless, b"new content")):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    out = io.StringIO()
    assert setup.add(Console(file=out, width=300), NAME, [copy, harmless.parent], "", replace=True) == 1
    assert (
        f"renamed.mp4: its content is that of {CLIP}, which is not taken in again: it was withdrawn" in out.getvalue()
    )
    assert f"{CLIP} is not taken in again: it was withdrawn by ada" in out.getvalue()
    withdraw(FOLDER)
    for video in (FOLDER, CLIP):
        picture.write_bytes(world.pictures[video][1])
        assert setup.add(Console(file=out, width=300), NAME, [picture], "", replace=True) == 1
        assert f"a.jpg: its content is that of {video}" in out.getvalue()


@pytest.mark.parametrize(
    ("video", "by", "yes", "message"),
    [
        ("clip.mp4", "ada", True, rf"there is no video clip.mp4; did you mean {CLIP}"),
        (CLIP, " ", True, "needs --by and --reason"),
        (CLIP, "ada", False, "Nobody is there to be asked: say --yes"),
    ],
)
def test_what_cannot_be_withdrawn_says_why(world: World, video: str, by: str, yes: bool, message: str) -> None:
    with pytest.raises(InputError, match=message):
        withdraw(video, by=by, yes=yes)
    assert withdrawals.videos(world.storage) == set()


def materialized(stage: str, job: str, first: str | None = None) -> dict[str, Any]:
    """Runs one stage as its job does; gives the metadata of what it made."""
    project = withdrawing.Project.of(NAME)
    with open_instance() as instance:
        planned = update.Planned(f"{NAME}_{job}", (stage,), first, first, 1 if first else 0, "test")
        assert update.execute(instance, project.definitions, NAME, planned)[0]
        event = instance.get_latest_materialization_event(_asset(stage))
        assert event is not None
        assert event.asset_materialization is not None
        return {key: getattr(value, "value", value) for key, value in event.asset_materialization.metadata.items()}


def test_new_datasets_leave_it_out_and_say_so(world: World) -> None:
    withdraw(CLIP)
    withdraw(FOLDER)
    # Copied by hand into another folder of images, before or after: no run asks for them to be taken in.
    rows = tables.read(world.storage, "extracted_frames", [REQUESTED]).to_dict("records")
    copied = [hashlib.sha256(world.pictures[video][0]).hexdigest() for video in (FOLDER, CLIP)]
    dropped = {"frame": f"{REQUESTED}#dropped.jpg", "sha256": None, "key": None, "kept": False, "reason": "blurred"}
    copies = [{**row, "sha256": sha256} for row, sha256 in zip(rows, copied, strict=False)]
    world.write("extracted_frames", REQUESTED, [*copies, *rows[2:], {**rows[0], **dropped}])
    told = materialized("detection_dataset", "train")
    table = tables.read(world.storage, "detection_dataset")
    assert set(table["video"]) == set(KINDS) - {CLIP, FOLDER}
    assert {row["frame"] for row in rows[:3]} & set(table["frame"]) == {rows[2]["frame"]}
    assert told["version"] != world.dataset
    assert CLIP in told["withdrawn"]
    assert "she objects" in told["withdrawn"]
    assert f"2 pictures of withdrawn videos were left out, which lie in other folders, too: {REQUESTED}" in told["card"]


def test_its_content_gives_no_frames_under_another_name(world: World) -> None:
    withdraw(CLIP)
    world.storage.put("videos/store-9/renamed.mp4", world.storage.get(f"videos/{CLIP}"))
    with open_instance() as instance:
        assert update.sync_partitions(instance, NAME, world.storage).added == ["store-9/renamed.mp4"]
    materialized("raw_videos", "ingest", "store-9/renamed.mp4")
    row = tables.read(world.storage, "raw_videos", ["store-9/renamed.mp4"]).iloc[0]
    assert row["frames_decodable"] == 0
    assert f"its content is that of {CLIP}, which is not used: it was withdrawn by ada" in row["problem"]


# Erased ---------------------------------------------------------------------------------------------------------------


def pieces(world: World, video: str) -> dict[str, bytes]:
    """What may be found of a video nowhere: pieces of its pictures, of small ones, and their digests as text."""
    found: dict[str, bytes] = {}
    for index, data in enumerate(world.pictures[video]):
        small = thumbnail(data, None, ()) or b""
        found |= {
            f"picture {index}": data[700:760],
            f"small picture {index}": small[900:960],
            f"small picture {index} in base64": base64.b64encode(small)[1200:1260],
            f"picture {index} in base64": base64.b64encode(data)[1200:1260],
            f"digest {index}": hashlib.sha256(data).hexdigest().encode(),
        }
    return found


def nowhere(world: World, video: str) -> bool:
    """Whether nothing of a video is left but what refuses its content."""
    return not [place for place in places(world, video) if "/withdrawn/digests/" not in place]


def places(world: World, video: str) -> list[str]:
    """Where something of a video is in its whole home: files, packed files, rows, pages of databases."""
    wanted = pieces(world, video)
    return sorted(
        {
            f"{what} in {place}"
            for place, data in search.everything(world.home)
            for what, piece in wanted.items()
            if piece in data
        }
    )


NOTHING_OF = {CLIP: (OTHER, INSIDE), FOLDER: (INSIDE, CLIP), REQUESTED: (CLIP, FOLDER)}


@pytest.mark.parametrize("video", NOTHING_OF)
def test_nothing_of_it_is_left_and_all_of_the_others(world: World, video: str) -> None:
    before = world.objects()
    assert len(places(world, video)) > 20, "what is looked for is found while it is there"
    others = {other: but_the_sheet(places(world, other)) for other in NOTHING_OF[video]}
    told = withdraw(video, erase=True)
    assert "proof: " in told
    digests = {withdrawals.read(world.storage, video).sha256}  # type: ignore[union-attr]
    left = [place for place in places(world, video) if "/withdrawn/digests/" not in place]
    assert left == []
    stone = withdrawals.tombstone(world.storage, video)
    assert stone is not None
    assert stone.sha256 in digests
    assert stone.counts["frames"] == 3
    for other, had in others.items():
        # What was written anew says of the others what it said, under another name.
        assert len(but_the_sheet(places(world, other))) == len(had), other
    after = world.objects()
    own = [
        key
        for key in before
        if key.startswith(tuple(f"{root}/{video}/{VERSION}" for root in ("frames", "predictions")))
    ]
    assert own
    assert not set(own) & set(after)
    for other in set(KINDS) - {video}:
        theirs = (f"videos/{other}", f"frames/{other}/{VERSION}", f"predictions/{other}/{VERSION}")
        kept = {key: data for key, data in before.items() if key.startswith(theirs) and not _is_of(key, video)}
        assert kept
        assert all(after.get(key) == data for key, data in kept.items()), other


def but_the_sheet(places: list[str]) -> list[str]:
    """What shows frames of several videos, a sheet or a page that was looked at, goes with the first."""
    return [place for place in places if not place.endswith("/worst.jpg") and "/.scratch/show/" not in place]


def _is_of(key: str, video: str) -> bool:
    return key.removeprefix("videos/").rpartition("/")[0] == video


def test_what_a_store_keeps_is_asked_about_by_folder_and_not_deleted_where_it_is_anothers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of one that is withdrawn and not erased, and so no video of the graph any more."""
    asked: list[tuple[list[str], Callable[[str], bool]]] = []
    monkeypatch.setattr(old_versions, "erase", lambda _, areas, keep: asked.append((list(areas), keep)) or (0, ""))
    withdraw(INSIDE)
    withdraw(FOLDER, erase=True)
    ((areas, keep),) = asked
    assert f"frames/{FOLDER}" in areas
    assert not [one for one in areas if any(one.startswith(f"{other}/") for other in areas)]
    assert keep(f"frames/{INSIDE}/{VERSION}/x/1.jpg")
    assert not keep(f"frames/{FOLDER}/{VERSION}/x/1.jpg")


def test_an_earlier_table_says_who_erased_it_and_what_is_left(world: World) -> None:
    key = _pointer(world)["table"]
    withdraw(CLIP, erase=True)
    with pytest.raises(
        ErasedError, match=rf"it held data of {CLIP}, which was withdrawn.*tombstones.*what is left of it"
    ):
        tables.read_versions(world.storage, "detection_dataset", [key])
    table = tables.read(world.storage, "detection_dataset")
    assert set(table["video"]) == set(KINDS) - {CLIP}
    assert _pointer(world)["rows"] == len(table)


def _pointer(world: World) -> dict[str, Any]:
    return json.loads(world.storage.get(layout.table_pointer("detection_dataset", None)))


def test_versions_keep_their_names_and_say_what_was_taken_out(world: World) -> None:
    withdraw(CLIP, erase=True)
    made = world.storage.published(layout.dataset(world.dataset))
    assert made is not None
    assert made.notes["erased"] == [CLIP]
    judged = world.storage.published(layout.evaluation("0000000000000001"))
    assert judged is not None
    assert sorted(name for name in judged.files if "worst" in name) == ["worst/01.jpg"]
    summary = json.loads(world.storage.get(judged.key("summary.json")))
    assert [one["frame"].split("#")[0] for one in summary["worst"]] == [OTHER]
    assert summary["problems"] == []
    (model,) = [one for one in world.registry.history() if one.version == world.version]
    assert [one.video for one in withdrawals.barred(world.storage, model)] == [CLIP], "who saw it is known for good"


def test_reports_descriptions_and_cards_tell_of_the_others_alone(world: World) -> None:
    storage, stem = world.storage, CLIP.encode()
    described = layout.croissant(world.dataset)
    assert all(stem in storage.get(key) for key in (world.report, described))
    withdraw(CLIP, erase=True)
    left = version_index.left_of(storage, world.report)
    assert left != world.report
    assert problem_report.from_csv(storage.get(left))["video"].tolist() == [OTHER]
    told = json.loads(storage.get(described))
    assert stem not in storage.get(described)
    assert {one["name"] for one in told["isBasedOn"]} == set(KINDS) - {CLIP}
    made = storage.published(layout.dataset(world.dataset))
    assert made is not None
    images = next(one for one in told["distribution"] if one["@id"] == "images.parquet")
    assert images["contentUrl"] == made.key("images.parquet")
    assert images["sha256"] == hashlib.sha256(storage.get(made.key("images.parquet"))).hexdigest()
    made = storage.published(layout.model_card("tiny", "1", "ab" * 32))
    assert made is not None
    assert storage.get(made.key("model_card.md")).startswith(f"| video | {OTHER} |".encode())
    judged = storage.published(layout.evaluation("0000000000000003"))
    assert judged is not None
    page = storage.get(judged.key("worst.html"))
    assert stem not in page
    assert page.count(b"<figure>") == 1
    assert "worst.jpg" not in judged.files
    assert not list((world.home / ".scratch" / "show").iterdir())


def test_the_hashes_of_a_dataset_are_without_those_of_erased_frames(world: World) -> None:
    def hashes() -> pd.DataFrame:
        made = world.storage.published(layout.dataset(world.dataset))
        assert made is not None
        return pd.read_parquet(io.BytesIO(world.storage.get(made.key(snapshot.HASHES))), dtype_backend="pyarrow")

    before = hashes()
    assert set(before["video"]) == {FOLDER, INSIDE}
    withdraw(FOLDER, erase=True)
    pd.testing.assert_frame_equal(hashes(), before[before["video"] == INSIDE].reset_index(drop=True))


def test_a_dataset_is_as_old_as_it_was_before_something_was_erased_from_it(world: World) -> None:
    storage, later = world.storage, "ds-ffffffffffff"
    note = layout.first_table("detection_dataset", world.dataset)
    storage.put(note, orjson.dumps({**orjson.loads(storage.get(note)), "written_at": "2026-02-01T10:00:00+00:00"}))
    world.publish(layout.dataset(later), {"dataset.json": b'{"images": 1, "boxes": 1, "videos": 1}'})
    withdraw(CLIP, erase=True)
    grown = report._growth(storage)
    assert grown[["dataset", "at"]].iloc[0].tolist() == [world.dataset, "2026-02-01 10:00"]
    assert grown["dataset"].tolist() == [world.dataset, later]


def test_a_batch_asks_no_more_for_its_pictures(world: World) -> None:
    withdraw(REQUESTED, erase=True)
    far = label_batches.progress(world.storage, BATCH)
    assert (far.pictures, sorted(far.finished)) == (3, [f"other-{index}.jpg" for index in range(3)])
    work = layout.label_work(BATCH, "a_tool")
    left = {item.key.removeprefix(f"{work}/"): world.storage.get(item.key) for item in world.storage.list(work)}
    assert set(left) == {"input/input.manifest", "annotations/worker-response/iteration-1/3/a.json", "proposals.json"}
    lines = left["input/input.manifest"].splitlines()
    assert lines[:3] == [b"{}"] * 3, "answers are kept by the number of a line"
    assert [orjson.loads(line)["source-ref"] for line in lines[3:]] == [*(f"other-{one}.jpg" for one in range(3)), ODD]
    told = orjson.loads(left["proposals.json"])
    assert [one["file_name"] for one in told["images"]] == [*(f"other-{one}.jpg" for one in range(3)), ODD]
    assert [one["image_id"] for one in told["annotations"]] == [4, 5, 6, 7]
    assert not list(world.storage.list(layout.looks(layout.captures(DAY), VERSION)))


def test_captures_go_with_the_folder_that_was_made_of_them_and_with_no_other(world: World) -> None:
    told = withdraw(REQUESTED, erase=True)
    assert f"batch {BATCH} was handed to cvat: delete the video's pictures there (http://cvat/tasks/7)" in told
    kept = sorted(item.key for item in world.storage.list(layout.captures(DAY)))
    assert kept == [f"captures/{DAY}/08/part.jsonl", f"captures/{DAY}/08/request-3.jpg"]
    assert world.storage.get(kept[0]).count(b"\n") == 1
    assert tables.read(world.storage, "captured_requests", [DAY])["request_id"].tolist() == ["request-3"]
    batch = world.storage.published(layout.label_request(BATCH))
    assert batch is not None
    assert sorted(batch.files) == ["frames.parquet", "proposals.parquet"]
    reports = [item.key for item in world.storage.list(f"reports/{DAY}") if item.key.endswith(".html")]
    assert len(reports) == 1, "the report that showed one of them is gone, the other is not"


def test_a_picture_of_the_same_name_is_somebody_elses(world: World) -> None:
    """Callers choose the names of their requests."""
    world.storage.put("videos/hand-made/request-3.jpg", jpeg(1))
    withdraw("hand-made", erase=True)
    assert world.storage.exists(f"{layout.captures(DAY)}/08/request-3.jpg")


def test_a_file_that_speaks_for_others_is_left_and_told(world: World) -> None:
    told = withdraw(CLIP, erase=True)
    assert world.storage.get(SHARED) == b'{"boxes of": "several"}'
    assert f"left for you: {SHARED}: it speaks for other videos, too" in told
    stone = withdrawals.tombstone(world.storage, CLIP)
    assert stone is not None
    assert len(stone.left) == 1


def test_the_event_log_keeps_everything_but_the_pictures(world: World) -> None:
    with open_instance() as instance:
        before = instance.fetch_materializations(_asset("extracted_frames"), limit=100).records
    withdraw(CLIP, erase=True)
    with open_instance() as instance:
        after = instance.fetch_materializations(_asset("extracted_frames"), limit=100).records
        worst = instance.fetch_materializations(_asset("evaluation"), limit=10).records
    assert [one.storage_id for one in after] == [one.storage_id for one in before]
    shown = [str(one.asset_materialization.metadata["preview"].value) for one in after]  # type: ignore[union-attr]
    assert all(f"![{card.escape(CLIP)}" not in text for text in shown)
    assert sum(text.count("data:image") for text in shown) == 5 * 4 + 4
    assert sum("picture erased" in text for text in shown) == 6
    assert ["erased" in str(one.asset_materialization.metadata["preview"].value) for one in worst] == [False, True]  # type: ignore[union-attr]


def _asset(name: str) -> Any:
    from dagster import AssetKey

    return AssetKey([NAME, name])


class Killed(BaseException):
    """What stands for a kill."""


def dying_after(patch: pytest.MonkeyPatch, most: int) -> Callable[[], int]:
    """Lets so many changes of the lake and of Dagster's event log happen; the next one is left half done or undone."""
    done = 0

    def counted(act: Callable[..., Any]) -> Callable[..., Any]:
        def change(*args: Any, **more: Any) -> Any:
            nonlocal done
            if done == most:
                if act is removing and len(args[1]) > 1:
                    act(args[0], args[1][: len(args[1]) // 2])
                raise Killed
            done += 1
            return act(*args, **more)

        return change

    removing = Storage.remove
    for name in ("put", "put_if_absent", "remove", "delete", "upload"):
        patch.setattr(Storage, name, counted(getattr(Storage, name)))
    patch.setattr(event_pictures, "_written_anew", counted(event_pictures._written_anew))
    return lambda: done


def test_killed_again_and_again_it_completes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    for most in range(0, 200, 3):
        with monkeypatch.context() as patch:
            dying_after(patch, most)
            try:
                withdraw(CLIP, erase=True)
                break
            except Killed:
                if withdrawals.tombstone(world.storage, CLIP) is not None:
                    assert nowhere(world, CLIP), "nothing claims to be erased that is not"
    else:
        raise AssertionError("it never came to an end")
    assert most > 20, "it was killed often enough to mean something"
    assert nowhere(world, CLIP)
    stone = withdrawals.tombstone(world.storage, CLIP)
    assert stone is not None
    assert (stone.counts["frames"], stone.counts["video files"], stone.counts["tables"]) == (3, 1, 9)
    assert not world.storage.exists(layout.erasure(CLIP))
    assert "proof: " in withdraw(CLIP, erase=True), "asked again, it shows the proof"
    assert withdrawals.tombstone(world.storage, CLIP) == stone


@pytest.mark.long
@pytest.mark.parametrize("video", [CLIP, REQUESTED])
def test_killed_at_any_point_it_completes(filled: World, tmp_path: Path, video: str) -> None:
    most = 0
    while True:
        with pytest.MonkeyPatch.context() as patch:
            (world,) = [*copied_open(filled, tmp_path / str(most), patch)]
            try:
                with pytest.MonkeyPatch.context() as inner:
                    dying_after(inner, most)
                    withdraw(video, erase=True)
                break
            except Killed:
                if withdrawals.tombstone(world.storage, video) is not None:
                    assert nowhere(world, video), "nothing claims to be erased that is not"
            withdraw(video, erase=True)
            assert not world.storage.exists(layout.erasure(video)), "the plan of what is done goes"
            assert nowhere(world, video), most
            world.close()
            shutil.rmtree(world.home)
        most += 1
    assert most > 35


def copied_open(filled: World, home: Path, patch: pytest.MonkeyPatch) -> Iterator[World]:
    made = copied(filled, home, patch)
    yield next(made)


def test_what_killed_runs_left_goes_and_what_others_left_can_be_gone_on_with(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = world.home / ".scratch" / NAME
    for step, video in (("extract-1", CLIP), ("extract-2", OTHER)):
        for part in ("output", "checkpoint"):
            (scratch / step / part).mkdir(parents=True)
            (scratch / step / part / "a.jpg").write_bytes(world.pictures[video][0])
        (scratch / step / "params.json").write_text(json.dumps({"videos": [{"video": video}]}))
    # An erasure downloads what it makes smaller, and whoever reads a lake elsewhere the video itself.
    monkeypatch.setattr(tempfile, "tempdir", str(world.home))
    with subprocess.Popen(["true"]) as dead:
        pass
    for pid in (dead.pid, os.getpid()):
        (world.home / f"detection-{pid}-abc").mkdir()
        (world.home / f"detection-{pid}-abc" / "a.jpg").write_bytes(world.pictures[CLIP][0])
    with temporary.folder() as mine:
        assert Path(mine).name.startswith(f"detection-{os.getpid()}-")
    (world.home / f"detection-{os.getpid()}-abc" / "a.jpg").write_bytes(b"somebody reads it")
    # Of a video whose path ends as its own does.
    kept = scratch / "extract-3" / "checkpoint" / "a.jpg"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"another's")
    (kept.parents[1] / "params.json").write_text(json.dumps({"videos": [{"video": f"archive/{CLIP}"}]}))
    for step, video in (("extract-1", CLIP), ("extract-3", f"archive/{CLIP}")):
        world.storage.put(f"jobs/{step}/1/order.json", json.dumps({"keys": [video]}).encode())
    made = world.storage.published(layout.dataset(world.dataset))
    assert made is not None
    begun = {"datasets/ds-0/0123456789ab": CLIP, "datasets/ds-1/0123456789ab": OTHER}
    images = tables.read(world.storage, "detection_dataset")
    for folder, video in begun.items():
        rows = images[images["video"] == video].to_dict("records")
        world.storage.put(f"{folder}/images.parquet", parquet([{str(key): one[key] for key in one} for one in rows]))
    half = world.home / "lake" / NAME / "videos" / f"{CLIP}#1"
    half.write_bytes(world.pictures[CLIP][0])
    assert withdraw(CLIP, erase=True)
    assert nowhere(world, CLIP)
    assert not half.exists()
    assert [world.storage.exists(f"{folder}/images.parquet") for folder in begun] == [False, True]
    assert (scratch / "extract-2" / "checkpoint" / "a.jpg").exists(), "another video's step goes on from there"
    assert kept.exists()
    assert [path.name for path in world.home.glob("detection-*")] == [f"detection-{os.getpid()}-abc"]
    assert [item.key for item in world.storage.list("jobs")] == ["jobs/extract-3/1/order.json"]


def test_nothing_is_erased_under_a_run_that_may_write_it(world: World) -> None:
    from dagster import DagsterRun, DagsterRunStatus

    with open_instance() as instance:
        run = DagsterRun(f"{NAME}_ingest", status=DagsterRunStatus.STARTED, tags={"detection/detector": NAME})
        instance.add_run(run)
    before = world.storage.get(f"videos/{CLIP}")
    with pytest.raises(InputError, match=f"run {run.run_id} is under way"):
        withdraw(CLIP, erase=True)
    assert world.storage.get(f"videos/{CLIP}") == before
    assert CLIP not in partitions(), "it is marked all the same"


def test_what_comes_back_is_erased_again(world: World) -> None:
    withdraw(CLIP, erase=True)
    world.storage.put(f"videos/{CLIP}", b"pulled from another lake")
    told = withdraw(CLIP, erase=True)
    assert "the video itself" in told
    assert not world.storage.exists(f"videos/{CLIP}")
