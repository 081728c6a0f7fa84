"""The composition root: a detector's file and a platform's resources make a code location.

`detection_assets.definitions.<name>` is the Definitions of `detectors/<name>.yaml`, so a detector is added to the UI
by one YAML file and one entry in `workspace.yaml`. The stages know no detector; here they get its name as their key
prefix, its own video partitions, and a code version that changes with the settings they read.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

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
from detection_assets.domain import answer_text, schemas
from detection_assets.domain.retraining import Limits
from jobs import deployment, jobs, labeling, openlineage, progress, retraining, schedules, sensors
from resources import lake, profiles, revision

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

PARTS = {
    **dict.fromkeys(("raw_videos", "extracted_frames", "annotations", "detection_dataset"), "data"),
    **dict.fromkeys(("tuned_hyperparameters", "trained_weights", "evaluation", "registered_model"), "model"),
    **dict.fromkeys(("deployed_endpoint", "batch_predictions"), "service"),
    **dict.fromkeys(("captured_requests", "drift_report", "label_requests"), "monitoring"),
}
"""What a stage is part of: a tag by which the catalogue is searched over all detectors."""


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
        stage = spec.key.path[-1]
        columns, questions = schemas.describe(stage), answer_text.offered(stage, of.name)
        return spec.replace_attributes(
            # Videos are a detector's own; days are the same for all.
            partitions_def=videos if spec.partitions_def == lake.VIDEOS else spec.partitions_def,
            code_version=code,
            owners=[of.owner] if of.owner else [],
            description=f"{about[stage]}\n\n{spec.description}",
            tags={**spec.tags, "detection/detector": of.name, "detection/part": PARTS[stage]},
            metadata={
                **spec.metadata,
                **({"questions": dg.MetadataValue.md(questions)} if questions else {}),
                "dagster/column_schema": dg.TableSchema(
                    [dg.TableColumn(name, column.dtype, column.meaning) for name, column in columns.items()]
                ),
            },
        )

    about = {module.__name__.rpartition(".")[2]: inspect.getdoc(module) for module in STAGES}
    loaded = dg.load_assets_from_modules(STAGES, key_prefix=of.name, group_name=of.name)
    assets = [item.map_asset_specs(of_this_detector) for item in loaded if isinstance(item, dg.AssetsDefinition)]
    return dg.Definitions(
        assets=with_code(assets, revision.repository(), revision.commit()),
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


def with_code(assets: Sequence[dg.AssetsDefinition], repository: str, commit: str) -> Sequence[Any]:
    """The assets with where their code is: in the repository, if it is one that Dagster knows how to link to.

    Args:
        assets: The assets.
        repository: The repository's address, or "".
        commit: The commit that runs, or "".
    """
    host = repository.removeprefix("https://").partition("/")[0]
    known: Literal["github", "gitlab"] | None = "github" if "github" in host else "gitlab" if "gitlab" in host else None
    address = repository.removesuffix(".git").rstrip("/")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)  # used knowingly; pinned in requirements.lock
        here = dg.with_source_code_references(assets)
        if known is None or not commit:
            return here
        ours = dg.AnchorBasedFilePathMapping(Path(__file__), "detection_assets/definitions.py")
        return dg.link_code_references_to_git(here, address, commit.removesuffix("-dirty"), ours, known)


def __getattr__(name: str) -> dg.Definitions:
    if name.startswith("_") or name not in detector_file.available(detector_file.detectors_folder()):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; there is no detectors/{name}.yaml")
    return build(detector_file.find(name))
