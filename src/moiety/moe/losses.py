"""Auxiliary losses of routers and gates: uneven use of experts, large scores, and a mean alpha away from its target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch import distributed as dist

from moiety.groups import TEXT_GROUP, ExpertGroups
from moiety.moe.trace import Routing, RoutingTrace
from moiety.recipe.recipe import MoESettings

Reduce = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class GateStatistics:
    """Sums over tokens from which the losses are computed, for every gate and layer. Sums of several ranks add up.

    Args:
        chosen: How often each expert was chosen, ``(gates, layers, experts)``. No gradient.
        probability: Summed probability of each expert before the choice, ``(gates, layers, experts)``. It comes from
            the raw scores, or from ``balance_logits`` where the routing has them in its extras.
        squared_logsumexp: Summed square of the log of the softmax normaliser, ``(gates, layers)``.
        tokens: Number of tokens, ``(gates, layers)``.
    """

    chosen: Float[Tensor, "gates layers experts"]
    probability: Float[Tensor, "gates layers experts"]
    squared_logsumexp: Float[Tensor, "gates layers"]
    tokens: Float[Tensor, "gates layers"]

    def summed(self, reduce: Reduce) -> GateStatistics:
        """The same statistics of all ranks together, by one call of `reduce`."""
        experts = self.chosen.shape[-1]
        extra = torch.stack([self.squared_logsumexp, self.tokens], dim=-1)
        packed = reduce(torch.cat([self.chosen, self.probability, extra], dim=-1))
        chosen, probability, extra = packed.split([experts, experts, 2], dim=-1)
        return GateStatistics(chosen, probability, extra[..., 0], extra[..., 1])


def gate_statistics(layers: Sequence[Sequence[Routing]], groups: ExpertGroups) -> GateStatistics:
    """Sum over the tokens of each gate in each layer; padding does not count.

    Args:
        layers: Decisions of each layer, as in ``RoutingTrace.by_layer().values()``.
        groups: Expert table of the scheme.
    """
    rows = [[_sums(routings, groups, gate) for routings in layers] for gate in range(len(groups.gates))]
    chosen, probability, squared, tokens = (
        torch.stack([torch.stack([cell[part] for cell in row]) for row in rows]) for part in range(4)
    )
    return GateStatistics(chosen, probability, squared, tokens)


def _sums(routings: Sequence[Routing], groups: ExpertGroups, gate: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four sums of one gate in one layer."""
    members = groups.gate_members[gate]
    totals: list[Tensor] | None = None
    for routing in routings:
        logits = routing.logits.to(torch.promote_types(routing.logits.dtype, torch.float32))
        own = torch.stack([routing.modality_group == member for member in members]).any(dim=0)
        expert = torch.arange(groups.num_experts, device=logits.device)
        hits = (routing.index.unsqueeze(-1) == expert).any(dim=1)  # (tokens, top_k) -> (tokens, experts)
        normaliser = logits.logsumexp(dim=-1)
        balanced = routing.extras.get("balance_logits")
        probability = (logits - normaliser.unsqueeze(-1)).exp() if balanced is None else balanced.softmax(dim=-1)
        sums = [
            (hits & own.unsqueeze(-1)).sum(dim=0).to(logits.dtype),
            torch.where(own.unsqueeze(-1), probability, 0).sum(dim=0),
            torch.where(own, normaliser.square(), 0).sum(),
            own.sum().to(logits.dtype),
        ]
        totals = sums if totals is None else [total + part for total, part in zip(totals, sums, strict=True)]
    assert totals is not None
    return totals[0], totals[1], totals[2], totals[3]


def load_balancing_loss(
    chosen: Float[Tensor, "layers experts"],
    probability: Float[Tensor, "layers experts"],
    tokens: Float[Tensor, " layers"],
    num_visible: int,
    scope: str = "joint_layers",
) -> Float[Tensor, ""]:
    r"""Cost of uneven expert use by the tokens of one gate.

    Let :math:`F_{le}` be the share of the tokens that chose expert *e* in layer *l* (its sum over *e* is top_k), and
    :math:`P_{le}` the mean probability of that expert. With ``joint_layers`` the cost is
    :math:`M \sum_e \bar F_e \bar P_e`, where a bar is the mean over layers. With ``per_layer`` it is the mean over
    layers of :math:`M \sum_e F_{le} P_{le}`. Even probabilities, or even choices, cost exactly top_k. Full collapse
    costs M. For top_k > 1 values below top_k exist.

    Args:
        chosen: How often each expert was chosen, ``(layers, experts)``.
        probability: Summed probability of each expert, same shape; the gradient flows through this alone.
        tokens: Number of tokens, ``(layers,)``; 0 gives a loss of 0 with a gradient of 0.
        num_visible: M, the number of experts that the gate scores.
        scope: ``joint_layers`` or ``per_layer``.

    Source:
        Fedus et al. 2021, eq. 4-6, times top_k. The loss is taken for each modality and over all layers jointly, as in
        MoIIE (2508.09779, released code: same value to 3e-7). ``per_layer`` is ours.

    Example:
        >>> chosen, probability = torch.tensor([[1., 1, 0], [0, 1, 1]]), torch.tensor([[1., 0, 0], [0, 0, 1]])
        >>> load_balancing_loss(chosen, probability, torch.ones(2), 3, "joint_layers").item()
        1.5
        >>> load_balancing_loss(chosen, probability, torch.ones(2), 3, "per_layer").item()
        3.0
    """
    count = tokens.clamp(min=1).unsqueeze(-1)
    share, mean = chosen / count, probability / count
    if scope == "joint_layers":
        share, mean = share.mean(dim=0, keepdim=True), mean.mean(dim=0, keepdim=True)
    return num_visible * (share * mean).sum(dim=-1).mean()


def z_loss(squared_logsumexp: Tensor, tokens: Tensor) -> Float[Tensor, ""]:
    """Squared log-sum-exp of the scores, averaged over all tokens of all gates and layers; 0 without tokens.

    Args:
        squared_logsumexp: Sums over the tokens of each gate and layer, ``(gates, layers)``.
        tokens: Number of these tokens, ``(gates, layers)``.

    Source:
        Zoph et al. 2022 (ST-MoE), eq. 5.
    """
    return squared_logsumexp.sum() / tokens.sum().clamp(min=1)


def alpha_target_loss(
    layers: Sequence[Sequence[Routing]], groups: ExpertGroups, target: float, reduce: Reduce | None = None
) -> Float[Tensor, ""]:
    """Squared distance of the mean alpha of each evidence expert from `target`, averaged over experts and layers.

    The mean alpha of an expert is taken over the text tokens that chose it. An expert that no token chose costs 0, and
    that 0 stays in the graph.

    Args:
        layers: Decisions of each layer with ``alpha`` in their extras; layers without it are left out.
        groups: Expert table of the scheme.
        target: The mean alpha that is wanted, 0..1.
        reduce: Sums a tensor, and its gradient, over ranks. None: one process.
    """
    experts = groups.slice_of(TEXT_GROUP)
    number = torch.arange(experts.start, experts.stop)
    cells = []
    for routing in (routing for routings in layers for routing in routings):
        if "alpha" in routing.extras:
            alpha = routing.extras["alpha"]
            chose = (routing.index.unsqueeze(-1) == number.to(alpha.device)).any(dim=1)  # (tokens, evidence experts)
            cells.append(torch.stack([torch.where(chose, alpha, 0).sum(0), chose.sum(0).to(alpha.dtype)]))
    if not cells:
        return layers[0][0].logits.new_zeros((), dtype=torch.float32)
    sums = torch.stack(cells)  # (layers, [alpha, tokens], evidence experts)
    sums = sums if reduce is None else reduce(sums)
    total, tokens = sums.unbind(dim=1)
    return torch.where(tokens > 0, (total / tokens.clamp(min=1) - target).square(), 0).mean()


@dataclass(frozen=True, eq=False)
class AuxiliaryLosses:
    """Auxiliary losses of one forward. All are scalars.

    Args:
        balance: Load-balancing loss of each gate, not yet weighted; empty in a scheme without gates.
        z: z-loss, not yet weighted.
        total: Weighted sum, to be added to the task loss.
        alpha: Distance of alpha from its target, not yet weighted; None where no target is set.
    """

    balance: dict[str, Tensor]
    z: Tensor
    total: Tensor
    alpha: Tensor | None = None


def auxiliary_losses(
    trace: RoutingTrace, groups: ExpertGroups, settings: MoESettings, reduce: Reduce | None = None
) -> AuxiliaryLosses:
    """All auxiliary losses of a trace, in float32 or wider.

    A modality group without tokens costs a 0 that stays in the graph, so that every rank runs the same graph.

    Args:
        trace: Decisions of one forward.
        groups: Expert table of the scheme.
        settings: Recipe section ``moe``. It reads ``balance``, ``aux_coef``, ``aux_scope``, ``aux_stats``,
            ``z_loss_coef``, and ``alpha_mode``, ``alpha_target`` and ``alpha_weight`` of the section ``asymoe``.
        reduce: Sums a tensor, and its gradient, over ranks. None: :func:`sum_over_ranks` where ``aux_stats`` is
            ``global``, otherwise the sums of this process alone.
    """
    layers = list(trace.by_layer().values())
    if not layers or not groups.gates:
        zero = layers[0][0].logits.new_zeros((), dtype=torch.float32) if layers else torch.zeros(())
        return AuxiliaryLosses({}, zero, zero)
    sums = gate_statistics(layers, groups)
    if reduce is None and settings.aux_stats == "global":
        reduce = sum_over_ranks
    if reduce is not None:
        sums = sums.summed(reduce)
    balance = {
        name: load_balancing_loss(
            sums.chosen[gate],
            sums.probability[gate],
            sums.tokens[gate],
            groups.gate_sizes[gate],
            settings.aux_scope or "joint_layers",
        )
        for gate, name in enumerate(groups.gate_names)
    }
    z = z_loss(sums.squared_logsumexp, sums.tokens)
    total = settings.z_loss_coef * z
    for name, loss in balance.items():
        coef = settings.aux_coef.get(name, 0.0) if isinstance(settings.aux_coef, dict) else settings.aux_coef
        total = total + (0.0 if settings.balance == "bias" else coef) * loss
    own, alpha = settings.asymoe, None
    if own is not None and own.text_kind == "evidence" and own.alpha_mode == "target":
        alpha = alpha_target_loss(layers, groups, own.alpha_target, reduce)
        total = total + own.alpha_weight * alpha
    return AuxiliaryLosses(balance, z, total, alpha)


class _SumOverRanks(torch.autograd.Function):
    """All-reduce whose backward pass also all-reduces the gradient."""

    @staticmethod
    def forward(ctx: object, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total


def sum_over_ranks(value: Tensor) -> Tensor:
    """Sum over all ranks; the value itself in a single process.

    Every rank computes the same loss from the sums. The gradients are summed over ranks as well, so each rank holds its
    part times the number of ranks. Averaging over ranks (DDP, FSDP) then gives the gradient of one process that holds
    all tokens.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return value
    return _SumOverRanks.apply(value)
