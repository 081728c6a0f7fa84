"""What happens by the clock."""

from __future__ import annotations

from datetime import timedelta, timezone

import dagster as dg

from detection_assets.domain.retraining import Limits
from jobs import retraining


def schedules_of(detector: str, cron: str, limits: Limits) -> list[dg.ScheduleDefinition]:
    """The schedules of a detector, off until somebody switches them on.

    Args:
        detector: The detector's name.
        cron: When it is trained again, as a cron expression.
        limits: Cooldown and ceilings that retraining by the clock obeys, too.
    """
    return [retraining.schedule_of(detector, cron, limits), monitoring_of(detector)]


def monitoring_of(detector: str) -> dg.ScheduleDefinition:
    """Looks every hour at what the endpoint kept of today's requests; in the first hour also at yesterday's last ones.

    Args:
        detector: The detector's name.
    """

    @dg.schedule(
        name=f"{detector}_monitoring",
        job_name=f"{detector}_monitor",
        cron_schedule="5 * * * *",
        execution_timezone="UTC",
        default_status=dg.DefaultScheduleStatus.STOPPED,
        description="Tables today's captured requests and holds them against what taught the model.",
    )
    def monitoring(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
        now = context.scheduled_execution_time.astimezone(timezone.utc)
        days = [now, *([now - timedelta(days=1)] if now.hour == 0 else [])]
        return [
            dg.RunRequest(run_key=f"{day:%Y-%m-%d} at {now:%Y-%m-%dT%H:%M}", partition_key=f"{day:%Y-%m-%d}")
            for day in days
        ]

    return monitoring
