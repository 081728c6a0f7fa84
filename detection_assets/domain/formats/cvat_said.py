"""What CVAT files say of boxes beyond their corners: flags and attributes, with the types that their labels declare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from detection_assets.domain.formats.attributes import flag, sort_out, to_json
from detection_assets.domain.formats.parsed import whole

_BOOLS = {"true": True, "false": False}


@dataclass
class Sayings:
    """Distinct things that are said of boxes, each by a number; most boxes say one of a few."""

    columns: list[dict[str, Any]] = field(default_factory=lambda: [{}])
    _codes: dict[tuple[object, ...], int] = field(default_factory=dict[tuple[object, ...], int])
    _kinds: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    _label: str = ""
    _attribute: str = ""

    def declare(self, parent: str, tag: str, text: str) -> None:
        """Takes an element of a label's description: its name, or the name and type of an attribute."""
        if tag == "name" and parent == "label":
            self._label = text
        elif tag == "name" and parent == "attribute":
            self._attribute = text
        elif tag == "input_type" and parent == "attribute":
            self._kinds[self._label, self._attribute] = text

    def code(self, label: str, has: dict[str, str], says: Sequence[tuple[str, str]]) -> int:
        """The number of what a box says.

        Args:
            label: The box's label.
            has: The XML attributes of the box's element.
            says: Names and values of its `<attribute>` elements.
        """
        key = (label, *(has.get(name) for name in ("occluded", "source", "z_order", "group_id")), *says)
        known = self._codes.get(key)
        if known is None:
            known = self._codes[key] = len(self.columns)
            self.columns.append(self._columns(label, has, says))
        return known

    def _columns(self, label: str, has: dict[str, str], says: Sequence[tuple[str, str]]) -> dict[str, Any]:
        columns, rest = sort_out({name: self._value(label, name, text) for name, text in says})
        if (hidden := flag(has.get("occluded"))) is not None:
            columns["occluded"] = hidden
        # What nobody set is not told: every file says `manual` and 0 of every box.
        source = has.get("source", "")
        if source not in ("", "manual"):
            rest.setdefault("source", source)
        for name in ("z_order", "group_id"):
            if number := whole(has.get(name), -(2**31)):
                rest.setdefault(name, number)
        left = to_json(rest)
        return {**columns, "attributes": left} if left is not None else columns

    def _value(self, label: str, name: str, text: str) -> object:
        kind = self._kinds.get((label, name))
        if kind == "checkbox":
            return _BOOLS.get(text.strip().lower(), text)
        if kind == "number":
            number = whole(text, -(2**31))
            return number if number is not None and str(number) == text.strip() else text
        return text

    def spread(self, codes: np.ndarray) -> dict[str, np.ndarray]:
        """Columns of what boxes say, None where they do not, for the columns of which any says something."""
        found: dict[str, np.ndarray] = {}
        used = np.unique(codes)
        for name in sorted({name for code in used.tolist() for name in self.columns[code]}):
            values = np.empty(len(self.columns), dtype=object)
            values[:] = [one.get(name) for one in self.columns]
            found[name] = values[codes]
        return found


def beside(said: dict[str, np.ndarray], column: str, common: np.ndarray) -> np.ndarray:
    """What boxes say in a column, and `common` where they say nothing."""
    if column not in said:
        return common
    silent = np.array([value is None for value in said[column].tolist()], dtype=bool)
    return np.where(silent, common, said[column])
