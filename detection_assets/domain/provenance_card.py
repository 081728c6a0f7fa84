"""Where a model comes from, at a glance: what taught it, who drew that, how it was judged, who let it serve.

A small graph, drawn by hand, for Dagster's catalogue shows pictures in Markdown and no diagrams; and the same in words.
Names come from outside, so all text is escaped.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from detection_assets.domain import card
from detection_assets.domain.model_card import Model
from detection_assets.domain.pages import svg_text

WIDE, HIGH, GAP, EDGE = 148, 84, 26, 6
"""Of a node, pixels: its width, its height, the room to the next, and the room around all."""
LETTERS = 20
"""That fit into a node's line."""
MOST_PEOPLE = 4
GOOD, BAD, PLAIN, OLD = "#15803d", "#dc2626", "#3b6ea5", "#8a8f98"


@dataclass(frozen=True)
class Provenance:
    """What a card tells.

    Attributes:
        model: What the lake knows of the version.
        tags: The version's tags in the registry: lineage and approval.
        approval: `approved`, `pending` or `rejected`.
        people: How many boxes each annotator drew, by name; None if the dataset was made before that was noted.
        annotations: A digest of the versions of annotations, or "".
        replaces: The version that served before, or "".
        serving: What it has of the traffic, such as `100 % on green`; "" of a version that is only registered.
    """

    model: Model
    tags: Mapping[str, str]
    approval: str
    people: Mapping[str, int] | None = None
    annotations: str = ""
    replaces: str = ""
    serving: str = ""

    @property
    def failed(self) -> list[str]:
        """What the gates say that failed."""
        return [str(gate["why"]) for gate in self.model.summary.get("gates", ()) if not gate["passed"]]


@dataclass(frozen=True)
class _Node:
    title: str
    lines: Sequence[str]
    colour: str = PLAIN
    place: tuple[float, float] = field(default=(0, 0))


def markdown(of: Provenance) -> str:
    """The card: the graph as a picture that needs no other file, and a table of the same in words."""
    drawn = base64.b64encode(picture(of).encode()).decode()
    name = f"version {of.model.version}"
    parts = [
        f"![where {card.escape(name)} comes from](data:image/svg+xml;base64,{drawn})",
        card.table(["", ""], _words(of)),
    ]
    return "\n\n".join(parts)


def picture(of: Provenance) -> str:
    """The graph as an SVG: data, training, judgement, approval and service, left to right."""
    data, weights = of.model.dataset, of.model.weights
    overall = of.model.figures("all")
    score = [f"AP50 {float(overall.iloc[0]['ap50']):.3f}"] if len(overall) else ["figures are gone"]
    if len(overall):
        score.append(f"on {int(overall.iloc[0]['n_images']):,} test images")
    gates = "gates passed" if not of.failed else f"{len(of.failed)} gate{'s' * (len(of.failed) > 1)} failed"
    by = of.tags.get("approved_by", "")
    videos = [f"{int(data['videos']):,} in {int(data['groups']):,} groups"] if data else ["not known any more"]
    nodes = {
        "videos": _Node("videos", videos, place=(0, 0)),
        "annotations": _Node("annotations", [_boxes(data), *_people(of)[:2]], place=(0, 1)),
        "dataset": _Node(
            "dataset, optimistic" if data.get("optimistic") else "dataset",
            [of.tags.get("dataset_version") or "not told", *_split(data)],
            place=(1, 0.5),
        ),
        "weights": _Node("weights", [of.tags.get("weights_version", "")[:12], *_training(of, weights)], place=(2, 0.5)),
        "evaluation": _Node("evaluation", [*score, gates], BAD if of.failed else GOOD, (3, 0.5)),
        "version": _Node(
            f"version {of.model.version}",
            [of.approval, f"by {by}" if by else "nobody decided yet", of.tags.get("approved_at", "")[:10]],
            {"approved": GOOD, "rejected": BAD}.get(of.approval, OLD),
            (4, 0 if of.replaces or of.serving else 0.5),
        ),
    }
    edges = [("videos", "dataset"), ("annotations", "dataset"), ("dataset", "weights"), ("weights", "evaluation")]
    edges.append(("evaluation", "version"))
    if of.serving:
        nodes["endpoint"] = _Node("endpoint", [of.serving], GOOD, (5, 0))
        edges.append(("version", "endpoint"))
    if of.replaces:
        nodes["old"] = _Node(f"version {of.replaces}", ["served before"], OLD, (5 if of.serving else 4, 1))
        edges.append(("endpoint" if of.serving else "version", "old"))
    columns = 1 + max(node.place[0] for node in nodes.values())
    width, height = int(columns * (WIDE + GAP) - GAP + 2 * EDGE), 2 * (HIGH + GAP) - GAP + 2 * EDGE
    parts = [_edge(nodes[one], nodes[other], dashed=other == "old") for one, other in edges]
    parts += [_drawn(node) for node in nodes.values()]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>'
    )


def _at(node: _Node) -> tuple[float, float]:
    return EDGE + node.place[0] * (WIDE + GAP), EDGE + node.place[1] * (HIGH + GAP)


def _edge(one: _Node, other: _Node, *, dashed: bool) -> str:
    (x1, y1), (x2, y2) = _at(one), _at(other)
    dash = ' stroke-dasharray="4 3"' if dashed else ""
    if x1 == x2:
        middle = x1 + WIDE / 2
        return (
            f'<path d="M{middle:.0f} {y1 + HIGH:.0f} V{y2:.0f}" fill="none" stroke="{OLD}"{dash}/>'
            f'<text x="{middle + 6:.0f}" y="{y2 - 8:.0f}" fill="{OLD}" font-size="11">replaces</text>'
        )
    start, end, middle = x1 + WIDE, x2, (x1 + WIDE + x2) / 2
    a, b = y1 + HIGH / 2, y2 + HIGH / 2
    return (
        f'<path d="M{start:.0f} {a:.0f} C{middle:.0f} {a:.0f} {middle:.0f} {b:.0f} {end - 5:.0f} {b:.0f}" fill="none" '
        f'stroke="{OLD}"{dash}/><path d="M{end - 7:.0f} {b - 4:.0f} L{end:.0f} {b:.0f} L{end - 7:.0f} {b + 4:.0f} Z" '
        f'fill="{OLD}"/>'
    )


def _drawn(node: _Node) -> str:
    x, y = _at(node)
    lines = [line for line in node.lines if line]
    shown = "".join(
        f'<text x="{x + 10:.0f}" y="{y + 38 + 17 * at:.0f}" fill="#333">{svg_text(_short(line))}</text>'
        for at, line in enumerate(lines[:3])
    )
    told = svg_text("\n".join([node.title, *lines]))
    return (
        f'<g><title>{told}</title><rect x="{x:.0f}" y="{y:.0f}" width="{WIDE}" height="{HIGH}" rx="6" fill="white" '
        f'stroke="{node.colour}" stroke-width="1.5"/>'
        f'<text x="{x + 10:.0f}" y="{y + 19:.0f}" font-weight="bold" fill="{node.colour}">'
        f"{svg_text(_short(node.title))}</text>{shown}</g>"
    )


def _short(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"


def _boxes(data: Mapping[str, Any]) -> str:
    return f"{int(data['boxes']):,} boxes" if data else "not known any more"


def _split(data: Mapping[str, Any]) -> list[str]:
    if not data:
        return []
    counts = {name: int(data["counts"][name]["images"]) for name in ("train", "val", "test")}
    return [f"{int(data['images']):,} images", " / ".join(f"{counts[name]:,}" for name in counts)]


def _training(of: Provenance, weights: Mapping[str, Any]) -> list[str]:
    base = of.tags.get("base_weights", "")
    epochs = f"{int(weights['epochs'])} epochs" if weights.get("epochs") else ""
    return [f"from {base}" if base else "", epochs]


def _people(of: Provenance) -> list[str]:
    """Who drew the boxes, who drew most first."""
    if of.people is None:
        return ["nobody noted by whom"]
    ranked = sorted(of.people.items(), key=lambda item: (-item[1], item[0]))
    names = [f"{name or 'unnamed'} {count:,}" for name, count in ranked]
    return names[:MOST_PEOPLE] + ([f"and {len(names) - MOST_PEOPLE} more"] if len(names) > MOST_PEOPLE else [])


def _words(of: Provenance) -> list[tuple[str, str]]:
    tags, data, overall = of.tags, of.model.dataset, of.model.figures("all")
    evaluation = tags.get("evaluation_version", "")
    judged = ""
    if len(overall):
        row = overall.iloc[0]
        judged = f"AP50 {float(row['ap50']):.3f} ({float(row['low']):.3f} to {float(row['high']):.3f})"
        judged += f" on {int(row['n_images']):,} images with {int(row['n_boxes']):,} boxes of the test split"
    override = of.model.override
    gates = "; ".join(of.failed) or "all passed"
    if of.failed and override:
        gates += f". Overridden by {override['by']}: {override['reason']}"
    by = f" by {tags['approved_by']}" if tags.get("approved_by") else ""
    taught = f"{_boxes(data)} on {', '.join(_split(data))} (train / val / test)" if data else _boxes(data)
    taught += "; optimistic: groups are divided among the splits" if data.get("optimistic") else ""
    rows = [
        ("serves", of.serving),
        ("taught by", f"{tags.get('dataset_version') or 'not told'}: {taught}"),
        ("videos", f"{int(data['videos']):,}, split by {data['by']}" if data else "not known any more"),
        ("boxes drawn by", ", ".join(_people(of))),
        ("versions of annotations", f"together {of.annotations}" if of.annotations else ""),
        ("every frame and box", f"detection provenance {of.model.detector} {evaluation}" if evaluation else ""),
        ("trained from", tags.get("base_weights", "")),
        ("judged", judged),
        ("gates", gates if evaluation else ""),
        ("approval", f"{of.approval}{by}"),
        ("when and why", f"{tags.get('approved_at', '')} {tags.get('approval_reason', '')}".strip()),
        ("replaces", f"version {of.replaces}" if of.replaces else "nothing: none served before"),
    ]
    return [(name, value) for name, value in rows if value]
