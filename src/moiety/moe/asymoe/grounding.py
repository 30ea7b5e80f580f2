"""How much a model relies on its evidence: pure functions on attention, gates and choices of experts.

*Evidence* means the positions of pictures and of text that the model was given. *Memory* means the positions of control
tokens and of the model's own answer. Attention is that of one sample and one layer, averaged over heads; every row sums
to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def attention_on(attention: Float[Tensor, "*rows seq"], columns: Bool[Tensor, " seq"]) -> Float[Tensor, "*rows"]:
    """Attention that each row spends on the marked positions, 0..1.

    Example:
        >>> attention_on(torch.tensor([[0.25, 0.25, 0.5]]), torch.tensor([True, False, True])).tolist()
        [0.75]
    """
    return attention.masked_fill(~columns, 0).sum(dim=-1)


def attention_entropy(
    attention: Float[Tensor, "*rows seq"],
) -> tuple[Float[Tensor, "*rows"], Float[Tensor, "*rows"], Bool[Tensor, "*rows"]]:
    r"""How widely each position spreads its attention: :math:`-\sum_j A_j \ln A_j`, in nats and normalised.

    A key counts as visible where its weight is not exactly 0; a mask makes a weight exactly 0.

    Returns:
        Three tensors ``(rows,)``: the entropy in nats; the entropy divided by the log of the number of visible keys,
        0..1; and whether the row sees at least two keys. In the other rows both entropies are 0 and carry no meaning.

    Source:
        AsyMoE (2606.00275), eq. 5, which sums over positions. The normalisation is ours: it makes prompts of different
        lengths comparable.

    Example:
        >>> entropy, share, counted = attention_entropy(torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
        >>> share.tolist(), counted.tolist()
        ([0.0, 1.0], [False, True])
    """
    attention = attention.float()
    visible = attention > 0
    num_visible = visible.sum(dim=-1)
    entropy = torch.where(visible, -attention * attention.clamp(min=1e-45).log(), 0).sum(dim=-1)
    return entropy, entropy / num_visible.clamp(min=2).log(), num_visible >= 2


def sent_to(index: Int[Tensor, "tokens top_k"], num_experts: int) -> Bool[Tensor, "tokens experts"]:
    """Which experts each token was sent to. Padding has the index `num_experts` and was sent to none."""
    return (index.unsqueeze(-1) == torch.arange(num_experts, device=index.device)).any(dim=1)


def grounding_ratio(on_evidence: np.ndarray, on_memory: np.ndarray) -> np.ndarray:
    r"""F: the share of evidence in the attention of the tokens that were routed to an expert.

    An FFN expert has no attention of its own. So the attention rows of the tokens routed to it are used, in its layer.

    Args:
        on_evidence: Attention on evidence, summed or averaged over the text tokens routed to each expert.
        on_memory: Attention of the same tokens on memory, same shape.

    Returns:
        One value for each entry, 0..1; NaN where no token was routed.

    Source:
        AsyMoE (2606.00275), eq. 2-3. The paper leaves open which rows belong to an expert; the choice above is ours.
    """
    total = on_evidence + on_memory
    return np.divide(on_evidence, total, out=np.full_like(total, np.nan), where=total > 0)


def evidence_dependence(with_evidence: np.ndarray, without: np.ndarray) -> np.ndarray:
    r"""R: how much more often an expert is chosen when the evidence fits the question, -1..1.

    The formula is :math:`(f_{evd} - f_{mem}) / (f_{evd} + f_{mem})`. It is 0 for an expert that is never chosen.

    Args:
        with_evidence: Share of text tokens that chose the expert, 0..1.
        without: The same share after the evidence was taken away.

    Source:
        AsyMoE (2606.00275), eq. 4.

    Example:
        >>> evidence_dependence(np.array([0.75, 0.0]), np.array([0.25, 0.0]))
        array([0.5, 0. ])
    """
    total = with_evidence + without
    return np.divide(with_evidence - without, total, out=np.zeros_like(total), where=total > 0)


@dataclass(frozen=True)
class Slope:
    """A slope over depth with its 95 % interval.

    Args:
        value: Change per layer.
        low: Lower end of the interval; NaN where there are too few samples for an interval.
        high: Upper end of the interval; NaN as for `low`.
    """

    value: float
    low: float
    high: float


def slope_over_depth(
    totals: Float[np.ndarray, "samples layers"],
    counts: Float[np.ndarray, " samples"],
    num_draws: int = 2000,
    seed: int = 0,
) -> Slope:
    """Least-squares slope over layers, for the mean over all positions, with a bootstrap over samples.

    Args:
        totals: Value of each layer, summed over the positions of each sample, ``(samples, layers)``.
        counts: Number of positions of each sample, ``(samples,)``.
        num_draws: Number of bootstrap draws.
        seed: Seed of the draws.

    Raises:
        ValueError: there are fewer than two layers, or no positions.

    Example:
        >>> slope_over_depth(np.array([[0.0, 2.0, 4.0], [0.0, 1.0, 2.0]]), np.array([2.0, 1.0])).value
        1.0
    """
    num_samples, num_layers = totals.shape
    if num_layers < 2 or counts.sum() <= 0:
        raise ValueError(
            f"a slope needs 2 layers and 1 position, got {num_layers} layers and {counts.sum():g} positions"
        )
    depth = np.arange(num_layers) - (num_layers - 1) / 2
    weights = depth / (depth**2).sum()
    value = float(totals.sum(0) / counts.sum() @ weights)
    if num_samples < 2:
        return Slope(value, np.nan, np.nan)
    drawn = np.random.default_rng(seed).integers(num_samples, size=(num_draws, num_samples))
    means = totals[drawn].sum(1) / np.maximum(counts[drawn].sum(1), 1)[:, None]  # (draws, layers)
    low, high = np.quantile(means @ weights, (0.025, 0.975))
    return Slope(value, float(low), float(high))


def area_under_curve(positives: Sequence[float] | np.ndarray, negatives: Sequence[float] | np.ndarray) -> float:
    """Probability that a positive is larger than a negative; a tie counts half. 0.5 is chance.

    Raises:
        ValueError: one side is empty.

    Example:
        >>> area_under_curve([2.0, 3.0], [1.0, 2.0])
        0.875
    """
    if not len(positives) or not len(negatives):
        raise ValueError(
            f"an area under the curve needs values on both sides, got {len(positives)} positives and {len(negatives)} "
            "negatives"
        )
    above = np.asarray(positives, dtype=float)[:, None] - np.asarray(negatives, dtype=float)
    return float((above > 0).mean() + 0.5 * (above == 0).mean())
