from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from dagster._core.definitions.utils import is_valid_owner
from dagster._utils.schedules import is_valid_cron_schedule
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from ruamel.yaml import YAML

from detection_assets import detector_file as module
from detection_assets.detector import Detector, DetectorError, Videos
from detection_assets.detector_file import available, find, load, template
from detection_assets.domain.cron import cron_problem
from detection_assets.domain.problems import InputError

ROOT = Path(__file__).parents[1]


def written(folder: Path, text: str, name: str = "shelf") -> Path:
    path = folder / f"{name}.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def complaints(folder: Path, text: str, name: str = "shelf") -> list[str]:
    """What is wrong with a file, a line each, without the folder."""
    path = written(folder, text, name)
    with pytest.raises(DetectorError) as caught:
        load(path)
    return [line.removeprefix(f"{folder}/") for line in str(caught.value).splitlines()]


HEAD = "name: shelf\nclasses: [apple, cola]\n"

# What is wrong -> (what follows two good lines, the whole complaint).
WRONG = {
    "unknown key": ("hue: red\n", "3: hue: unknown key. Known here: name, description,"),
    "unknown key, nearly right": ("sampling:\n  rat: 2\n", "4: sampling.rat: unknown key. Did you mean `rate`?"),
    "unknown section, nearly right": ("trainig: {}\n", "3: trainig: unknown key. Did you mean `training`?"),
    "bad value": (
        "sampling:\n  rate: -1\n",
        "4: sampling.rate: must be above 0, got -1. Set frames per second, for method `rate`, such as 2.0.",
    ),
    "value too large": ("evaluation: {iou: 1.5}\n", "3: evaluation.iou: must be at most 1, got 1.5. Set"),
    "not a number": ("training:\n  epochs: many\n", "4: training.epochs: must be a whole number, got 'many'. Set"),
    "not a whole number": ("training:\n  epochs: 2.5\n", "4: training.epochs: must be a whole number, got 2.5."),
    "a number in quotes": ("sampling:\n  rate: '2'\n", "4: sampling.rate: must be a number, got '2'."),
    "infinite": ("sampling: {rate: .inf}\n", "3: sampling.rate: must be a finite number, got inf."),
    "truth for a number": ("training: {epochs: true}\n", "3: training.epochs: must be a whole number, got True."),
    "not one of": ("platform: gcp\n", "3: platform: must be 'local', 'aws' or 'azure', got 'gcp'. Set local, aws or"),
    "not a multiple": ("training: {imgsz: 100}\n", "3: training.imgsz: must be a multiple of 32, got 100."),
    "empty text": ("endpoint: {host: ''}\n", "3: endpoint.host: must not be empty. Set the address"),
    "null for a value": ("training: {epochs: null}\n", "3: training.epochs: must be a whole number, got None."),
    "section is a number": ("gates: 4\n", "3: gates: must be keys and values, got 4. Known here: map50, non_inferior"),
    "section is a list": ("gates: [map50]\n", "3: gates: must be keys and values, got ['map50']. Known here: map50"),
    "doubled key": (
        "sampling:\n  rate: 1\n  rate: 2\n",
        "5: sampling.rate: doubled key (first on line 4). Remove one.",
    ),
    "doubled section": ("gates: {}\nowner: null\ngates: {}\n", "5: gates: doubled key (first on line 3). Remove one."),
    "shares": (
        "dataset:\n  split:\n    train: 0.5\n    val: 0.1\n    test: 0.1\n",
        "4: dataset.split: train, val and test must add up to 1, got 0.7.",
    ),
    "shares of reasons": (
        "labeling:\n  reasons: {unsure: 0.5}\n",
        "4: labeling.reasons: unsure, drifted, rare and diverse must add up to 1, got 1.1.",
    ),
    "no share": ("dataset: {split: {train: 1, val: 0}}\n", "3: dataset.split.train: must be below 1, got 1."),
    "bad regex": ("videos:\n  group: '('\n", "4: videos.group: is no regular expression: missing )"),
    "regex without the group": ("videos: {group: 'a.*'}\n", "3: videos.group: has no part named `group`. Set a regex"),
    "bad owner": ("owner: me\n", "3: owner: is neither `team:NAME` nor an e-mail address: 'me'. Set who answers"),
    "bad schedule": ("retraining:\n  schedule: '0 25 * * *'\n", "4: retraining.schedule: has hour '25', which is not"),
    "canary that falls": ("rollout: {canary: [50, 10]}\n", "3: rollout.canary: must be rising shares of 1 to 99 per"),
    "canary of everything": ("rollout: {canary: [10, 100]}\n", "3: rollout.canary: must be rising shares"),
    "approval": ("approval: me\n", "3: approval: must be 'auto' or 'manual', got 'me'. Set auto (what passes"),
    "nothing to tune": ("tuning: {space: {}}\n", "3: tuning.space: must not be empty. Set what is searched"),
    "what cannot be tuned": (
        "tuning:\n  space:\n    lr0: {low: 0.1, high: 0.2}\n    mosiac: {low: 0, high: 1}\n",
        "6: tuning.space.mosiac: is nothing that can be tuned. Did you mean `mosaic`?",
    ),
    "a space turned round": (
        "tuning: {space: {lr0: {low: 1, high: 0.1}}}\n",
        "3: tuning.space.lr0: has low 1, which is not below high 0.1. Turn them round",
    ),
    "no trial": ("tuning:\n  trials: 0\n", "4: tuning.trials: must be at least 1, got 0. Set how many"),
    "setting with a key of its own": ("training: {extra: {epochs: 4}}\n", "3: training.extra: may not hold epochs"),
    "key that is a number": ("7: x\n", "3: [7]: unknown key."),
}


@pytest.mark.parametrize(("text", "complaint"), WRONG.values(), ids=WRONG)
def test_one_mistake_gives_one_line_with_file_line_and_remedy(tmp_path, text, complaint):
    found = complaints(tmp_path, HEAD + text)
    if "split: {train: 1" in text:
        assert found[1:] == ["shelf.yaml:3: dataset.split.val: must be above 0, got 0. " + found[1].split(". ", 1)[1]]
        found = found[:1]
    assert len(found) == 1
    assert found[0].startswith(f"shelf.yaml:{complaint}")
    assert found[0].endswith((".", "?"))


CLASSES = {
    "none": ("[]", "2: classes: must not be empty. Set what it detects"),
    "missing": (None, "1: classes: is missing. Set what it detects"),
    "text": ("apple", "2: classes: must be a list, got 'apple'. Set"),
    "doubled": ("\n  - apple\n  - cola\n  - apple", "5: classes[2]: doubled class 'apple' (as number 1). Remove one."),
    "doubled but for case": ("\n  - Apple\n  - apple", "4: classes[1]: doubled class 'apple' (as number 1). Remove"),
    "number": ("\n  - apple\n  - 7", "4: classes[1]: must be text, got 7. Put it in quotes."),
    "date": ("\n  - 2024-05-01", "3: classes[0]: must be text, got datetime.date(2024, 5, 1). Put it in quotes."),
    "blank": ("['']", "2: classes[0]: '' is empty, or has blanks"),
    "blanks around": ("\n  - ' apple'", "3: classes[0]: ' apple' is empty, or has blanks around it"),
    "line break": ('["a\\nb"]', "2: classes[0]: 'a\\nb' is empty, or has blanks around it or control characters"),
    "itself": ("&a [*a]", "2: classes[0]: must be text, got"),
}


@pytest.mark.parametrize(("classes", "complaint"), CLASSES.values(), ids=CLASSES)
def test_classes(tmp_path, classes, complaint):
    (found,) = complaints(tmp_path, "name: shelf\n" + ("" if classes is None else f"classes: {classes}\n"))
    assert found.startswith(f"shelf.yaml:{complaint}")


NOT_YAML = {
    "empty": ("", ": is empty. `detection init NAME` makes"),
    "comments": ("# nothing\n", ": is empty."),
    "list": ("- a\n", ": must be keys and values, such as `name: fridge`."),
    "tab": ("name: shelf\nclasses:\n\t- apple\n", ":3: a tab. Indent with spaces."),
    "unclosed": ("name: shelf\nclasses: [apple\n", ":"),
    "colon": ("name: shelf\ndescription: a: b\n", ":2: not YAML: mapping values are not allowed"),
    "two documents": ("name: a\n---\nname: b\n", ":2: not YAML: "),
    "object": ("name: !!python/object/apply:os.system [ls]\n", ":1: not YAML: could not determine a constructor"),
    "no such anchor": ("name: *a\n", ":1: not YAML: found undefined alias"),
    "impossible date": ("name: 2024-13-45\n", ": not YAML: month must be in 1..12."),
    "control character": ("name: \x01\n", ": not YAML: "),
    "deep": ("[" * 1000, ": not YAML: "),
}


@pytest.mark.parametrize(("text", "complaint"), NOT_YAML.values(), ids=NOT_YAML)
def test_what_is_not_yaml_is_refused_with_its_line(tmp_path, text, complaint):
    (found,) = complaints(tmp_path, text)
    assert found.startswith(f"shelf.yaml{complaint}")


def test_every_mistake_is_told_at_once_in_the_order_of_lines(tmp_path):
    text = (
        "name: other\nclases: [a]\nclasses: [a, a, 7]\nsampling:\n  rate: -1\n  rate: 2\n  metod: rate\nplatform: gcp\n"
    )
    found = complaints(tmp_path, text)
    assert [line.split(": ")[0] + " " + line.split(": ")[1] for line in found] == [
        "shelf.yaml:1 name",
        "shelf.yaml:2 clases",
        "shelf.yaml:3 classes[1]",
        "shelf.yaml:3 classes[2]",
        "shelf.yaml:5 sampling.rate",
        "shelf.yaml:6 sampling.rate",
        "shelf.yaml:7 sampling.metod",
        "shelf.yaml:8 platform",
    ]
    assert found[0] == "shelf.yaml:1: name: is 'other', but the file is called shelf.yaml. Make them the same."


def test_files_that_cannot_be_read(tmp_path):
    for path, complaint in [
        (tmp_path / "none.yaml", "there is no such file. `detection init none` makes one."),
        (tmp_path, "cannot be read: "),
    ]:
        with pytest.raises(DetectorError, match=complaint):
            load(path)
    (tmp_path / "latin.yaml").write_bytes("name: latin\nclasses: [ä]\n".encode("latin-1"))
    with pytest.raises(DetectorError, match=r"latin\.yaml:2: is not UTF-8 text"):
        load(tmp_path / "latin.yaml")
    assert issubclass(DetectorError, InputError)


def test_the_path_is_shown_as_typed_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "detectors").mkdir()
    written(tmp_path / "detectors", HEAD + "x: 1\n")
    with pytest.raises(DetectorError, match=r"^detectors/shelf\.yaml:3: x: unknown key"):
        load(tmp_path / "detectors" / "shelf.yaml")


@pytest.mark.parametrize("name", ["Fridge", "2nd", "a-b", "a b", "", "a" * 41, "größe", "a.b", "../a"])
def test_a_name_that_cannot_prefix_a_key_is_refused(name):
    with pytest.raises(DetectorError, match="name: must be a small letter, then at most 39"):
        template(name)


@pytest.mark.parametrize("name", ["fridge", "surgical"])
def test_the_detectors_that_ship_are_right_and_run_here(name):
    found = load(ROOT / "detectors" / f"{name}.yaml")
    assert found.name == name
    assert found.platform is None
    assert found.training.hardware == "here"
    assert found.owner is not None
    assert is_valid_owner(found.owner)
    assert found.description


def test_the_detectors_that_ship_do_not_meet():
    names = available(ROOT / "detectors")
    ports = [port for name in names if (port := find(name, ROOT / "detectors").endpoint.port) is not None]
    assert {"fridge", "surgical"} <= set(names)
    assert len(set(ports)) == len(ports)


@settings(deadline=None, max_examples=25)
@given(
    st.from_regex(r"[a-z][a-z0-9_]{0,39}", fullmatch=True),
    st.lists(
        st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)
        | st.sampled_from(["no", "null", "1", "1.5", "a: b", "# x", "- y", "'", '"', "yes", "2024-01-01", "{a}"]),
        min_size=1,
        max_size=6,
        unique_by=str.casefold,
    ),
)
def test_a_template_loads_back_with_all_defaults(tmp_path_factory, name, classes):
    folder = tmp_path_factory.mktemp("template")
    found = load(written(folder, template(name, classes), name))
    assert list(found.classes) == classes
    expected = Detector(name=name, classes=tuple(classes))
    sections = [key for key in Detector.model_fields if key != "endpoint"]
    assert found.fingerprint(*sections) == expected.fingerprint(*sections)


def test_a_template_has_every_key_with_its_meaning(tmp_path):
    text = template("shelf")
    data = YAML(typ="safe", pure=True).load(text)

    def check(model, values):
        assert list(values) == list(model.model_fields)
        for key, info in model.model_fields.items():
            assert info.description
            assert f"# {info.description}\n" in text
            if hasattr(info.annotation, "model_fields"):
                check(info.annotation, values[key])

    check(Detector, data)
    assert max(map(len, text.splitlines())) <= 120
    with pytest.raises(DetectorError, match=r"detectors/shelf.yaml:8: classes\[1\]: doubled class"):
        template("shelf", ["a", "A"])


def test_a_section_of_comments_alone_takes_its_defaults(tmp_path):
    found = load(written(tmp_path, HEAD + "sampling:\n  # rate: 3\n"))
    assert found.sampling == Detector(name="x", classes=("a",)).sampling


GROUPS = {
    "first folder": (None, "store-03/cam-1/clip-007.mp4", "store-03"),
    "top level": (None, "clip-007.mp4", "clip-007"),
    "dots": (None, "clip.v2.final.mp4", "clip.v2.final"),
    "no extension": (None, "clip", "clip"),
    "images": (None, "photos", "photos"),
    "images in a folder called as a date": (None, "2024.05", "2024.05"),
    "images below": (None, "store-03/photos", "store-03"),
    "not ASCII": (None, "Ladé 3/ü.mp4", "Ladé 3"),
    "regex": (r"cam-(?P<group>\d+)", "store-03/cam-12/clip.mp4", "12"),
    "regex on the file": (r"(?P<group>patient\d+)_", "2024/patient7_3.mp4", "patient7"),
    "regex that finds nothing": (r"cam-(?P<group>\d+)", "store-03/clip.mp4", "store-03"),
    "regex that finds an empty text": (r"(?P<group>x*)", "store-03/clip.mp4", "store-03"),
    "optional part": (r"store-\d+(/(?P<group>kiosk))?", "store-03/clip.mp4", "store-03"),
}


@pytest.mark.parametrize(("regex", "video", "group"), GROUPS.values(), ids=GROUPS)
def test_groups(regex, video, group):
    of = Detector(name="x", classes=("a",), videos=Videos(group=regex))
    assert of.group_of(video) == group


def test_fingerprints_follow_values_alone(tmp_path):
    plain = load(written(tmp_path, HEAD))
    spelled = load(
        written(
            tmp_path, "# words\nclasses:\n- apple\n- cola  # brown\nsampling: {method: rate, rate: 2}\nname: shelf\n"
        )
    )
    assert plain.fingerprint("sampling", "classes") == spelled.fingerprint("classes", "sampling")
    faster = load(written(tmp_path, HEAD + "sampling: {rate: 3}\n"))
    assert faster.fingerprint("sampling") != plain.fingerprint("sampling")
    assert faster.fingerprint("classes", "training") == plain.fingerprint("classes", "training")
    swapped = load(written(tmp_path, "name: shelf\nclasses: [cola, apple]\n"))
    assert swapped.fingerprint("classes") != plain.fingerprint("classes")
    extra = [
        load(written(tmp_path, HEAD + f"training: {{extra: {text}}}\n")) for text in ("{a: 1, b: 2}", "{b: 2, a: 1}")
    ]
    assert extra[0].fingerprint("training") == extra[1].fingerprint("training")
    assert len(plain.fingerprint("name")) == 12
    for sections in [(), ("sampling", "colour")]:
        with pytest.raises(ValueError, match="expected some of name"):
            plain.fingerprint(*sections)


def test_a_detector_cannot_be_changed():
    found = find("fridge", ROOT / "detectors")
    with pytest.raises(ValidationError):
        found.name = "other"
    with pytest.raises(ValidationError):
        found.sampling.rate = 3.0


def test_find_names_what_there_is(tmp_path, monkeypatch):
    for name in ("fridge", "surgical"):
        written(tmp_path, template(name), name)
    assert available(tmp_path) == ["fridge", "surgical"]
    assert find("surgical", tmp_path).name == "surgical"
    with pytest.raises(
        DetectorError, match=r"no detector 'frige'\. Did you mean `fridge`\? There are: fridge, surgical\."
    ):
        find("frige", tmp_path)
    with pytest.raises(DetectorError, match=r"no detector '\.\./fridge'"):
        find("../fridge", tmp_path)
    with pytest.raises(DetectorError, match=r"There are none\. `detection init NAME` makes one\."):
        find("fridge", tmp_path / "nowhere")
    assert module.detectors_folder() == ROOT / "detectors"
    monkeypatch.setenv("DETECTION_DETECTORS", str(tmp_path))
    assert module.detectors_folder() == tmp_path
    assert find("fridge").classes == ("object",)


@pytest.mark.parametrize(
    "schedule",
    [
        "0 3 * * 1",
        "*/5 * * * *",
        "0 3 1-7 jan,JUL mon-fri",
        "5/15 0,12 * * 7",
        "@weekly",
        "0 0 31 1-2 *",
        "1-5/2 * * * *",
    ],
)
def test_good_schedules(schedule):
    assert cron_problem(schedule) is None
    assert is_valid_cron_schedule(schedule)


BAD_SCHEDULES = {
    "0 3 * *": "has 4 fields",
    "0 3 * * * *": "has 6 fields",
    "": "has 0 fields",
    "@often": "has 1 fields",
    "60 * * * *": "has minute '60', which is not within 0 to 59",
    "0 3 0 * *": "has day '0', which is not within 1 to 31",
    "0 3 * 13 *": "has month '13'",
    "0 3 * * 8": "has weekday '8'",
    "0 3 * * fry": "has weekday 'fry'",
    "*/0 * * * *": "has minute '*/0'",
    "0 3 30 2 *": "names a day that its months do not have",
    "0 3 31 4,6 *": "names a day that its months do not have",
    "0 3 * * ,": "cannot be read: weekday ''",
    "0 3 -1 * *": "cannot be read: day '-1'",
}


@pytest.mark.parametrize(("schedule", "problem"), BAD_SCHEDULES.items(), ids=BAD_SCHEDULES)
def test_bad_schedules(schedule, problem):
    assert (cron_problem(schedule) or "").startswith(problem)


FIELD = st.one_of(
    st.just("*"),
    st.integers(0, 62).map(str),
    st.tuples(st.integers(0, 33), st.integers(0, 33)).map(lambda ends: f"{ends[0]}-{ends[1]}"),
    st.tuples(st.sampled_from(["*", "2", "1-5"]), st.integers(0, 70)).map(lambda parts: f"{parts[0]}/{parts[1]}"),
    st.sampled_from(["mon", "jan-mar", "sun,3", "1,2", "", "-", "L", "a"]),
)


@settings(deadline=None)
@given(st.tuples(FIELD, FIELD, FIELD, FIELD, FIELD).map(" ".join))
def test_what_is_accepted_here_is_accepted_by_dagster(schedule):
    if cron_problem(schedule) is None:
        assert is_valid_cron_schedule(schedule)


def test_reading_a_detector_imports_nothing_heavy():
    code = (
        "import sys; import detection_assets.detector_file as d; assert 'ruamel' not in sys.modules\n"
        f"d.load(__import__('pathlib').Path({str(ROOT / 'detectors/fridge.yaml')!r}))\n"
        "print([name for name in ('dagster', 'torch', 'mlflow', 'ultralytics') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert run.stdout.strip() == "[]"
