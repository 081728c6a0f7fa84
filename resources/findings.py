"""What a resource finds when it is asked whether it can work with the settings that it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: What it is.
        state: `good`, `bad`, or `unknown` if it could not be looked at.
        told: What was found.
        remedy: What to do about it; "" if nothing.
    """

    what: str
    state: Literal["good", "bad", "unknown"]
    told: str
    remedy: str = ""
