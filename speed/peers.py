"""The implementations that ``layer.py`` compares: dense, the experts of transformers, a published two-pass loop, ours.

Each entry of :data:`IMPLEMENTATIONS` builds two things from one :class:`Case`: a callable without arguments that
returns the output, and the list of tensors whose gradients are compared. All start from the same weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from moiety.moe.experts.kinds import FFNExperts
from moiety.moe.kernels import reference_experts


@dataclass(frozen=True)
class Shape:
    hidden: int
    ffn: int
    experts: int
    top_k: int


SHAPES = {
    "small": Shape(256, 1024, 4, 2),
    "mid": Shape(512, 2048, 8, 2),
    "mid16": Shape(512, 2048, 16, 2),
    "big": Shape(1024, 4096, 4, 2),
    "fine": Shape(512, 192, 64, 8),
}


@dataclass
class Case:
    """One problem: random inputs, a routing like that of a modality-aware layer, and the answer in float64."""

    shape: Shape
    x: Tensor
    index: Tensor
    weights: Tensor
    vision: Tensor
    gate_up: Tensor
    down: Tensor
    dout: Tensor

    @classmethod
    def draw(cls, shape: Shape, tokens: int, dtype: torch.dtype, vision_share: float, seed: int = 0) -> Case:
        """Vision rows may use the first 3/4 of the experts, text rows the last 3/4; the scores are slightly uneven."""
        g = torch.Generator().manual_seed(seed)
        vision = torch.rand(tokens, generator=g) < vision_share
        scores = torch.randn(tokens, shape.experts, generator=g) + 0.5 * torch.randn(shape.experts, generator=g)
        expert, cut = torch.arange(shape.experts), shape.experts // 4
        closed = torch.where(vision[:, None], expert >= shape.experts - cut, expert < cut)
        chosen, index = scores.masked_fill(closed, float("-inf")).topk(shape.top_k)
        normal = lambda *size, std=1.0: (torch.randn(*size, generator=g) * std).to(dtype)  # noqa: E731
        return cls(
            shape,
            normal(tokens, shape.hidden).requires_grad_(),
            index,
            chosen.softmax(-1).to(dtype).requires_grad_(),
            vision,
            normal(shape.experts, 2 * shape.ffn, shape.hidden, std=shape.hidden**-0.5),
            normal(shape.experts, shape.hidden, shape.ffn, std=shape.ffn**-0.5),
            normal(tokens, shape.hidden),
        )

    def truth(self) -> list[Tensor]:
        """Output and the gradients of input, weights and both banks, in float64."""
        leaves = [t.detach().double().requires_grad_() for t in (self.x, self.weights, self.gate_up, self.down)]
        x, weights, gate_up, down = leaves
        y = reference_experts(x, self.index, weights, gate_up, down, F.silu)
        return [y.detach(), *torch.autograd.grad(y, leaves, self.dout.double())]


Built = tuple[Callable[[], Tensor], list[Tensor], Callable[[list[Tensor]], list[Tensor]]]
"""Call, leaves (input, weights, then parameters), and how to bring their gradients to the layout of ``truth``."""


def _same(grads: list[Tensor]) -> list[Tensor]:
    return grads


def dense(case: Case) -> Built:
    """One SwiGLU of inner width top_k*ffn: the same activated FLOPs. It has no experts, so it is not compared."""
    width = case.shape.top_k * case.shape.ffn
    gate_up = nn.Parameter(case.gate_up.reshape(-1, case.shape.hidden)[: 2 * width].clone())
    down = nn.Parameter(case.down.transpose(1, 2).reshape(-1, case.shape.hidden)[:width].T.contiguous())

    def call() -> Tensor:
        gate, up = F.linear(case.x, gate_up).chunk(2, dim=-1)
        return F.linear(F.silu(gate) * up, down)

    return call, [case.x, gate_up, down], _same


def transformers_experts(implementation: str) -> Callable[[Case], Built]:
    """Mixtral's stacked experts under one of transformers' back-ends."""

    def build(case: Case) -> Built:
        from transformers.models.mixtral.configuration_mixtral import MixtralConfig
        from transformers.models.mixtral.modeling_mixtral import MixtralExperts

        config = MixtralConfig(
            hidden_size=case.shape.hidden, intermediate_size=case.shape.ffn, num_local_experts=case.shape.experts
        )
        config._experts_implementation = implementation
        experts = MixtralExperts(config)
        experts.gate_up_proj = nn.Parameter(case.gate_up.clone())
        experts.down_proj = nn.Parameter(case.down.clone())
        leaves = [case.x, case.weights, experts.gate_up_proj, experts.down_proj]
        return lambda: experts(case.x, case.index, case.weights), leaves, _same

    return build


def two_pass(case: Case) -> Built:
    """A loop of the published kind: one pass for each modality over a list of expert modules, written for this table.

    Per modality: boolean gather of its tokens, one-hot table of their choices, a loop over the experts it may see with
    ``where`` and ``index_add_``, boolean write-back.
    """
    shape, cut = case.shape, case.shape.experts // 4
    gate_up = nn.ParameterList(nn.Parameter(w.clone()) for w in case.gate_up)
    down = nn.ParameterList(nn.Parameter(w.clone()) for w in case.down)
    pools = ((True, range(shape.experts - cut)), (False, range(cut, shape.experts)))

    def call() -> Tensor:
        out = torch.zeros_like(case.x)
        for is_vision, pool in pools:
            mine = case.vision if is_vision else ~case.vision
            x, weights = case.x[mine], case.weights[mine]
            table = F.one_hot(case.index[mine], shape.experts).permute(2, 1, 0)
            part = torch.zeros_like(x)
            for expert in pool:
                choice, token = torch.where(table[expert])
                gate, up = F.linear(x[token], gate_up[expert]).chunk(2, dim=-1)
                y = F.linear(F.silu(gate) * up, down[expert]) * weights[token, choice, None]
                part.index_add_(0, token, y.to(part.dtype))
            out[mine] = part
        return out

    def stacked(grads: list[Tensor]) -> list[Tensor]:
        return [*grads[:2], torch.stack(grads[2 : 2 + shape.experts]), torch.stack(grads[2 + shape.experts :])]

    return call, [case.x, case.weights, *gate_up, *down], stacked


def ours(kernel: str) -> Callable[[Case], Built]:
    """Our bank under one of its kernels."""

    def build(case: Case) -> Built:
        experts = FFNExperts(case.shape.experts, case.shape.hidden, case.shape.ffn, kernel=kernel)
        experts.gate_up_proj = nn.Parameter(case.gate_up.clone())
        experts.down_proj = nn.Parameter(case.down.clone())
        leaves = [case.x, case.weights, experts.gate_up_proj, experts.down_proj]
        return lambda: experts(case.x, case.index, case.weights), leaves, _same

    return build


IMPLEMENTATIONS: dict[str, Callable[[Case], Built]] = {
    "dense": dense,
    "dense again": dense,
    "transformers eager": transformers_experts("eager"),
    "transformers grouped_mm": transformers_experts("grouped_mm"),
    "two-pass loop": two_pass,
    "moiety auto": ours("auto"),
    "moiety loop": ours("loop"),
    "moiety grouped": ours("grouped"),
    "moiety reference": ours("reference"),
}
