"""A second pass over some samples, each with the picture of another: what the gates do when the evidence is wrong.

Pictures are exchanged as embeddings, where they enter the decoder. So the vision tower does not run twice, and nothing
must be known of the picture tensors of a family. The call of the decoder in the training forward is kept, reduced to
the chosen rows, and made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from moiety.moe.trace import RoutingTrace, recording
from moiety.vlm.decoder_calls import call_for_rows, has_embeddings


def partners(
    num_images: Sequence[int], keys: Sequence[int], answers: Sequence[int], order: Sequence[int]
) -> list[tuple[int, int]]:
    """Which samples can be read again, and whose picture each of them gets.

    A sample needs an image and an answer. Its partner needs another picture with as many image tokens. A sample without
    a partner is left out. So is a sample whose evidence is text, because its passage has no place in another sample.

    Args:
        num_images: Image tokens of each sample.
        keys: Number of its pictures, see :func:`moiety.vlm.asymoe.spans.image_key`.
        answers: Trained tokens of each sample.
        order: Which samples, and which partners, are tried first.

    Example:
        >>> partners([4, 4, 0, 9], [7, 8, 0, 9], [1, 1, 1, 1], [3, 2, 1, 0])
        [(1, 0), (0, 1)]
    """
    found = []
    for row in order:
        if num_images[row] and answers[row]:
            others = (other for other in order if num_images[other] == num_images[row] and keys[other] != keys[row])
            partner = next(others, None)
            if partner is not None:
                found.append((row, partner))
    return found


@dataclass(frozen=True, eq=False)
class Exchange:
    """Rows that are read again, and where each of their positions takes its embedding from.

    Args:
        rows: Rows of the batch.
        source: Position in the flattened batch, ``(rows, seq)``: its own, or on pictures the partner's.
        image_mask: True on image tokens, ``(rows, seq)``.
        mean_patch: Every image token of a row gets the mean of those it takes.
    """

    rows: Int[Tensor, " rows"]
    source: Int[Tensor, "rows seq"]
    image_mask: Bool[Tensor, "rows seq"]
    mean_patch: bool = False

    @classmethod
    def of(
        cls, image_mask: Bool[Tensor, "batch seq"], pairs: Sequence[tuple[int, int]], mean_patch: bool = False
    ) -> Exchange:
        """The exchange of `pairs`, each a row and its partner with as many image tokens."""
        device, seq = image_mask.device, image_mask.shape[1]
        chosen, others = torch.tensor(pairs, dtype=torch.long, device=device).reshape(-1, 2).unbind(dim=1)
        position = torch.arange(image_mask.numel(), device=device).view(image_mask.shape)
        source = position[chosen].reshape(len(pairs), seq)
        # boolean indexing runs row by row, so the k-th image token of a row meets the k-th of its partner
        source[image_mask[chosen]] = position[others][image_mask[others]]
        return cls(chosen, source, image_mask[chosen], mean_patch)

    def embeddings(self, values: Tensor) -> Tensor:
        """``(batch, seq, hidden)`` -> ``(rows, seq, hidden)``."""
        taken = values.flatten(0, 1)[self.source]
        if not self.mean_patch:
            return taken
        mask = self.image_mask.unsqueeze(-1)
        mean = (taken * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.where(mask, mean.to(taken.dtype), taken)

    def inputs(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords of a decoder's call for these rows.

        Raises:
            ValueError: the decoder was not called with embeddings.
        """
        if not has_embeddings(kwargs):
            raise ValueError(
                f"the decoder was called with {sorted(kwargs)}; the gate objective exchanges pictures in inputs_embeds."
                " Set moe.asymoe.gate_weight to 0 for this model"
            )
        return call_for_rows(kwargs, self.rows, self.embeddings)


def masked_trace(decoder: nn.Module, kwargs: Mapping[str, Any], exchange: Exchange, *, learns: bool) -> RoutingTrace:
    """What the routers decide for the rows of `exchange`, with what they read.

    Args:
        decoder: Stack of decoder layers.
        kwargs: Of its call in the training forward.
        exchange: What changes.
        learns: Whether gradient flows through this pass.
    """
    with recording(RoutingTrace(keeps_inputs=True)) as trace, torch.set_grad_enabled(learns):
        decoder(**exchange.inputs(kwargs))
    return trace
