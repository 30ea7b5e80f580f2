"""The mathematics once more, as slow loops in float64 that read like the papers. Tests compare the package with them.

Nothing here is shared with the package: no index tables, no sorting, no stacking. Everything is differentiable, so that
gradients can be compared, too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


def silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def gelu_tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def expert(x: Tensor, gate_up: Tensor, down: Tensor, act: Callable[[Tensor], Tensor] = silu) -> Tensor:
    """One gated feed-forward network on one token."""
    ffn = down.shape[1]
    return down @ (act(gate_up[:ffn] @ x) * (gate_up[ffn:] @ x))


def softmax(z: Tensor) -> Tensor:
    powers = torch.exp(z - z.max().detach())
    return powers / powers.sum()


def choose(z: Tensor, top_k: int, renormalise: bool) -> tuple[list[int], list[Tensor]]:
    """Rows with the `top_k` largest probabilities, largest first, and their weights."""
    p = softmax(z)
    chosen = sorted(range(len(z)), key=lambda row: -float(z[row].detach()))[:top_k]
    total = sum(p[row] for row in chosen) if renormalise else 1
    return chosen, [p[row] / total for row in chosen]


def mixture(
    x: Tensor,
    groups: Sequence[str | None],
    gates: Mapping[str, Tensor] | None,
    visible: Mapping[str, Sequence[int]],
    gate_up: Sequence[Tensor],
    down: Sequence[Tensor],
    top_k: int,
    renormalise: bool = True,
    act: Callable[[Tensor], Tensor] = silu,
) -> Tensor:
    """The sparse layer, token by token. Group None is padding. Without gates all visible experts are averaged."""
    rows = []
    for token, group in zip(x, groups, strict=True):
        if group is None:
            rows.append(torch.zeros_like(token))
            continue
        if gates is None:
            chosen, weights = list(visible[group]), [1 / len(visible[group])] * len(visible[group])
        else:
            local, weights = choose(gates[group] @ token, top_k, renormalise)
            chosen = [visible[group][row] for row in local]
        rows.append(sum(w * expert(token, gate_up[e], down[e], act) for e, w in zip(chosen, weights, strict=True)))
    return torch.stack(rows)


def load_balancing(layers: Sequence[Sequence[Tensor]], top_k: int, scope: str) -> Tensor:
    """Load-balancing loss of one gate from its scores: layers of tokens of ``(visible,)``."""
    if not layers or not layers[0]:
        return torch.zeros((), dtype=torch.float64)
    visible = len(layers[0][0])
    shares, means = [], []
    for tokens in layers:
        share, mean = [0.0] * visible, [torch.zeros((), dtype=torch.float64)] * visible
        for z in tokens:
            p = softmax(z.double())
            for row in choose(z, top_k, renormalise=True)[0]:
                share[row] += 1 / len(tokens)
            mean = [mean[row] + p[row] / len(tokens) for row in range(visible)]
        shares.append(share)
        means.append(mean)
    if scope == "joint_layers":
        shares = [[sum(layer[row] for layer in shares) / len(layers) for row in range(visible)]]
        means = [[sum(layer[row] for layer in means) / len(layers) for row in range(visible)]]
    costs = [
        visible * sum(f * p for f, p in zip(share, mean, strict=True))
        for share, mean in zip(shares, means, strict=True)
    ]
    return sum(costs) / len(costs)


def z_loss(rows: Sequence[Tensor]) -> Tensor:
    """Mean squared log-sum-exp of the visible scores of all tokens."""
    if not rows:
        return torch.zeros((), dtype=torch.float64)
    return sum(torch.log(torch.exp(z.double()).sum()) ** 2 for z in rows) / len(rows)


def keeps_modality(ids: Sequence[int], position: int) -> bool:
    """Whether the released rule leaves this position in its own modality."""
    return position + 1 < len(ids) and ids[position + 1] == ids[position]


def co_selected(chosen: Sequence[Sequence[int]], first: int, second: int) -> float:
    """Share of tokens whose chosen set holds both experts."""
    return sum(first in c and second in c for c in chosen) / max(len(chosen), 1)


def entropy(p: Tensor) -> float:
    return -sum(float(v) * math.log(float(v)) for v in p.detach() if v > 0)
