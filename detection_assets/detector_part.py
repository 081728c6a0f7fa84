"""What the sections of a detector's file are made of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Share = Annotated[float, Field(gt=0, lt=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[int, Field(ge=1)]


class Part(BaseModel):
    """A section of a detector's file: unknown keys are refused, values are not coerced."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, hide_input_in_errors=True)


def key(default: Any, description: str, **limits: Any) -> Any:
    """A key of the file; `...` as default: it must be there."""
    return Field(default=default, description=description, **limits)
