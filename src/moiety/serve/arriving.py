"""Bodies of requests while they arrive: a limit for their memory, and a time limit for each."""

from __future__ import annotations

import asyncio

from starlette.requests import Request

from moiety.serve.refusal import Refusal
from moiety.serve.request import Limits

HEARD_OUT = 8
"""A body that is too long is read and dropped up to this many times the limit, so that its sender gets the answer."""


class Arriving:
    """All bodies that are being read.

    Args:
        limits: Sizes and times.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.num_bytes = 0

    async def body(self, request: Request) -> bytes:
        """Read the body of a JSON request, never keeping more of it in memory than the limit.

        Raises:
            Refusal: its content type is not JSON, it is too long or too slow, or it is long while many others arrive.
        """
        _check_kind(request)
        declared = request.headers.get("content-length", "0")
        size = int(declared) if declared.isdecimal() else 0
        if size > HEARD_OUT * self.limits.max_body_bytes:
            raise _too_long(size, self.limits)
        chunks: list[bytes] = []
        try:
            size = await self._read(request, chunks)
        finally:
            self.num_bytes -= sum(map(len, chunks))
        if size > self.limits.max_body_bytes:
            raise _too_long(size, self.limits)
        return b"".join(chunks)

    async def _read(self, request: Request, chunks: list[bytes]) -> int:
        """Read the body, keep in `chunks` what the limit allows, and return the size of everything that came."""
        limits, size, clock = self.limits, 0, asyncio.get_running_loop().time
        begun = clock()
        try:
            async with asyncio.timeout(min(limits.head_seconds, limits.body_seconds)) as patience:
                async for chunk in request.stream():
                    size += len(chunk)
                    if size > HEARD_OUT * limits.max_body_bytes:
                        break
                    if size <= limits.max_body_bytes:
                        chunks.append(chunk)
                        self.num_bytes += len(chunk)
                        self._check_room(size)
                    granted = limits.head_seconds + size / limits.least_bytes_a_second
                    patience.reschedule(begun + min(granted, limits.body_seconds))
        except TimeoutError as error:
            raise Refusal(408, f"{size:,} bytes came in {clock() - begun:.0f} s; send the request faster") from error
        return size

    def _check_room(self, size: int) -> None:
        """Send a large body away while too many bytes are on their way. Small bodies always find room."""
        most = self.limits.max_arriving_bytes
        if self.num_bytes > most and size > most // (8 * self.limits.max_waiting):
            raise busy(f"requests of together {self.num_bytes / 2**20:,.0f} MiB are on their way")


def busy(why: str) -> Refusal:
    """The refusal of a request that comes at a bad time."""
    return Refusal(429, f"{why}; try again later", code="busy", kind="rate_limit_error")


def _check_kind(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise Refusal(415, f"content-type must be application/json, got {kind[:80]!r}")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refusal(415, "compressed bodies are not read; leave out content-encoding")


def _too_long(size: int, limits: Limits) -> Refusal:
    given, most = size / 2**20, limits.max_body_bytes / 2**20
    return Refusal(
        413,
        f"a body of {given:,.1f} MiB; at most {most:,.1f} MiB are read: send fewer or smaller pictures",
        code="too_long",
    )
