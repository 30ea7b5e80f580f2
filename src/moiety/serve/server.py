"""The port, and the server that listens on it and ends cleanly."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from moiety.serve.answering import ChatHandler
from moiety.serve.app import build_app
from moiety.serve.connections import protocol_with
from moiety.serve.hosts import HostCheck, Hosts


def open_port(host: str, port: int) -> socket.socket:
    """Bind a socket to `host` and `port`, before a model is loaded, so that a wrong port is noticed at once.

    Args:
        host: Name or address of this machine.
        port: 0..65535; 0 takes a free one.

    Raises:
        ValueError: the port is in use, or the address does not belong to this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except OSError as error:
        raise ValueError(
            f"{host!r} is no address to listen on ({error}); give 127.0.0.1 or one of this machine"
        ) from error
    try:
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ValueError(
            f"port {port} of {host} cannot be taken ({error.strerror}); choose another one with --port, "
            "or --port 0 for any free one"
        ) from error
    return bound


def address_of(bound: socket.socket) -> str:
    """``http://host:port`` of a bound socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_open_to_others(bound: socket.socket) -> bool:
    """Whether other machines may reach a bound socket."""
    return not ipaddress.ip_address(bound.getsockname()[0]).is_loopback


class Server(uvicorn.Server):
    """Serves one handler on a bound socket. A signal ends running answers at their next token.

    Args:
        handler: Model, processor, name and limits.
        bound: A socket of :func:`open_port`.
        key: Key that clients must send; None: no key is needed.
        ready: Called once the server accepts connections.
        hosts: Host names that it answers to; None: those of the loopback and the address of `bound`.
    """

    def __init__(
        self,
        handler: ChatHandler,
        bound: socket.socket,
        key: str | None = None,
        ready: Callable[[], object] | None = None,
        hosts: Hosts | None = None,
    ) -> None:
        app = HostCheck(build_app(handler, key), hosts or Hosts(bound.getsockname()[0]))
        super().__init__(
            uvicorn.Config(
                app,
                http=protocol_with(handler.limits),
                log_config=None,
                access_log=False,
                log_level="warning",
                timeout_graceful_shutdown=5,
                lifespan="off",
                server_header=False,
            )
        )
        self.handler, self.bound, self.ready = handler, bound, ready

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until a signal comes or ``should_exit`` is set."""
        super().run(sockets or [self.bound])

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As in uvicorn; then call `ready`."""
        await super().startup(sockets)
        if self.ready is not None:
            self.ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """As in uvicorn, but running answers end at their next token."""
        self.handler.stop()
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Called at Ctrl-C and other signals that end the process."""
        self.handler.stop()
        super().handle_exit(sig, frame)
