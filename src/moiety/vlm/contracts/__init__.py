"""The one room for outside names: what moiety relies on in transformers, peft, accelerate, gradio and openai.

``calls`` reads what Hugging Face passes to us, under every name that a supported release uses. ``table`` lists every
class, method, keyword and table of those libraries that the rest of the code relies on; ``behaviour`` lists what a
signature cannot show. ``moiety env --check`` and the tests run both lists on the installed releases. Whatever is gone
raises :class:`ContractBroken`; nothing is ever taken for absent because its name is unknown.
"""

from __future__ import annotations

from moiety.vlm.contracts.broken import ContractBroken
from moiety.vlm.contracts.calls import (
    CACHE,
    MODALITY_TYPES,
    PICTURES,
    brings_pictures,
    by_name,
    cache_in,
    cache_keyword,
    cache_of,
    cache_of_layer,
    cached_length,
    parameters,
    without_cache,
)

__all__ = [
    "CACHE",
    "MODALITY_TYPES",
    "PICTURES",
    "ContractBroken",
    "brings_pictures",
    "by_name",
    "cache_in",
    "cache_keyword",
    "cache_of",
    "cache_of_layer",
    "cached_length",
    "parameters",
    "without_cache",
]
