"""What an asset does, done in a real Dagster run."""

from collections.abc import Callable
from typing import TypeVar

import dagster as dg

T = TypeVar("T")


def in_a_run(act: Callable[[dg.AssetExecutionContext], T]) -> T:
    """Does something with an asset's context and returns what came of it; what it raises fails the run."""
    kept: list[T] = []

    @dg.asset
    def made(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
        kept.append(act(context))
        return dg.MaterializeResult()

    dg.materialize([made])
    return kept[0]
