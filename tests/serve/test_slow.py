"""Clients that are slow, or many: nobody else waits for them, and they are told or left in the end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

pytest.importorskip("openai", reason="the extra [serve] is not installed")
pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

import uvicorn
from uvicorn.server import ServerState

from moiety.serve.connections import protocol_with
from tests import model_folders
from tests.serve.live import SHORT, running, user, wait_until

CHAT = "/v1/chat/completions"
HELLO = {"messages": [user("Where is it?")], "max_tokens": 2}
QUICK = replace(SHORT, max_waiting=1, head_seconds=1.0, body_seconds=2.0, max_new_tokens=1500)
HEAD = f"POST {CHAT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n"


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A server with one seat."""
    with running(model_folders.sparse_folder(), QUICK) as server:
        yield server


def post(server: Any, **more: Any) -> httpx.Response:
    return httpx.post(server.url + CHAT, json={**HELLO, **more}, timeout=30)


@contextlib.contextmanager
def lines_to(server: Any, count: int, *beginnings: str) -> Iterator[list[socket.socket]]:
    """Connections that have said something and then keep silent."""
    with contextlib.ExitStack() as stack:
        lines = [stack.enter_context(socket.create_connection(server.bound.getsockname())) for _ in range(count)]
        for number, line in enumerate(lines):
            line.settimeout(15)
            line.sendall(beginnings[number % len(beginnings)].encode())
        yield lines


def heard(line: socket.socket) -> bytes:
    said = b""
    with contextlib.suppress(ConnectionResetError):
        while more := line.recv(9999):
            said += more
    return said


def test_slow_clients_hold_no_seat_and_are_left(server: Any) -> None:
    half_heads = ("", "POST ", HEAD[:60], HEAD[:-2])
    with lines_to(server, 20, *half_heads) as silent, lines_to(server, 20, HEAD, HEAD + "{") as slow:
        assert post(server).status_code == 200
        assert httpx.get(server.url + "/health").json()["waiting"] == 0
        for line in silent:
            assert heard(line) == b""
        for number, line in enumerate(slow):
            said = heard(line)
            assert said.startswith(b"HTTP/1.1 408 ")
            assert f"{number % 2} bytes came in 1 s; send the request faster".encode() in said


def test_a_body_must_keep_coming(server: Any) -> None:
    def trickle() -> None:
        with contextlib.suppress(OSError):
            for _ in range(50):
                line.sendall(b" ")
                stopped.wait(0.1)

    stopped = threading.Event()
    with lines_to(server, 1, HEAD) as (line,):
        feeding = threading.Thread(target=trickle)
        feeding.start()
        assert b"bytes came in 1 s; send the request faster" in heard(line)
        stopped.set()
        feeding.join()


def test_a_kept_connection_is_not_kept_for_half_a_head(server: Any) -> None:
    body = json.dumps(HELLO)
    whole = HEAD.replace(" 50", f" {len(body)}") + body
    with lines_to(server, 1, whole + whole + HEAD[:40]) as (line,):
        said = heard(line)
    assert said.count(b"HTTP/1.1 200 ") == 2
    assert said.endswith(b"}")


def test_who_finds_no_seat_is_told(server: Any) -> None:
    def occupy() -> None:
        with contextlib.suppress(httpx.TimeoutException):
            httpx.post(server.url + CHAT, json={**HELLO, "max_tokens": 1500}, timeout=1.0)

    occupying = threading.Thread(target=occupy)
    occupying.start()
    wait_until(lambda: httpx.get(server.url + "/health").json()["waiting"] == 1)
    refused = post(server)
    assert refused.status_code == 429
    assert refused.json()["error"]["message"] == "1 requests wait already; try again later"
    occupying.join()
    wait_until(lambda: httpx.get(server.url + "/health").json()["waiting"] == 0)
    assert post(server).status_code == 200


def test_who_leaves_in_the_middle_of_a_body_leaves_nothing_behind(server: Any) -> None:
    with lines_to(server, 3, HEAD + "{"):
        pass
    assert post(server).status_code == 200


def test_large_bodies_make_room_for_small_ones() -> None:
    few = replace(QUICK, head_seconds=5.0, body_seconds=5.0, max_arriving_bytes=2**20)
    large = HEAD.replace(" 50", f" {2**20}") + " " * (700 * 1024)
    with running(model_folders.sparse_folder(), few) as server, lines_to(server, 2, large) as lines:
        said = b""
        for line in lines:
            line.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                while more := line.recv(9999):
                    said += more
        assert said.count(b"HTTP/1.1 429 ") == 1
        assert b"requests of together 1 MiB are on their way; try again later" in said
        assert post(server).status_code == 200


def test_who_does_not_read_is_left() -> None:
    """An answer larger than any buffer, to a client that reads nothing."""
    ended = threading.Event()

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not ended.is_set():
            await send({"type": "http.response.body", "body": bytes(2**20), "more_body": True})
            if state.connections == set():
                ended.set()

    async def meet() -> None:
        loop, made = asyncio.get_running_loop(), protocol_with(replace(SHORT, head_seconds=0.5))
        config = uvicorn.Config(endless, log_config=None, lifespan="off")
        config.load()
        server = await loop.create_server(lambda: made(config, state, {}), "127.0.0.1", 0)
        async with server:
            line = socket.create_connection(server.sockets[0].getsockname())
            line.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
            async with asyncio.timeout(10):
                while not ended.is_set():
                    await asyncio.sleep(0.05)
            line.close()

    state = ServerState()
    asyncio.run(meet())
    assert ended.is_set()
