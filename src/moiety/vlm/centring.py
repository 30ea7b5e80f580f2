"""Gates that begin even: the mean input of each modality is taken out of their weights.

The inputs of a gate have much in common. In SmolLM2-135M with pictures of DINOv2-small, the mean holds 0.7 of the
squared norm of a picture token. A random gate gives this common part the same scores for all tokens, so nearly all
tokens choose the same experts, and the others learn nothing. For a gate with rows :math:`w_e` and the means
:math:`m_g` of the modality groups that use it, each row loses its part in the span of the means,

.. math:: w_e \\leftarrow w_e - \\sum_k q_k q_k^\\top w_e, \\quad q = \\mathrm{orth}(m_1, m_2, \\dots).

What is left scores how a token differs from the mean. No parameter is added. The result still equals the dense model
if it did before, because every choice among equal experts does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from moiety.groups import ExpertGroups
from moiety.moe.gates import GatedRouter
from moiety.moe.layer import ModalityMoE
from moiety.moe.statistics import least_load, tally
from moiety.moe.trace import recording
from moiety.vlm.configs import groups_of
from moiety.vlm.splice import sparse_layers


@dataclass(frozen=True)
class Centring:
    """What centring changed.

    Args:
        tokens: Modality group -> number of tokens that its means were taken over.
        before: Modality group -> smallest share of an even load that an expert of any layer got, before.
        after: The same on the same tokens, afterwards.
    """

    tokens: dict[str, int]
    before: dict[str, float]
    after: dict[str, float]

    def __str__(self) -> str:
        changes = ", ".join(
            f"{name} {self.before[name]:.0%} -> {self.after[name]:.0%} ({self.tokens[name]:,} tokens)"
            for name in self.before
        )
        return f"gates are centred; smallest share of an even load in any layer: {changes}"


@torch.no_grad()
def centre_gates(model: Any, batch: Mapping[str, Tensor]) -> Centring | None:
    """Take the mean input of each modality out of every gate of a sparse model, in place.

    Args:
        model: A sparse model whose gates were drawn and not trained. Its train or eval mode is restored.
        batch: Keywords of one forward: rows with all modalities that the model will see. A modality without tokens is
            left in the gates.

    Returns:
        What changed; None where the scheme has no gates.
    """
    groups, layers = groups_of(model), _gated(model)
    if groups is None or not layers:
        return None
    sums = [_Sums.of(groups, layer.router.hidden) for layer in layers]
    was_training = model.training
    model.eval()
    try:
        with _summing(layers, sums):
            before, tokens = _least(model, batch, groups)
        for layer, summed in zip(layers, sums, strict=True):
            _centre(layer.router, summed)  # type: ignore[arg-type]
        after, _ = _least(model, batch, groups)
    finally:
        model.train(was_training)
    return Centring(tokens, before, after)


@dataclass(eq=False)
class _Sums:
    """Sum of the gate's inputs ``(groups, hidden)`` and number of tokens ``(groups,)``, for each modality group."""

    total: Tensor
    tokens: Tensor

    @classmethod
    def of(cls, groups: ExpertGroups, hidden: int) -> _Sums:
        number = len(groups.names)
        return cls(torch.zeros(number, hidden, dtype=torch.float64), torch.zeros(number, dtype=torch.float64))

    def add(self, x: Tensor, group: Tensor) -> None:
        """Add inputs ``(tokens, hidden)`` of tokens of these modality groups ``(tokens,)``."""
        number = torch.arange(len(self.tokens), device=group.device)
        own = (group == number[:, None]).double()  # (groups, tokens)
        self.total += (own @ x.double()).cpu()
        self.tokens += own.sum(dim=1).cpu()


def _gated(model: Any) -> list[ModalityMoE]:
    return [layer for layer in sparse_layers(model) if isinstance(layer.router, GatedRouter)]


@contextmanager
def _summing(layers: Sequence[ModalityMoE], sums: Sequence[_Sums]) -> Iterator[None]:
    """Context in which the inputs of each router are summed."""

    def hook(summed: _Sums) -> Any:
        def add(router: GatedRouter, args: tuple[Tensor, ...]) -> None:
            summed.add(args[0], router.modality_group_of(args[1]))

        return add

    handles = [layer.router.register_forward_pre_hook(hook(summed)) for layer, summed in zip(layers, sums, strict=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _centre(router: GatedRouter, sums: _Sums) -> None:
    gates = [cast(nn.Linear, gate) for gate in router.gates.values()]
    for members, gate in zip(router.groups.gate_members, gates, strict=True):
        seen = [member for member in members if sums.tokens[member]]
        if not seen:
            continue
        means = sums.total[seen] / sums.tokens[seen, None]  # (groups with tokens, hidden)
        basis = torch.linalg.qr(means.T).Q  # (hidden, groups with tokens)
        weight = gate.weight.double().cpu()
        gate.weight.copy_(weight - weight @ basis @ basis.T)


def _least(model: Any, batch: Mapping[str, Tensor], groups: ExpertGroups) -> tuple[dict[str, float], dict[str, int]]:
    """Smallest share of an even load over layers, and number of tokens, of each modality group that has tokens."""
    with recording() as trace:
        model(**batch, use_cache=False)
    tallies = [tally(routings, groups) for routings in trace.by_layer().values()]
    tokens = {name: int(tallies[0].tokens[place]) for place, name in enumerate(groups.names)}
    least = torch.stack([least_load(count, groups)[0] for count in tallies]).amin(dim=0)
    present = [(place, name) for place, name in enumerate(groups.names) if tokens[name]]
    return {name: least[place].item() for place, name in present}, {name: tokens[name] for _, name in present}
