"""The composition root: a detector's file and a platform's resources make a code location.

`detection_assets.definitions.<name>` is the Definitions of `detectors/<name>.yaml`, so a detector is added to the UI
by one YAML file and one entry in `workspace.yaml`. The stages know no detector; here they get its name as their key
prefix, its own video partitions, and a code version that changes with the settings they read.
"""

from __future__ import annotations

import dagster as dg

from detection_assets import (
    annotations,
    batch_predictions,
    captured_requests,
    deployed_endpoint,
    detection_dataset,
    detector_file,
    drift_report,
    evaluation,
    extracted_frames,
    label_requests,
    raw_videos,
    registered_model,
    trained_weights,
    tuned_hyperparameters,
)
from detection_assets.detector import Detector
from detection_assets.domain import schemas
from detection_assets.domain.retraining import Limits
from jobs import deployment, jobs, labeling, openlineage, progress, retraining, schedules, sensors
from resources import lake, profiles

STAGES = [
    raw_videos,
    extracted_frames,
    annotations,
    detection_dataset,
    tuned_hyperparameters,
    trained_weights,
    evaluation,
    registered_model,
    deployed_endpoint,
    batch_predictions,
    captured_requests,
    drift_report,
    label_requests,
]


def build(of: Detector) -> dg.Definitions:
    """The code location of a detector.

    Raises:
        SettingsError: If the platform's settings do not fit together.
    """
    videos = dg.DynamicPartitionsDefinition(name=f"{of.name}_videos")
    plan = deployed_endpoint.plan_of(of)
    again = of.retraining
    limits = Limits(again.cooldown_h, again.budget_h, again.budget_usd)

    def of_this_detector(spec: dg.AssetSpec) -> dg.AssetSpec:
        settings = spec.metadata["settings"]
        code = f"{spec.code_version}-{of.fingerprint(*settings)}" if settings else spec.code_version
        columns = schemas.describe(spec.key.path[-1])
        return spec.replace_attributes(
            # Videos are a detector's own; days are the same for all.
            partitions_def=videos if spec.partitions_def == lake.VIDEOS else spec.partitions_def,
            code_version=code,
            owners=[of.owner] if of.owner else [],
            metadata={
                **spec.metadata,
                "dagster/column_schema": dg.TableSchema(
                    [dg.TableColumn(name, column.dtype, column.meaning) for name, column in columns.items()]
                ),
            },
        )

    assets = dg.load_assets_from_modules(STAGES, key_prefix=of.name, group_name=of.name)
    return dg.Definitions(
        assets=[item.map_asset_specs(of_this_detector) for item in assets if isinstance(item, dg.AssetsDefinition)],
        jobs=[*jobs.jobs_of(of.name), *deployment.jobs_of(of.name, plan), *labeling.jobs_of(of.name)],
        sensors=[
            *sensors.sensors_of(of.name, videos),
            *deployment.sensors_of(of.name, plan),
            *labeling.sensors_of(of.name),
            *retraining.sensors_of(of.name, limits, again.new_frames, again.on_drift),
            *openlineage.sensors_of(of.name, of.owner or ""),
        ],
        schedules=schedules.schedules_of(of.name, again.schedule, limits),
        resources={
            "detector": of,
            **profiles.resources_for(
                of.name,
                of.platform,
                host=of.endpoint.host,
                port=of.endpoint.port or 0,
                capture=of.monitoring.capture.model_dump(),
            ),
        },
        executor=dg.in_process_executor,
        loggers={"progress": progress.progress_logger, "console": dg.colored_console_logger},
    )


def __getattr__(name: str) -> dg.Definitions:
    if name.startswith("_") or name not in detector_file.available(detector_file.detectors_folder()):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there is no detectors/{name}.yaml")
    return build(detector_file.find(name))
