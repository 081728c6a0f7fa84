"""What a model registry does for us, whoever runs it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone

import dagster as dg

from detection_assets.domain import layout
from detection_assets.domain.problems import InputError
from resources.findings import Finding
from resources.storage import Published, Storage

CHAMPION = "champion"
"""The alias of the version that serves."""
CHALLENGER = "challenger"
"""The alias of the newest version that passed the gates."""
APPROVED = "approved"
"""The alias by which a person approves a pending version in the registry's own pages; and the state it then has."""
PENDING, REJECTED = "pending", "rejected"
GATES = "gates"
"""Who approves where no person has to."""
REGISTRY = "registry"
"""Who approved where somebody set the alias: the registry does not say who."""
SUMMARY = "summary.json"
"""The file of an evaluation's figures."""


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

    @property
    def approval(self) -> str:
        """`pending`, `approved` or `rejected`; one of which nothing is told waits: its run may have been killed."""
        told = self.tags.get("approval", PENDING)
        return APPROVED if told == PENDING and APPROVED in self.aliases else told

    def heard(self, state: str) -> "ModelVersion":
        """The version with what people say of it in the registry's own pages.

        Args:
            state: Approved there is as the alias is: it decides what waits. Rejected holds at once.
        """
        if state == APPROVED:
            return replace(self, aliases=sorted({*self.aliases, APPROVED}))
        return replace(self, tags={**self.tags, "approval": REJECTED}) if state == REJECTED else self


@dataclass(frozen=True)
class DataEntry:
    """A version of the dataset as a platform's own catalogue has it.

    Attributes:
        name: What it is called there.
        place: Where it lies, as the catalogue says.
        link: Address of its page.
    """

    name: str
    place: str
    link: str


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
            # Some registries do not tell an empty tag from none.
            if known.sha256 == sha256 and all(known.tags.get(key, "") == value for key, value in tags.items()):
                return known
        return self.create({**tags, "sha256": sha256, "onnx": onnx}, uri, run_id)

    def keep_dataset(self, version: str, published: Published, about: Mapping[str, str]) -> Sequence[DataEntry]:
        """Enters a published version of the dataset where the platform has a catalogue of data, which most lack.

        Entering it again finds the same entries.

        Args:
            version: The version, `ds-` and 12 hex digits.
            published: Its files.
            about: What else is to be read there.
        """
        return ()

    def check(self) -> Iterator[Finding]:
        """Asks for the versions that there are."""
        try:
            count = len(self.history())
        except Exception as error:  # each registry has errors of its own
            told = str(error).strip().splitlines()[0][:600]
            yield Finding("registry", "bad", type(self).__name__, told)
            return
        yield Finding("registry", "good", f"{type(self).__name__}: {count} versions of {self.model}")

    def get(self, alias: str) -> ModelVersion | None:
        """The version that an alias points at, or None."""
        return next((known for known in self.history() if alias in known.aliases), None)

    def approve(self, version: str, by: str, reason: str) -> ModelVersion:
        """Lets a version be deployed.

        Args:
            version: The version.
            by: Who decides it.
            reason: Why.

        Raises:
            InputError: If there is no such version, or the name or the reason is missing.
        """
        return self._decide(version, APPROVED, by, reason)

    def reject(self, version: str, by: str, reason: str) -> ModelVersion:
        """Keeps a version from being deployed; arguments and errors as of `approve`."""
        return self._decide(version, REJECTED, by, reason)

    def adopt_aliases(self) -> Sequence[ModelVersion]:
        """Writes down the approvals that were given by setting the alias `approved`, and returns their versions."""
        waiting = [
            item
            for item in self.history()
            if APPROVED in item.aliases and item.tags.get("approval", PENDING) == PENDING
        ]
        return [self.approve(item.version, REGISTRY, f"the alias `{APPROVED}` was set") for item in waiting]

    def pending(self) -> Sequence[ModelVersion]:
        """The versions that wait for somebody's approval, newest first."""
        return [known for known in self.history() if known.approval == PENDING]

    def _decide(self, version: str, approval: str, by: str, reason: str) -> ModelVersion:
        history = self.history()
        found = next((known for known in history if known.version == version), None)
        if found is None:
            there = ", ".join(known.version for known in history) or "none"
            raise InputError(f"{self.model}: there is no version {version}; there are: {there}")
        if not by.strip() or not reason.strip():
            raise InputError(f"{self.model} version {version}: who decides, and why? Both are kept with the version")
        self.tag(
            version,
            {
                "approval": approval,
                "approved_by": by.strip(),
                "approved_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
                "approval_reason": reason.strip(),
            },
        )
        return next(known for known in self.history() if known.version == version)

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


def summary_of(storage: Storage, tags: Mapping[str, str]) -> str | None:
    """Storage key of the figures of the evaluation that a lineage names; None if it has none."""
    found = storage.published(layout.evaluation(tags.get("evaluation_version", "")))
    return found.key(SUMMARY) if found is not None and SUMMARY in found.files else None


def in_parts(tags: Mapping[str, str], most: int) -> dict[str, str]:
    """Tags of `most` characters each: what is longer goes on as `<name>.1`, `<name>.2`."""
    parts: dict[str, str] = {}
    for name, value in tags.items():
        cut = [value[start : start + most] for start in range(0, len(value), most)] or [""]
        parts |= {f"{name}.{number}" if number else name: part for number, part in enumerate(cut)}
    return parts


def whole(parts: Mapping[str, str]) -> dict[str, str]:
    """The tags that `in_parts` divided."""
    tags = dict(parts)
    for name in parts:
        number = 1
        while name in tags and f"{name}.{number}" in tags:
            tags[name] += tags.pop(f"{name}.{number}")
            number += 1
    return tags
