"""moto's server, with conditional writes that are decided one at a time, as S3 decides them.

moto looks whether there is an object and then writes, in a thread for each request: of two writers both could be first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from moto import server
from moto.s3.responses import S3Response

DECIDING = threading.Lock()


def one_at_a_time(method: Callable[..., Any]) -> Callable[..., Any]:
    def held(*given: Any, **named: Any) -> Any:
        with DECIDING:
            return method(*given, **named)

    return held


if __name__ == "__main__":
    S3Response.put_object = one_at_a_time(S3Response.put_object)
    S3Response._key_response_post = one_at_a_time(S3Response._key_response_post)  # the last word of a long one
    server.main()
