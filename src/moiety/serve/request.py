"""What a chat request may say: its fields, their ranges, and one refusal in OpenAI's form for everything else.

Pure functions of bytes: nothing here opens a file, asks the network or knows the model.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, FailFast, Field, ValidationError

from moiety.groups import nearest_name
from moiety.recipe.section import Section
from moiety.serve.neutral import MESSAGE, PART, REQUEST, without_neutral
from moiety.serve.refusal import Refusal

MOST_BRACKETS, MOST_KEYS, MOST_ITEMS = 100_000, 100, 2_000
"""No real chat has more. A body that consists of brackets would take a hundred times its size in memory."""
ANY_MODEL = (None, "default")
"""Other names for the one model, beside its own."""


@dataclass(frozen=True)
class Limits:
    """How much one request may ask of the machine.

    Args:
        max_new_tokens: Longest answer in tokens; also the length where a request names none.
        max_body_bytes: Bytes of one request.
        max_images: Pictures of one request.
        max_pixels: Pixels of all pictures of one request.
        max_waiting: Requests that have arrived whole and wait or are answered at the same time.
        max_arriving_bytes: Bytes of all bodies that are still arriving; beyond it long bodies are sent away.
        head_seconds: Seconds for the head of a request, for the first bytes of its body, and for a client that does not
            read its answer.
        body_seconds: Seconds in which a whole body must have arrived.
        least_bytes_a_second: Least speed of a body after `head_seconds`.
    """

    max_new_tokens: int = 512
    max_body_bytes: int = 32 * 2**20
    max_images: int = 16
    max_pixels: int = 50_000_000
    max_waiting: int = 32
    max_arriving_bytes: int = 256 * 2**20
    head_seconds: float = 10.0
    body_seconds: float = 60.0
    least_bytes_a_second: int = 2**14


def _as_parts(content: Any) -> Any:
    """A plain text is one part; null is no part."""
    if content is None:
        return []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _as_list(stop: Any) -> Any:
    return [stop] if isinstance(stop, str) else stop


class TextPart(Section):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ImageUrl(Section):
    """A picture as a data URL. `detail` is accepted and changes nothing."""

    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(Section):
    """A picture at its place in a message."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(Section):
    """One turn, without the fields of :data:`moiety.serve.neutral.MESSAGE`."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[list[Part], FailFast(), Field(max_length=MOST_ITEMS), BeforeValidator(_as_parts)] = Field([])


class StreamOptions(Section):
    """Options of a stream. Its last piece always contains the usage, and no piece is padded."""

    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class ChatRequest(Section):
    """Body of ``POST /v1/chat/completions``, without the fields of :data:`moiety.serve.neutral.REQUEST`."""

    model: str | None = None
    messages: Annotated[list[Message], FailFast()] = Field(min_length=1, max_length=MOST_ITEMS)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    seed: int | None = Field(None, ge=0, lt=2**63)
    stop: Annotated[list[Annotated[str, Field(min_length=1)]] | None, BeforeValidator(_as_list)] = Field(
        None, max_length=4
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def max_new_tokens(self, limits: Limits) -> int:
        """Longest answer in tokens."""
        return self.max_completion_tokens or self.max_tokens or limits.max_new_tokens


def read_request(content: bytes, model: str, limits: Limits, control: Collection[str] = ()) -> ChatRequest:
    """Read and check the request in `content`.

    Args:
        content: The body as it came.
        model: Name of the one model.
        limits: How much a request may ask.
        control: Control tokens of the model (pictures, roles, ends), which no text may contain.

    Raises:
        Refusal: it cannot be answered, with the first reason.
    """
    entry = _asking(_parsed(content))
    try:
        request = ChatRequest.model_validate(entry)
    except ValidationError as error:
        raise _refusal_of(error) from error
    if request.model not in (*ANY_MODEL, model):
        raise Refusal(
            404, f"model {_short(request.model)} is not served here; known: {model}", "model", "model_not_found"
        )
    for field in ("max_tokens", "max_completion_tokens"):
        asked = getattr(request, field)
        if asked is not None and asked > limits.max_new_tokens:
            raise Refusal(
                400, f"{field} is {asked}; this server answers with at most {limits.max_new_tokens} tokens", field
            )
    _check_turns(request, limits, control)
    return request


def _parsed(content: bytes) -> dict[str, Any]:
    """Strict JSON: no NaN, no repeated key, limited nesting."""
    if content.count(b"[") + content.count(b"{") > MOST_BRACKETS:
        raise Refusal(400, f"the body has more than {MOST_BRACKETS:,} brackets; a chat request needs a few")
    try:
        entry = json.loads(content.decode("utf-8"), parse_constant=_no_constant, object_pairs_hook=_object)
    except UnicodeDecodeError as error:
        raise Refusal(400, f"the body is not UTF-8: byte {error.start} is {content[error.start]:#04x}") from error
    except RecursionError as error:
        raise Refusal(400, "the body is nested too deeply; a chat request needs five levels") from error
    except ValueError as error:
        raise Refusal(400, f"the body is not JSON: {error}") from error
    if not isinstance(entry, dict):
        raise Refusal(400, f"the body must be a JSON object with 'messages', got {_short(entry)}")
    return entry


def _asking(entry: dict[str, Any]) -> dict[str, Any]:
    """The body without its neutral fields."""
    entry = without_neutral(entry, REQUEST)
    if "messages" in entry:
        entry["messages"] = _each(entry["messages"], MESSAGE, "messages")
        for number, message in enumerate(entry["messages"] if isinstance(entry["messages"], list) else ()):
            if isinstance(message, dict) and "content" in message:
                message["content"] = _each(message["content"], PART, f"messages[{number}].content")
    return entry


def _each(entries: Any, table: Mapping[str, tuple[Any, ...]], where: str) -> Any:
    """A list without the neutral fields of its objects; anything else as it is."""
    if not isinstance(entries, list):
        return entries
    return [
        without_neutral(entry, table, f"{where}[{number}].") if isinstance(entry, dict) else entry
        for number, entry in enumerate(entries)
    ]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MOST_KEYS:
        raise ValueError(f"an object with {len(pairs):,} keys")
    entry = dict(pairs)
    if len(entry) < len(pairs):
        raise ValueError(f"an object with a key twice, its keys are {_short([key for key, _ in pairs])}")
    return entry


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _check_turns(request: ChatRequest, limits: Limits, control: Collection[str]) -> None:
    """Checks of the conversation as a whole that need no decoded picture."""
    messages = request.messages
    for number, message in enumerate(messages):
        where = f"messages[{number}]"
        if message.role == "system" and number:
            raise Refusal(400, f"{where}: role system may only be the first message", f"{where}.role")
        has_content = any(isinstance(part, ImagePart) or part.text.strip() for part in message.content)
        if not has_content and message.role != "assistant":  # an empty answer is an answer
            raise Refusal(400, f"{where}: the content is empty; give a text or a picture", f"{where}.content")
        for place, part in enumerate(message.content):
            param = f"{where}.content[{place}]"
            if isinstance(part, TextPart):
                _check_text(part.text, param, control)
            elif message.role != "user":
                raise Refusal(400, f"{param}: a message of role {message.role} holds a picture; only user may", param)
    if messages[-1].role != "user":
        raise Refusal(400, f"the last message is of role {messages[-1].role}; it must be of role user", "messages")
    num_images = sum(isinstance(part, ImagePart) for message in messages for part in message.content)
    if num_images > limits.max_images:
        raise Refusal(400, f"{num_images} pictures; one request may bring at most {limits.max_images}", "messages")


def _check_text(text: str, param: str, control: Collection[str]) -> None:
    if "\0" in text:
        raise Refusal(400, f"{param}: the text holds a NUL character", param)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Refusal(400, f"{param}: the text holds half a character ({text[error.start]!a})", param) from error
    for token in control:
        if token in text:
            raise Refusal(
                400,
                f"{param}: the text holds {token!r}, a control token of this model; leave it out"
                " (send pictures as parts of type image_url)",
                param,
            )


def _refusal_of(error: ValidationError) -> Refusal:
    """The first problem that pydantic found, in the words of the protocol."""
    first = error.errors(include_url=False, include_context=False)[0]
    param, kind, given = _path(first["loc"]), first["type"], first["input"]
    if kind == "missing":
        return Refusal(400, f"{param} is missing", param, "missing_required_parameter")
    if kind == "extra_forbidden":
        names = [*ChatRequest.model_fields, *REQUEST]
        known = f"; {nearest_name(str(param)[:80], names)}" if len(first["loc"]) == 1 else ""
        return Refusal(400, f"unknown field {_short(param)}{known}", param, "unknown_parameter")
    return Refusal(400, f"{param}: {first['msg']}, got {_short(given)}", param, "invalid_value")


def _path(loc: tuple[int | str, ...]) -> str:
    """``messages[0].content[1].image_url.url`` from pydantic's path, which also contains the kind of each part."""
    path, kinds = "", ("text", "image_url")
    for number, step in enumerate(loc):
        if isinstance(step, int):
            path += f"[{step}]"
        elif not (step in kinds and number > 1 and isinstance(loc[number - 1], int) and loc[number - 2] == "content"):
            path += f".{step}" if path else step
    return path


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80
_REPR.maxlevel = 2


def _short(value: Any) -> str:
    """Whatever was given, shortened to a line."""
    return _REPR.repr(value)
