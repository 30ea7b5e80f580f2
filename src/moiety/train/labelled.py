"""Logits only where something is learned: most tokens of a batch are pictures, questions and padding.

The head of a model multiplies every position with its whole vocabulary. In SmolLM2-135M that is a fifth of all products
of a step, and the logits are its largest tensor. A position without a label adds nothing to the loss, so its logits are
left out. Hugging Face selects whole columns of a batch (``logits_to_keep``), so a column stays if any row learns there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from moiety.vlm.splice import FAMILIES

_IGNORED = -100


def _is_known(model: Any) -> bool:
    return any(base.__name__ in FAMILIES for base in type(model).__mro__)


def only_labelled(model: Any, inputs: dict[str, Any]) -> dict[str, Any]:
    """The same batch, with the keywords that let the model compute logits for labelled positions alone.

    Args:
        model: The model without wrappers. A family outside :data:`moiety.vlm.splice.FAMILIES` gets the batch as
            it is, because its loss may not know labels that are shifted already.
        inputs: Keywords of one forward, with ``labels (batch, seq)``.

    Returns:
        `inputs` with ``logits_to_keep (kept,)``, the columns that predict a label, and ``shift_labels (batch, kept)``.
    """
    labels = inputs.get("labels")
    if labels is None or "logits_to_keep" in inputs or not _is_known(model):
        return inputs
    shifted = F.pad(labels[:, 1:], (0, 1), value=_IGNORED)
    kept = (shifted != _IGNORED).any(dim=0).nonzero().flatten()
    if not len(kept):
        return inputs
    return {**inputs, "logits_to_keep": kept, "shift_labels": torch.index_select(shifted, 1, kept)}
