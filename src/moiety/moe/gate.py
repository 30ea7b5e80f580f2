"""The linear scorer of a router, as a module that others may wrap, replace or pack."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear


class Gate(NonDynamicallyQuantizableLinear):
    """The scores that one gate gives to the experts it may choose.

    A router calls its gates and never reads their weights, so adapters on a gate count and another module may stand in
    its place. Quantisers leave it alone unless they are told to take it: torch, torchao and bitsandbytes convert plain
    ``nn.Linear`` and pass over this subclass. It is some millionths of a layer, and decides everything.

    Args:
        hidden: Width of the decoder.
        place: Its rows among the rows of all gates of the router.
        total: Rows of all gates.
        wide: Compute in float32 at least, whatever the type of the model.
    """

    def __init__(self, hidden: int, place: slice, total: int, *, wide: bool = False) -> None:
        super().__init__(hidden, place.stop - place.start, bias=False)
        self.place, self.total, self.wide = place, total, wide

    def forward(self, x: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens rows"]:
        """Scores, ``(tokens, hidden)`` -> ``(tokens, rows)``."""
        dtype = torch.promote_types(x.dtype, self.weight.dtype)
        if self.wide:
            dtype = torch.promote_types(dtype, torch.float32)
        # as large as the product of all gates: a smaller one rounds otherwise, and stored results come from the large
        weight = F.pad(self.weight.to(dtype), (0, 0, self.place.start, self.total - self.place.stop))
        return F.linear(x.to(dtype), weight)[:, self.place]
