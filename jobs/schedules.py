"""What happens by the clock."""

from __future__ import annotations

import dagster as dg


def schedules_of(detector: str, cron: str) -> list[dg.ScheduleDefinition]:
    """Retraining on a schedule; off until somebody switches it on.

    Args:
        detector: The detector's name.
        cron: When, as a cron expression.
    """
    return [
        dg.ScheduleDefinition(
            name=f"{detector}_retraining",
            job_name=f"{detector}_retrain",
            cron_schedule=cron,
            default_status=dg.DefaultScheduleStatus.STOPPED,
            description="Train again on what is in the lake; the gates decide whether it is served.",
        )
    ]
