"""Anchors: a few frames of each modality that read all the others.

A frame is one position of one modality: a word piece, a video frame, a stretch of audio. Each modality scores its
frames and keeps the best few as anchors. The anchors of all modalities then read all frames of all modalities, so the
cost grows with anchors times frames instead of with the square of the frames.

Source:
    "Anchor-based multimodal embedding" of A-MESS (arXiv 2503.19474). Its method section was not available, so what an
    anchor is here is our reconstruction, after the visual anchors of AcFormer (arXiv 2405.17815).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

AnchorScore = Literal["attention", "norm", "cross", "gate", "random", "all", "none"]
ANCHOR_SCORES: tuple[AnchorScore, ...] = ("attention", "norm", "cross", "gate", "random", "all", "none")


def masked_softmax(scores: Tensor, mask: Tensor, dim: int = -1) -> Tensor:
    """Softmax over the positions where `mask` is true; 0 at the others, and 0 everywhere if all are masked.

    Example:
        >>> masked_softmax(torch.zeros(2, 2), torch.tensor([[True, False], [False, False]])).tolist()
        [[1.0, 0.0], [0.0, 0.0]]
    """
    lowest = torch.finfo(scores.dtype).min
    return scores.masked_fill(~mask, lowest).softmax(dim).masked_fill(~mask, 0)


@dataclass(frozen=True, eq=False)
class Anchors:
    """The chosen frames of one modality.

    Args:
        index: Frame of each anchor, ``(samples, anchors)``, the best first.
        valid: Whether the anchor exists, ``(samples, anchors)``; a short sample has fewer.
        weight: Share of each anchor among the valid ones, ``(samples, anchors)``; 0 where it does not exist.
    """

    index: Int[Tensor, "samples anchors"]
    valid: Bool[Tensor, "samples anchors"]
    weight: Float[Tensor, "samples anchors"]


def choose_anchors(
    score: Float[Tensor, "samples frames"],
    frame_mask: Bool[Tensor, "samples frames"],
    num_anchors: int,
    *,
    scores_are_shares: bool = False,
) -> Anchors:
    """The frames with the highest scores of each sample. Of equal scores the earlier frame is taken.

    Args:
        score: Finite numbers; those of masked frames do not matter.
        frame_mask: Which frames may become anchors.
        num_anchors: Largest number of anchors; a sample with fewer frames keeps all of them.
        scores_are_shares: Whether scores are probabilities already. The weights are then scores divided by their sum,
            because a second softmax over such small numbers would be almost flat.

    Example:
        >>> chosen = choose_anchors(torch.tensor([[0.2, 0.3, 0.3]]), torch.ones(1, 3).bool(), 2, scores_are_shares=True)
        >>> chosen.index.tolist(), chosen.weight.tolist()
        ([[1, 2]], [[0.5, 0.5]])
    """
    ordered = score.masked_fill(~frame_mask, float("-inf")).sort(dim=1, descending=True, stable=True)
    kept = min(num_anchors, score.shape[1])
    index = ordered.indices[:, :kept]
    valid = frame_mask.gather(1, index)
    best = score.gather(1, index)
    if scores_are_shares:
        best = best.masked_fill(~valid, 0)
        weight = best / best.sum(1, keepdim=True).clamp(min=torch.finfo(best.dtype).tiny)
    else:
        weight = masked_softmax(best, valid)
    return Anchors(index, valid, weight)


def gather_anchors(h: Float[Tensor, "samples frames hidden"], anchors: Anchors, weighted: bool) -> Tensor:
    """The states of the anchors, ``(samples, anchors, hidden)``, 0 where an anchor does not exist.

    If `weighted`, each state is multiplied by 1 + its weight, so that the gradient of the loss reaches the scores.
    """
    index = anchors.index.unsqueeze(-1).expand(-1, -1, h.shape[-1])
    chosen = h.gather(1, index)
    if weighted:
        chosen = chosen * (1 + anchors.weight.unsqueeze(-1).to(h.dtype))
    return chosen.masked_fill(~anchors.valid.unsqueeze(-1), 0)


def norm_scores(h: Float[Tensor, "samples frames hidden"]) -> Float[Tensor, "samples frames"]:
    r"""Score :math:`\|h_j\|`: the Euclidean norm of the state of each frame.

    Args:
        h: States, ``(samples, frames, hidden)``.

    Returns:
        Scores of 0 or more, ``(samples, frames)``; :func:`choose_anchors` handles masked frames.
    """
    return h.norm(dim=-1)


def cross_scores(
    h: Float[Tensor, "samples frames hidden"],
    others: Float[Tensor, "samples others hidden"],
    other_mask: Bool[Tensor, "samples others"],
    alone: Float[Tensor, "samples frames"],
) -> Float[Tensor, "samples frames"]:
    """Score: the largest cosine to a real frame of another modality; for samples without one, the score `alone`."""
    cosine = F.normalize(h, dim=-1) @ F.normalize(others, dim=-1).transpose(1, 2)
    cosine = cosine.masked_fill(~other_mask.unsqueeze(1), -2.0)  # below every cosine
    best = cosine.amax(-1) if others.shape[1] else h.new_full(h.shape[:2], -2.0)
    return torch.where(other_mask.any(1, keepdim=True), best, alone)


def random_scores(samples: int, frames: int, seed: int, training: bool, like: Tensor) -> Tensor:
    """Random scores: new ones in training; afterwards fixed for each place, the same in every sample and batch."""
    if training:
        return torch.rand(samples, frames, device=like.device, dtype=like.dtype)
    fixed = np.random.default_rng(seed).random(frames)  # longer draws begin with the shorter ones
    return torch.from_numpy(fixed).to(like).expand(samples, frames)


class GateScores(nn.Module):
    r"""A learned score of each frame, :math:`\sigma(w^\top \tanh(V h))`."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(hidden, hidden, bias=False), nn.Linear(hidden, 1, bias=False)

    def forward(self, h: Float[Tensor, "samples frames hidden"]) -> Float[Tensor, "samples frames"]:
        """Scores in 0..1, ``(samples, frames)``."""
        return self.outer(self.inner(h).tanh()).squeeze(-1).sigmoid()


class Attention(nn.Module):
    """Multi-head attention; queries and keys may come from different states. Without any key the result is 0, not NaN.

    Args:
        hidden: Width; a multiple of `heads`.
        heads: Number of heads.
        dropout: Dropout of the attention weights, in training.
    """

    def __init__(self, hidden: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query, self.key = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)
        self.value, self.output = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (samples, n, hidden) -> (samples, heads, n, width)

    def forward(self, query: Tensor, memory: Tensor, memory_mask: Tensor) -> Tensor:
        """``(samples, queries, hidden)`` reads ``(samples, memory, hidden)`` where ``(samples, memory)`` is true."""
        return self._mixed(*self._projected(query, memory), memory_mask)

    def with_first_row(self, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Self-attention, and the attention weights of its first position before dropout, ``(samples, heads, n)``.

        Only that row of weights is computed separately. The others stay inside torch's fused product, so that no
        ``n x n`` matrix is kept where torch has a kernel for it.
        """
        q, k, v = self._projected(x, x)
        scores = (q[:, :, :1] @ k.transpose(-1, -2)).squeeze(2) / q.shape[-1] ** 0.5
        return self._mixed(q, k, v, mask), masked_softmax(scores, mask.unsqueeze(1))

    def _projected(self, query: Tensor, memory: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._split(self.query(query)), self._split(self.key(memory)), self._split(self.value(memory))

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor, memory_mask: Tensor) -> Tensor:
        some = memory_mask.any(1)
        open_mask = memory_mask | ~some.unsqueeze(1)  # a sample without any key attends to all, and is set to 0 below
        mixed = F.scaled_dot_product_attention(
            q, k, v, open_mask[:, None, None, :], dropout_p=self.dropout if self.training else 0.0
        )
        mixed = self.output(mixed.transpose(1, 2).flatten(2))
        return mixed.masked_fill(~some[:, None, None], 0)


def feed_forward(hidden: int, multiple: int, dropout: float) -> nn.Sequential:
    """Two linear layers with GELU and dropout between, ``(…, hidden)`` -> ``(…, hidden)``.

    Args:
        hidden: Width of input and output.
        multiple: Inner width in multiples of `hidden`.
        dropout: Probability of dropping an inner unit in training, 0..1.

    Source:
        Vaswani et al. 2017, eq. 2, with GELU (Hendrycks and Gimpel 2016) for ReLU.
    """
    return nn.Sequential(
        nn.Linear(hidden, multiple * hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(multiple * hidden, hidden)
    )


class AnchorFusion(nn.Module):
    """One block: anchors read all frames of all modalities, then each other, then pass a feed-forward part.

    Args:
        hidden: Width.
        heads: Number of attention heads.
        ffn_multiple: Inner width of the feed-forward part, in multiples of `hidden`.
        dropout: Dropout after each part.
    """

    def __init__(self, hidden: int, heads: int, ffn_multiple: int, dropout: float) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(hidden) for _ in range(4))
        self.read, self.exchange = Attention(hidden, heads, dropout), Attention(hidden, heads, dropout)
        self.ffn, self.dropout = feed_forward(hidden, ffn_multiple, dropout), nn.Dropout(dropout)

    def forward(
        self,
        anchors: Float[Tensor, "samples anchors hidden"],
        anchor_mask: Bool[Tensor, "samples anchors"],
        memory: Float[Tensor, "samples memory hidden"],
        memory_mask: Bool[Tensor, "samples memory"],
    ) -> Float[Tensor, "samples anchors hidden"]:
        """The anchors after this block."""
        of_anchors, of_memory, of_exchange, of_ffn = self.norms
        anchors = anchors + self.dropout(self.read(of_anchors(anchors), of_memory(memory), memory_mask))
        normed = of_exchange(anchors)
        anchors = anchors + self.dropout(self.exchange(normed, normed, anchor_mask))
        return anchors + self.dropout(self.ffn(of_ffn(anchors)))
