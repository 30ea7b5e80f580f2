"""A server answers to its own names: those of the loopback, of ``--host`` and of ``--allow-host``."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from moiety.serve.hosts import HostCheck, Hosts

OURS = ("localhost", "LocalHost:8000", "localhost.", "app.localhost", "127.0.0.1", "127.0.0.1:80", "127.8.9.1", "[::1]")
FOREIGN = (
    *("elsewhere.example", "localhost.example", "notlocalhost", "127.0.0.1.example:80", "10.0.0.7", "[fe80::7]:80"),
    *("", ":80", "[", "0x7f.1", "127.0.0.1@elsewhere.example", "localhost,elsewhere.example", "\u00fc.example"),
)


def test_loopback_always() -> None:
    for hosts in (Hosts(), Hosts("10.0.0.7"), Hosts("0.0.0.0"), Hosts("vision.lan")):
        assert [name for name in OURS if not hosts.admits(name)] == []
    assert [name for name in FOREIGN if Hosts().admits(name)] == []


@pytest.mark.parametrize(
    ("host", "alone"),
    [
        ("127.0.0.1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.7", False),
        ("a.lan", False),
    ],
)
def test_only_a_loopback_address_is_closed_to_other_machines(host: str, alone: bool) -> None:
    assert Hosts(host, ["localhost"]).only_this_machine is alone


def test_the_given_names_and_no_others() -> None:
    assert Hosts("10.0.0.7").admits("10.0.0.7:8000")
    assert Hosts("Vision.lan").admits("vision.LAN:8000")
    assert Hosts("127.0.0.1", ["one.lan", "two.lan:80"]).admits("two.lan")
    assert not Hosts("vision.lan").admits("other.vision.lan")
    assert not Hosts("10.0.0.7").admits("10.0.0.8")


@pytest.mark.parametrize("everywhere", ["0.0.0.0", "::", "[::]"])
def test_a_server_at_every_address_answers_to_addresses_and_the_machine_s_name(everywhere: str) -> None:
    hosts = Hosts(everywhere)
    for name in ("10.0.0.7:80", "[fe80::7]:80", socket.gethostname(), f"{socket.gethostname()}.local:80"):
        assert hosts.admits(name)
    assert not hosts.admits("elsewhere.example")
    hosts.add("https.example:443")
    assert hosts.admits("https.example")


def said(scope: dict[str, Any]) -> list[dict[str, Any]]:
    """What goes out for a request; the application behind the check says only its own name."""
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "the app"})

    asyncio.run(HostCheck(app, Hosts())(scope, None, send))  # type: ignore[arg-type]
    return sent


def test_the_check_stands_before_everything() -> None:
    assert said({"type": "http", "headers": [(b"host", b"localhost")]}) == [{"type": "the app"}]
    assert said({"type": "lifespan"}) == [{"type": "the app"}]
    assert said({"type": "websocket", "headers": [(b"host", b"e.example")]}) == [
        {"type": "websocket.close", "code": 1008}
    ]
    for headers, shown in (
        ([], "Host is none, which is no name of this server; ask it by the name it was started with (--host)"),
        ([(b"host", b"localhost"), (b"host", b"e.example")], "Host is 'localhost, e.example', which"),
        ([(b"host", b"x" * 5000)], f"Host is '{'x' * 40}', which"),
    ):
        start, body = said({"type": "http", "headers": headers})
        assert start["status"] == 403
        assert shown in body["body"].decode()
