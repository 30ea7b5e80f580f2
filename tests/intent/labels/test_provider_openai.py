"""The chat-protocol provider against a real server on this machine (P24): replies, failures, a key that stays home."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from moiety.intent.labels.provider_openai import MAX_BYTES, EndpointError, EndpointWriter
from moiety.intent.labels.providers import DescriptionError, describe_labels

KEY = "sk-very/secret-0123456789"
LABELS = ["Thank", "Greet"]
QUESTION = [{"role": "user", "content": "?"}]
Answer = Callable[[BaseHTTPRequestHandler], None]


class Server:
    """Answers from a list, one a request; the last one stays. Remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.bodies: list[Any] = []
        self.keys: list[str | None] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.bodies.append(
                    json.loads(self.rfile.read(int(self.headers["Content-Length"]))) | {"path": self.path}
                )
                outer.keys.append(self.headers["Authorization"])
                (outer.answers.pop(0) if len(outer.answers) > 1 else outer.answers[0])(self)

            def do_GET(self) -> None:
                outer.bodies.append("GET")

            def log_message(self, *_: Any) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.http.serve_forever, args=(0.01,))
        self.thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_port}/v1"

    def close(self) -> None:
        self.http.shutdown()
        self.thread.join()
        self.http.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("SOME_KEY", KEY)
    built = Server()
    yield built
    built.close()


def raw(body: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def says(content: Any) -> Answer:
    return raw(json.dumps({"choices": [{"message": {"role": "assistant", "content": content}}]}).encode())


def drip(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(20):
        try:
            handler.wfile.write(b" ")
        except OSError:
            return
        time.sleep(0.05)


def quick(server: Server, **settings: Any) -> EndpointWriter:
    return EndpointWriter("m", server.url, **{"timeout": 5.0, "wait": 0.001} | settings)


def test_a_good_reply_becomes_a_table(server: Server) -> None:
    server.answers = [says('["Says thanks.", "Shows relief."]'), says('```json\n["Waves.", "Says hello."]\n```')]
    table = describe_labels(LABELS, provider="openai", model="m", base_url=server.url + "/", num=2, domain="TV scenes")
    assert [entry["description"] for entry in table["labels"]] == [
        ["Says thanks.", "Shows relief."],
        ["Waves.", "Says hello."],
    ]
    assert [entry["label"] for entry in table["labels"]] == LABELS
    assert (table["provider"], table["model"]) == ("openai", "m")
    asked = server.bodies[0]
    assert (asked["path"], asked["model"], asked["temperature"]) == ("/v1/chat/completions", "m", 0)
    assert all(word in asked["messages"][0]["content"] for word in ("TV scenes", *LABELS))
    assert server.keys == [None, None]


def test_an_unusable_reply_is_asked_for_once_more(server: Server) -> None:
    server.answers = [says("Gladly: thanks!"), says('["Says thanks."]')]
    table = describe_labels(["Thank"], provider=quick(server), num=1)
    assert table["labels"][0]["description"] == ["Says thanks."]
    roles = [message["role"] for message in server.bodies[1]["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert "cannot be used: it is no JSON" in server.bodies[1]["messages"][2]["content"]


def test_after_the_second_unusable_reply_every_failed_label_is_told_and_the_others_are_kept(
    server: Server, tmp_path: Path
) -> None:
    server.answers = [says("no"), says("never {"), says('["Says hello."]')]
    with pytest.raises(
        DescriptionError, match=r"'m' described 1 of 2 labels.*\n'Thank': it is no JSON.*reply: 'never \{'"
    ):
        describe_labels(LABELS, provider=quick(server), num=1, cache=tmp_path)
    assert len(server.bodies) == 3
    server.answers = [says('["Says thanks."]')]
    assert len(describe_labels(LABELS, provider=quick(server), num=1, cache=tmp_path)["labels"]) == 2
    assert len(server.bodies) == 4


def test_a_passing_failure_is_tried_again(server: Server) -> None:
    server.answers = [raw(b"busy", 500), raw(b"", 429, Retry_After="0"), raw(b"<html>"), says("fine")]
    assert quick(server).reply(QUESTION) == "fine"


def test_a_lasting_failure_is_told_with_what_the_server_said(server: Server) -> None:
    server.answers = [raw(b"no memory", 503)]
    with pytest.raises(EndpointError, match=r"answers 503 \(no memory\); tried 3 times"):
        quick(server, retries=2).reply(QUESTION)
    assert len(server.bodies) == 3


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"choices": []}', b'{"choices": [{"message": {"content": null}}]}'])
def test_what_is_no_chat_completion_is_refused(server: Server, body: bytes) -> None:
    server.answers = [raw(body)]
    with pytest.raises(EndpointError, match="sent no chat completion: "):
        quick(server, retries=0).reply(QUESTION)


def test_a_request_that_is_wrong_is_not_repeated(server: Server) -> None:
    server.answers = [raw(b'{"error": "temperature must be 1"}', 400)]
    with pytest.raises(EndpointError, match=r"refuses the request for model 'm': 400 \(.*temperature must be 1"):
        quick(server).reply(QUESTION)
    assert len(server.bodies) == 1
    server.answers = [says("fine")]
    quick(server, decoding={"temperature": None, "seed": 1}).reply(QUESTION)
    assert "temperature" not in server.bodies[1]
    assert server.bodies[1]["seed"] == 1


@pytest.mark.parametrize("silent", [lambda _: time.sleep(0.4), drip], ids=["silent", "dripping"])
def test_a_server_that_takes_too_long_is_left(server: Server, silent: Answer) -> None:
    server.answers = [silent]
    start = time.monotonic()
    with pytest.raises(EndpointError, match=r"did not answer within 0.15 s; tried 1 times"):
        quick(server, timeout=0.15, retries=0).reply(QUESTION)
    assert time.monotonic() - start < 0.9  # the dripping server takes 1 s in all


def test_a_failure_whose_text_never_comes_is_told_by_its_status(server: Server) -> None:
    def cut(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(400)
        handler.send_header("Content-Length", "50")
        handler.end_headers()
        handler.wfile.flush()
        time.sleep(0.4)

    server.answers = [cut]
    with pytest.raises(EndpointError, match=r"refuses the request for model 'm': 400$"):
        quick(server, timeout=0.15, retries=0).reply(QUESTION)


def test_a_server_that_is_not_there_is_named() -> None:
    with pytest.raises(EndpointError, match=r"no connection to http://127.0.0.1:9/v1 \("):
        EndpointWriter("m", "http://127.0.0.1:9/v1", retries=0).reply(QUESTION)


def test_an_endless_reply_is_cut(server: Server) -> None:
    server.answers = [raw(b"x" * (MAX_BYTES + 1))]
    with pytest.raises(EndpointError, match=f"sends more than {MAX_BYTES} bytes"):
        quick(server, retries=0).reply(QUESTION)


def test_the_key_goes_into_the_header_and_nowhere_else(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A server that repeats the key in a failure, in a reply that cannot be used and in a good one."""
    caplog.set_level("DEBUG")
    server.answers = [raw(KEY.encode(), 500), says(f"key {KEY}"), says(json.dumps([f"Says {KEY}."]))]
    writer = quick(server, key_variable="SOME_KEY")
    table = describe_labels(["Thank"], provider=writer, num=1, cache=tmp_path)
    assert server.keys == [f"Bearer {KEY}"] * 3
    assert table["labels"][0]["description"] == ["Says [key]."]
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "Says [key]." in written
    assert "answers 500 ([key])" in caplog.text
    for text in (json.dumps(table), written, caplog.text, repr(vars(writer)), json.dumps(server.bodies)):
        assert KEY not in text
        assert KEY.replace("/", "\\/") not in text


def test_a_refused_key_is_named_by_its_variable(server: Server) -> None:
    for shown in (KEY, KEY.replace("/", "\\/")):
        server.answers = [raw(f"bad key {shown}".encode(), 401)]
        with pytest.raises(EndpointError, match=r"refuses the key in SOME_KEY: 401 \(bad key \[key\]\)") as caught:
            quick(server, key_variable="SOME_KEY").reply(QUESTION)
        assert caught.value.__cause__ is None
    with pytest.raises(EndpointError, match="refuses a request without a key; set key_variable: 401"):
        quick(server).reply(QUESTION)
    assert len(server.bodies) == 3


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("target", ["{other}/chat/completions", "file:///etc/hostname"])
def test_no_redirect_is_followed(server: Server, status: int, target: str) -> None:
    other = Server()
    try:
        other.answers = [says("stolen")]
        address = target.format(other=other.url)
        server.answers = [raw(b"", status, Location=address)]
        with pytest.raises(EndpointError, match=f"redirects to {address}; that is not followed"):
            quick(server, key_variable="SOME_KEY").reply(QUESTION)
        assert other.bodies == []
    finally:
        other.close()


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("localhost:8000", "must be an http or https address such as .*, got 'localhost:8000'"),
        ("file:///tmp/x", "must be an http or https address"),
        ("https://me:hidden@host/v1", "base_url for host holds a user, password, query or fragment"),
        ("https://host/v1?key=hidden", "base_url for host holds a user, password, query or fragment"),
    ],
)
def test_addresses_that_cannot_be_used(address: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        EndpointWriter("m", address)
    assert "hidden" not in str(caught.value)


def test_a_variable_without_a_usable_key_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    with pytest.raises(ValueError, match="environment variable 'NO_KEY' holds no key; export it"):
        EndpointWriter("m", "https://host/v1", "NO_KEY")
    monkeypatch.setenv("BAD_KEY", "one\ntwo")
    with pytest.raises(ValueError, match="environment variable 'BAD_KEY' holds characters that no key has") as caught:
        EndpointWriter("m", "https://host/v1", "BAD_KEY")
    assert "two" not in str(caught.value)


def test_a_key_on_an_open_line_is_warned_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    EndpointWriter("m", "http://127.0.0.1/v1", "SOME_KEY")
    EndpointWriter("m", "https://host/v1", "SOME_KEY")
    assert caplog.text == ""
    EndpointWriter("m", "http://host/v1", "SOME_KEY")
    assert "the key in SOME_KEY travels unencrypted to host; use https" in caplog.text
