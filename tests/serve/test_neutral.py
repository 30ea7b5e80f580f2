"""Every field of OpenAI's client is read, or neutral at some values and refused by name at all others."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from moiety.serve import Limits, Refusal
from moiety.serve.neutral import MESSAGE, PART, REQUEST
from moiety.serve.request import ChatRequest, ImagePart, ImageUrl, Message, StreamOptions, TextPart, read_request

LIMITS = Limits()
HELLO = {"role": "user", "content": "hello"}
NEUTRAL: list[tuple[str, Any]] = [
    *((field, None) for field in REQUEST),
    *(("n", value) for value in (1, 1.0)),
    *(("stop", value) for value in (None, "END")),
    *(("logit_bias", value) for value in ({}, {"50256": 0}, {"1": 0.0, "2": 0})),
    *(("presence_penalty", value) for value in (0, 0.0, -0.0)),
    ("frequency_penalty", 0.0),
    ("logprobs", False),
    ("top_logprobs", 0),
    ("response_format", {"type": "text"}),
    *(("stream_options", value) for value in (None, {}, {"include_usage": False}, {"include_obfuscation": False})),
    ("user", "somebody"),
    ("safety_identifier", "a1b2"),
    ("prompt_cache_key", "k"),
    ("prompt_cache_retention", "24h"),
    ("prompt_cache_options", {"mode": "implicit"}),
    *(("seed", value) for value in (None, 0)),
    ("store", False),
    ("metadata", {}),
    *(("parallel_tool_calls", value) for value in (True, False)),
    *(("tool_choice", value) for value in ("none", "auto")),
    ("function_call", "none"),
    *(("service_tier", value) for value in ("auto", "default")),
    ("reasoning_effort", "none"),
    ("modalities", ["text"]),
    ("verbosity", "medium"),
    *((field, None) for field in ("model", "max_tokens", "max_completion_tokens", "temperature", "top_p", "stream")),
]
ASKING: list[tuple[str, Any, str]] = [
    ("tools", [], "null"),
    ("functions", [], "null"),
    ("tools", [{"type": "function", "function": {"name": "f"}}], "null"),
    ("tool_choice", "required", 'null or "none" or "auto"'),
    ("n", 2, "null or 1"),
    ("n", True, "null or 1"),
    ("logit_bias", {"1": -100}, "null or {}"),
    ("logit_bias", [], "null or {}"),
    ("logprobs", True, "null or false"),
    ("logprobs", 0, "null or false"),
    ("top_logprobs", 5, "null or 0"),
    ("response_format", {"type": "json_object"}, 'null or {"type": "text"}'),
    ("response_format", {"type": "text", "more": 1}, 'null or {"type": "text"}'),
    ("store", True, "null or false"),
    ("metadata", {"run": "7"}, "null or {}"),
    ("modalities", ["text", "audio"], 'null or ["text"]'),
    ("audio", {"voice": "alloy", "format": "wav"}, "null"),
    ("reasoning_effort", "high", 'null or "none"'),
    ("verbosity", "low", 'null or "medium"'),
    ("service_tier", "flex", 'null or "auto" or "default"'),
    ("web_search_options", {}, "null"),
    ("prediction", {"type": "content", "content": "x"}, "null"),
    ("presence_penalty", False, "null or 0"),
    ("user", 7, "null or a text"),
]


def read(**more: Any) -> ChatRequest:
    return read_request(json.dumps({"messages": [HELLO], **more}).encode(), "tiny", LIMITS)


@pytest.mark.parametrize(("field", "value"), NEUTRAL)
def test_a_value_that_changes_nothing_is_taken(field: str, value: Any) -> None:
    more = {"stream": True} if field == "stream_options" else {}
    asked, bare = read(**{field: value}, **more), read(**more)
    changed = {name for name in ChatRequest.model_fields if getattr(asked, name) != getattr(bare, name)}
    assert changed <= {"seed", "stop", "stream_options"}
    assert value is not None or not changed


@pytest.mark.parametrize(("field", "value", "accepted"), ASKING)
def test_a_value_that_asks_for_something_is_refused_by_name(field: str, value: Any, accepted: str) -> None:
    with pytest.raises(Refusal) as caught:
        read(**{field: value})
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, field, "unsupported_value")
    assert caught.value.message.endswith(f", which this server does not support; leave it out, or give {accepted}")
    assert caught.value.message.startswith(f"{field} is ")


def test_a_long_value_is_not_repeated() -> None:
    with pytest.raises(Refusal) as caught:
        read(metadata={"k" * 9999: "v" * 9999})
    assert len(caught.value.message) < 200


def test_the_name_of_a_neutral_field_is_suggested_too() -> None:
    with pytest.raises(Refusal, match="did you mean 'reasoning_effort'"):
        read(reasoning_efort=None)


def talk(answer: dict[str, Any]) -> ChatRequest:
    return read(messages=[HELLO, {"role": "assistant", **answer}, HELLO])


@pytest.mark.parametrize("field", MESSAGE)
def test_an_answer_comes_back_with_all_its_fields(field: str) -> None:
    for value in (None, *MESSAGE[field]):
        assert talk({"content": "ho", field: value}) == talk({"content": "ho"})


@pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}, {"content": " \n"}, {"content": []}])
def test_an_empty_answer_is_a_turn(content: dict[str, Any]) -> None:
    assert [message.role for message in talk(content).messages] == ["user", "assistant", "user"]


@pytest.mark.parametrize(
    "more",
    [
        {"tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"function_call": {"name": "f", "arguments": "{}"}},
        {"audio": {"id": "a"}},
        {"refusal": "No."},
        {"reasoning_content": "Let me see."},
        {"annotations": [{"type": "url_citation"}]},
    ],
)
def test_an_answer_with_more_than_words_is_refused_by_name(more: dict[str, Any]) -> None:
    (field,) = more
    with pytest.raises(Refusal, match=rf"^messages\[1\]\.{field} is .*, which this server does not support") as caught:
        talk({"content": "ho", **more})
    assert caught.value.param == f"messages[1].{field}"


def _fields_of_openai() -> Iterator[tuple[str, set[str], set[str]]]:
    """What OpenAI's client can send: a name, its fields, and those that this server reads or knows as neutral."""
    from openai.types import chat
    from openai.types.chat.chat_completion_content_part_image_param import ImageURL
    from openai.types.chat.completion_create_params import (
        CompletionCreateParamsNonStreaming,
        CompletionCreateParamsStreaming,
    )

    def known(section: Any, table: Mapping[str, Any] | None = None) -> set[str]:
        return {*section.model_fields, *(table or {})}

    typed = {
        CompletionCreateParamsNonStreaming: known(ChatRequest, REQUEST),
        CompletionCreateParamsStreaming: known(ChatRequest, REQUEST),
        chat.ChatCompletionSystemMessageParam: known(Message, MESSAGE),
        chat.ChatCompletionUserMessageParam: known(Message, MESSAGE),
        chat.ChatCompletionAssistantMessageParam: known(Message, MESSAGE),
        chat.ChatCompletionContentPartTextParam: known(TextPart, PART),
        chat.ChatCompletionContentPartImageParam: known(ImagePart, PART),
        ImageURL: known(ImageUrl),
        chat.ChatCompletionStreamOptionsParam: known(StreamOptions),
    }
    for kind, ours in typed.items():
        yield kind.__name__, set(typing.get_type_hints(kind)), ours
    for answer in (chat.ChatCompletionMessage, chat.ParsedChatCompletionMessage):
        yield answer.__name__, set(answer.model_fields), known(Message, MESSAGE)


def test_no_field_of_the_installed_client_is_forgotten() -> None:
    pytest.importorskip("openai", reason="the extra [serve] is not installed")
    forgotten = {name: sorted(fields - ours) for name, fields, ours in _fields_of_openai() if fields - ours}
    assert not forgotten, f"add to moiety.serve.neutral or to the request: {forgotten}"
    assert not REQUEST.keys() & ChatRequest.model_fields.keys()
