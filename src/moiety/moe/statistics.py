"""How the experts were used: sums over tokens, and the shares computed from them.

:func:`tally` turns decisions into a :class:`Tally` of sums on the device. Tallies of several batches or ranks can be
added, and nothing waits for the device until a number is read. The other functions are pure functions of a tally. In
their results, rows are modality groups in the order of ``ExpertGroups.names``, and columns are experts in bank order. A
group without tokens has shares of 0.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from jaxtyping import Float, Int
from torch import Tensor

from moiety.groups import ExpertGroups
from moiety.moe.trace import Routing


@dataclass(frozen=True, eq=False)
class Tally:
    """Sums over the non-padding tokens of each modality group.

    Args:
        slots: Number of slots sent to each expert, ``(groups, experts)``.
        weight: Summed weight of each expert, ``(groups, experts)``.
        together: Number of tokens that chose both experts, ``(groups, experts, experts)``; the diagonal is `slots`.
        entropy: Summed entropy of the probabilities over visible experts, in nats, ``(groups,)``.
        largest: Summed largest probability, ``(groups,)``.
        tokens: Number of tokens, ``(groups,)``.
    """

    slots: Float[Tensor, "groups experts"]
    weight: Float[Tensor, "groups experts"]
    together: Float[Tensor, "groups experts experts"]
    entropy: Float[Tensor, " groups"]
    largest: Float[Tensor, " groups"]
    tokens: Float[Tensor, " groups"]

    def __add__(self, other: Tally) -> Tally:
        return Tally(*(getattr(self, part.name) + getattr(other, part.name) for part in fields(self)))


@torch.no_grad()
def tally(routings: Routing | Iterable[Routing], groups: ExpertGroups) -> Tally:
    """Sum one or several decisions of the same layer.

    Args:
        routings: One decision, or the decisions of several forwards or chunks.
        groups: Expert table of the scheme.

    Raises:
        ValueError: there is no decision to count.
    """
    parts = [_tally(routing, groups) for routing in ([routings] if isinstance(routings, Routing) else routings)]
    if not parts:
        raise ValueError("no routing to count; was the forward run inside `with recording()`?")
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def _tally(routing: Routing, groups: ExpertGroups) -> Tally:
    expert = torch.arange(groups.num_experts, device=routing.index.device)
    name = torch.arange(len(groups.names), device=routing.index.device)
    own = (routing.modality_group == name.unsqueeze(-1)).float()  # (groups, tokens)
    hits = routing.index.unsqueeze(-1) == expert  # (tokens, top_k, experts)
    chosen = hits.any(dim=1).float()
    weight = (hits * routing.weights.float().unsqueeze(-1)).sum(dim=1)
    log_p = routing.logits.float().log_softmax(dim=-1)
    p = log_p.exp()
    entropy = -torch.where(p > 0, p * log_p, 0).sum(dim=-1)
    return Tally(
        slots=own @ chosen,
        weight=own @ weight,
        together=torch.einsum("gt,te,tf->gef", own, chosen, chosen),
        entropy=own @ entropy,
        largest=own @ p.amax(dim=-1),
        tokens=own.sum(dim=-1),
    )


def _per_token(total: Tensor, count: Tally) -> Tensor:
    tokens = count.tokens.clamp(min=1)
    return total / tokens.view(-1, *[1] * (total.dim() - 1))


def load_share(count: Tally) -> Float[Tensor, "groups experts"]:
    """Share of the slots of each modality group that went to each expert; rows sum to 1."""
    return count.slots / count.slots.sum(dim=-1, keepdim=True).clamp(min=1)


def weight_share(count: Tally) -> Float[Tensor, "groups experts"]:
    """Mean weight of each expert per token; rows sum to 1 where weights are renormalised."""
    return _per_token(count.weight, count)


def inter_share(count: Tally, groups: ExpertGroups) -> Float[Tensor, " groups"]:
    """Share of the slots of each modality group that went to inter-modality experts, 0..1.

    With 1 private and 2 inter-modality experts and top-2 it lies between 0.5 and 1, and even use gives 2/3.
    """
    return load_share(count)[:, list(groups.inter)].sum(dim=-1)


def inter_mix(count: Tally, groups: ExpertGroups) -> Float[Tensor, "groups inter"]:
    """Share of each modality group in the slots of each inter-modality expert; columns sum to 1."""
    slots = count.slots[:, list(groups.inter)]
    return slots / slots.sum(dim=0, keepdim=True).clamp(min=1)


def co_select(count: Tally) -> Float[Tensor, "groups experts experts"]:
    """Share of the tokens that chose both experts. The result is symmetric; for top-2 its upper part sums to 1."""
    return _per_token(count.together, count)


def entropy(count: Tally) -> Float[Tensor, " groups"]:
    """Mean entropy of the gate's probabilities over visible experts, in nats."""
    return _per_token(count.entropy, count)


def normalised_entropy(count: Tally, groups: ExpertGroups) -> Float[Tensor, " groups"]:
    """:func:`entropy` divided by the log of the number of visible experts, 0..1.

    1 means even probabilities. The value is 0 where only one expert is visible.
    """
    visible = torch.tensor([len(groups.visible(name)) for name in groups.names], device=count.entropy.device)
    return entropy(count) / visible.clamp(min=2).log()


def max_violation(count: Tally, groups: ExpertGroups) -> Float[Tensor, " groups"]:
    """Load of the busiest visible expert relative to an even load, minus 1.

    0 means even use. M - 1, with M visible experts, means that one expert got every slot.
    """
    visible = torch.tensor([len(groups.visible(name)) for name in groups.names], device=count.slots.device)
    return torch.where(count.tokens > 0, visible * load_share(count).amax(dim=-1) - 1, 0)


def top1(count: Tally) -> Float[Tensor, " groups"]:
    """Mean of the largest probability of each modality group, from 1 / M (all M visible experts equal) to 1."""
    return _per_token(count.largest, count)


def relative_load(count: Tally, groups: ExpertGroups) -> Float[Tensor, "groups experts"]:
    """Load of each expert relative to an even load of the experts that the modality group sees.

    1 is an even load, 0 means that no token chose the expert. Closed experts have 0.
    """
    visible = torch.tensor([len(groups.visible(name)) for name in groups.names], device=count.slots.device)
    return load_share(count) * visible.unsqueeze(-1)


def least_load(count: Tally, groups: ExpertGroups) -> tuple[Float[Tensor, " groups"], Int[Tensor, " groups"]]:
    """Smallest :func:`relative_load` of a visible expert in each modality group, and which expert has it.

    A group without tokens has 0.
    """
    closed = ~torch.tensor(groups.allowed, device=count.slots.device)
    least = relative_load(count, groups).masked_fill(closed, float("inf")).min(dim=-1)
    return torch.where(count.tokens > 0, least.values, 0), least.indices
