"""Hostile requests over the wire: each gets a 4xx with a reason, nothing outside is read, and the server lives on."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

pytest.importorskip("openai", reason="the extra [serve] is not installed")
pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
pytest.importorskip("fastapi", reason="the extra [serve] is not installed")

import openai

from tests import model_folders
from tests.serve.live import as_url, bomb, client, data_url, running, user

CHAT = "/v1/chat/completions"
JSON = {"content-type": "application/json"}
HELLO = {"messages": [user("Where is it?")], "max_tokens": 2}


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    with running(model_folders.sparse_folder()) as server:
        yield server


def post(server: Any, body: Any, headers: dict[str, str] | None = None, path: str = CHAT) -> httpx.Response:
    content = json.dumps(body).encode() if isinstance(body, dict) else body
    return httpx.post(server.url + path, content=content, headers=headers or JSON, timeout=30)


def reason(response: httpx.Response, status: int) -> str:
    """The message of a refusal, which has OpenAI's form."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["message"]


def shown(*urls: str) -> dict[str, Any]:
    return {"messages": [user("What is it?", *urls)]}


def heard(line: socket.socket) -> bytes:
    """What a server says up to the end of a refusal."""
    said = b""
    while b"}}" not in said and (more := line.recv(9999)):
        said += more
    return said


def in_pieces(content: bytes) -> Iterator[bytes]:
    """A body of no known length: it goes out in chunks."""
    for start in range(0, len(content), 2**16):
        yield content[start : start + 2**16]


HOSTILE: dict[str, tuple[Any, int, str]] = {
    "wrong role": (
        {"messages": [{"role": "root", "content": "x"}]},
        400,
        "'system', 'user' or 'assistant', got 'root'",
    ),
    "50 MB picture": (shown(as_url(bytes(50 * 2**20))), 413, "a body of 66.7 MiB; at most 4.0 MiB are read"),
    "50 MB in chunks": (in_pieces(json.dumps(shown(as_url(bytes(20 * 2**20)))).encode()), 413, "a body of 26.7 MiB"),
    "svg": (shown(as_url(b"<svg/>", "svg+xml")), 400, "drawings (SVG) are never opened"),
    "no picture": (shown(as_url(b"\x7fELF" + bytes(99))), 400, "no whole picture (begins with b'\\x7fELF"),
    "http": (shown("http://127.0.0.1:1/a.png"), 400, "got 'http://127.0.0.1:1/a.png'; addresses, paths"),
    "file": (shown("file:///etc/passwd"), 400, "got 'file:///etc/passwd'; addresses, paths"),
    "path": (shown(str(Path(__file__))), 400, "addresses, paths and drawings"),
    "traversal": (shown("../../../etc/passwd"), 400, "got '../../../etc/passwd'"),
    "half base64": (shown(data_url()[:-5]), 400, "not base64"),
    "half picture": (shown(as_url(bomb(50))), 400, "no whole picture"),
    "bomb": (shown(as_url(bomb(60_000))), 400, "exceeds limit"),
    "deep": (b'{"messages": ' + b"[" * 90_000, 400, "nested too deeply"),
    "max_tokens": ({**HELLO, "max_tokens": 10**12}, 400, "at most 6 tokens"),
    "1000 pictures": (shown(*[data_url(Image.new("RGB", (1, 1)))] * 1000), 400, "1000 pictures; one request may bring"),
    "NUL": ({"messages": [user("a\0b")]}, 400, "NUL"),
    "not UTF-8": (b'{"messages": "\xe9"}', 400, "not UTF-8: byte 14 is 0xe9"),
    "not JSON": (b"messages=hello", 400, "not JSON"),
    "empty": (b"", 400, "not JSON"),
    "too long to read": ({"messages": [user("long " * 3000)]}, 400, "this model reads 4,096"),
    "endless text": ({"messages": [user("a " * 10**6)]}, 400, "2,000,000 characters of text; this model reads 4,096"),
    "half character": (b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', 400, "half a character"),
    "other model": ({**HELLO, "model": "/etc"}, 404, "'/etc' is not served here; known: tiny"),
    "template": ({**HELLO, "chat_template_kwargs": {"chat_template": "{{ x }}"}}, 400, "unknown field"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_hostile_gets_a_reason_and_the_server_lives_on(server: Any, name: str) -> None:
    body, status, message = HOSTILE[name]
    assert message in reason(post(server, body), status)
    assert post(server, HELLO).status_code == 200


def test_only_plain_json_is_read(server: Any) -> None:
    body = json.dumps(HELLO).encode()
    assert "must be application/json, got 'text/plain'" in reason(
        post(server, body, {"content-type": "text/plain"}), 415
    )
    assert "compressed bodies are not read" in reason(post(server, body, {**JSON, "content-encoding": "gzip"}), 415)
    assert post(server, body, {"content-type": "Application/JSON; charset=utf-8"}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/load_model", "/reset", "/v1/completions", "/v1/responses", "/docs", "/../etc/passwd"]
)
def test_what_stock_servers_offer_besides_is_not_there(server: Any, path: str) -> None:
    assert "one model that requests neither load nor unload" in reason(post(server, HELLO, path=path), 404)
    assert "GET /v1/chat/completions is not served" in reason(httpx.get(server.url + CHAT), 405)
    assert post(server, HELLO).status_code == 200


def test_openai_s_client_raises_its_own_errors(server: Any) -> None:
    with client(server) as talk, pytest.raises(openai.BadRequestError, match="got 'file:///etc/passwd'") as caught:
        talk.chat.completions.create(model="tiny", messages=[user("x", "file:///etc/passwd")])
    assert (caught.value.code, caught.value.param) == ("invalid_image_url", "messages[0].content[0].image_url.url")


@pytest.mark.parametrize("size", [(1, 1), (1, 3), (3, 1), (3, 3), (500, 2)], ids=str)
def test_pictures_of_any_shape_are_answered(server: Any, size: tuple[int, int]) -> None:
    assert post(server, {**HELLO, **shown(data_url(Image.new("L", size)))}).status_code == 200


class Witness:
    """Writes down what other threads than the test's own open; a hook cannot be taken away, so it is switched."""

    EVENTS = ("open", "os.listdir", "os.scandir", "socket.connect", "socket.getaddrinfo", "subprocess.Popen")

    def __init__(self) -> None:
        self.on, self.seen = False, list[tuple[str, str]]()
        sys.addaudithook(self)

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.on and event in self.EVENTS and threading.current_thread() is not threading.main_thread():
            self.seen.append((event, str(args)))


def test_nothing_outside_a_request_is_read(server: Any, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    model_folders.picture().save(secret)
    sources = [f"file://{secret}", str(secret), "http://127.0.0.1:1/a.png", f"data:image/png;base64,../..{secret}"]
    for body in (shown(data_url()), shown("x")):  # modules that are imported at first use
        post(server, body)
    witness = Witness()
    witness.on = True
    assert post(server, shown(data_url())).status_code == 200
    for source in sources:
        assert str(secret) not in post(server, shown(source)).text.replace(source, "")
        post(server, {**HELLO, "model": source})
    assert witness.seen == []
    from transformers.image_utils import load_image  # what the stock handler calls: the witness sees it

    thread = threading.Thread(target=load_image, args=(str(secret),))
    thread.start()
    thread.join()
    witness.on = False
    assert [event for event, args in witness.seen if str(secret) in args] == ["open"]


def test_a_key_is_asked_for() -> None:
    with running(model_folders.sparse_folder(), key="sésame") as server:
        for shows in ({}, {"authorization": "Bearer other"}):
            assert "expects its key as `Authorization: Bearer KEY`" in reason(
                post(server, HELLO, {**JSON, **shows}), 401
            )
        assert httpx.get(server.url + "/v1/models").status_code == 401
        assert httpx.get(server.url + "/health").status_code == 200
        assert post(server, HELLO, {**JSON, "authorization": b"Bearer s\xc3\xa9same"}).status_code == 200  # type: ignore[dict-item]


def test_an_error_of_ours_is_told_without_its_inside(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: Any) -> None:
        raise RuntimeError('inner "secret"')

    monkeypatch.setattr(server.handler.model, "generate", broken)
    for stream in (False, True):
        response = post(server, {**HELLO, "stream": stream})
        assert response.status_code == (200 if stream else 500)  # a stream has begun when it fails
        assert "the model failed on this request; the log of the server says why" in response.text
        assert "secret" not in response.text
    with client(server) as talk, pytest.raises(openai.APIError, match="the model failed on this request"):
        list(talk.chat.completions.create(model="tiny", messages=HELLO["messages"], stream=True))
    monkeypatch.undo()
    assert post(server, HELLO).status_code == 200
