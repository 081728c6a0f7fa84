"""How Azure ML refuses."""

from __future__ import annotations


class Refused(Exception):
    """An answer that is an error: its HTTP status, and the service's own word for it."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def not_found(what: str) -> Refused:
    """What it says of something that there is not."""
    return Refused(404, "UserError", f"Resource {what} was not found in the workspace")
