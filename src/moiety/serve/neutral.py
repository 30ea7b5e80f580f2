"""Fields of the protocol that this server does not support, at values that change nothing.

Clients send such fields with their default, and send an answer back with all the fields that it came with. A neutral
value is removed before a request is checked. Any other value is refused by name and never dropped silently.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from typing import Any

from moiety.serve.refusal import Refusal

ANY_TEXT = object()
"""Any text: a label for the logs of whoever serves, which changes no answer."""
ANY_OBJECT = object()
"""Any object: a hint about caching, which changes no answer either."""
ALL_ZERO = object()
"""A mapping that is empty, or in which every value is 0."""

REQUEST: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "frequency_penalty": (0,),
    "function_call": ("none", "auto"),  # without functions
    "functions": (),
    "logit_bias": (ALL_ZERO,),
    "logprobs": (False,),
    "metadata": ({},),
    "modalities": (["text"],),
    "moderation": (),
    "n": (1,),
    "parallel_tool_calls": (True, False),  # without tools
    "prediction": (),
    "presence_penalty": (0,),
    "prompt_cache_key": (ANY_TEXT,),
    "prompt_cache_options": (ANY_OBJECT,),
    "prompt_cache_retention": ("in_memory", "24h"),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "safety_identifier": (ANY_TEXT,),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("none", "auto"),  # without tools
    "tools": (),
    "top_logprobs": (0,),
    "user": (ANY_TEXT,),
    "verbosity": ("medium",),
    "web_search_options": (),
}
"""Field of a request -> values that change nothing, beside null."""

MESSAGE: Mapping[str, tuple[Any, ...]] = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "name": (),
    "parsed": (),
    "reasoning": ("",),
    "reasoning_content": ("",),
    "refusal": ("",),
    "tool_call_id": (),
    "tool_calls": ([],),
}
"""Field of a message -> values that say nothing, beside null: how an answer looks when a client sends it back."""

PART: Mapping[str, tuple[Any, ...]] = {"prompt_cache_breakpoint": (ANY_OBJECT,)}
"""Field of a part of a message -> values that change nothing, beside null."""


def without_neutral(entry: Mapping[str, Any], table: Mapping[str, tuple[Any, ...]], where: str = "") -> dict[str, Any]:
    """`entry` without the fields of `table`.

    Args:
        entry: A request, a message or a part of one, as it came.
        table: :data:`REQUEST`, :data:`MESSAGE` or :data:`PART`.
        where: Path of `entry` in the body, with a dot at its end.

    Raises:
        Refusal: one of these fields has a value that would change something.

    Example:
        >>> without_neutral({"n": 1, "seed": 3, "logit_bias": {}}, REQUEST)
        {'seed': 3}
    """
    for field in entry.keys() & table.keys():
        if entry[field] is not None and not any(_same(entry[field], value) for value in table[field]):
            raise _asks(f"{where}{field}", entry[field], table[field])
    return {field: value for field, value in entry.items() if field not in table}


def _same(given: Any, neutral: Any) -> bool:
    """Equal as JSON: 0 and 0.0 are, 0 and false are not."""
    if neutral is ANY_TEXT:
        return isinstance(given, str)
    if neutral is ANY_OBJECT:
        return isinstance(given, dict)
    if neutral is ALL_ZERO:
        return isinstance(given, dict) and all(_same(value, 0) for value in given.values())
    if isinstance(neutral, list | dict):
        return type(given) is type(neutral) and bool(given == neutral)
    return isinstance(given, bool) == isinstance(neutral, bool) and bool(given == neutral)


def _asks(param: str, given: Any, values: tuple[Any, ...]) -> Refusal:
    names = {id(ANY_TEXT): "a text", id(ANY_OBJECT): "an object", id(ALL_ZERO): "{}"}
    accepted = " or ".join(["null", *(names.get(id(value)) or json.dumps(value) for value in values)])
    return Refusal(
        400,
        f"{param} is {reprlib.repr(given)}, which this server does not support; leave it out, or give {accepted}",
        param,
        "unsupported_value",
    )
