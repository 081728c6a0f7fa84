"""The one exception by which a request is answered with anything but boxes."""

from __future__ import annotations


class Refused(Exception):
    """A request that gets no boxes. The message says what is wrong and what to do.

    Attributes:
        status: HTTP status, 400 and up.
        retry_after: Seconds after which trying again makes sense; None if it does not.
    """

    def __init__(self, status: int, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after
