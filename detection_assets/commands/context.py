"""What every command needs of a detector: its settings, its resources, its code location."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from detection_assets import detector_file as detectors
from detection_assets.detector import Detector
from detection_assets.domain.problems import InputError
from resources import profiles
from resources.storage import Storage

if TYPE_CHECKING:
    import dagster as dg

    from resources.endpoints.base import Endpoints


@dataclass
class Project:
    """A detector with its resources, as the commands use them."""

    detector: Detector
    _opened: ExitStack = field(default_factory=ExitStack, repr=False)

    @classmethod
    def of(cls, name: str) -> Project:
        """Loads a detector by its name.

        Raises:
            InputError: If there is none, its file is wrong, or the platform's settings do not fit.
        """
        return cls(detectors.find(name))

    @cached_property
    def resources(self) -> dict[str, Any]:
        """The platform's resources, their settings taken from the environment."""
        of = self.detector
        try:
            made = profiles.resources_for(
                of.name,
                of.platform,
                host=of.endpoint.host,
                port=of.endpoint.port or 0,
                capture=of.monitoring.capture.model_dump(),
            )
        except profiles.SettingsError as error:
            raise InputError(str(error)) from error
        import dagster as dg

        opened = self._opened.enter_context(dg.build_resources(made))
        return {name: getattr(opened, name) for name in made}

    def close(self) -> None:
        """Closes what the resources hold open."""
        self._opened.close()

    @property
    def storage(self) -> Storage:
        """The detector's part of the lake."""
        return self.resources["storage"]

    @property
    def endpoints(self) -> Endpoints:
        """The detector's endpoint."""
        return self.resources["endpoints"]

    @cached_property
    def definitions(self) -> dg.Definitions:
        """The detector's code location."""
        from detection_assets import definitions

        try:
            return definitions.build(self.detector)
        except profiles.SettingsError as error:
            raise InputError(str(error)) from error
