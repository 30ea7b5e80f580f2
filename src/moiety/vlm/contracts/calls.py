"""Reads the arguments of a call that Hugging Face makes: the key-value cache, pictures, and arguments by position.

If a release renames a keyword, ``kwargs.get`` with the old name gives None, and the model continues with wrong results.
So each argument is looked for under every name of the supported releases, and a cache also by its type. A cache under
an unknown name is an error. So is a missing cache, if the call says that one is in use.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from transformers import GenerationMixin
from transformers.cache_utils import Cache

from moiety.vlm.contracts.broken import ContractBroken

CACHE = ("cache", "past_key_values")
"""Names of the key-value cache in calls and outputs, the newest first: since transformers 5.24, and before."""
PICTURES = ("pixel_values", "pixel_values_videos", "mm_encoder_outputs")
"""Keywords that hold pictures: raw pictures, and pictures that were encoded before a prompt was cut into chunks."""
MODALITY_TYPES = "mm_token_type_ids"
"""Keyword that says which tokens are pictures; families with positions in three axes read it."""


def cache_of(kwargs: Mapping[str, Any]) -> Cache | None:
    """The key-value cache among the keywords of a call; None if the call has none.

    Raises:
        ContractBroken: a cache stands under a name that no supported release uses.
    """
    for name in CACHE:
        if (cache := kwargs.get(name)) is not None:
            return cache
    strange = [name for name, value in kwargs.items() if isinstance(value, Cache)]
    if strange:
        raise ContractBroken(
            "transformers", f"the key-value cache arrives as {strange[0]!r}; known names are {', '.join(CACHE)}"
        )
    return None


def cache_of_layer(kwargs: Mapping[str, Any]) -> Cache | None:
    """The key-value cache in the call of one decoder layer; an error if the call should have one but has none.

    Raises:
        ContractBroken: see :func:`cache_of`; or the call says that a cache is in use and brings none.
    """
    cache = cache_of(kwargs)
    if cache is None and kwargs.get("use_cache"):
        raise ContractBroken(
            "transformers",
            f"a decoder layer gets use_cache=True, but no cache under {' or '.join(CACHE)}; it gets "
            + ", ".join(sorted(kwargs)),
        )
    return cache


def without_cache(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The same call, changed so that it neither reads nor fills a cache.

    Raises:
        ContractBroken: see :func:`cache_of`.
    """
    cache_of(kwargs)
    given = {name: None for name in CACHE if name in kwargs}
    return {**kwargs, **given, **({"use_cache": False} if "use_cache" in kwargs else {})}


def cached_length(cache: Any) -> int:
    """Number of tokens in a key-value cache; 0 if there is no cache."""
    return 0 if cache is None else int(cache.get_seq_length())


def brings_pictures(kwargs: Mapping[str, Any]) -> bool:
    """Whether a call brings pictures, raw or encoded."""
    return any(kwargs.get(name) is not None for name in PICTURES)


def by_name(forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """All arguments of a call of `forward` by name, except ``input_ids``.

    Args:
        forward: A method, unbound, whose first parameter after ``self`` is ``input_ids``.
        args: Arguments by position, those after ``input_ids``.
        kwargs: Arguments by name.

    Raises:
        TypeError: an argument was passed twice, or there are too many arguments by position.
    """
    if not args:
        return dict(kwargs)
    names = parameters(forward)[2 : len(args) + 2]
    twice = sorted(set(names) & set(kwargs))
    if len(names) < len(args) or twice:
        raise TypeError(
            f"{forward.__qualname__} was called with {len(args) + 1} arguments by position"
            + (f", {', '.join(twice)} by name as well" if twice else f"; it takes {len(names) + 1}")
        )
    return {**dict(zip(names, args, strict=True)), **kwargs}


@functools.cache
def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """Names of the parameters of a function, or of a method with ``self``; ``*args`` and ``**kwargs`` are none."""
    kinds = inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL
    found = inspect.signature(function).parameters.values()
    return tuple(parameter.name for parameter in found if parameter.kind not in kinds)


def cache_keyword(forward: Callable[..., Any] = GenerationMixin.prepare_inputs_for_generation) -> str:
    """The name under which `forward` takes a key-value cache in the installed release.

    Raises:
        ContractBroken: it takes none under a known name.

    Example:
        >>> cache_keyword() in CACHE
        True
    """
    for name in CACHE:
        if name in parameters(forward):
            return name
    raise ContractBroken(
        "transformers", f"{getattr(forward, '__qualname__', forward)} takes no cache under {' or '.join(CACHE)}"
    )


def cache_in(output: Any) -> Cache | None:
    """The key-value cache in the output of a forward; None if it has none."""
    return next((output[name] for name in CACHE if name in output.keys()), None)  # noqa: SIM118 (old names warn)
