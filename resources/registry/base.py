"""What a model registry does for us, whoever runs it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg

CHAMPION = "champion"
"""The alias of the version that serves."""
CHALLENGER = "challenger"
"""The alias of the newest version that passed the gates."""


@dataclass(frozen=True)
class ModelVersion:
    """A registered version of a model.

    Attributes:
        name: The registered model.
        version: The registry's number or name of the version.
        sha256: Digest of the ONNX file.
        onnx: Storage key of the ONNX file.
        aliases: Aliases that point at it.
        tags: Lineage and approval, as text.
        link: Address of its page, or "".
    """

    name: str
    version: str
    sha256: str
    onnx: str
    aliases: Sequence[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    link: str = ""


class Registry(dg.ConfigurableResource, ABC):
    """A detector's registered model. Registering the same weights twice gives the same version.

    Attributes:
        model: Name of the registered model; one a detector.
    """

    model: str

    def register(self, onnx: str, uri: str, sha256: str, tags: Mapping[str, str], run_id: str) -> ModelVersion:
        """Registers weights, or finds the version that holds these weights for the same evaluation already.

        Args:
            onnx: Storage key of the ONNX file.
            uri: Its full URI.
            sha256: Its digest.
            tags: The lineage.
            run_id: The tracking run that made it, or "".
        """
        for known in self.history():
            if known.sha256 == sha256 and all(known.tags.get(key) == value for key, value in tags.items()):
                return known
        return self.create({**tags, "sha256": sha256, "onnx": onnx}, uri, run_id)

    def get(self, alias: str) -> ModelVersion | None:
        """The version that an alias points at, or None."""
        return next((known for known in self.history() if alias in known.aliases), None)

    @abstractmethod
    def create(self, tags: Mapping[str, str], uri: str, run_id: str) -> ModelVersion:
        """Makes a new version; `tags` hold its digest and storage key as `sha256` and `onnx`."""

    @abstractmethod
    def history(self) -> Sequence[ModelVersion]:
        """All versions, newest first."""

    @abstractmethod
    def point(self, alias: str, version: str) -> None:
        """Points an alias at a version."""

    @abstractmethod
    def tag(self, version: str, tags: Mapping[str, str]) -> None:
        """Adds tags to a version, such as who approved it, when and why."""
