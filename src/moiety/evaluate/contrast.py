"""The formulas of three contrastive decoding methods. They change the logits and need nothing else.

A token that an earlier processor excluded (``-inf``) stays excluded. Every other score stays finite or becomes
``-inf``.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

NUM_NOISE_STEPS = 1000


def context_aware(
    logits: Float[Tensor, "batch vocab"], without: Float[Tensor, "batch vocab"], weight: float
) -> Float[Tensor, "batch vocab"]:
    r"""Add the effect of the evidence once more: :math:`(1+a)\,l(y|c,x) - a\,l(y|x)`.

    Args:
        logits: Scores with the evidence in the prompt.
        without: Scores of the same prompt without the evidence.
        weight: a; 0 gives `logits`.

    Source:
        Shi et al. 2023 (2305.14739), eq. 3; a = 1 on NQ-Swap, 0.5 on CNN-DM in xhan77/context-aware-decoding @ 1281d7f.

    Example:
        >>> context_aware(torch.tensor([[2.0, 1.0]]), torch.tensor([[3.0, 0.0]]), 1.0).tolist()
        [[1.0, 2.0]]
    """
    ruled_out = logits == -torch.inf
    moved = logits + weight * (logits - without)
    return torch.where(ruled_out, logits, moved)


def visual_contrastive(
    logits: Float[Tensor, "batch vocab"], noised: Float[Tensor, "batch vocab"], weight: float, cut: float
) -> Float[Tensor, "batch vocab"]:
    r""":func:`context_aware` against a noised picture. Only tokens that are plausible with the clear picture are kept.

    Args:
        logits: Scores with the clear picture.
        noised: Scores with the noised one, see :func:`diffusion_noise`.
        weight: Weight of the contrast; 0 does not change which token is the most probable.
        cut: b of :func:`plausible`.

    Source:
        Leng et al. 2023 (2311.16922), eq. 3-4; DAMO-NLP-SG/VCD @ d6568ff cuts on logits, which is the same.
    """
    return context_aware(logits, noised, weight).masked_fill(~plausible(logits, cut), -torch.inf)


def plausible(logits: Float[Tensor, "batch vocab"], cut: float) -> Bool[Tensor, "batch vocab"]:
    """Tokens that are at least `cut` times as probable as the most probable one; 0 keeps all tokens above ``-inf``.

    Example:
        >>> plausible(torch.tensor([[0.0, -2.0, -3.0]]), 0.1).tolist()  # ln 0.1 = -2.3
        [[True, True, False]]
    """
    floor = -torch.inf if cut == 0 else math.log(cut)
    return (logits >= logits.amax(dim=-1, keepdim=True) + floor) & (logits > -torch.inf)


def diffusion_noise(picture: Tensor, step: int, generator: torch.Generator) -> Tensor:
    r"""A picture after `step` of 1,000 steps of diffusion: :math:`\sqrt{\bar a}\,v + \sqrt{1-\bar a}\,\epsilon`.

    Args:
        picture: Normalised pixels, any shape.
        step: 0-based place in the schedule; at 500 the picture keeps 86 % of its amplitude, 74 % of its power.
        generator: Draws the noise on the CPU, so that it is the same on every device.

    Source:
        DAMO-NLP-SG/VCD @ d6568ff, vcd_add_noise.py: beta = sigmoid(linspace(-6, 6)) * (0.005 - 1e-5) + 1e-5.
    """
    beta = torch.linspace(-6, 6, NUM_NOISE_STEPS, dtype=torch.float64).sigmoid() * (0.5e-2 - 1e-5) + 1e-5
    kept = float((1 - beta).cumprod(0)[step])
    noise = torch.randn(picture.shape, generator=generator).to(picture)
    return math.sqrt(kept) * picture + math.sqrt(1 - kept) * noise


def early_layers(num_layers: int, half: Literal["low", "high"]) -> list[int]:
    """Layers whose input DoLa may compare with: the even layers of one half of the decoder. 0 is the embedding.

    Source:
        Chuang et al. 2023 (2309.03883), §2.2; voidism/DoLa @ 805230e: 0, 2, ..., 14 or 16, 18, ..., 30 of 32 layers.

    Example:
        >>> early_layers(32, "high")[0], early_layers(32, "low")[-1], early_layers(2, "high"), early_layers(1, "low")
        (16, 14, [1], [0])
    """
    middle = num_layers // 2
    halves = {"low": range(max(1, middle)), "high": range(middle, num_layers)}
    chosen = halves[half]
    return [layer for layer in chosen if layer % 2 == 0] or [chosen[-1]]


def layer_divergence(
    final: Float[Tensor, "batch vocab"],
    early: Float[Tensor, "layers batch vocab"],
    form: Literal["published", "jensen_shannon"],
) -> Float[Tensor, "layers batch"]:
    r"""How much the prediction of each early layer differs from the final one.

    ``jensen_shannon`` is :math:`\frac12 KL(p\|m) + \frac12 KL(q\|m)` with :math:`m = (p+q)/2`; ``published``, what the
    released code computes, is :math:`\frac12 KL(m\|p) + \frac12 KL(m\|q)`. Both are 0 for equal predictions.

    Args:
        final: Scores of the whole decoder; tokens at ``-inf`` are left out on both sides.
        early: Scores of the early layers.
        form: Order of the divergences.

    Source:
        voidism/DoLa @ 805230e, generation/utils.py, which takes the mean over tokens of the vocabulary (the same order
        of layers as the sum here) and one layer for a whole batch (here each row has its own).
    """
    ruled_out = final == -torch.inf
    log_p = final.float().log_softmax(dim=-1).masked_fill(ruled_out, 0)
    log_q = early.float().masked_fill(ruled_out, -torch.inf).log_softmax(dim=-1).masked_fill(ruled_out, 0)
    p, q = (side.exp().masked_fill(ruled_out, 0) for side in (log_p, log_q))
    mixed = (p + q) / 2
    # ln((p + q) / 2) is computed from the logs, so that no probability of 0 enters a log
    log_m = torch.logaddexp(log_p.expand_as(log_q), log_q) - math.log(2)
    if form == "jensen_shannon":
        return (p * (log_p - log_m) + q * (log_q - log_m)).sum(dim=-1) / 2
    return (mixed * (2 * log_m - log_p - log_q)).sum(dim=-1) / 2


def contrast_layers(
    final: Float[Tensor, "batch vocab"],
    early: Float[Tensor, "layers batch vocab"],
    cut: float,
    form: Literal["published", "jensen_shannon"] = "published",
) -> Float[Tensor, "batch vocab"]:
    r"""The effect of the deep layers: :math:`\log q_{final} - \log q_{early}`, for plausible tokens only.

    The early layer of a row is the one whose prediction diverges most from the final one.

    Args:
        final: Scores of the whole decoder.
        early: Scores read off the early layers.
        cut: Threshold of :func:`plausible`.
        form: See :func:`layer_divergence`.

    Source:
        Chuang et al. 2023 (2309.03883), eq. 2-6.
    """
    farthest = layer_divergence(final, early, form).argmax(dim=0)  # (batch,)
    rows = torch.arange(final.shape[0], device=final.device)
    ruled_out = final == -torch.inf
    base = early[farthest, rows].float().masked_fill(ruled_out, -torch.inf).log_softmax(dim=-1)
    moved = final.float().log_softmax(dim=-1) - base.masked_fill(ruled_out, 0)
    return moved.masked_fill(~plausible(final, cut), -torch.inf).to(final.dtype)
