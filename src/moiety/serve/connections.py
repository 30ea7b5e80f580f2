"""Time limits of a connection: for a client that sends slowly and for one that reads slowly."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from moiety.serve.request import Limits


def protocol_with(limits: Limits) -> type[H11Protocol]:
    """The class that uvicorn makes for each connection, with the time limits of `limits`."""
    return type("TimedProtocol", (TimedProtocol,), {"limits": limits})


class TimedProtocol(H11Protocol):
    """HTTP/1.1 as in uvicorn, with two time limits: for the head of a request, and for a client that reads no answer.

    The time of a body is counted where the body is read (:class:`moiety.serve.arriving.Arriving`).
    """

    limits = Limits()

    def __init__(self, *about: Any, **more: Any) -> None:
        super().__init__(*about, **more)
        self._head: asyncio.TimerHandle | None = None
        self._reader: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the head of the first request."""
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all timers."""
        self._stop_timers()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """As in uvicorn; a whole head ends the wait for it."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before and self._head is not None:
            self._head.cancel()

    def on_response_complete(self) -> None:
        """As in uvicorn; then wait for the head of the next request."""
        self._await_head()  # first: uvicorn may find a whole one at once
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client does not read: close the connection unless it goes on soon."""
        super().pause_writing()
        self._reader = self.loop.call_later(self.limits.head_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        super().resume_writing()
        if self._reader is not None:
            self._reader.cancel()

    def _await_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
        if not self.transport.is_closing():
            self._head = self.loop.call_later(self.limits.head_seconds, self.transport.close)

    def _stop_timers(self) -> None:
        for timer in (self._head, self._reader):
            if timer is not None:
                timer.cancel()
