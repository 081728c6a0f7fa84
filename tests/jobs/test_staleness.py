"""What becomes stale by what, said by us and by Dagster, over one real project that is copied for each change."""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import dagster as dg
import numpy as np
import pytest
from dagster import AssetKey, DagsterInstance
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from networks import network
from PIL import Image
from project import ROOT, closed_again, give_mlflow, make_home
from rich.console import Console

from detection_assets import annotations as reading
from detection_assets import definitions, detection_dataset, detector_file, trained_weights
from detection_assets.commands import running
from detection_assets.commands.context import Project
from detection_assets.domain import layout
from jobs import jobs, update
from resources import tables, versions
from resources.compute.base import version_of
from resources.event_notes import Log
from resources.instance import open_instance
from resources.storage import Storage

NAME = "tiny"
VIDEOS = ("store-1/a.mp4", "store-2/b.mp4", "store-3/c.mp4")
CLASSES = ["apple", "banana"]
FRAMES = 6
Stale = Mapping[str, frozenset[str | None]]
"""By stage, the partitions that are stale; None where there are no partitions."""


def film(seed: int) -> bytes:
    """A second of video: two coloured squares over noise."""
    rng = np.random.default_rng(seed)
    out = io.BytesIO()
    with av.open(out, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=FRAMES)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for index in range(FRAMES):
            picture = rng.integers(0, 90, (64, 96, 3), np.uint8)
            picture[10:30, 5 + 8 * index : 25 + 8 * index] = (220, 30, 30)
            picture[36:60, 60 - 8 * index : 84 - 8 * index] = (30, 30, 220)
            for packet in stream.encode(av.VideoFrame.from_ndarray(picture)):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return out.getvalue()


def boxes(shift: int = 0) -> bytes:
    """COCO annotations of that video."""
    made = [
        {"image_id": index + 1, "category_id": kind, "bbox": [x + shift, y, w, h]}
        for index in range(FRAMES)
        for kind, x, y, w, h in ((1, 5 + 8 * index, 10, 20, 20), (2, 60 - 8 * index, 36, 24, 24))
    ]
    return json.dumps(
        {
            "images": [
                {"id": index + 1, "file_name": f"{index:06d}.jpg", "width": 96, "height": 64} for index in range(FRAMES)
            ],
            "categories": [{"id": 1, "name": "apple"}, {"id": 2, "name": "banana"}],
            "annotations": [{"id": at + 1, **one} for at, one in enumerate(made)],
        }
    ).encode()


@dataclass
class World:
    """The detector `tiny` in a home folder of its own."""

    home: Path
    file: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.storage = Storage(root=str(self.home / "lake"), prefix=NAME)

    def write(self, **sections: Any) -> None:
        """Writes the detector's file, some keys of its sections changed."""
        for name, section in sections.items():
            self.file[name] = {**self.file.get(name, {}), **section} if isinstance(section, dict) else section
        (self.home / "detectors" / f"{NAME}.yaml").write_text(json.dumps(self.file))

    def put(self, key: str, data: bytes) -> None:
        """Puts a file into the lake that has been there for a while."""
        path = self.home / "lake" / NAME / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        os.utime(path, (1e9 + len(data), 1e9 + len(data)))

    @property
    def defs(self) -> dg.Definitions:
        return definitions.build(detector_file.find(NAME))

    def run(self, until: str = jobs.STAGES[-1], code: int = 0) -> str:
        """What `detection run --until` says."""
        said = io.StringIO()
        assert running.run(Console(file=said, width=250), NAME, until) == code, said.getvalue()
        return said.getvalue()

    def teach(self) -> None:
        """Publishes a network that was never trained where the training of today's dataset would publish one."""
        detector = detector_file.find(NAME)
        dataset = str(tables.read(self.storage, "detection_dataset")["dataset_version"].iloc[0])
        settings = detector.training.for_the_trainer()
        prefix = layout.weights(version_of("train", trained_weights.CODE, dataset, detector.classes, settings))
        if self.storage.published(prefix) is None:
            folder = network(
                self.home / "networks" / hashlib.sha256(prefix.encode()).hexdigest(), names=detector.classes
            )
            figures = {"map50": 0.5, "map50_95": 0.4}
            training = {
                **{"metrics": figures, "per_class": {}, "agreement": {"matched_share": 1.0}, "loss_finite": True},
                **{"epochs_run": 1, "processes": 1},
            }
            (folder / "training.json").write_text(json.dumps(training))
            (folder / "results.csv").write_text("epoch,loss\n1,0.5\n")
            (folder / "best.pt").write_bytes(b"never trained")
            Image.new("RGB", (8, 8)).save(folder / "curves.png")
            self.storage.publish(folder, prefix, {})

    def bring_up_to_date(self, patch: pytest.MonkeyPatch) -> str:
        """As `run` to the end, but for the training itself: what it would publish is there when it begins."""
        with patch.context() as inner:
            during(trained_weights, "version_of", inner, self.teach)
            return self.run()

    def ours(self, instance: DagsterInstance) -> Stale:
        """What is stale by our rule, the same whether or not it was noted before that nothing is."""

        def asked() -> Stale:
            seen = update.look(instance, NAME, self.storage)
            found = update.stale(instance, self.defs, NAME, self.storage, seen)
            return {stage: frozenset(of) for stage, of in found.items() if of}

        found = asked()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Log, "recall", lambda *_: None)
            assert asked() == found
        return found

    def dagsters(self, instance: DagsterInstance) -> Stale:
        """What is stale in Dagster's UI."""
        graph = self.defs.resolve_asset_graph()
        resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
        videos = instance.get_dynamic_partitions(f"{NAME}_videos")
        found: dict[str, frozenset[str | None]] = {}
        for stage in jobs.STAGES:
            of: list[str | None] = [*videos] if stage in jobs.INGEST else [None]
            stale = {one for one in of if resolver.get_status(AssetKey([NAME, stage]), one) != StaleStatus.FRESH}
            if stale:
                found[stage] = frozenset(stale)
        return found

    def events(self) -> dict[tuple[str, str | None], int]:
        """How often each partition of each stage was materialized, by the id of its last event."""
        found: dict[tuple[str, str | None], int] = {}
        with open_instance() as instance:
            for stage in jobs.STAGES:
                for record in instance.fetch_materializations(AssetKey([NAME, stage]), limit=1000).records:
                    event = record.asset_materialization
                    partition = event.partition if event else None
                    found[stage, partition] = max(record.storage_id, found.get((stage, partition), 0))
        return found


# What changes --------------------------------------------------------------------------------------------------------

Do = Callable[[World, pytest.MonkeyPatch], None]
ONE, NEW = VIDEOS[1], "store-4/d.mp4"
ALL: tuple[str | None, ...] = VIDEOS


def stale(**of: str | tuple[str | None, ...] | None) -> Stale:
    """What is stale, by stage."""
    return {stage: frozenset(said if isinstance(said, tuple) else (said,)) for stage, said in of.items()}


def made(first: str, *videos: str | None, then: str = "") -> Stale:
    """A stage and what follows it in its job: by video as far as annotations, and from another stage on to the end."""
    ingest = jobs.INGEST[jobs.INGEST.index(first) :] if videos else ()
    build = jobs.STAGES[jobs.STAGES.index(then or first) :] if then or not videos else ()
    return {stage: frozenset(videos) for stage in ingest} | {stage: frozenset([None]) for stage in build}


@dataclass(frozen=True)
class Change:
    """A line of the table.

    Attributes:
        what: What changes, for people.
        do: Does it.
        stale: What is stale then.
        made: What a run makes again: the stale, and what follows from it in the same job.
        in_the_lake: Whether Dagster can know it only once it has been taken in.
    """

    what: str
    do: Do
    stale: Stale = field(default_factory=dict)
    made: Stale = field(default_factory=dict)
    in_the_lake: bool = False


def setting(**sections: Any) -> Do:
    return lambda world, _: world.write(**sections)


def code(stage: str) -> Do:
    """A new release, in which one stage has another code version."""

    def do(_: World, patch: pytest.MonkeyPatch) -> None:
        module = importlib.import_module(f"detection_assets.{stage}")
        asset: dg.AssetsDefinition = getattr(module, stage)
        patch.setattr(module, stage, asset.map_asset_specs(lambda spec: spec.replace_attributes(code_version="new")))

    return do


def put(key: str, data: bytes) -> Do:
    return lambda world, _: world.put(key, data)


def again(key: str) -> Do:
    return lambda world, _: world.put(key, world.storage.get(key))


def gone(key: str) -> Do:
    return lambda world, _: (world.home / "lake" / NAME / key).unlink()


def new_video(world: World, _: pytest.MonkeyPatch) -> None:
    world.put(f"videos/{NEW}", film(9))
    world.put("annotations/store-4/d.json", boxes())


def tuned(world: World, _: pytest.MonkeyPatch) -> None:
    tags = {versions.DATA: "best", versions.PROVIDED: "true"}
    with open_instance() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization([NAME, "tuned_hyperparameters"], tags=tags))


LABELS = "annotations/store-2/b.json"
OTHERS: dict[str, Any] = {
    "description": "another",
    "owner": "team:other",
    "card": {"license": "MIT"},
    "tuning": {"trials": 3},
    "rollout": {"canary": [20]},
    "monitoring": {"drift": {"psi": 0.3}},
    "retraining": {"cooldown_h": 1.0},
    "labeling": {"budget": 7},
}

CHANGES = [
    Change(
        "a new video",
        new_video,
        stale(**dict.fromkeys(jobs.INGEST, NEW)),
        made("raw_videos", NEW, then="detection_dataset"),
        True,
    ),
    Change(
        "a changed video",
        put(f"videos/{ONE}", film(8)),
        stale(raw_videos=ONE),
        made("raw_videos", ONE, then="detection_dataset"),
        True,
    ),
    Change(
        "a video written again, byte for byte",
        again(f"videos/{ONE}"),
        stale(raw_videos=ONE),
        made("raw_videos", ONE),
        True,
    ),
    Change("a removed video", gone(f"videos/{ONE}"), stale(detection_dataset=None), made("detection_dataset"), True),
    Change(
        "a changed annotation",
        put(LABELS, boxes(2)),
        stale(annotations=ONE),
        made("annotations", ONE, then="detection_dataset"),
        True,
    ),
    Change(
        "annotations exported again, alike",
        put(LABELS, boxes() + b"\n"),
        stale(annotations=ONE),
        made("annotations", ONE),
        True,
    ),
    Change(
        "removed annotations",
        gone(LABELS),
        stale(annotations=ONE),
        made("annotations", ONE, then="detection_dataset"),
        True,
    ),
    Change(
        "`videos.group`",
        setting(videos={"group": "(?P<group>store-[0-9]+)/"}),
        stale(raw_videos=ALL, detection_dataset=None),
        made("raw_videos", *ALL, then="detection_dataset"),
    ),
    Change(
        "`sampling`",
        setting(sampling={"rate": 6.0}),
        stale(extracted_frames=ALL),
        made("extracted_frames", *ALL, then="detection_dataset"),
    ),
    Change(
        "`annotations`", setting(annotations={"policy": "union"}), stale(annotations=ALL), made("annotations", *ALL)
    ),
    Change(
        "`classes`",
        setting(classes=[*CLASSES, "cola"]),
        stale(annotations=ALL, detection_dataset=None, trained_weights=None, evaluation=None),
        made("annotations", *ALL, then="detection_dataset"),
    ),
    Change("`dataset`", setting(dataset={"seed": 1}), stale(detection_dataset=None), made("detection_dataset")),
    Change("a tuning that found something", tuned, stale(trained_weights=None), made("trained_weights")),
    Change("`training`", setting(training={"epochs": 2}), stale(trained_weights=None), made("trained_weights")),
    Change("`evaluation`", setting(evaluation={"bootstrap": 5}), stale(evaluation=None), made("evaluation")),
    Change("`gates`", setting(gates={"latency_ms": 9000.0}), stale(evaluation=None), made("evaluation")),
    Change("`approval`", setting(approval="manual"), stale(registered_model=None), made("registered_model")),
    Change(
        "`endpoint`", setting(endpoint={"confidence": 0.3}), stale(deployed_endpoint=None), made("deployed_endpoint")
    ),
    Change(
        "where a step runs (`hardware`)",
        setting(sampling={"hardware": "cpu"}, training={"hardware": "gpu"}, evaluation={"hardware": "cpu"}),
    ),
    Change("any other setting: " + ", ".join(f"`{name}`" for name in OTHERS), setting(**OTHERS)),
    *(
        Change(f"code version of `{stage}`", code(stage), stale(**{stage: ALL}), made(stage, *ALL))
        for stage in jobs.INGEST
    ),
    *(
        Change(f"code version of `{stage}`", code(stage), stale(**{stage: None}), made(stage))
        for stage in jobs.TRAIN + jobs.DEPLOY
    ),
]
IN_THE_LAKE = [change for change in CHANGES if change.in_the_lake]


# Projects ------------------------------------------------------------------------------------------------------------

FILE = {
    **{"name": NAME, "classes": CLASSES, "sampling": {"rate": 3.0, "min_sharpness": 0, "near_duplicate": None}},
    "dataset": {"split": {"train": 0.4, "val": 0.3, "test": 0.3}, "min_images": 1, "near_duplicate": 0},
    **{"training": {"imgsz": 64, "epochs": 1}, "evaluation": {"bootstrap": 0}, "rollout": {"bake_s": 0.2}},
    "gates": {"map50": 0.0, "latency_ms": 10000.0},
}


def stop() -> None:
    """Stops the server of the project that the environment points at."""
    project = Project.of(NAME)
    project.endpoints.stop()
    project.close()


@pytest.fixture(scope="module", autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    with closed_again():
        yield


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Mapping[str, Path]:
    """Two projects that were taken all the way: one run over all videos, and one run a video."""
    folder = tmp_path_factory.mktemp("staleness")
    with pytest.MonkeyPatch.context() as patch:
        many, one = make_home(folder / "many", patch.setenv), folder / "one"
        give_mlflow(many, empty_mlflow)
        world = World(many)
        world.write(**FILE)
        for number, video in enumerate(VIDEOS):
            world.put(f"videos/{video}", film(number))
            world.put(f"annotations/{video[:-4]}.json", boxes())
        world.bring_up_to_date(patch)
        stop()
        copy(many, one)
        at(one, patch)
        with open_instance() as instance:
            for video in VIDEOS:
                planned = update.Planned(f"{NAME}_ingest", jobs.INGEST, video, video, 1, "")
                assert update.execute(instance, world.defs, NAME, planned)[0]
    return {"many videos a run": many, "one video a run": one}


def copy(home: Path, to: Path) -> Path:
    """Copies a project; the lake's files are the same ones, for by another inode a file counts as changed."""
    shutil.copytree(home, to, ignore=shutil.ignore_patterns("lake"))
    shutil.copytree(home / "lake", to / "lake", copy_function=os.link)
    return to


def at(home: Path, patch: pytest.MonkeyPatch) -> World:
    """Points the environment at a project that is there."""
    for name, path in {"HOME": home, "DETECTORS": home / "detectors"}.items():
        patch.setenv(f"DETECTION_{name}", str(path))
    patch.setenv("DAGSTER_HOME", str(home / ".dagster"))
    # MLflow leaves there what it was told in this process last, of another project.
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return World(home, json.loads((home / "detectors" / f"{NAME}.yaml").read_text()))


@pytest.fixture
def copied(
    taken: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> World:
    """A copy of one of the two."""
    how = getattr(request, "param", "many videos a run")
    return at(copy(taken[how], tmp_path / "home"), monkeypatch)


MANY, ONE_BY_ONE = "many videos a run", "one video a run"
HOW = pytest.mark.parametrize("copied", [MANY, ONE_BY_ONE], indirect=True)


def cases(*everyday: tuple[str, list[Change]]) -> pytest.MarkDecorator:
    """Each change in each of the two projects; those that are not named only once in a while."""
    daily = {(how, change.what) for how, changes in everyday for change in changes}
    made = [
        pytest.param(
            *(how, change),
            id=f"{how}-{change.what.partition(':')[0]}",
            marks=[] if (how, change.what) in daily else pytest.mark.long,
        )
        for how in (MANY, ONE_BY_ONE)
        for change in CHANGES
    ]
    return pytest.mark.parametrize(("copied", "change"), made, indirect=["copied"])


# The table -----------------------------------------------------------------------------------------------------------


def found(world: World) -> tuple[Stale, Stale]:
    with open_instance() as instance:
        return world.ours(instance), world.dagsters(instance)


@HOW
def test_what_was_just_made_is_fresh(copied: World) -> None:
    assert found(copied) == ({}, {})


@cases((MANY, CHANGES), (ONE_BY_ONE, IN_THE_LAKE))
def test_a_change_makes_stale_what_the_table_says_and_nothing_else(
    copied: World, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(copied) == ({}, {})
    change.do(copied, monkeypatch)
    ours, dagsters = found(copied)
    assert ours == change.stale
    assert dagsters == ({} if change.in_the_lake else change.stale)


@cases()
def test_a_run_makes_again_what_the_table_says_and_then_there_is_nothing_to_do(
    copied: World, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = copied.events()
    change.do(copied, monkeypatch)
    try:
        copied.bring_up_to_date(monkeypatch)
        after = copied.events()
        again: dict[str, set[str | None]] = {}
        for (stage, partition), event in after.items():
            if before.get((stage, partition)) != event:
                again.setdefault(stage, set()).add(partition)
        assert again == change.made
        assert found(copied) == ({}, {})
        assert "nothing to do" in copied.run()
        assert copied.events() == after
    finally:
        stop()


@cases((MANY, [change for change in CHANGES if change.what == "a changed annotation"]))
def test_once_it_is_taken_in_dagster_says_so_too(
    copied: World, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    change.do(copied, monkeypatch)
    copied.run("annotations")
    ours, dagsters = found(copied)
    assert set(ours) <= {*jobs.TRAIN, *jobs.DEPLOY}
    assert ("detection_dataset" in ours) == ("detection_dataset" in change.made)
    # Dagster asks for the versions of the partitions that there are, and misses none that is gone.
    assert dagsters == ({} if change.what == "a removed video" else ours)


@HOW
def test_what_was_deleted_from_dagsters_log_counts_no_more(copied: World) -> None:
    assert found(copied) == ({}, {})
    key = AssetKey([NAME, "extracted_frames"])
    with open_instance() as instance:
        made = instance.fetch_materializations(key, limit=1000).records
        for run in {one.run_id for one in made if one.partition_key == ONE}:
            instance.delete_run(run)
    ours, dagsters = found(copied)
    assert ONE in ours["extracted_frames"]
    # Of the dataset Dagster asks for the versions of the partitions that there are, and misses none that is gone.
    ours, dagsters = ({stage: of[stage] for stage in of if stage in jobs.INGEST} for of in (ours, dagsters))
    assert ours == dagsters


# Runs that are killed, and what comes while a run goes on ------------------------------------------------------------


def killed(*_: Any) -> Any:
    raise KeyboardInterrupt


def test_of_a_run_that_was_killed_half_way_everything_is_stale_and_the_next_run_mends_it(
    copied: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    code("raw_videos")(copied, monkeypatch)
    with monkeypatch.context() as patch:
        # Between the event of the run as a whole and those of its videos.
        patch.setattr(versions, "_provenance", killed)
        copied.run("annotations", code=1)
    ours, dagsters = found(copied)
    assert ours == dagsters == stale(raw_videos=ALL, extracted_frames=ALL, annotations=ALL)
    copied.run("annotations")
    assert found(copied) == ({}, {}), "the videos are what they were"


def comes(stage: str, video: str) -> None:
    """A run beside this one makes another version of a video's part."""
    tags = {versions.DATA: "new", versions.PROVIDED: "true", versions.CODE: "1"}
    with open_instance() as instance:
        instance.report_runless_asset_event(dg.AssetMaterialization([NAME, stage], partition=video, tags=tags))


def during(module: Any, name: str, patch: pytest.MonkeyPatch, what: Callable[[], None]) -> None:
    """Lets something happen when a function is called."""
    real = getattr(module, name)

    def called(*args: Any, **named: Any) -> Any:
        what()
        return real(*args, **named)

    patch.setattr(module, name, called)


@HOW
def test_frames_that_come_while_annotations_are_read_make_them_stale(
    copied: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    code("annotations")(copied, monkeypatch)
    with monkeypatch.context() as patch:
        during(reading, "_load", patch, lambda: comes("extracted_frames", ONE))
        copied.run("annotations")
    ours, dagsters = found(copied)
    assert ours["annotations"] == dagsters["annotations"] == {ONE}


def test_annotations_that_come_while_a_dataset_is_built_make_it_stale(
    copied: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    code("detection_dataset")(copied, monkeypatch)
    with monkeypatch.context() as patch:
        during(detection_dataset.snapshot, "labelled", patch, lambda: comes("annotations", ONE))
        copied.run("detection_dataset")
    ours, dagsters = found(copied)
    assert {None} == ours["detection_dataset"] == dagsters["detection_dataset"]


def test_a_video_that_is_being_written_again_stays_as_it_was_until_it_is_whole(
    copied: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = copied.home / "lake" / NAME / "videos" / ONE
    copied.put(f"videos/{ONE}", film(8)[:500])
    soon = time.time() + 60  # touched lately, however long the machine takes to look
    os.utime(key, (soon, soon))
    during(update.time, "sleep", monkeypatch, lambda: copied.put(f"videos/{ONE}", film(8)))
    assert "nothing to do" in copied.run("detection_dataset")
    monkeypatch.undo()


# For people ----------------------------------------------------------------------------------------------------------

PAGE, BEGIN, END = ROOT / "docs" / "lineage.md", "<!-- what becomes stale: begin -->", "<!-- end -->"


def shown(of: Stale) -> str:
    """Stages in words: how many videos, where there are partitions."""
    which = {frozenset(ALL): " of every video", frozenset([None]): ""}
    return ", ".join(f"`{stage}`{which.get(videos, ' of it')}" for stage, videos in of.items()) or "nothing"


def row(change: Change) -> str:
    after = [stage for stage in change.made if stage not in change.stale]
    follows = f"`{after[0]}` to `{after[-1]}`" if len(after) > 1 else f"`{after[0]}`" if after else "nothing"
    return f"| {change.what} | {shown(change.stale)} | {follows} |"


def test_the_documentation_shows_this_table() -> None:
    table = "\n".join(["| changed | stale | made again with it |", "|---|---|---|", *map(row, CHANGES)])
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    wanted = f"{before}{BEGIN}\n{table}\n{END}{after}"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        PAGE.write_text(wanted)
    assert page == wanted or os.environ.get("UPDATE_SNAPSHOTS")
