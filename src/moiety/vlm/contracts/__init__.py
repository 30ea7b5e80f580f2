"""All names of other libraries that moiety relies on: transformers, peft, accelerate, gradio and openai.

``calls`` reads what Hugging Face passes to us, under every name that a supported release uses. ``table`` lists every
class, method, keyword and table of those libraries that the rest of the code relies on; ``behaviour`` lists what a
signature cannot show. ``moiety env --check`` and the tests check both lists on the installed releases. A name that is
gone raises :class:`ContractBroken`. An unknown name is never treated as a missing value.
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
