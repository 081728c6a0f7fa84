"""Finished labels come in by themselves: a sensor asks the tool what it has that is not in, and a job fetches it.

A tick costs a listing and a question or two for each batch that somebody still looks for. What comes in are annotation
files of the lake, so the sensors of videos and annotations take it from there.
"""

import json
import time

import dagster as dg

from jobs import jobs, runs
from resources.labeling.base import Labeling

COLLECT = "collect_labels"
AGAIN_S = 1800.0
"""Seconds after which what was asked for and is not in is asked for again."""


def jobs_of(detector: str) -> list[dg.JobDefinition]:
    """The job `collect_labels` of a detector."""

    @dg.op(name=f"{detector}_bring_in", description="Asks the tool for what is finished and writes it into the lake.")
    def bring_in(context: dg.OpExecutionContext, labeling: Labeling) -> None:
        failed: list[str] = []
        for of in labeling.collect():
            context.log.info(
                f"{of.batch}: {of.finished} of {of.pictures} pictures finished, {len(of.fresh)} of them new or changed"
            )
            for problem in of.problems:
                context.log.warning(f"{of.batch}: {problem}")
            if of.failed:
                failed.append(of.failed)
        if failed:
            # The others are in; a run that looked well would hide that this one is not.
            raise dg.Failure("\n".join(failed))

    @dg.job(
        name=f"{detector}_{COLLECT}",
        description="Bring in what annotators have finished.",
        executor_def=dg.in_process_executor,
        tags={"dagster/max_runtime": str(jobs.MAX_RUNTIME_S), "detection/detector": detector},
    )
    def collect_labels() -> None:
        bring_in()

    return [collect_labels]


def sensors_of(detector: str) -> list[dg.SensorDefinition]:
    """The sensor `finished_labels` of a detector."""

    @dg.sensor(
        name=f"{detector}_finished_labels",
        job_name=f"{detector}_{COLLECT}",
        minimum_interval_seconds=60,
        description="Brings in what annotators have finished, and what they corrected later.",
    )
    def finished_labels(context: dg.SensorEvaluationContext, labeling: Labeling) -> dg.SensorResult | dg.SkipReason:
        changed, failed = labeling.changed()
        for batch, why in failed.items():
            context.log.warning(f"{batch}: {why}")
        asked: dict[str, str]
        at: float
        asked, at = json.loads(context.cursor) if context.cursor else ({}, 0.0)
        new = [batch for batch, stamp in changed.items() if asked.get(batch) != stamp]
        # A run that was asked for may have failed: then what it was to fetch is asked for again, though not at once.
        if not new and not (changed and time.time() - at >= AGAIN_S):
            return dg.SkipReason(
                f"{len(failed)} batches cannot be asked about" if failed else "nothing new is finished"
            )
        if runs.under_way(context.instance, detector, (COLLECT,)):
            return dg.SkipReason("finished labels are being brought in")
        return dg.SensorResult(run_requests=[dg.RunRequest()], cursor=json.dumps([changed, time.time()]))

    return [finished_labels]
