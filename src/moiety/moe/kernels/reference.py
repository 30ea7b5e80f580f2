"""The plain loop over experts. Every other kernel must give the same result."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from moiety.moe.kernels.products import is_packed


def reference_experts(
    x: Float[Tensor, "tokens hidden"],
    index: Int[Tensor, "tokens top_k"],
    weights: Float[Tensor, "tokens top_k"],
    gate_up_proj: Float[Tensor, "experts twice_ffn hidden"],
    down_proj: Float[Tensor, "experts hidden ffn"],
    act: Callable[[Tensor], Tensor],
) -> Float[Tensor, "tokens hidden"]:
    """Run each expert on the tokens that chose it, with ordinary autograd. The result is ``(tokens, hidden)``.

    The stacked weights are separated once (``unbind``), because indexing them for each expert would write a gradient of
    the size of the whole bank every time. Quantised stacks get no gradient and are indexed.
    """
    out = torch.zeros(x.shape, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
    for expert, (gate_up, down) in enumerate(zip(_each(gate_up_proj), _each(down_proj), strict=True)):
        token, choice = torch.where(index == expert)
        gate, up = F.linear(x[token], gate_up).chunk(2, dim=-1)
        y = F.linear(act(gate) * up, down)
        out = out.index_add(0, token, y.to(out.dtype) * weights[token, choice, None].to(out.dtype))
    return out.to(x.dtype)


def _each(stack: Tensor) -> Sequence[Tensor]:
    """The matrix of each expert."""
    return [stack[expert] for expert in range(len(stack))] if is_packed(stack) else stack.unbind(0)
