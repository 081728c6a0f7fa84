"""Each of the twelve questions beside the same answer worked out another way, on a small detector with two versions."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import orjson
import pandas as pd
import pytest
from assets.annotated import FRAMES, NAME, VIDEOS, Annotated, box
from project import give_mlflow, make_home
from typer.testing import CliRunner

from detection_assets import cli, deployed_endpoint, extracted_frames, lineage, registered_model
from detection_assets.commands.context import Project
from detection_assets.domain import answer_text, layout, schemas, snapshot
from detection_assets.domain import lineage as domain_lineage
from detection_assets.domain.history import Entry, Held
from detection_assets.domain.lineage_questions import QUESTIONS
from detection_assets.domain.problems import InputError
from detection_assets.domain.rollout import Rollout
from resources import answers, lake, overrides, tables, version_index, versions
from resources.deployments import Deployments
from resources.instance import open_instance
from resources.storage import Published, Storage


class Told(Annotated):
    """A detector with two datasets, two versions, an override, and a log of what served."""

    datasets: list[str]
    evaluation: str

    def build(self) -> None:
        self.project = Project.of(NAME)
        for video in VIDEOS:
            self.storage.put(f"videos/{video}", b"taken in")
        sources, _ = lake.list_sources(self.storage)
        lake.remember(self.storage, "videos", {source.video: source.fingerprint for source in sources})
        with open_instance() as instance:
            for stage in ("raw_videos", "extracted_frames"):
                for video in VIDEOS:
                    key, tags = dg.AssetKey([NAME, stage]), {versions.DATA: "v1"}
                    instance.report_runless_asset_event(dg.AssetMaterialization(key, partition=video, tags=tags))
        for video in VIDEOS:
            self.annotate(video, [box(at, 10.0 + at) for at in range(FRAMES)])
        self.run("annotations")
        self.run("detection_dataset")
        self.train(self.home)
        self.run("evaluation")
        self.evaluation = str(self.table("evaluation")["evaluation_version"].iloc[0])
        self.datasets = [self.dataset()]
        weights = self.table("trained_weights")
        registry = self.project.resources["registry"]
        tags = {"weights_version": "w1", "dataset_version": self.datasets[0], "evaluation_version": self.evaluation}
        registry.register(str(weights["onnx"].iloc[0]), "file:///x", "a", tags, "")
        with open_instance() as instance:
            key = dg.AssetKey([NAME, "registered_model"])
            instance.report_runless_asset_event(dg.AssetMaterialization(key, metadata={"version": "1"}))
        # Of one video the labels change, and frames of it are annotated no more.
        self.annotate(VIDEOS[0], [box(at, 30.0, "banana", "bob") for at in range(FRAMES - 2)])
        self.run("annotations")
        self.run("detection_dataset")
        self.datasets.append(self.dataset())
        weights = self.table("trained_weights").assign(
            weights_version="w2", base_weights="other.pt", dataset_version="x"
        )
        tables.write(self.storage, "trained_weights", None, weights, "run")
        tags = {"weights_version": "w2", "dataset_version": self.datasets[1], "evaluation_version": self.evaluation}
        registry.register(str(weights["onnx"].iloc[0]), "file:///x", "another", tags, "")
        overrides.write(self.storage, "w2", "ada", "the fair is tomorrow", ["AP50 0.1 is below 0.5"])
        log = Deployments(self.storage)
        whole, half, none = Held("1", 100, "a"), Held("2", 50, "another"), Held("2", 100, "another")
        again = Rollout("r2", "2", "another", "x", {}, "green", "blue", "1", approved_by="bob", approval="look again")
        for entry in (
            Entry(1, 1_000_000.0, {"blue": whole}, why="first", who="gates"),
            Entry(2, 2_000_000.0, {"blue": Held("1", 50, "a"), "green": half}, why="canary", who="ada"),
            Entry(3, 3_000_000.0, {"blue": whole}, why="rolled back: slow", rolled_back={"2": "slow"}),
            Entry(4, 4_000_000.0, {"blue": whole}, again, False, "prepare", "bob", rolled_back={"2": "slow"}),
            Entry(5, 5_000_000.0, {"green": none}, again, True, "full", "bob"),
        ):
            log._append(entry)

    def table(self, asset: str) -> pd.DataFrame:
        return tables.read(self.storage, asset)

    def dataset(self) -> str:
        return str(self.table("detection_dataset")["dataset_version"].iloc[0])

    def snapshot(self, dataset: str) -> snapshot.Snapshot:
        published = self.storage.published(layout.dataset(dataset))
        assert published is not None
        with self.storage.local_copy(published.folder) as folder:
            return snapshot.read(folder)

    def entries(self) -> list[dict[str, Any]]:
        """The log as its files are."""
        files = sorted(Path(self.home, "lake", NAME, "rollout", "history").glob("*.json"))
        return [json.loads(path.read_bytes()) for path in files]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Iterator[Told]:
    with pytest.MonkeyPatch.context() as patch:
        home = make_home(tmp_path_factory.mktemp("told") / "home", patch.setenv)
        give_mlflow(home, empty_mlflow)
        made = Told(home)
        made.build()
        yield made
        made.project.close()


@pytest.fixture(scope="module")
def asked(told: Told) -> Iterator[lineage.Lineage]:
    with lineage.of(NAME) as of:
        yield of


def test_what_serves_is_what_the_last_entry_of_the_log_says(told: Told, asked: lineage.Lineage) -> None:
    found = asked.serving().set_index("slot")
    last = told.entries()[-1]
    assert found["share"].to_dict() == {slot: held["share"] for slot, held in last["slots"].items()}
    row = found.loc["green"]
    known = next(one for one in told.project.resources["registry"].history() if one.version == row["version"])
    assert row["dataset_version"] == known.tags["dataset_version"]
    assert row["since"] == pd.Timestamp(last["at"], unit="s", tz="UTC")


def test_what_taught_a_version_is_what_its_snapshot_holds(told: Told, asked: lineage.Lineage) -> None:
    for version, dataset in zip(("1", "2"), told.datasets, strict=True):
        made = told.snapshot(dataset)
        found = asked.taught(version).set_index("video")
        counts = made.images.groupby(["video", "split"]).size()
        for (video, split), count in counts.items():  # type: ignore[misc]
            assert found.loc[video, split] == count
        assert found[["train", "val", "test"]].sum().sum() == len(made.images)
        assert found["boxes"].sum() == len(made.boxes)
        frames = asked.frames(version)
        assert frames[["frame", "split"]].to_dict("list") == made.images[["frame", "split"]].to_dict("list")
    assert asked.taught("2").set_index("video")["annotations"].to_dict() == {v: told.version(v) for v in VIDEOS}
    assert asked.taught("1")["annotations"].iloc[0] != asked.taught("2")["annotations"].iloc[0]


def test_who_saw_a_video_is_found_by_reading_everything(told: Told, asked: lineage.Lineage) -> None:
    found = asked.saw(VIDEOS[0])
    having = {name for name in told.datasets if VIDEOS[0] in set(told.snapshot(name).images["video"])}
    assert set(found.loc[found["kind"] == "dataset", "what"]) == having
    known = told.project.resources["registry"].history()
    models = {one.version for one in known if one.tags.get("dataset_version") in having}
    assert set(found.loc[found["kind"] == "model", "what"]) == models
    served = {
        (slot, held["version"], held["share"])
        for entry in told.entries()
        for slot, held in entry["slots"].items()
        if held["version"] in models and held["share"]
    }
    deployed = found[found["kind"] == "deployment"]
    assert {*zip(deployed["slot"], deployed["what"], deployed["share"], strict=True)} == served
    assert asked.saw("nowhere.mp4").empty


def test_a_dataset_that_nobody_noted_is_found_by_its_table(told: Told, asked: lineage.Lineage) -> None:
    before = asked.saw(VIDEOS[0]), asked.taught("1"), asked.frames("1"), asked.judged_on(told.evaluation[:6])
    noted = {item.key: told.storage.get(item.key) for item in told.storage.list("lineage")}
    told.storage.delete("lineage")
    try:
        after = asked.saw(VIDEOS[0]), asked.taught("1"), asked.frames("1"), asked.judged_on(told.evaluation[:6])
    finally:
        for key, data in noted.items():
            told.storage.put(key, data)
    for one, other in zip(before, after, strict=True):
        pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("at", [500_000, 1_000_000, 1_500_000, 2_000_000, 2_999_999, 3_500_000, 4_500_000, 6_000_000])
def test_what_served_at_a_moment_is_the_last_entry_before_it(told: Told, asked: lineage.Lineage, at: int) -> None:
    found = asked.served_at(pd.Timestamp(at, unit="s").isoformat())
    before = [entry for entry in told.entries() if entry["at"] <= at]
    slots = before[-1]["slots"] if before else {}
    expected = {slot: (held["version"], held["share"]) for slot, held in slots.items()}
    assert {row.slot: (row.version, row.share) for row in found.itertuples()} == expected


def test_a_moment_that_is_none_is_refused(asked: lineage.Lineage) -> None:
    with pytest.raises(InputError, match="yesterday: no time; write it as"):
        asked.served_at("yesterday")


def test_an_evaluation_was_made_on_the_test_frames_of_its_dataset(told: Told, asked: lineage.Lineage) -> None:
    found = asked.judged_on()
    images = told.snapshot(told.datasets[0]).images
    assert sorted(found["frame"]) == sorted(images.loc[images["split"] == "test", "frame"])
    assert set(found["dataset_version"]) == {told.datasets[0]}


def test_why_two_versions_differ_is_the_difference_of_their_snapshots(told: Told, asked: lineage.Lineage) -> None:
    one, other = (told.snapshot(name) for name in told.datasets)
    found = asked.why("2", "1")
    gone = set(one.images["frame"]) - set(other.images["frame"])
    removed = found[found["what"].str.startswith("frames removed")]
    assert removed["later"].astype(int).sum() == len(gone) == 2

    def drawn(made: snapshot.Snapshot) -> dict[str, list[Any]]:
        return {
            str(frame): sorted(rows[snapshot.BOXES[1:6]].values.tolist()) for frame, rows in made.boxes.groupby("frame")
        }

    before, after = drawn(one), drawn(other)
    changed = [frame for frame in set(before) & set(after) if before[frame] != after[frame]]
    assert found.loc[found["subject"] == "labels", "later"].astype(int).sum() == len(changed) == FRAMES - 2
    base = found[found["subject"] == "base weights"].iloc[0]
    assert base["later"] == "other.pt"
    apples = found[found["what"] == "boxes of apple"].iloc[0]
    counts = [(made.boxes["class"] == "apple").sum() for made in (one, other)]
    assert apples["change"] == counts[1] - counts[0]


def test_versions_of_a_release_that_noted_less_are_compared_all_the_same(
    told: Told, asked: lineage.Lineage, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = asked.why("2", "1")
    read = version_index.read

    def of_old(*args: Any, **named: Any) -> pd.DataFrame:
        return read(*args, **named).drop(columns=["labels", "content"], errors="ignore")

    monkeypatch.setattr(version_index, "read", of_old)
    pd.testing.assert_frame_equal(asked.why("2", "1"), wanted)


def test_only_videos_in_which_two_datasets_differ_are_read_to_compare_them(told: Told) -> None:
    one, other = (version_index.videos(told.storage, name) for name in told.datasets)
    assert version_index.differing(one, other) == [VIDEOS[0]]
    assert version_index.differing(one, one) == []
    assert version_index.differing(one[1:], one) == [one["video"].iloc[0]]
    assert version_index.differing(one.drop(columns="content"), other) is None


def test_what_is_dropped_is_what_no_snapshot_has(told: Told, asked: lineage.Lineage) -> None:
    found = asked.dropped(VIDEOS[0])
    every = set(tables.read(told.storage, "extracted_frames", [VIDEOS[0]])["frame"])
    assert set(found["frame"]) == every - set(told.snapshot(told.datasets[1]).images["frame"])
    assert set(found["reason"]) == {"nobody annotated it"}
    assert len(asked.dropped()) == len(found)
    with pytest.raises(InputError, match=r"nowhere\.mp4 has no extracted frames"):
        asked.dropped("nowhere.mp4")


def test_what_a_version_cost_is_in_the_events_before_its_registration(asked: lineage.Lineage) -> None:
    found = asked.cost("1").set_index("asset")
    event = asked.instance.get_latest_materialization_event(dg.AssetKey([NAME, "evaluation"]))
    assert event is not None
    assert event.asset_materialization is not None
    seconds = event.asset_materialization.metadata["seconds"].value
    assert found.loc["evaluation", "seconds"] == pytest.approx(seconds, abs=0.06)  # type: ignore[arg-type]
    assert found.loc["all", "seconds"] == found.loc["evaluation", "seconds"]
    with pytest.raises(InputError, match="does not tell when version 2 was registered"):
        asked.cost("2")


def test_overrides_of_gates_and_of_rollouts_are_told(asked: lineage.Lineage) -> None:
    found = asked.overridden().set_index("what")
    assert found.loc["gates", ["of", "version", "by", "reason", "said"]].tolist() == [
        *("w2", "2", "ada", "the fair is tomorrow", "AP50 0.1 is below 0.5")
    ]
    assert found.loc["rollout", ["version", "by", "reason", "said"]].tolist() == ["2", "bob", "look again", "slow"]


def test_a_request_leads_to_the_training_frames_like_it(told: Told, asked: lineage.Lineage) -> None:
    frame = f"{VIDEOS[1]}#000000"
    row: dict[str, Any] = dict.fromkeys(schemas.SCHEMAS["batch_predictions"])
    row |= {"video": VIDEOS[1], "frame": frame, "class": "apple", "confidence": 0.7, "model_version": "2"}
    rows = [row, {**row, "class": "banana", "confidence": 0.2}]
    tables.write(told.storage, "batch_predictions", VIDEOS[1], pd.DataFrame(rows), "run")
    found = asked.alike(frame=frame, most=3)
    made = told.snapshot(told.datasets[1])
    having = set(made.boxes.loc[made.boxes["class"] == "apple", "frame"])
    images = made.images[(made.images["split"] == "train") & made.images["frame"].isin(having)]
    own = tables.read(told.storage, "extracted_frames", [VIDEOS[1]]).set_index("frame").loc[frame, "phash"]
    apart = {one.frame: (int(str(one.phash), 16) ^ int(str(own), 16)).bit_count() for one in images.itertuples()}
    nearest = sorted(apart, key=lambda name: (apart[name], name))[:3]
    assert found["frame"].tolist() == nearest
    assert found["distance"].tolist() == [apart[name] for name in nearest]
    assert found["boxes"].tolist() == [
        int(((made.boxes["frame"] == one) & (made.boxes["class"] == "apple")).sum()) for one in nearest
    ]
    files = made.images.set_index("frame").loc[nearest, "file"]
    assert found["key"].tolist() == [f"{layout.FRAMES}/{file}" for file in files]
    assert set(found["dataset_version"]) == {told.datasets[1]}
    with pytest.raises(InputError, match="version 2 found apple, banana there"):
        asked.alike(frame=frame, of_class="kiwi")
    with pytest.raises(InputError, match="no captured request of tiny is called so on any of 0 days"):
        asked.alike(request="none")
    with pytest.raises(InputError, match="nothing was predicted on it"):
        asked.alike(frame=f"{VIDEOS[0]}#000000")


def test_of_a_dataset_of_an_earlier_release_the_same_frames_are_most_alike(
    told: Told, asked: lineage.Lineage, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = f"{VIDEOS[1]}#000000"
    row: dict[str, Any] = dict.fromkeys(schemas.SCHEMAS["batch_predictions"])
    row |= {"video": VIDEOS[1], "frame": frame, "class": "apple", "confidence": 0.7, "model_version": "2"}
    tables.write(told.storage, "batch_predictions", VIDEOS[1], pd.DataFrame([row]), "run")
    found = asked.alike(frame=frame)
    assert len(found)
    published = Storage.published

    def earlier(storage: Storage, prefix: str) -> Published | None:
        made = published(storage, prefix)
        files = {name: size for name, size in made.files.items() if name != snapshot.HASHES} if made else {}
        return dataclasses.replace(made, files=files) if made else None

    monkeypatch.setattr(Storage, "published", earlier)
    pd.testing.assert_frame_equal(asked.alike(frame=frame), found)


def test_a_change_makes_stale_what_reads_it_and_says_which(told: Told, asked: lineage.Lineage) -> None:
    def found(stage: str) -> pd.DataFrame:
        table = asked.stale()
        return table[(table["asset"] == stage) & table["direct"]]

    assert found("annotations")["why"].tolist() == []
    assert found("detection_dataset")["why"].tolist() == []
    (weights,) = found("trained_weights")["why"].tolist()
    assert weights == "missing"
    then = told.version(VIDEOS[1])
    told.annotate(VIDEOS[1], [box(at, 50.0) for at in range(FRAMES)])
    assert found("annotations")[["partition", "why"]].to_numpy().tolist() == [[VIDEOS[1], "changed in the lake"]]
    run = told.run("annotations")
    (row,) = found("detection_dataset").to_dict("records")
    assert row["change"] == f"annotations of {VIDEOS[1]}: {then} to {told.version(VIDEOS[1])}"
    assert row["run"] == run
    assert abs(row["since"].timestamp() - time.time()) < 60
    table = asked.stale()
    assert "detection_dataset" in set(table.loc[table["direct"], "asset"])
    assert not table.loc[table["asset"] == "deployed_endpoint"].empty


def test_what_would_run_follows_the_graph_and_takes_what_it_took(asked: lineage.Lineage) -> None:
    found = asked.would_run(annotation=VIDEOS[0])
    graph = asked.project.definitions.resolve_asset_graph()
    key = dg.AssetKey([NAME, "annotations"])
    below, todo = {key}, [key]
    while todo:
        fresh = graph.get(todo.pop()).child_keys - below
        below |= fresh
        todo += fresh
    assert set(found["asset"]) < {key.path[-1] for key in below}
    assert set(asked.would_run(setting="gates")["asset"]) == {"evaluation", "registered_model", "deployed_endpoint"}
    assert asked.would_run(setting="monitoring").empty
    evaluation = found.set_index("asset").loc["evaluation"]
    with open_instance() as instance:
        took = [
            step.end_time - step.start_time
            for run in instance.get_runs()
            for step in instance.get_run_step_stats(run.run_id)
            if step.step_key == "evaluation" and step.end_time and step.start_time
        ]
    assert evaluation["runs"] == len(took) == 1
    assert evaluation["seconds"] == pytest.approx(took[0], abs=0.01)
    with pytest.raises(InputError, match="no such section; there are"):
        asked.would_run(setting="smapling")
    with pytest.raises(InputError, match="name one change"):
        asked.would_run()


@pytest.mark.parametrize(
    "words",
    [
        *(["serving"], ["taught"], ["taught", "1", "--frames"], ["saw", VIDEOS[0]], ["at", "1970-01-20"], ["judged"]),
        *(["why", "2"], ["stale"], ["what-if", "--setting", "gates"], ["dropped"], ["cost", "1"], ["overridden"]),
    ],
    ids=lambda words: " ".join(words),
)
def test_each_question_has_a_command(told: Told, words: list[str]) -> None:
    done = CliRunner().invoke(cli.app, ["lineage", NAME, *words, "--json"])
    assert done.exit_code == 0, done.output
    rows = [orjson.loads(line) for line in done.stdout.splitlines()]
    assert rows
    shown = CliRunner().invoke(cli.app, ["lineage", NAME, *words])
    assert shown.exit_code == 0, shown.output


def answered(command: str, found: pd.DataFrame, **known: str) -> str:
    return answer_text.markdown(QUESTIONS[command], NAME, found, **known)


def test_the_pages_of_model_and_endpoint_tell_what_the_questions_answer(told: Told, asked: lineage.Lineage) -> None:
    registry, version = told.project.resources["registry"], {"version": "2"}
    with dg.build_asset_context(instance=asked.instance) as context:
        one, two = (
            registered_model.answered(context, NAME, told.storage, registry, asked.model(each)) for each in ("1", "2")
        )
        endpoint = deployed_endpoint.answered(context, NAME, told.storage, registry)
    assert two["taught by"].value == answered("taught", asked.taught("2"), **version)
    assert two["unlike the version before"].value == answered("why", asked.why("2"), **version)
    assert "tiny version 1 is the first: there is none to compare it with" in str(
        one["unlike the version before"].value
    )
    assert one["cost since the version before"].value == answered("cost", asked.cost("1"), version="1")
    assert "nothing had to be run" not in str(one["cost since the version before"].value)
    judged = asked.judged_on(told.evaluation)
    each = judged.groupby(["video", "annotations"]).agg(frames=("frame", "size"), boxes=("boxes", "sum")).reset_index()
    assert two["judged on"].value == answered("judged", each, evaluation=told.evaluation)
    assert endpoint["serving"].value == answered("serving", asked.serving())
    assert endpoint["overridden"].value == answered("overridden", asked.overridden())


def test_a_question_that_cannot_be_answered_costs_no_asset_its_run() -> None:
    def fails() -> pd.DataFrame:
        raise ConnectionError("the registry\n<is> away")

    with dg.build_asset_context() as context:
        text = str(answers.told(context, NAME, "overridden", fails).value)
    assert "not answered: ConnectionError: the registry &lt;is&gt; away" in text
    assert "- `detection lineage tiny overridden`" in text


def test_what_of_videos_was_dropped_is_told_with_their_frames() -> None:
    columns = list(schemas.SCHEMAS["extracted_frames"])
    rows = [
        {**dict.fromkeys(columns), "video": f"{at % 2}.mp4", "frame": f"{at % 2}.mp4#{at}", "index": at, "pts_s": at}
        | {"kept": at < 4, "reason": "" if at < 4 else "blurred" if at < 7 else "corrupt: no end"}
        for at in range(8)
    ]
    table = schemas.conform("extracted_frames", pd.DataFrame(rows))
    one = table[table["video"] == "1.mp4"]
    with dg.build_asset_context() as context:
        of_one = str(extracted_frames.dropped(context, NAME, one, ["1.mp4"]).value)
        of_both = str(extracted_frames.dropped(context, NAME, table, ["0.mp4", "1.mp4"]).value)
    found = domain_lineage.left_out(one, set(), None)
    assert of_one == answered("dropped", found, video="1.mp4")
    assert found["index"].tolist() == [5, 7]
    assert "| blurred | 3 |\n| corrupt | 1 |" in of_both
    assert extracted_frames.reasons(extracted_frames.summary(table), NAME) == {
        "0.mp4": "2 blurred; detection lineage tiny dropped 0.mp4",
        "1.mp4": "1 blurred, 1 corrupt; detection lineage tiny dropped 1.mp4",
    }


def test_the_columns_of_an_answer_are_explained(asked: lineage.Lineage) -> None:
    lines = lineage.explain("serving").splitlines()
    assert [line.partition(" ")[0] for line in lines] == list(asked.serving().columns)


def test_a_version_is_noted_once(told: Told) -> None:
    first = version_index.made(told.storage, "detection_dataset", told.datasets[0])
    tables.write(told.storage, "detection_dataset", None, told.table("detection_dataset"), "another")
    assert version_index.made(told.storage, "detection_dataset", told.datasets[0]) == first
