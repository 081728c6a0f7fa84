"""Batch prediction as steps of the program `predict`."""

from collections.abc import Sequence

import dagster as dg

from resources.batch.base import Batch
from resources.compute.base import Step, StepResult
from resources.registry.base import ModelVersion


class LocalBatch(Batch):
    """Runs the program itself, wherever steps are run."""

    def run(self, context: dg.AssetExecutionContext, steps: Sequence[Step], model: ModelVersion) -> list[StepResult]:
        """Runs each step as it is; it names the model's file itself."""
        return self.compute.run_all(context, steps)
