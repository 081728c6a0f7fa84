"""What is particular about SageMaker Ground Truth and Azure ML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from detection_assets.domain import formats
from detection_assets.domain.problems import InputError

CORNERS = ["x1", "y1", "x2", "y2"]
BOX = {"class_id": 0, "left": 1, "top": 2, "width": 3, "height": 4}


def labels(*boxes: Any, name: str = "label", **about: Any) -> dict[str, Any]:
    metadata = {
        "objects": [{"confidence": 0.5}] * len(boxes),
        "class-map": {"0": "cat"},
        "type": "groundtruth/object-detection",
        "human-annotated": "yes",
        "creation-date": "2022-09-12T09:51:00.148118",
        **about,
    }
    size = [{"width": 10, "height": 20, "depth": 3}]
    return {name: {"image_size": size, "annotations": list(boxes)}, f"{name}-metadata": metadata}


def line(*parts: dict[str, Any], source: str = "s3://b/job/a.jpg", **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"source-ref": source}
    for part in (*parts, more):
        found |= part
    return found


def manifest(tmp_path: Path, *found: Any) -> formats.Parsed:
    path = tmp_path / "output.manifest"
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in found))
    assert formats.detect(path) == "ground_truth"
    return formats.load([path], tmp_path)


def test_a_line_of_a_manifest(tmp_path: Path) -> None:
    parsed = manifest(
        tmp_path,
        line(labels(BOX)),
        line(labels(), source="s3://b/job/b.jpg"),
        line(labels(BOX, **{"human-annotated": "no"}), source="s3://b/job/c.jpg"),
        line(labels(BOX, objects=[]), source="s3://b/x.jpg", frame="000030.jpg", frame_index=30, pts_s=1.25),
        line(source="s3://b/job/new.jpg"),
    )
    boxes = parsed.boxes
    # What the addresses share, here nothing but the bucket, is no part of the names.
    assert boxes["frame_name"].tolist() == ["job/a.jpg", "job/b.jpg", "job/c.jpg", "000030.jpg"]
    assert boxes.loc[0, CORNERS].tolist() == [1, 2, 4, 6]
    assert boxes["class"].tolist() == ["cat", None, "cat", "cat"]
    assert boxes["confidence"].tolist()[:1] == [0.5]
    assert pd.isna(boxes["confidence"][3])
    assert boxes["attributes"].tolist() == [None, None, '{"human-annotated":"no"}', None]
    assert (boxes["frame_index"][3], boxes["pts_s"][3], boxes["width"][3], boxes["height"][3]) == (30, 1.25, 10, 20)
    assert [problem.what for problem in parsed.problems] == ["1 lines have no labels of an object detection job"]


def test_the_job_made_last_speaks(tmp_path: Path) -> None:
    first = labels({**BOX, "left": 5}, **{"creation-date": "2021"})
    second = labels(BOX, name="adjusted", **{"creation-date": "2022"})
    other = {"kind": 0, "kind-metadata": {"type": "groundtruth/image-classification", "creation-date": "2023"}}
    parsed = manifest(tmp_path, line(second, first, other))
    assert parsed.boxes["x1"].tolist() == [1]
    assert [(problem.what, problem.done) for problem in parsed.problems] == [
        ("has labels of 2 jobs: 'adjusted', made last, and 'label'", "took 'adjusted'")
    ]


def test_lines_that_failed_or_are_broken_lose_nothing_else(tmp_path: Path) -> None:
    failed = {"label-metadata": {"failure-reason": "ClientError: too small", "type": "groundtruth/object-detection"}}
    parsed = manifest(
        tmp_path,
        line(failed),
        '{"source-ref": ',
        "[1]",
        {"source-ref": 3, **labels(BOX)},
        line(labels({**BOX, "class_id": 7}, {"class_id": 0}, 3)),
        line({"label": "cat", "label-metadata": labels()["label-metadata"]}),
        line(labels({**BOX, "left": 1e400}, BOX)),
    )
    assert parsed.boxes["class"].tolist() == ["cat", "cat"]
    expected = [
        ("line 1", "'label' failed: ClientError"),
        ("line 2", "cut off"),
        ("line 3", "no JSON object"),
        ("line 4", "source-ref"),
        ("line 5, 'label', annotation 0", "class '7' is not"),
        ("line 5, 'label', annotation 1", "left, top"),
        ("line 5, 'label', annotation 2", "left, top"),
        ("line 6", "no list of 'annotations'"),
    ]
    assert [problem.place for problem in parsed.problems] == [place for place, _ in expected]
    assert all(words in problem.what for (_, words), problem in zip(expected, parsed.problems, strict=True))


def sequence(kind: str, *frames: dict[str, Any]) -> dict[str, Any]:
    return {f"{kind}-annotations": list(frames)}


VIDEO_BOX = {"class-id": "1", "left": 1, "top": 2, "width": 3, "height": 4}


def test_sequences_of_a_video_job(tmp_path: Path) -> None:
    job = tmp_path / "job"
    place = job / "annotations" / "consolidated-annotation" / "output"
    for number, kind, names in ((0, "tracking", {"1": "bus"}), (1, "detection", {"1": "car"})):
        (place / str(number)).mkdir(parents=True)
        box = {**VIDEO_BOX, "label-category-attributes": {"occluded": "yes", "size": "big"}, "object-id": "ab"}
        unnamed = {"frame-no": 1, "annotations": []}
        frames = {"frame-no": 0, "frame": "000030.jpg", "annotations": [box]}, unnamed
        (place / str(number) / "SeqLabel.json").write_text(json.dumps(sequence(kind, *frames)))
        ref = f"s3://b/job/annotations/consolidated-annotation/output/{number}/SeqLabel.json"
        about = {"class-map": names, "type": f"groundtruth/video-object-{kind}", "job-name": "job"}
        (job / "manifests" / "output").mkdir(parents=True, exist_ok=True)
        with (job / "manifests" / "output" / "output.manifest").open("a") as file:
            file.write(json.dumps({"source-ref": "s3://b/seq.json", "x-ref": ref, "x-ref-metadata": about}) + "\n")
    files = sorted(path for path in job.rglob("*") if path.is_file())
    assert {formats.detect(path) for path in files} == {"ground_truth"}
    parsed = formats.load(files, tmp_path)
    assert parsed.problems == []
    boxes = parsed.boxes
    assert boxes["class"].tolist() == ["bus", None, "car", None]
    assert boxes["frame_name"].tolist() == ["000030.jpg", None] * 2
    assert boxes["frame_index"].tolist() == [pd.NA, 1] * 2, "a number says something where there is no name"
    assert boxes.loc[0, CORNERS].tolist() == [1, 2, 4, 6]
    assert (boxes["track"][0], boxes["occluded"][0], boxes["attributes"][0]) == ("ab", True, '{"size":"big"}')


def test_a_sequence_without_its_manifest(tmp_path: Path) -> None:
    path = tmp_path / "SeqLabel.json"
    named = {**VIDEO_BOX, "object-name": "big:car:1"}
    frame = {"frame-no": 0, "frame": "0.jpg", "annotations": [named, VIDEO_BOX, 3], "polygons": [{}]}
    path.write_text(json.dumps(sequence("tracking", frame, {"annotations": []}, {"frame": "1.jpg", "polygons": [1]})))
    parsed = formats.load([path], tmp_path)
    assert parsed.boxes["class"].tolist() == ["big:car"], "an object is called by its class"
    assert parsed.boxes["track"].tolist() == ["big:car:1"]
    assert [problem.place for problem in parsed.problems] == [
        *("frame 0.jpg, annotation 1", "frame 0.jpg, annotation 2", "frames[1]", "polygons"),
    ]
    assert "output.manifest" in parsed.problems[0].done


def azure(tmp_path: Path, *found: Any) -> formats.Parsed:
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(one if isinstance(one, str) else json.dumps(one) for one in found))
    assert formats.detect(path) == "azureml"
    return formats.load([path], tmp_path)


CORNER = {"topX": 0.1, "topY": 0.2, "bottomX": 0.5, "bottomY": 0.6}
AZURE = "azureml://subscriptions/s/resourcegroups/r/workspaces/w/datastores/d/paths/"


def test_a_line_of_azure_ml(tmp_path: Path) -> None:
    details = {"format": "jpg", "width": "400px", "height": "300"}
    texts = {key: str(value) for key, value in CORNER.items()}
    polygon = {"label": "cat", "isCrowd": 0, "polygon": [[0.1, 0.2, 0.5, 0.2, 0.5, 0.6], [0.7, 0.9, 0.1, 0.1]]}
    parsed = azure(
        tmp_path,
        {"image_url": AZURE + "p/a.jpg", "image_details": details, "label": [{"label": "cat", **CORNER, "isCrowd": 1}],
         "label_confidence": [0.5]},
        {"image_url": AZURE + "p/b.jpg", "label": {"label": "cat", **texts, "isCrowd": "false"}},
        {"image_url": AZURE + "p/c.jpg", "label": [polygon]},
        {"image_url": AZURE + "p/d.jpg", "label": []},
        {"image_url": AZURE + "p/e.jpg"},
        {"image_url": AZURE + "p/f.jpg", "label": "cat"},
        {"image_url": AZURE + "p/g.jpg", "label": [{"label": "cat", "topX": "x"}, {**CORNER}, 3]},
        {"image_url": 3},
        "{",
    )  # fmt: skip
    boxes = parsed.boxes
    assert boxes["frame_name"].tolist() == ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    assert boxes[CORNERS].to_numpy()[:3].tolist() == [[0.1, 0.2, 0.5, 0.6], [0.1, 0.2, 0.5, 0.6], [0.1, 0.1, 0.7, 0.9]]
    assert (boxes["width"][0], boxes["height"][0], boxes["confidence"][0]) == (400, 300, 0.5)
    assert boxes["crowd"].tolist() == [True, False, False, pd.NA]
    assert boxes["relative"].tolist() == [True, True, True, False]
    assert [problem.place.split(",")[0] for problem in parsed.problems] == [
        f"line {i}" for i in (3, 5, 6, 7, 7, 7, 8, 9)
    ]


def row(**more: Any) -> pd.DataFrame:
    one = {"frame_name": "a.jpg", "width": 10, "height": 20, "class": "cat", "x1": 1.0, "y1": 2.0, "x2": 5.0, "y2": 4.0}
    return pd.DataFrame([{**one, **more}])


def test_an_mltable_names_the_files_beside_it(tmp_path: Path) -> None:
    saved = formats.azureml.save(row(), ["cat"], tmp_path / "t")
    jsonl, table = saved.files
    assert table.name == "MLTable"
    assert formats.detect(table) == "azureml"
    alone = formats.load([table], tmp_path)
    assert alone.boxes["file"].tolist() == ["t/annotations.jsonl"]
    assert len(formats.load([jsonl, table], tmp_path).boxes) == 1, "what is named and given is read once"
    for paths in (
        '[{pattern: "./*.jsonl"}]',
        "[{folder: .}]",
        "[{file: annotations.jsonl}, {file: ./annotations.jsonl}]",
    ):
        table.write_text(f"paths: {paths}")
        parsed = formats.load([table], tmp_path)
        assert (len(parsed.boxes), parsed.problems) == (1, [])


@pytest.mark.parametrize(
    "path",
    [
        *("file: ../out.jsonl", "file: /etc/passwd", "file: a/../../out.jsonl", "file: '..\\out.jsonl'", "file: C:/x"),
        *("pattern: ../*.jsonl", "pattern: '/etc/*'", "folder: ..", "file: azureml://x/paths/a.jsonl"),
        *("file: missing.jsonl", "file: 'a\\0b'", "file: [a]", "other: x", "pattern: '**/**/../..'", "file: ."),
        "file: link.jsonl",
        *("file: https://example.org/a.jsonl", "pattern: ''", "pattern: '['"),
    ],
)  # fmt: skip
def test_no_mltable_leads_out_of_its_folder(tmp_path: Path, path: str) -> None:
    outside = formats.azureml.save(row(), ["cat"], tmp_path, table=False).files[0].rename(tmp_path / "out.jsonl")
    folder = tmp_path / "t"
    folder.mkdir()
    (folder / "link.jsonl").symlink_to(outside)
    (folder / "MLTable").write_text(f"paths:\n- {path}\n")
    parsed = formats.load([folder / "MLTable"], tmp_path)
    assert len(parsed.boxes) == 0
    assert [problem.file for problem in parsed.problems] == ["t/MLTable"]


@pytest.mark.parametrize("text", ["paths: 7", "paths", "a: &a [*a]\npaths: *a", "paths: [", "paths: !!x"])
def test_an_mltable_of_nonsense_is_a_problem(tmp_path: Path, text: str) -> None:
    (tmp_path / "MLTable").write_text(text)
    parsed = formats.load([tmp_path / "MLTable"], tmp_path)
    assert len(parsed.boxes) == 0
    assert len(parsed.problems) == 1


@pytest.mark.parametrize("name", ["ground_truth", "azureml"])
def test_pictures_have_their_addresses_and_keep_their_names(tmp_path: Path, name: str) -> None:
    out = tmp_path / ("a.manifest" if name == "ground_truth" else "a")
    urls = {"a.jpg": "s3://b/lake/frames/cam/clip.mp4/0123456789ab/a.jpg"}
    saved = formats.FORMATS[name].save(row(), ["cat"], out, urls=urls)
    assert urls["a.jpg"] in saved.files[0].read_text()
    assert formats.load(saved.files, tmp_path).boxes["frame_name"].tolist() == ["a.jpg"]
    with pytest.raises(InputError, match="no width"):
        formats.FORMATS[name].save(row(width=None), ["cat"], out)


def test_a_manifest_is_the_input_of_the_next_job(tmp_path: Path) -> None:
    out = tmp_path / "in.manifest"
    formats.ground_truth.save(
        row(confidence=0.5), ["dog", "cat"], out, attribute="proposals", job="mine", created="2024"
    )
    (found,) = map(json.loads, out.read_text().splitlines())
    assert found == {
        "source-ref": "a.jpg",
        "proposals": {
            "image_size": [{"width": 10, "height": 20, "depth": 3}],
            "annotations": [{"class_id": 1, "left": 1.0, "top": 2.0, "width": 4.0, "height": 2.0}],
        },
        "proposals-metadata": {
            "objects": [{"confidence": 0.5}],
            "class-map": {"0": "dog", "1": "cat"},
            "type": "groundtruth/object-detection",
            "human-annotated": "yes",
            "creation-date": "2024",
            "job-name": "labeling-job/mine",
        },
    }
