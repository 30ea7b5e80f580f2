"""Position offsets of pictures: each conversation has its own, although Qwen-VL models keep one on the module.

Qwen-VL models give a picture positions along three axes, so the text after it continues at a smaller position than its
place in the sequence. The module keeps the difference as ``rope_deltas`` and uses it in the next call: a new
conversation, or text after a picture, would be read at shifted positions. Here it is kept on the key-value cache of its
conversation, put back when that conversation goes on, and forgotten when another begins.
"""

from __future__ import annotations

import copy
from collections.abc import MutableMapping
from typing import Any

from torch import Tensor

from moiety.vlm.contracts import (
    MODALITY_TYPES,
    brings_pictures,
    cache_in,
    cache_of,
    cached_length,
    parameters,
)
from moiety.vlm.placeholders import ids_from_placeholders, placeholder_ids
from moiety.vlm.retype import original_class, reduce

OFFSETS = "rope_deltas"
_ON_CACHE = "picture_offsets"


def has_offsets(base: Any) -> bool:
    """Whether a multimodal base model keeps offsets of pictures."""
    return hasattr(base, OFFSETS)


def forget_offsets(base: Any) -> None:
    """Let the next call of a base model begin a conversation of its own."""
    if has_offsets(base):
        setattr(base, OFFSETS, None)


def recall_offsets(base: Any, cache: Any) -> None:
    """Put back the offsets of the conversation whose keys and values `cache` holds.

    A cache that was filled by other code than ours remembers none; then those of the module stay.
    """
    if has_offsets(base) and hasattr(cache, _ON_CACHE):
        setattr(base, OFFSETS, getattr(cache, _ON_CACHE))


def keep_offsets(base: Any, cache: Any) -> None:
    """Keep the offsets of the last call of a base model on the cache that the call filled."""
    if has_offsets(base) and not hasattr(cache, _ON_CACHE):
        setattr(cache, _ON_CACHE, getattr(base, OFFSETS))


def rows_of(base: Any, cache: Any, rows: Tensor) -> Any:
    """A copy of these rows of a cache, see :func:`select_rows`. Its offsets are put back for the next call.

    Args:
        base: Multimodal base model that will go on from the copy.
        cache: Key-value cache; it is not changed. :func:`keep_offsets` was called for it.
        rows: Indices of rows, ``(new rows,)``.
    """
    chosen = copy.deepcopy(cache)
    select_rows(base, chosen, rows)
    recall_offsets(base, chosen)
    return chosen


def select_rows(base: Any, cache: Any, rows: Tensor) -> None:
    """Keep these rows of a cache, in this order, with their offsets; a row may be kept several times.

    Args:
        base: Multimodal base model that filled the cache in its last call.
        cache: Key-value cache; it is changed in place.
        rows: Indices of rows, ``(new rows,)``.
    """
    cache.batch_select_indices(rows)
    owner, name = (cache, _ON_CACHE) if hasattr(cache, _ON_CACHE) else (base, OFFSETS)
    offsets = getattr(owner, name, None)
    if offsets is not None:
        setattr(owner, name, offsets.index_select(0, rows))


def name_modalities(base: Any, input_ids: Tensor | None, kwargs: MutableMapping[str, Any]) -> None:
    """Say which token is a picture, where a family needs that for its positions and the caller left it out.

    Without it such a family reads pictures at text positions, and says nothing.

    Args:
        base: Multimodal base model.
        input_ids: Tokens, ``(batch, seq)``, or None.
        kwargs: The other keywords of the call; ``mm_token_type_ids (batch, seq)`` is added in place.
    """
    wanted = has_offsets(base) and MODALITY_TYPES in parameters(original_class(base).forward)
    if wanted and input_ids is not None and brings_pictures(kwargs) and kwargs.get(MODALITY_TYPES) is None:
        kwargs[MODALITY_TYPES] = ids_from_placeholders(input_ids, placeholder_ids(base.config))


class KeepsOffsets:
    """Mixin in front of the multimodal base model's class: positions of a call never come from another conversation."""

    def forward(self, input_ids: Tensor | None = None, **kwargs: Any) -> Any:
        """As the base model's own forward, of which every argument but the tokens comes by name."""
        if not has_offsets(self):
            return super().forward(input_ids, **kwargs)  # type: ignore[misc]
        cache = cache_of(kwargs)
        name_modalities(self, input_ids, kwargs)
        if kwargs.get("position_ids") is None:
            if cached_length(cache):
                recall_offsets(self, cache)
            else:
                forget_offsets(self)
        outputs = super().forward(input_ids, **kwargs)  # type: ignore[misc]
        cache = cache if cache is not None or isinstance(outputs, tuple) else cache_in(outputs)
        if cache is not None:
            setattr(cache, _ON_CACHE, getattr(self, OFFSETS))
        return outputs

    def __reduce_ex__(self, protocol: Any) -> Any:
        return reduce(self)
