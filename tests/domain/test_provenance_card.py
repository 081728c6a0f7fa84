from __future__ import annotations

import base64
import re
from xml.etree import ElementTree

import pandas as pd
import pytest

from detection_assets.domain import provenance_card
from detection_assets.domain.model_card import Model
from detection_assets.domain.provenance_card import Provenance

EVIL = "</text><script>alert(1)</script>|`"
DATASET = {
    **{"version": "ds-1", "images": 47, "boxes": 1485, "videos": 4, "groups": 3, "by": "group", "optimistic": True},
    "counts": {name: {"images": count} for name, count in (("train", 24), ("val", 11), ("test", 12))},
}
METRICS = pd.DataFrame(
    [
        {
            "model": "challenger",
            "slice_kind": "all",
            "slice": "all",
            "class": "",
            "ap50": 0.712,
            "low": 0.65,
            "high": 0.77,
        }
    ]
).assign(n_images=12, n_boxes=123)
TAGS = {
    **{"dataset_version": "ds-1", "weights_version": "w1", "evaluation_version": "e1", "base_weights": EVIL},
    **{"approved_by": "Ada", "approved_at": "2026-03-01T10:00:00", "approval_reason": "looks right"},
}
FAILED = {"gates": [{"why": "AP50 is 0.3, below 0.5", "passed": False}]}
BY_BEA = {"by": "Bea", "reason": "only a demo", "at": "then"}


def provenance(
    *, replaces: str = "", serving: str = "", people: dict[str, int] | None = None, **of: object
) -> Provenance:
    facts = {"dataset": DATASET, "metrics": METRICS, "weights": {"epochs": 3, "classes": "[]"}, **of}
    model = Model("fridge", "fridge", "7", "a" * 64, TAGS, **facts)
    return Provenance(model, TAGS, "approved", people, "abc", replaces, serving)


def drawn(of: Provenance) -> tuple[ElementTree.Element, str]:
    text = provenance_card.picture(of)
    tree = ElementTree.fromstring(text)
    return tree, " ".join("".join(node.itertext()) for node in tree.iter() if node.tag.endswith("text"))


@pytest.mark.parametrize(
    ("replaces", "serving"), [("", ""), ("6", ""), ("", "100 % on green"), ("6", "100 % on green")]
)
def test_the_graph_tells_what_taught_judged_approved_and_replaced(replaces: str, serving: str) -> None:
    tree, text = drawn(provenance(replaces=replaces, serving=serving, people={"ada": 900, "": 585}))
    for said in ("1,485 boxes", "ada 900", "ds-1", "24 / 11 / 12", "AP50 0.712", "gates passed", "version 7", "by Ada"):
        assert said in text, said
    assert ("version 6" in text) == bool(replaces)
    assert ("100 % on green" in text) == bool(serving)
    wide, high = float(tree.get("width", 0)), float(tree.get("height", 0))
    for node in tree.iter():
        if node.tag.endswith("}rect") and node.get("rx"):
            assert 0 <= float(node.get("x", 0)) <= wide - provenance_card.WIDE
            assert 0 <= float(node.get("y", 0)) <= high - provenance_card.HIGH


def test_names_from_outside_are_text() -> None:
    tree, _ = drawn(provenance(people={EVIL: 3}))
    assert not [node for node in tree.iter() if "script" in node.tag]
    told = provenance_card.markdown(provenance(people={EVIL: 3}))
    words = re.sub(r"data:image/svg\+xml;base64,[A-Za-z0-9+/=]+", "", told)
    assert "<script>" not in words
    (picture,) = re.findall(r"base64,([A-Za-z0-9+/=]+)", told)
    assert "<script>" not in base64.b64decode(picture).decode()


@pytest.mark.parametrize("name", ["\x01", "\x0b", "\ud800", "\uffff"])
def test_a_name_that_xml_forbids_does_not_take_the_picture_with_it(name: str) -> None:
    _, text = drawn(provenance(people={f"ada{name}": 3}))
    assert "ada\N{REPLACEMENT CHARACTER} 3" in text
    assert "ada" in provenance_card.markdown(provenance(people={f"ada{name}": 3}))


def test_who_answers_for_a_failed_gate_is_told() -> None:
    told = provenance_card.markdown(provenance(summary=FAILED, override=BY_BEA))
    assert "AP50 is 0.3, below 0.5. Overridden by Bea: only a demo" in told
    assert "1 gate failed" in drawn(provenance(summary=FAILED))[1]


def test_what_is_not_known_any_more_says_so() -> None:
    bare = Provenance(Model("fridge", "fridge", "7", "a" * 64, {}), {}, "pending")
    _, text = drawn(bare)
    for said in ("not known any more", "figures are gone", "nobody noted by whom", "pending", "nobody decided yet"):
        assert said in text, said
    assert "replaces | nothing: none served before" in provenance_card.markdown(bare)


def test_many_people_are_few_words() -> None:
    told = provenance_card.markdown(provenance(people={f"annotator {number}": number for number in range(40)}))
    assert "annotator 39 39, annotator 38 38, annotator 37 37, annotator 36 36, and 36 more" in told
