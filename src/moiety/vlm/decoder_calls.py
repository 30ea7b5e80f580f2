"""The call that the multimodal base model makes to its decoder: keep it, change its embeddings, repeat it.

Pictures enter the decoder as embeddings. To exchange or blank a picture here, the vision tower need not run again, and
nothing must be known of the picture tensors of a family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from torch import Tensor, nn

from moiety.vlm.contracts import without_cache

_EMBEDDINGS = "inputs_embeds"
_POSITIONS = "position_ids"
_DEEP, _DEEP_MASK = "deepstack_visual_embeds", "visual_pos_masks"
"""Qwen3-VL adds picture features in later layers, too: a list of ``(visual tokens, hidden)``, and where they go."""


@dataclass(eq=False)
class DecoderCall:
    """Keywords of the last call of a decoder; None before the first."""

    kwargs: dict[str, Any] | None = None


@contextmanager
def kept_call(decoder: nn.Module) -> Iterator[DecoderCall]:
    """Keep what `decoder` is called with while this context is open."""
    kept = DecoderCall()

    def keep(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept.kwargs = dict(kwargs)

    handle = decoder.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield kept
    finally:
        handle.remove()


@contextmanager
def embeddings_changed(decoder: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Give `decoder`, in place of its embeddings ``(batch, seq, hidden)``, what `change` makes of them."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, _EMBEDDINGS: change(kwargs[_EMBEDDINGS])}

    handle = decoder.register_forward_pre_hook(hook, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def has_embeddings(kwargs: Mapping[str, Any]) -> bool:
    """Whether a call of the decoder brings embeddings, rather than tokens."""
    return kwargs.get(_EMBEDDINGS) is not None


def call_for_rows(kwargs: Mapping[str, Any], rows: Tensor, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """The keywords of the same call for some rows of the batch, with other embeddings, and without a cache.

    Args:
        kwargs: Keywords of a call with embeddings.
        rows: Which rows of the batch, ``(rows,)``.
        change: Takes the embeddings of the batch, ``(batch, seq, hidden)``, and gives those of these rows,
            ``(rows, seq, hidden)``.
    """
    batch = len(kwargs[_EMBEDDINGS])
    cut = {name: _cut(value, rows, batch, name) for name, value in kwargs.items()}
    cut[_EMBEDDINGS] = change(kwargs[_EMBEDDINGS])
    if kwargs.get(_DEEP) is not None:
        mask = kwargs[_DEEP_MASK]
        cut[_DEEP] = [_flat(value, mask, rows, change) for value in kwargs[_DEEP]]
    return without_cache(cut)


def _flat(value: Tensor, mask: Tensor, rows: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Picture features of all rows in one list, ``(visual tokens, hidden)``, for the chosen rows."""
    dense = value.new_zeros(*mask.shape, value.shape[-1])
    dense[mask] = value
    return change(dense)[mask[rows]]


def _cut(value: Any, rows: Tensor, batch: int, name: str) -> Any:
    """`value` for the chosen rows; a value without a batch axis stays as it is."""
    if isinstance(value, Tensor):
        axis = 1 if name == _POSITIONS and value.ndim == 3 else 0  # (3, batch, seq) where pictures have axes
        return value.index_select(axis, rows) if value.ndim > axis and value.shape[axis] == batch else value
    if isinstance(value, dict):
        return {key: _cut(entry, rows, batch, key) for key, entry in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        inside = {part.name: getattr(value, part.name) for part in fields(value)}
        changed = {key: _cut(entry, rows, batch, key) for key, entry in inside.items() if isinstance(entry, Tensor)}
        return replace(value, **changed)
    return value
