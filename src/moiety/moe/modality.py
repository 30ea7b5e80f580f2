"""Which position of a sequence holds what: pure rules on ``modality_ids``."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from moiety.groups import Modality


def ids_from_placeholders(
    input_ids: Int[Tensor, "batch seq"], token_ids: Mapping[int, int]
) -> Int[Tensor, "batch seq"]:
    """Modality ids from placeholder tokens; everything that is no placeholder is text.

    Args:
        input_ids: Token ids after image expansion, ``(batch, seq)``.
        token_ids: Token id of a placeholder -> modality id.

    Example:
        >>> ids_from_placeholders(torch.tensor([[5, 9, 9, 7]]), {9: 1}).tolist()
        [[0, 1, 1, 0]]
    """
    modality_ids = torch.full_like(input_ids, int(Modality.TEXT))
    for token_id, modality in token_ids.items():
        modality_ids = modality_ids.masked_fill(input_ids == token_id, int(modality))
    return modality_ids


def without_padding(modality_ids: Int[Tensor, "batch seq"], attention_mask: Tensor | None) -> Int[Tensor, "batch seq"]:
    """Modality ids with -1 where the mask says padding.

    Args:
        modality_ids: ``(batch, seq)``.
        attention_mask: ``(batch, at least seq)``, nonzero = keep; its last ``seq`` columns count, so that a cached
            prefix may stand before them. None: nothing is padding.

    Raises:
        ValueError: the mask is not two-dimensional or too short; it cannot tell which tokens are padding.

    Example:
        >>> without_padding(torch.tensor([[1, 0, 0]]), torch.tensor([[1, 1, 0]])).tolist()
        [[1, 0, -1]]
    """
    if attention_mask is None:
        return modality_ids
    batch, seq = modality_ids.shape
    if attention_mask.dim() != 2 or attention_mask.shape[0] != batch or attention_mask.shape[1] < seq:
        raise ValueError(
            f"modality ids of shape {(batch, seq)} need an attention mask of shape (batch, at least seq), got "
            f"{tuple(attention_mask.shape)}; with packed or 4-D masks set modality_ids to -1 on padding yourself"
        )
    return modality_ids.masked_fill(attention_mask[:, attention_mask.shape[1] - seq :] == 0, int(Modality.PADDING))


def last_token_as_text(modality_ids: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """The rule of the released MoIIE code: the last position of every run of one modality counts as text.

    A position keeps its modality only if the next one has the same. Padding ends a run and stays padding.

    Source:
        AlenjandroWang/MoIIE @ c614868, modeling_phi3.py (phi3_moe_mm_s); equal on the recorded vision masks.

    Example:
        >>> last_token_as_text(torch.tensor([[0, 1, 1, 1, 0, 0, 1, 1, 0]])).tolist()
        [[0, 1, 1, 0, 0, 0, 1, 0, 0]]
    """
    ends_run = torch.ones_like(modality_ids, dtype=torch.bool)
    ends_run[:, :-1] = modality_ids[:, 1:] != modality_ids[:, :-1]
    return modality_ids.masked_fill(ends_run & (modality_ids > int(Modality.TEXT)), int(Modality.TEXT))
