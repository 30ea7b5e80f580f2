"""Host names that a page or a server answers to, checked against the ``Host`` header of each request.

This stops DNS rebinding: a foreign web page can let its own name point to this machine and then send requests as if it
were our page, but the browser still sends that foreign name. An IP address cannot be made to point elsewhere, so a
server that listens at every address answers to all of them.
"""

from __future__ import annotations

import ipaddress
import json
import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

LONGEST_SHOWN = 40


class Hosts:
    """Which values of the ``Host`` header are ours.

    Args:
        listens_at: Name or address that was given as ``--host``.
        names: Further names, given as ``--allow-host``.

    Example:
        >>> hosts = Hosts("127.0.0.1", ["vision.lan"])
        >>> [hosts.admits(name) for name in ("localhost:8000", "[::1]:8000", "Vision.lan", "elsewhere.example")]
        [True, True, True, False]
    """

    def __init__(self, listens_at: str = "127.0.0.1", names: Iterable[str] = ()) -> None:
        self._listens_at = _bare(listens_at)
        self.names = {self._listens_at, *map(_bare, names)}
        address = _address(self._listens_at)
        self.every_address = address is not None and address.is_unspecified
        if self.every_address:
            self.names |= {socket.gethostname().lower(), f"{socket.gethostname().lower()}.local"}

    @property
    def only_this_machine(self) -> bool:
        """Whether the server listens at a loopback address, which no other machine can reach."""
        address = _address(self._listens_at)
        return self._listens_at == "localhost" if address is None else address.is_loopback

    def add(self, name: str) -> None:
        """Answer to one more name."""
        self.names.add(_bare(name))

    def admits(self, header: str) -> bool:
        """Whether a request that was sent to `header` (``name`` or ``name:port``) is for us."""
        name = _bare(header)
        address = _address(name)
        if address is not None:
            return address.is_loopback or self.every_address or name in self.names
        return name == "localhost" or name.endswith(".localhost") or name in self.names


def _bare(host: str) -> str:
    """A host without port, brackets, the last dot and capitals.

    Example:
        >>> _bare("LOCALHOST.:80"), _bare("[::1]:80"), _bare("::1")
        ('localhost', '::1', '::1')
    """
    host = host.strip().lower()
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    return host.rstrip(".")


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


class HostCheck:
    """Refuses requests that were sent to a foreign name, before any other code sees them.

    Args:
        app: The web application behind it.
        hosts: Our names.
    """

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As an ASGI application."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = [value.decode("latin-1") for key, value in scope["headers"] if key.lower() == b"host"]
        if len(given) == 1 and self.hosts.admits(given[0]):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _refuse(given, send)


async def _refuse(given: list[str], send: Send) -> None:
    shown = repr(", ".join(given)[:LONGEST_SHOWN]) if given else "none"
    message = (
        f"Host is {shown}, which is no name of this server; ask it by the name it was started with (--host), as "
        "localhost on its own machine, or start it with --allow-host NAME"
    )
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "unknown_host"}
    content = json.dumps({"error": error}).encode()
    headers: list[Any] = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": content})
