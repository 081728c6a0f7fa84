"""Settings as the environment has them, for whoever makes resources of them."""

from __future__ import annotations

import os
from typing import Any


class SettingsError(ValueError):
    """Settings that do not fit together; the message says which to set and to what."""


def given(**settings: str) -> dict[str, Any]:
    """The settings that are set, by the name of the attribute that they are for; their types are the attribute's."""
    return {name: os.environ[variable] for name, variable in settings.items() if os.environ.get(variable)}
