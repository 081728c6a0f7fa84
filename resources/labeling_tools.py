"""Which tool a detector's frames are labelled in, and the settings that each tool takes.

Any tool goes with any platform, but for those that show people the lake's own pictures.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import dagster as dg

from detection_assets.domain import formats
from resources.home import home
from resources.labeling.aws import GroundTruthLabeling
from resources.labeling.azure import AzureLabeling
from resources.labeling.base import Labeling
from resources.labeling.cvat import CvatLabeling
from resources.labeling.label_studio import LabelStudioLabeling
from resources.labeling.local import NOT_FOR_PICTURES, FolderLabeling
from resources.settings import SettingsError, azure_workspace, given, needed
from resources.storage import Storage


def chosen(detector: str, storage: Storage) -> Labeling:
    """Where a detector's frames are labelled: any tool goes with any platform.

    Raises:
        SettingsError: There is no such tool, or what it needs is not set.
    """
    tool = os.environ.get("DETECTION_LABELING") or "folder"
    if tool not in TOOLS:
        raise SettingsError(f"DETECTION_LABELING is {tool}; set it to one of: {', '.join(TOOLS)}")
    return TOOLS[tool](detector, storage)


def _folder(detector: str, storage: Storage) -> Labeling:
    known = [name for name in formats.FORMATS if name not in NOT_FOR_PICTURES]
    form = os.environ.get("DETECTION_LABELING_FORMAT") or "coco"
    if form not in known:
        raise SettingsError(f"DETECTION_LABELING_FORMAT is {form}; set it to one of: {', '.join(known)}")
    folder = os.environ.get("DETECTION_LABELING_FOLDER") or str(home() / "labeling")
    return FolderLabeling(storage=storage, detector=detector, folder=folder, format=form)


def _label_studio(detector: str, storage: Storage) -> Labeling:
    url = os.environ.get("DETECTION_LABEL_STUDIO_URL", "")
    if not url.startswith(("http://", "https://")):
        raise SettingsError(
            f"DETECTION_LABELING is label_studio, and DETECTION_LABEL_STUDIO_URL is {url or 'not set'}; set it to the "
            "server's address, as in https://labels.example.org"
        )
    if not os.environ.get("DETECTION_LABEL_STUDIO_KEY"):
        raise SettingsError(
            "DETECTION_LABELING is label_studio, and DETECTION_LABEL_STUDIO_KEY is not set; set it to an access token "
            "of your account there (Account & Settings)"
        )
    pictures = os.environ.get("DETECTION_LABEL_STUDIO_PICTURES") or "upload"
    if pictures not in ("upload", "served"):
        raise SettingsError(f"DETECTION_LABEL_STUDIO_PICTURES is {pictures}; set it to upload or served")
    return LabelStudioLabeling(
        storage=storage,
        detector=detector,
        url=url,
        key=dg.EnvVar("DETECTION_LABEL_STUDIO_KEY"),
        pictures=pictures,
        **given(root="DETECTION_LABEL_STUDIO_ROOT"),
    )


def _cvat(detector: str, storage: Storage) -> Labeling:
    who = {"key": "DETECTION_CVAT_KEY"}
    if not os.environ.get("DETECTION_CVAT_KEY"):
        who = {"user": "DETECTION_CVAT_USER", "password": "DETECTION_CVAT_PASSWORD"}
    missing = [name for name in who.values() if not os.environ.get(name)]
    if missing:
        raise SettingsError(
            f"DETECTION_LABELING is cvat: {missing[0]} is not set; set DETECTION_CVAT_KEY to an access token, or "
            "DETECTION_CVAT_USER and DETECTION_CVAT_PASSWORD"
        )
    return CvatLabeling(
        storage=storage,
        detector=detector,
        url=needed("DETECTION_LABELING is cvat", "DETECTION_CVAT_URL", "the server's address, as http://localhost:8080"),
        **{field: dg.EnvVar(name) for field, name in who.items()},
        **given(
            organization="DETECTION_CVAT_ORG", pictures="DETECTION_CVAT_JOB_PICTURES", stage="DETECTION_CVAT_STAGE",
            poll_s="DETECTION_POLL_S",
        ),
    )  # fmt: skip


def _ground_truth(detector: str, storage: Storage) -> Labeling:
    _in_lake("ground_truth", storage, "s3://")
    whom = "DETECTION_LABELING is ground_truth"
    return GroundTruthLabeling(
        storage=storage,
        detector=detector,
        role=needed(whom, "DETECTION_AWS_ROLE", "the ARN of the role that labeling jobs have"),
        workteam=needed(whom, "DETECTION_AWS_WORKTEAM", "the ARN of the team of people who label"),
        **given(
            workers="DETECTION_AWS_LABELING_WORKERS", minutes="DETECTION_AWS_LABELING_MINUTES",
            days="DETECTION_AWS_LABELING_DAYS", account="DETECTION_AWS_LABELING_ACCOUNT",
        ),
    )  # fmt: skip


def _azure_ml(detector: str, storage: Storage) -> Labeling:
    _in_lake("azure_ml", storage, "az://")
    return AzureLabeling(
        storage=storage,
        detector=detector,
        **azure_workspace("DETECTION_LABELING is azure_ml"),
        **given(exports="DETECTION_AZURE_LABELING_EXPORTS"),
    )


def _in_lake(tool: str, storage: Storage, scheme: str) -> None:
    """Refuses a tool that shows the lake's own pictures where the lake is one that it cannot see."""
    root = storage.root
    given = os.environ.get(root.env_var_name, "") if isinstance(root, dg.EnvVar) else root
    if not given.startswith(scheme):
        raise SettingsError(
            f"DETECTION_LABELING is {tool}: it shows people the lake's own pictures, so the lake has to be at "
            f"{scheme}..., and it is at {given}; move it there, or set DETECTION_LABELING to another tool"
        )


TOOLS: Mapping[str, Callable[[str, Storage], Labeling]] = {
    "folder": _folder,
    "label_studio": _label_studio,
    "cvat": _cvat,
    "ground_truth": _ground_truth,
    "azure_ml": _azure_ml,
}
