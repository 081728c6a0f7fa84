"""What steps took and cost, asset by asset."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True, slots=True)
class Cost:
    """What the steps of one asset took in one run.

    Attributes:
        asset: The asset's name.
        instance: What they ran on.
        seconds: Seconds of compute.
        usd: Estimated US dollars; 0 on one's own machine.
    """

    asset: str
    instance: str
    seconds: float
    usd: float


def table(costs: Iterable[Cost]) -> pd.DataFrame:
    """A row for each asset, in the order in which they come first, and one for all of them.

    Returns:
        Columns `asset`, `runs`, `ran on`, `seconds`, `USD`; without rows if there are no costs.
    """
    found = list(costs)
    by_asset = {name: [one for one in found if one.asset == name] for name in dict.fromkeys(one.asset for one in found)}
    if found:
        by_asset["all"] = found
    return pd.DataFrame(
        [
            {
                "asset": name,
                "runs": len(ones),
                "ran on": ", ".join(sorted({one.instance for one in ones} - {""})),
                "seconds": round(sum(one.seconds for one in ones), 1),
                "USD": round(sum(one.usd for one in ones), 4),
            }
            for name, ones in by_asset.items()
        ],
        columns=["asset", "runs", "ran on", "seconds", "USD"],
    )
