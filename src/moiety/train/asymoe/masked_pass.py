"""A second pass over some samples, each with the picture of another sample. It shows the gates with wrong evidence.

Pictures are exchanged as embeddings, at the input of the decoder. So the vision tower does not run twice, and the code
need not know the picture tensors of a family. The call of the decoder in the training forward is kept, reduced to the
chosen rows, and made again.
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
    """Which samples run again, and from which partner each of them gets its picture.

    A sample needs an image and an answer. Its partner needs another picture with as many image tokens. A sample without
    a partner is left out. So is a sample whose evidence is text, because another text would not fit into its place.

    Args:
        num_images: Number of image tokens of each sample.
        keys: A number for the pictures of each sample, see :func:`moiety.vlm.asymoe.spans.image_key`.
        answers: Number of trained tokens of each sample.
        order: Order in which samples and partners are tried.

    Returns:
        Pairs of a sample and its partner.

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
    """Rows that run again, and from where each of their positions takes its embedding.

    Args:
        rows: Rows of the batch.
        source: Position in the flattened batch, ``(rows, seq)``. An image token takes the embedding of its partner; any
            other position keeps its own.
        image_mask: True on image tokens, ``(rows, seq)``.
        mean_patch: Every image token of a row gets the mean of the embeddings that these tokens take.
    """

    rows: Int[Tensor, " rows"]
    source: Int[Tensor, "rows seq"]
    image_mask: Bool[Tensor, "rows seq"]
    mean_patch: bool = False

    @classmethod
    def of(
        cls, image_mask: Bool[Tensor, "batch seq"], pairs: Sequence[tuple[int, int]], mean_patch: bool = False
    ) -> Exchange:
        """The exchange for `pairs`. Each is a row and a partner with as many image tokens."""
        device, seq = image_mask.device, image_mask.shape[1]
        chosen, others = torch.tensor(pairs, dtype=torch.long, device=device).reshape(-1, 2).unbind(dim=1)
        position = torch.arange(image_mask.numel(), device=device).view(image_mask.shape)
        source = position[chosen].reshape(len(pairs), seq)
        # boolean indexing runs row by row, so the k-th image token of a row meets the k-th of its partner
        source[image_mask[chosen]] = position[others][image_mask[others]]
        return cls(chosen, source, image_mask[chosen], mean_patch)

    def embeddings(self, values: Tensor) -> Tensor:
        """The embeddings of the second pass: ``(batch, seq, hidden)`` -> ``(rows, seq, hidden)``."""
        taken = values.flatten(0, 1)[self.source]
        if not self.mean_patch:
            return taken
        mask = self.image_mask.unsqueeze(-1)
        mean = (taken * mask).sum(dim=1, keepdim=True) / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.where(mask, mean.to(taken.dtype), taken)

    def inputs(self, kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords of the call of the decoder for these rows.

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
    """Run the decoder again on the rows of `exchange`, and return its routing with the inputs of the layers.

    Args:
        decoder: Stack of decoder layers.
        kwargs: Keywords of its call in the training forward.
        exchange: The rows and their new embeddings.
        learns: Whether gradient flows through this pass.
    """
    with recording(RoutingTrace(keeps_inputs=True)) as trace, torch.set_grad_enabled(learns):
        decoder(**exchange.inputs(kwargs))
    return trace
