"""Ends a server without losing a request."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from typing import Any

import uvicorn

from detection_assets.serving.observe import Presence

QUIET_S = 1.0
"""Nobody must have asked for so long before connections that are kept alive are closed; a busy sender may pause."""

PATIENCE_S = 5.0
"""Senders that never pause are left after so long; what they sent by then is still answered."""


class Server(uvicorn.Server):
    """A uvicorn server that sends its callers away before it hangs up.

    uvicorn closes at once each connection on which no request is being answered, so that a request on its way over one
    that was kept alive is lost; and connections that the system has accepted, but not yet handed over, are reset. This
    one lets those in, stops to listen, and goes on answering, telling each caller to close, until no connection is
    left, or nobody has asked for a while.
    """

    def __init__(self, config: uvicorn.Config, presence: Presence) -> None:
        super().__init__(config)
        self.presence = presence

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Ends the server; called once, after SIGTERM or SIGINT."""
        for connection in self._stop_listening():
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)
        # Only now are callers told to close: before, they would have come back to a door that was about to shut.
        self.presence.leaving = True
        self.presence.quiet_since = time.monotonic()
        ends = time.monotonic() + PATIENCE_S
        while time.monotonic() < ends and not self.force_exit and not self.presence.quiet(QUIET_S):
            await asyncio.sleep(0.05)  # first, so that who was just let in is counted
            if not self.server_state.connections:
                break
        await super().shutdown(sockets)

    def _stop_listening(self) -> list[socket.socket]:
        """Closes the listening sockets, and returns the connections that waited in them."""
        # A copy keeps the system's queue of connections alive when the event loop closes its own.
        copies = [socket.socket(fileno=os.dup(one.fileno())) for server in self.servers for one in server.sockets]
        for server in self.servers:
            server.close()
        waiting: list[socket.socket] = []
        for copy in copies:
            copy.setblocking(False)
            with copy, contextlib.suppress(BlockingIOError):
                while True:
                    waiting.append(copy.accept()[0])
        for connection in waiting:
            connection.setblocking(False)
        return waiting

    def _protocol(self) -> asyncio.Protocol:
        make: Any = self.config.http_protocol_class
        return make(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)
