from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from detection_assets.domain import drift, drift_html
from detection_assets.domain.drift import Limits
from detection_assets.domain.drift_html import Deployment, Shown
from detection_assets.domain.two_samples import Sample

LIMITS = Limits()
EVIL = "</td><script>alert(1)</script>"


class Reader(HTMLParser):
    """Notes tags that are opened, and finds ones that are never closed."""

    VOID = frozenset({"meta", "img", "rect", "polyline"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    assert not reader.open, f"never closed: {reader.open}"
    return reader


def sample(values: object) -> Sample:
    array = np.asarray(values)
    return Sample(array, np.arange(len(array)))


def deployment(name: str = "1", **samples: tuple[Sample, Sample]) -> Deployment:
    reference = {feature: pair[0] for feature, pair in samples.items()}
    production = {feature: pair[1] for feature, pair in samples.items()}
    findings = drift.judge(drift.find(reference, production, 200, LIMITS), LIMITS)
    return Deployment(name, "ds-1", 200, findings, reference, production, [Shown(b"\xff\xd8", EVIL)], [EVIL])


def mixed(*classes: str) -> Sample:
    return sample(np.array(classes * 50, object))


def page(*deployments: Deployment) -> str:
    tables = {"Requests": pd.DataFrame({"version": [EVIL], "p50_ms": [12.345], "n": [12345]})}
    return drift_html.page("fridge", "2026-03-01", deployments, tables, LIMITS)


def test_the_page_says_what_drifted_and_draws_it() -> None:
    rng = np.random.default_rng(0)
    text = page(
        deployment(
            brightness=(sample(rng.normal(120, 10, 500)), sample(rng.normal(60, 10, 200))),
            contrast=(sample(rng.normal(40, 5, 500)), sample(rng.normal(40, 5, 200))),
            class_mix=(mixed("apple", "banana"), mixed("apple", "mango")),
        )
    )
    reader = read(text)
    assert "Drift in brightness (version 1), class mix (version 1)." in text
    assert sum(tag == "svg" for tag, _ in reader.seen) == 3
    assert "mango" in text
    assert "12,345" in text


def test_nothing_is_loaded_or_run() -> None:
    text = page(deployment(brightness=(sample(np.arange(100.0)), sample(np.arange(100.0)))))
    reader = read(text)
    tags = {tag for tag, _ in reader.seen}
    assert not tags & {"script", "link", "iframe", "object", "embed"}
    addresses = [value for _, about in reader.seen for name, value in about.items() if name in ("src", "href")]
    assert addresses
    assert all(str(value).startswith("data:image/jpeg;base64,") for value in addresses)
    assert not [name for _, about in reader.seen for name in about if name.startswith("on")]
    assert "url(" not in text


def test_names_from_outside_are_text() -> None:
    text = page(deployment(EVIL, class_mix=(mixed(EVIL, "b"), mixed(EVIL, "b"))))
    read(text)
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize(
    ("reference", "production"),
    [
        (np.full(100, 640.0), np.full(100, 640.0)),
        (np.full(100, 640.0), np.full(100, 1280.0)),
        (np.arange(100.0), np.array([1e12] * 60)),
        (np.zeros(100), np.zeros(60)),
        (np.arange(3.0), np.array([2.0])),
    ],
)
def test_charts_of_degenerate_samples_stay_inside(reference: np.ndarray, production: np.ndarray) -> None:
    text = page(deployment(width=(sample(reference), sample(production))))
    assert "nan" not in text
    assert "inf" not in text.replace("inline", "").replace("info", "")
    for x, y in re.findall(r"(-?[\d.]+),(-?[\d.]+)", text.split('points="')[1].split('"')[0]):
        assert 0 <= float(x) <= drift_html.WIDTH
        assert 0 <= float(y) <= drift_html.HEIGHT


def test_many_classes_fit() -> None:
    names = [f"class {number}" for number in range(80)]
    text = page(deployment(class_mix=(mixed(*names), mixed(*names))))
    read(text)
    assert text.count('class="reference" x=') == drift_html.MOST_CLASSES
    assert "others" in text


def test_a_day_without_requests_says_so() -> None:
    assert "No request was kept on this day." in page()
    read(page())


def test_the_same_report_is_the_same_page() -> None:
    one = deployment(brightness=(sample(np.arange(100.0)), sample(np.arange(60.0))))
    assert page(one) == page(one)
