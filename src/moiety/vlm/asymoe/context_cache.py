"""Where the context cache lives: on each layer of Hugging Face's key-value cache.

Everything that happens to the keys and values of a generation (beam search, crop after a rejected guess, reset, a copy
for a second turn) also happens to the evidence of the same layer, because both belong to the same object.
"""

from __future__ import annotations

import abc
from typing import Any

from torch import Tensor

from moiety.moe.asymoe.context import ContextCache
from moiety.vlm.contracts import cached_length
from moiety.vlm.retype import reduce, retyped


class SeatsContext(abc.ABC):
    """Mixin in front of the class of one layer of a cache.

    It is an ABC like those classes, because Python changes the class of an object only if both classes have one base.
    """

    _layer_type = None  # a class that names its type would be registered again for every re-typed copy
    context: ContextCache

    def reset(self) -> None:
        """Forget keys, values and evidence."""
        super().reset()  # type: ignore[misc]
        self.context.reset()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams that went on."""
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self.context.select(beam_idx)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; their number is negative by Hugging Face's convention."""
        super().crop(tokens_to_remove)  # type: ignore[misc]
        self.context.crop(abs(tokens_to_remove))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row."""
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        self.context.repeat(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep some rows."""
        super().batch_select_indices(indices)  # type: ignore[misc]
        self.context.select(indices)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return reduce(self)


def seat_of(cache: Any, layer_index: int) -> ContextCache | None:
    """The context cache of one decoder layer inside a key-value cache, seated there if it is not yet.

    Args:
        cache: A Hugging Face cache, or None.
        layer_index: 0-based decoder layer.
    """
    if cache is None:
        return None
    layers = cache.layers
    if cache.layer_class_to_replicate is not None:  # layers come into being with their first keys; ours comes before
        while len(layers) <= layer_index:
            layers.append(cache.layer_class_to_replicate())
    layer = layers[layer_index]
    if not isinstance(layer, SeatsContext):
        kind: Any = type(layer)
        layer.__class__ = retyped(kind, SeatsContext)
        layer.context = ContextCache()
    return layer.context


def has_begun(cache: Any) -> bool:
    """Whether a key-value cache holds tokens; the context caches know this without asking the device."""
    if cache is None:
        return False
    if any(isinstance(layer, SeatsContext) and layer.context.length for layer in cache.layers):
        return True
    return cached_length(cache) > 0
