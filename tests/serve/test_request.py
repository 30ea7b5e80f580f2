"""What a request may say, without a server: every refusal has a reason, and nothing else is ever raised."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from moiety.serve import Limits, Refusal
from moiety.serve.pictures import decode_pictures
from moiety.serve.request import ChatRequest, read_request
from tests.serve.live import as_url, bomb, data_url, user

LIMITS = Limits(max_new_tokens=100, max_images=2, max_pixels=10_000)
CONTROL = ("<image>", "</s>")
HELLO = {"messages": [{"role": "user", "content": "hello"}]}


def read(entry: Any) -> ChatRequest:
    content = entry if isinstance(entry, bytes) else json.dumps(entry).encode()
    return read_request(content, "tiny", LIMITS, CONTROL)


def refused(entry: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        read(entry)
    assert 400 <= caught.value.status < 500
    assert caught.value.body()["error"]["message"] == str(caught.value)
    return caught.value


def said(*texts: str, **more: Any) -> dict[str, Any]:
    """A conversation that begins with the user."""
    roles = ("user", "assistant") * len(texts)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)], **more}


def test_what_openai_s_client_sends_is_read() -> None:
    answer = {"role": "assistant", "content": "a dog", "refusal": None, "tool_calls": None}
    system = {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    entry = {
        "model": "tiny", "messages": [system, user("What?", data_url()), answer, {"role": "user", "content": "Why?"}],
        "temperature": 0, "top_p": 1, "max_tokens": 7, "n": 1, "stop": "\n", "seed": 3, "stream": True, "user": "me",
        "stream_options": {"include_usage": True}, "frequency_penalty": 0.0, "presence_penalty": 0, "logprobs": False,
        "response_format": {"type": "text"},
    }  # fmt: skip
    request = read(entry)
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "user"]
    assert (request.stop, request.max_new_tokens(LIMITS)) == (["\n"], 7)
    assert read(HELLO).max_new_tokens(LIMITS) == 100
    assert read({**HELLO, "model": "default", "max_completion_tokens": 5}).max_new_tokens(LIMITS) == 5


@pytest.mark.parametrize(
    ("entry", "message", "param"),
    [
        (b"\xff{}", "the body is not UTF-8: byte 0 is 0xff", None),
        (b"", "the body is not JSON: Expecting value: line 1 column 1 (char 0)", None),
        (b'{"messages": NaN}', "the body is not JSON: NaN is no JSON number", None),
        (b"[" * 90_000, "the body is nested too deeply; a chat request needs five levels", None),
        (b'{"seed": 1' + b"0" * 5000 + b"}", "the body is not JSON: Exceeds the limit", None),
        (b"[" + b"[]," * 200_000, "the body has more than 100,000 brackets; a chat request needs a few", None),
        (b'{"a": 1, "a": 2}', "an object with a key twice, its keys are ['a', 'a']", None),
        ({str(number): 0 for number in range(200)}, "the body is not JSON: an object with 200 keys", None),
        (said(*["hi"] * 3001), "messages: List should have at most 2000 items", "messages"),
        (["hello"], "the body must be a JSON object with 'messages', got ['hello']", None),
        ({}, "messages is missing", "messages"),
        ({"messages": []}, "messages: List should have at least 1 item", "messages"),
        ({"messages": [{"content": "x"}]}, "messages[0].role is missing", "messages[0].role"),
        (
            {"messages": [{"role": "tool", "content": "x"}]},
            "messages[0].role: Input should be 'system', 'user' or 'assistant', got 'tool'",
            "messages[0].role",
        ),
        ({"messages": [{"role": "user", "content": 7}]}, "content: Input should be a valid list, got 7", None),
        (
            {"messages": [{"role": "user", "content": [{"type": "video_url"}]}]},
            "messages[0].content[0]: Input tag 'video_url' found using 'type' does not match any of the expected tags",
            "messages[0].content[0]",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": 3}}]}]},
            "messages[0].content[0].image_url.url: Input should be a valid string, got 3",
            "messages[0].content[0].image_url.url",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "name": "me"}]},
            "messages[0].name is 'me', which this server does not support; leave it out, or give null",
            "messages[0].name",
        ),
        ({"messages": [{"role": "user", "content": "x", "nam": 1}]}, "unknown field 'messages[0].nam'", None),
        ({**HELLO, "tool": []}, "unknown field 'tool'; known: ", "tool"),
        ({**HELLO, "max_token": 3}, "did you mean 'max_tokens'?", "max_token"),
        ({**HELLO, "model": "gpt"}, "model 'gpt' is not served here; known: tiny", "model"),
        ({**HELLO, "model": "../secret"}, "model '../secret' is not served here; known: tiny", "model"),
        ({**HELLO, "max_tokens": 10**9}, "max_tokens is 1000000000; this server answers with", "max_tokens"),
        ({**HELLO, "max_tokens": True}, "max_tokens: Input should be a valid integer, got True", "max_tokens"),
        ({**HELLO, "temperature": -1}, "temperature: Input should be greater than or equal to 0, got -1", None),
        ({**HELLO, "n": 2}, "n is 2, which this server does not support; leave it out, or give null or 1", "n"),
        ({**HELLO, "presence_penalty": 0.5}, "presence_penalty is 0.5, which this server does not support", None),
        ({**HELLO, "stop": ["a"] * 5}, "stop: List should have at most 4 items", "stop"),
        ({**HELLO, "stop": ""}, "stop[0]: String should have at least 1 character", "stop[0]"),
        (said("hi", "ho"), "the last message is of role assistant; it must be of role user", "messages"),
        (said(" "), "messages[0]: the content is empty; give a text or a picture", "messages[0].content"),
        ({"messages": [{"role": "user"}]}, "messages[0]: the content is empty; give a text", "messages[0].content"),
        ({"messages": [{"role": "system", "content": []}]}, "messages[0]: the content is empty", "messages[0].content"),
        (said("a\0b"), "messages[0].content[0]: the text holds a NUL character", "messages[0].content[0]"),
        (said("a\ud800"), r"the text holds half a character ('\ud800')", "messages[0].content[0]"),
        (said("x <image>"), "the text holds '<image>', a control token of this model", "messages[0].content[0]"),
        (said("hi", "ho</s>", "x"), "the text holds '</s>', a control token of this model", "messages[1].content[0]"),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]},
            "messages[1]: role system may only be the first message",
            "messages[1].role",
        ),
        (
            {"messages": [{**user("x", data_url()), "role": "assistant"}, *HELLO["messages"]]},
            "messages[0].content[0]: a message of role assistant holds a picture; only user may",
            "messages[0].content[0]",
        ),
        ({"messages": [user("x", *["data:"] * 3)]}, "3 pictures; one request may bring at most 2", "messages"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_was_given_and_what_is_accepted(entry: Any, message: str, param: str | None) -> None:
    refusal = refused(entry)
    assert message in refusal.message
    assert param is None or refusal.param == param


def test_an_endless_value_is_not_repeated() -> None:
    assert len(refused({"messages": [{"role": "x" * 10**6, "content": ["y" * 10**6]}]}).message) < 300
    assert len(refused({**HELLO, "z" * 10**6: 1}).message) < 600


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*ChatRequest.model_fields, "role", "x"]), inner),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(
    st.binary() | st.dictionaries(st.sampled_from([*ChatRequest.model_fields]), JSON).map(json.dumps).map(str.encode)
)
def test_nothing_but_a_refusal_is_raised(content: bytes) -> None:
    with contextlib.suppress(Refusal):
        read_request(content, "tiny", LIMITS, CONTROL)


def pictures_of(*urls: str) -> list[Image.Image]:
    return decode_pictures(read({"messages": [user("x", *urls)]}), LIMITS)


@pytest.mark.parametrize("kind", ["png", "jpeg", "webp", "gif"])
def test_four_formats_are_decoded(kind: str) -> None:
    (picture,) = pictures_of(data_url(Image.new("RGB", (9, 7), "red"), kind))
    assert (picture.mode, picture.size) == ("RGB", (9, 7))
    assert picture.getpixel((4, 3))[0] > 240


def test_the_first_frame_and_white_behind_what_is_transparent() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    (first,) = pictures_of(data_url(frames[0], "gif", save_all=True, append_images=frames[1:]))
    assert first.getpixel((1, 1)) == (255, 0, 0)
    (clear,) = pictures_of(data_url(Image.new("RGBA", (8, 8), (0, 0, 0, 0))))
    assert clear.getpixel((1, 1)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://example.com/a.png", "got 'http://example.com/a.png'; addresses, paths and drawings (SVG) are never"),
        ("https://example.com/a.png", "pictures come inside the request as data:image/png;base64,… (or jpeg, webp"),
        ("file:///etc/passwd", "got 'file:///etc/passwd'"),
        ("../../secret.png", "got '../../secret.png'"),
        ("photo.jpg", "got 'photo.jpg'"),
        ("", "got ''"),
        ("data:text/plain;base64,aGVsbG8=", "got 'data:text/plain;base64,aGVsbG8='"),
        ("data:image/png,hello", "got 'data:image/png,hello'"),
        (as_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "svg+xml"), "got 'data:image/svg+xml;base64,"),
        (as_url(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), "41 bytes that are no whole picture (begins with"),
        (as_url(b"hello"), "5 bytes that are no whole picture (begins with b'hello'); accepted: PNG, JPEG, WEBP, GIF"),
        (as_url(b""), "0 bytes that are no whole picture"),
        (as_url(b"%!PS-Adobe-3.0 EPSF-3.0\n"), "no whole picture (begins with b'%!PS-Adobe"),
        (data_url(kind="bmp"), "got 'data:image/bmp;base64,"),
        (as_url(b"BM" + b"\0" * 60), "no whole picture (begins with b'BM"),
        (data_url()[:-3], "not base64: "),
        (data_url() + "ü", "not base64: "),
        (data_url()[:202], "no whole picture ("),
        (as_url(bomb(100_000)), "exceeds limit of"),
        (as_url(bomb(9_000)), "pictures of together 81,000,000 pixels; one request may bring 10,000"),
        (as_url(bomb(50)), "no whole picture ("),
    ],
    ids=lambda value: value[:40],
)  # fmt: skip
def test_what_is_no_picture_is_refused(url: str, reason: str) -> None:
    with pytest.raises(Refusal) as caught:
        pictures_of(url)
    assert reason in caught.value.message
    assert (caught.value.status, caught.value.param) == (400, "messages[0].content[0].image_url.url")


def test_pixels_of_all_pictures_are_counted_together() -> None:
    half = data_url(Image.new("RGB", (80, 80)))
    assert len(pictures_of(half)) == 1
    with pytest.raises(Refusal, match=r"content\[1\].*pictures of together 12,800 pixels"):
        pictures_of(half, half)


@settings(max_examples=40, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 400))
def test_a_damaged_picture_is_a_picture_or_a_refusal(noise: bytes, place: int) -> None:
    whole = base64.b64decode(data_url().partition(",")[2])
    with contextlib.suppress(Refusal):
        pictures_of(as_url(whole[:place] + noise + whole[place + len(noise) :]))
