r"""Gate objective: a token should trust memory more, and evidence less, when its evidence is taken away.

The language-model loss does not tie the gates of scheme ``asymoe`` to evidence. This loss does. It compares the gates
of one sample in two forwards: one with its own pictures (*present*), one with those of another sample (*masked*).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Gates:
    """Mean gates of each sample over its answer, in one layer.

    Args:
        alpha: Share of memory in the evidence experts, ``(samples,)``, 0..1.
        score: Evidence score of the router, ``(samples,)``, 0..1; None where the scheme has none.
    """

    alpha: Float[Tensor, " samples"]
    score: Float[Tensor, " samples"] | None = None

    @classmethod
    def mean(
        cls,
        alpha: Float[Tensor, "tokens experts"],
        score: Float[Tensor, " tokens"] | None,
        sample: Int[Tensor, " tokens"],
        num_samples: int,
    ) -> Gates:
        """Average over the tokens of each sample, and for alpha over the experts as well; 0 without tokens.

        Example:
            >>> sample = torch.tensor([0, 0, 1])
            >>> Gates.mean(torch.tensor([[0.2], [0.4], [0.9]]), torch.tensor([1.0, 0.0, 0.5]), sample, 2).score
            tensor([0.5000, 0.5000])
        """
        count = torch.zeros(num_samples, device=sample.device).index_add(
            0, sample, torch.ones(len(sample), device=sample.device)
        )

        def mean(gate: Tensor) -> Tensor:
            gate = gate.to(torch.promote_types(gate.dtype, torch.float32))
            return gate.new_zeros(num_samples).index_add(0, sample, gate) / count.clamp(min=1)

        return cls(mean(alpha.mean(dim=-1)), None if score is None else mean(score))


@dataclass(frozen=True, eq=False)
class GateLoss:
    """The two halves of the objective and the numbers that are logged with them. All are scalars, 0 without samples.

    Args:
        alpha: Mean of [margin + alpha_present - alpha_masked]_+, over samples and layers.
        score: Mean of [margin + score_masked - score_present]_+; 0 where the scheme has no score.
        alpha_gap: Mean of alpha_masked - alpha_present, without gradient. Above 0, memory counts more without evidence.
        score_gap: Mean of score_present - score_masked, without gradient. Above 0, evidence counts more when present.
        num_samples: Number of samples that were compared.
    """

    alpha: Float[Tensor, ""]
    score: Float[Tensor, ""]
    alpha_gap: Float[Tensor, ""]
    score_gap: Float[Tensor, ""]
    num_samples: int

    @property
    def total(self) -> Float[Tensor, ""]:
        """The sum of both halves, which ``gate_weight`` multiplies."""
        return self.alpha + self.score


def gate_loss(present: Sequence[Gates], masked: Sequence[Gates], margin: float) -> GateLoss:
    r"""Hinge on both gates: mean over samples and layers of :math:`[m + \alpha_p - \alpha_m]_+ + [m + s_m - s_p]_+`.

    Args:
        present: Gates with the samples' own evidence, one entry for each layer.
        masked: Gates of the same samples without it, one entry for each layer.
        margin: m, the smallest gap that costs nothing.

    Raises:
        ValueError: the two sides have different numbers of layers, or none.

    Source:
        The loss is ours. AsyMoE (2606.00275) measures both settings in eq. 4 and has no such loss.

    Example:
        >>> own = Gates(torch.tensor([0.3]), torch.tensor([0.6]))
        >>> other = Gates(torch.tensor([0.5]), torch.tensor([0.55]))
        >>> loss = gate_loss([own], [other], 0.1)
        >>> [round(value.item(), 4) for value in (loss.alpha, loss.score, loss.alpha_gap, loss.score_gap)]
        [0.0, 0.05, 0.2, 0.05]
    """
    if not present or len(present) != len(masked):
        raise ValueError(
            f"gates of {len(present)} layers with evidence, of {len(masked)} without; "
            "give the same layers, at least one"
        )
    alpha = _stacked([(own.alpha, other.alpha) for own, other in zip(present, masked, strict=True)])
    scored = [
        (other.score, own.score)
        for own, other in zip(present, masked, strict=True)
        if own.score is not None and other.score is not None
    ]
    score = _stacked(scored) if scored else alpha[:, :0]
    loss = [_mean((margin + lower - higher).relu()) for lower, higher in (alpha, score)]
    gap = [_mean((higher - lower).detach()) for lower, higher in (alpha, score)]
    return GateLoss(loss[0], loss[1], gap[0], gap[1], len(present[0].alpha))


def _stacked(sides: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The values that should be lower, then those that should be higher: ``(2, layers, samples)``."""
    return torch.stack([torch.stack([side[place] for side in sides]) for place in range(2)])


def _mean(values: Tensor) -> Tensor:
    """Mean of the values; without values, a 0 that stays in the graph."""
    return values.sum() / max(values.numel(), 1)
