"""Which libraries a program worked with, as they say of themselves: what a bill of materials lists."""

from __future__ import annotations

import platform
import re
import sys
from importlib import metadata
from typing import Any

LONGEST_LICENCE = 80
"""Characters: some packages put the whole text of their licence where its name belongs."""


def loaded() -> dict[str, Any]:
    """The distributions of which this process has modules loaded.

    Not all that are installed: a machine that tests or serves, too, has many that took no part.

    Returns:
        `python`, `system`, and `libraries`: for each its name, version, licence ("" where it does not say) and which
        others of the list it requires.
    """
    modules = {name.partition(".")[0] for name in sys.modules}
    owners = metadata.packages_distributions()
    names = sorted({owner for module in modules for owner in owners.get(module, ())}, key=str.lower)
    found = {_canonical(name): metadata.distribution(name) for name in names}
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "libraries": [
            {
                "name": name,
                "version": one.version,
                "licence": licence(one),
                "requires": sorted(_required(one) & (found.keys() - {name})),
            }
            for name, one in found.items()
        ],
    }


def licence(of: metadata.Distribution) -> str:
    """The licence that a distribution says it has: an SPDX expression where it gives one, else its own words, or ""."""
    about: Any = of.metadata  # a message of `email`, as which only later Pythons type it
    expression = about.get("License-Expression")
    if expression:
        return str(expression)
    words = " ".join(str(about.get("License") or "").split())
    if words and words != "UNKNOWN" and len(words) <= LONGEST_LICENCE:
        return words
    kinds = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or () if line.startswith("License ::")]
    return " AND ".join(kinds)


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _required(of: metadata.Distribution) -> set[str]:
    lines = [line for line in of.requires or () if "extra ==" not in line]
    return {_canonical(re.split(r"[^A-Za-z0-9_.-]", line.strip(), maxsplit=1)[0]) for line in lines}
