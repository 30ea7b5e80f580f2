"""A-MESS (an encoder for each modality, anchors, fusion, pooling), and the head and projections of every method."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from moiety.intent.data.samples import MODALITIES, IntentBatch
from moiety.intent.network.anchors import (
    AnchorFusion,
    Anchors,
    Attention,
    GateScores,
    choose_anchors,
    cross_scores,
    feed_forward,
    gather_anchors,
    masked_softmax,
    norm_scores,
    random_scores,
)
from moiety.intent.network.synchronise import Projections
from moiety.intent.settings import IntentSettings


@dataclass(frozen=True, eq=False)
class Fused:
    """What a method makes of a batch.

    Args:
        embedding: One vector for each sample, ``(samples, width)``.
        anchors: Modality -> chosen frames; empty for methods without anchors.
        pooling: Share of each anchor in the pooled vector, ``(samples, anchors)``; for each modality first its cls
            state, then its chosen frames. None for methods without anchors.
    """

    embedding: Float[Tensor, "samples width"]
    anchors: Mapping[str, Anchors] = field(default_factory=dict)
    pooling: Tensor | None = None


def sinusoid(frames: int, hidden: int, like: Tensor) -> Float[Tensor, "frames hidden"]:
    """Positions as sines and cosines of falling frequency (base 10,000), for any number of frames.

    Source:
        Vaswani et al. 2017, section 3.5.
    """
    place = torch.arange(frames, device=like.device).unsqueeze(1)
    rate = torch.exp(torch.arange(0, hidden, 2, device=like.device) * (-math.log(10000.0) / hidden))
    wave = torch.zeros(frames, hidden, device=like.device)
    wave[:, 0::2] = torch.sin(place * rate)
    wave[:, 1::2] = torch.cos(place * rate)[:, : hidden // 2]
    return wave.to(like.dtype)


def text_vector(batch: IntentBatch) -> Float[Tensor, "samples dim"]:
    """The text as one vector: its first frame if that is an encoder's mark, else the mean; 0 where text is absent."""
    x, mask = batch.x["text"], batch.frame_mask["text"]
    return torch.where(batch.text_marks.unsqueeze(1), x[:, 0], masked_mean(x, mask))


def masked_mean(x: Float[Tensor, "samples frames dim"], mask: Bool[Tensor, "samples frames"]) -> Tensor:
    """Mean over the real frames; 0 for a sample without any.

    Args:
        x: Frames, ``(samples, frames, dim)``.
        mask: Which frames are real, ``(samples, frames)``.

    Returns:
        ``(samples, dim)``.
    """
    weight = mask.unsqueeze(-1).to(x.dtype)
    return (x * weight).sum(1) / weight.sum(1).clamp(min=1)


class ModalityEncoder(nn.Module):
    """The states of one modality: projected frames with positions, a learned cls state, one self-attention layer.

    Args:
        dim: Width of the frames.
        settings: Widths and dropout.
    """

    def __init__(self, dim: int, settings: IntentSettings) -> None:
        super().__init__()
        hidden = settings.hidden
        self.project, self.norm = nn.Linear(dim, hidden), nn.LayerNorm(hidden)
        self.scale = nn.Parameter(torch.ones(()))
        self.cls, self.kind = nn.Parameter(torch.empty(hidden)), nn.Parameter(torch.empty(hidden))
        nn.init.normal_(self.cls, std=0.02)
        nn.init.normal_(self.kind, std=0.02)
        self.before_attention, self.before_ffn = nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.attention = Attention(hidden, settings.num_heads, settings.dropout)
        self.ffn = feed_forward(hidden, settings.ffn_multiple, settings.dropout)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, x: Tensor, frame_mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States ``(samples, 1 + frames, hidden)``, cls first; their mask; attention of cls, ``(samples, frames)``."""
        frames = self.norm(self.project(x)) + self.scale * sinusoid(x.shape[1], self.cls.shape[0], x) + self.kind
        first = (self.cls + self.kind).expand(len(x), 1, -1)
        h = self.dropout(torch.cat([first, frames], dim=1))
        mask = torch.cat([frame_mask.any(1, keepdim=True), frame_mask], dim=1)
        mixed, weights = self.attention.with_first_row(self.before_attention(h), mask)
        h = h + self.dropout(mixed)
        h = h + self.dropout(self.ffn(self.before_ffn(h)))
        h = h.masked_fill(~mask.unsqueeze(-1), 0)
        return h, mask, weights.mean(1)[:, 1:]


class AMESS(nn.Module):
    """Anchor-based multimodal embedding.

    Args:
        dims: Modality -> width of its frames.
        settings: Everything else.

    Source:
        A-MESS (arXiv 2503.19474) as reconstructed by moiety: its method section was not available.
    """

    def __init__(self, dims: Mapping[str, int], settings: IntentSettings) -> None:
        super().__init__()
        self.settings, self.names = settings, tuple(name for name in MODALITIES if name in dims)
        hidden, kind = settings.hidden, settings.anchor_score
        self.encoders = nn.ModuleDict({name: ModalityEncoder(dims[name], settings) for name in self.names})
        self.gates = nn.ModuleDict({name: GateScores(hidden) for name in self.names} if kind == "gate" else {})
        self.fusion = nn.ModuleList(
            AnchorFusion(hidden, settings.num_heads, settings.ffn_multiple, settings.dropout)
            for _ in range(settings.fusion_layers)
        )
        self.pool_inner, self.pool_outer = nn.Linear(hidden, hidden), nn.Linear(hidden, 1, bias=False)
        self.shortcut = settings.text_shortcut and "text" in dims
        self.join = nn.Linear(hidden + (dims["text"] if self.shortcut else 0), hidden)
        self.norm = nn.LayerNorm(hidden)
        self.width = hidden

    def forward(self, batch: IntentBatch) -> Fused:
        """Embed a batch. The numbers of a sample do not depend on the others in the batch."""
        encoded = {name: self.encoders[name](batch.x[name], batch.frame_mask[name]) for name in self.names}
        points, mask, anchors = self._anchors(batch, encoded)
        memory = torch.cat([encoded[name][0] for name in self.names], dim=1)
        memory_mask = torch.cat([encoded[name][1] for name in self.names], dim=1)
        for block in self.fusion:
            points = block(points, mask, memory, memory_mask)
        share = self._pooling(points, mask, anchors)
        pooled = (share.unsqueeze(-1) * points).sum(1)
        if self.shortcut:
            pooled = torch.cat([pooled, text_vector(batch)], dim=-1)
        return Fused(self.norm(self.join(pooled)), anchors, share)

    def _anchors(self, batch: IntentBatch, encoded: Mapping[str, tuple[Tensor, ...]]) -> tuple[Tensor, Tensor, dict]:
        """The cls state and the chosen frames of all modalities, concatenated; their mask; the chosen frames."""
        points, masks, chosen = [], [], {}
        for name in self.names:
            h, mask, _ = encoded[name]
            points.append(h[:, :1])
            masks.append(mask[:, :1])
            if self.settings.anchor_score == "none":
                continue
            may = batch.anchor_mask[name]
            shares = self.settings.anchor_score == "attention"
            number = h.shape[1] - 1 if self.settings.anchor_score == "all" else self._number(name)
            anchors = choose_anchors(self._scores(name, encoded), may, number, scores_are_shares=shares)
            points.append(gather_anchors(h[:, 1:], anchors, self.settings.anchor_weighting))
            masks.append(anchors.valid)
            chosen[name] = anchors
        return torch.cat(points, dim=1), torch.cat(masks, dim=1), chosen

    def _number(self, name: str) -> int:
        return int(self.settings.of_modality("num_anchors", name))

    def _scores(self, name: str, encoded: Mapping[str, tuple[Tensor, ...]]) -> Float[Tensor, "samples frames"]:
        h, attended = encoded[name][0][:, 1:], encoded[name][2]
        kind = self.settings.anchor_score
        if kind == "norm":
            return norm_scores(h)
        if kind == "gate":
            return self.gates[name](h)
        if kind == "random":
            return random_scores(len(h), h.shape[1], self.settings.random_state, self.training, h)
        if kind == "cross":
            others = [other for other in self.names if other != name]
            if not others:
                return attended
            states = torch.cat([encoded[other][0][:, 1:] for other in others], dim=1)
            masks = torch.cat([encoded[other][1][:, 1:] for other in others], dim=1)
            return cross_scores(h, states, masks, attended)
        return attended

    def _pooling(
        self, points: Tensor, mask: Tensor, anchors: Mapping[str, Anchors]
    ) -> Float[Tensor, "samples anchors"]:
        """Share of each anchor in the pooled vector; 0 where the anchor does not exist."""
        if self.settings.pooling == "attention":
            return masked_softmax(self.pool_outer(self.pool_inner(points).tanh()).squeeze(-1), mask)
        if self.settings.pooling == "cls":
            first = torch.zeros_like(mask)
            place = 0
            for name in self.names:
                first[:, place] = True
                place += 1 + (anchors[name].index.shape[1] if name in anchors else 0)
            mask = mask & first
        return mask.to(points.dtype) / mask.sum(1, keepdim=True).clamp(min=1)


@dataclass(frozen=True, eq=False)
class IntentOutput:
    """The result of one batch.

    Args:
        logits: One score for each class, ``(samples, classes)``.
        embedding: Input of the head, ``(samples, width)``.
        fused: What the method made of the batch, with its anchors.
    """

    logits: Float[Tensor, "samples classes"]
    embedding: Float[Tensor, "samples width"]
    fused: Fused


class IntentNetwork(nn.Module):
    """A method with a linear head and, if there are label descriptions, the projections of semantic synchronisation.

    Args:
        body: A method, which turns an :class:`IntentBatch` into :class:`Fused`; ``width`` is that of its embedding.
        num_classes: Number of classes.
        settings: Dropout and widths.
        label_embeddings: Encoded descriptions, ``(classes, label_dim)``; None: nothing synchronises.
        reader: Turns word pieces into states before the method reads them; None: text comes as frames.
    """

    label_embeddings: Tensor | None

    def __init__(
        self,
        body: nn.Module,
        num_classes: int,
        settings: IntentSettings,
        label_embeddings: Tensor | None = None,
        reader: nn.Module | None = None,
    ) -> None:
        super().__init__()
        width = int(body.width)  # type: ignore[arg-type]
        self.body, self.head = body, nn.Linear(width, num_classes)
        self.dropout = nn.Dropout(settings.dropout)
        self.register_buffer("label_embeddings", label_embeddings)
        self.projections = (
            None if label_embeddings is None else Projections(width, label_embeddings.shape[1], settings.sync_dim)
        )
        self.reader = reader
        self.semantic_logit_weight = settings.semantic_logit_weight

    def forward(self, batch: IntentBatch) -> IntentOutput:
        """Logits and embedding. In evaluation ``semantic_logit_weight`` adds the descriptions to the logits."""
        batch = batch.cleaned()
        fused = self.body(batch if self.reader is None else self.reader(batch))
        logits = self.head(self.dropout(fused.embedding))
        if self.semantic_logit_weight and not self.training and self.projections is not None:
            f, g = self.synchronised(fused.embedding)
            logits = logits + self.semantic_logit_weight * 10 * (f @ g.T)
        return IntentOutput(logits, fused.embedding, fused)

    def synchronised(self, embedding: Tensor) -> tuple[Tensor, Tensor]:
        """Points of samples and of classes in the shared space, each of length 1.

        Raises:
            RuntimeError: the network was built without label descriptions.
        """
        if self.projections is None or self.label_embeddings is None:
            raise RuntimeError("this network has no label descriptions; build it with label_embeddings")
        return self.projections(embedding, self.label_embeddings)
