"""The context cache is stored on each layer of Hugging Face's key-value cache.

Generation changes keys and values in several ways: beam search reorders them, a rejected guess cuts them, and a second
turn copies them. The evidence of a layer belongs to the same object, so each change reaches it too.
"""

from __future__ import annotations

import abc
from typing import Any

from torch import Tensor

from moiety.moe.asymoe.context import ContextCache
from moiety.vlm.contracts import cached_length
from moiety.vlm.retype import reduce, retyped


class SeatsContext(abc.ABC):
    """Mixin that adds a context cache to the class of one layer of a key-value cache.

    It is an abstract base class, like the classes of Hugging Face. Otherwise Python would refuse to change the class of
    an object that exists already.
    """

    _layer_type = None  # Hugging Face registers every class that names a layer type; the changed classes must not be
    context: ContextCache

    def reset(self) -> None:
        """Forget keys, values and evidence."""
        super().reset()  # type: ignore[misc]
        self.context.reset()

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the beams that continue."""
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self.context.select(beam_idx)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens. By the convention of Hugging Face, their number is negative."""
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
    """The context cache of one decoder layer inside a key-value cache. It is created there on the first call.

    Args:
        cache: A Hugging Face cache, or None.
        layer_index: 0-based decoder layer.
    """
    if cache is None:
        return None
    layers = cache.layers
    if cache.layer_class_to_replicate is not None:  # a layer is created with its first keys; the context comes earlier
        while len(layers) <= layer_index:
            layers.append(cache.layer_class_to_replicate())
    layer = layers[layer_index]
    if not isinstance(layer, SeatsContext):
        kind: Any = type(layer)
        layer.__class__ = retyped(kind, SeatsContext)
        layer.context = ContextCache()
    return layer.context


def has_begun(cache: Any) -> bool:
    """Whether a key-value cache holds tokens. The context caches answer this without waiting for the device."""
    if cache is None:
        return False
    if any(isinstance(layer, SeatsContext) and layer.context.length for layer in cache.layers):
        return True
    return cached_length(cache) > 0
