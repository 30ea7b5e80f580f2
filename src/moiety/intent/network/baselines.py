"""The baselines, with the same frames, masks and training loop as A-MESS; and making the network of a method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from moiety.intent.data.samples import MODALITIES, IntentBatch
from moiety.intent.network.anchors import Attention, feed_forward
from moiety.intent.network.model import AMESS, Fused, IntentNetwork, ModalityEncoder, masked_mean, sinusoid, text_vector
from moiety.intent.network.reader import TextReader
from moiety.intent.settings import IntentSettings


class TextOnly(nn.Module):
    """The text vector through two layers; the other modalities are not used.

    Raises:
        ValueError: the data has no text.
    """

    def __init__(self, dims: Mapping[str, int], settings: IntentSettings) -> None:
        super().__init__()
        _need_text(dims, "text")
        self.mlp = nn.Sequential(
            nn.Linear(dims["text"], settings.hidden), nn.GELU(), nn.Dropout(settings.dropout),
            nn.Linear(settings.hidden, settings.hidden), nn.GELU(),
        )  # fmt: skip
        self.width = settings.hidden

    def forward(self, batch: IntentBatch) -> Fused:
        """Embed a batch."""
        return Fused(self.mlp(text_vector(batch)))


class Concat(nn.Module):
    """Late fusion: the projected mean frames of all modalities, concatenated, through two layers.

    The order of the frames does not matter.
    """

    def __init__(self, dims: Mapping[str, int], settings: IntentSettings) -> None:
        super().__init__()
        self.names = tuple(name for name in MODALITIES if name in dims)
        hidden = settings.hidden
        self.norms = nn.ModuleDict({name: nn.LayerNorm(dims[name]) for name in self.names})
        self.project = nn.ModuleDict({name: nn.Linear(dims[name], hidden) for name in self.names})
        self.mlp = nn.Sequential(
            nn.Linear(hidden * len(self.names), hidden), nn.GELU(), nn.Dropout(settings.dropout),
            nn.Linear(hidden, hidden), nn.GELU(),
        )  # fmt: skip
        self.width = hidden

    def forward(self, batch: IntentBatch) -> Fused:
        """Embed a batch; an absent modality is a vector of zeros."""
        vectors = []
        for name in self.names:
            mask = batch.frame_mask[name]
            vector = self.project[name](self.norms[name](masked_mean(batch.x[name], mask)))
            vectors.append(vector.masked_fill(~mask.any(1, keepdim=True), 0))
        return Fused(self.mlp(torch.cat(vectors, dim=-1)))


class Block(nn.Module):
    """One transformer block with pre-normalisation; its keys may come from other states than its queries."""

    def __init__(self, settings: IntentSettings) -> None:
        super().__init__()
        hidden = settings.hidden
        self.of_query, self.of_memory, self.of_ffn = nn.LayerNorm(hidden), nn.LayerNorm(hidden), nn.LayerNorm(hidden)
        self.attention = Attention(hidden, settings.num_heads, settings.dropout)
        self.ffn, self.dropout = (
            feed_forward(hidden, settings.ffn_multiple, settings.dropout),
            nn.Dropout(settings.dropout),
        )

    def forward(self, x: Tensor, memory: Tensor | None, memory_mask: Tensor) -> Tensor:
        """New states, ``(samples, frames, hidden)``; without `memory` this is self-attention."""
        query = self.of_query(x)
        x = x + self.dropout(self.attention(query, query if memory is None else self.of_memory(memory), memory_mask))
        return x + self.dropout(self.ffn(self.of_ffn(x)))


class MulT(nn.Module):
    """Multimodal transformer: every modality attends to every other one; cost grows with the square of the frames.

    Masked frames are never keys, and are never the frame that is read out. The released code does not ensure this.

    Source:
        Tsai et al. 2019, section 3, with ``fusion_layers`` cross-modal and at least 3 self-attention layers.
    """

    def __init__(self, dims: Mapping[str, int], settings: IntentSettings) -> None:
        super().__init__()
        self.names = tuple(name for name in MODALITIES if name in dims)
        hidden = settings.hidden
        sizes = {name: 5 if name == "text" else 1 for name in self.names}
        self.convolve = nn.ModuleDict(
            {name: nn.Conv1d(dims[name], hidden, size, padding=size // 2, bias=False) for name, size in sizes.items()}
        )
        pairs = [(to, of) for to in self.names for of in self.names if to != of] or [(self.names[0], self.names[0])]
        self.pairs = pairs
        self.cross = nn.ModuleDict(
            {
                f"{to}_{of}": nn.ModuleList(Block(settings) for _ in range(max(1, settings.fusion_layers)))
                for to, of in pairs
            }
        )
        streams = max(1, len(self.names) - 1)
        self.gather = nn.ModuleDict({name: nn.Linear(streams * hidden, hidden) for name in self.names})
        self.memory = nn.ModuleDict(
            {name: nn.ModuleList(Block(settings) for _ in range(max(3, settings.fusion_layers))) for name in self.names}
        )
        self.width = hidden * len(self.names)
        self.residual = nn.Sequential(
            nn.Linear(self.width, self.width),
            nn.ReLU(),
            nn.Dropout(settings.dropout),
            nn.Linear(self.width, self.width),
        )

    def forward(self, batch: IntentBatch) -> Fused:
        """Embed a batch."""
        h, masks = {}, batch.frame_mask
        for name in self.names:
            x = batch.x[name]
            h[name] = self.convolve[name](x.transpose(1, 2)).transpose(1, 2)
            h[name] = h[name] + sinusoid(x.shape[1], h[name].shape[-1], h[name])
        read: dict[str, list[Tensor]] = {name: [] for name in self.names}
        for to, of in self.pairs:
            stream = h[to]
            for block in cast(nn.ModuleList, self.cross[f"{to}_{of}"]):
                stream = block(stream, h[of], masks[of])
            read[to].append(stream)
        last = [self._last(name, torch.cat(read[name], dim=-1), masks[name]) for name in self.names]
        joined = torch.cat(last, dim=-1)
        return Fused(joined + self.residual(joined))

    def _last(self, name: str, streams: Tensor, mask: Tensor) -> Tensor:
        """State of the last real frame after self-attention; 0 where the modality is absent."""
        x = self.gather[name](streams)
        for block in cast(nn.ModuleList, self.memory[name]):
            x = block(x, None, mask)
        place = (mask.sum(1) - 1).clamp(min=0)
        last = x.gather(1, place[:, None, None].expand(-1, 1, x.shape[-1])).squeeze(1)
        return last.masked_fill(~mask.any(1, keepdim=True), 0)


class MAG(nn.Module):
    r"""Multimodal adaptation gate: video and audio shift each text frame a little before the text is encoded.

    :math:`e' = LN(e + \min(1, \beta \|e\| / \|s\|) s)` with :math:`s = g_v W_v v + g_a W_a a` and gates :math:`g`
    that see the frame and the other modality. Video and audio are brought to the length of the text by averaging.

    Args:
        dims: Modality -> width of its frames; text must be among them.
        settings: Widths and dropout.

    Raises:
        ValueError: the data has no text.

    Source:
        Rahman et al. 2020, eq. 1-5. Text comes as features, so the gate is in front of our text encoder instead of
        inside a pretrained one, and bins of frames replace the learned alignment.
    """

    beta = 0.005

    def __init__(self, dims: Mapping[str, int], settings: IntentSettings) -> None:
        super().__init__()
        _need_text(dims, "mag")
        self.others = tuple(name for name in MODALITIES if name in dims and name != "text")
        width = dims["text"]
        self.gates = nn.ModuleDict({name: nn.Linear(dims[name] + width, width) for name in self.others})
        self.shift = nn.ModuleDict({name: nn.Linear(dims[name], width) for name in self.others})
        self.norm, self.dropout = nn.LayerNorm(width), nn.Dropout(settings.dropout)
        self.encoder = ModalityEncoder(width, settings)
        self.width = settings.hidden

    def forward(self, batch: IntentBatch) -> Fused:
        """Embed a batch. For a sample without text, one empty text frame is shifted."""
        e, mask = batch.x["text"], batch.frame_mask["text"]
        mask = mask.clone()
        mask[:, 0] |= ~mask.any(1)
        shift = torch.zeros_like(e)
        for name in self.others:
            aligned = to_bins(batch.x[name], batch.frame_mask[name], mask)
            gate = torch.relu(self.gates[name](torch.cat([aligned, e], dim=-1)))
            here = batch.present(name)[:, None, None]
            shift = shift + (gate * self.shift[name](aligned)).masked_fill(~here, 0)
        length = shift.norm(dim=-1, keepdim=True)
        length = torch.where(length == 0, torch.ones_like(length), length + 1e-6)
        alpha = (self.beta * e.norm(dim=-1, keepdim=True) / length).clamp(max=1)
        h, _, _ = self.encoder(self.dropout(self.norm(e + alpha * shift)), mask)
        return Fused(h[:, 0])


def to_bins(x: Tensor, x_mask: Tensor, target_mask: Tensor) -> Tensor:
    """Means of the real frames of `x` in as many bins as the target has real frames, ``(samples, target, dim)``.

    Frame *j* of *n* is in bin ``floor(j * m / n)`` of *m*. An empty bin repeats the frame at its place.
    """
    n, m = x_mask.sum(1, keepdim=True).clamp(min=1), target_mask.sum(1, keepdim=True).clamp(min=1)
    frame = torch.arange(x.shape[1], device=x.device).unsqueeze(0)
    bins = torch.arange(target_mask.shape[1], device=x.device)[None, :, None]
    inside = (frame * m // n).unsqueeze(1) == bins
    nearest = frame.unsqueeze(1) == (bins * n.unsqueeze(-1) // m.unsqueeze(-1))
    open_mask = x_mask.unsqueeze(1)
    inside = torch.where((inside & open_mask).any(-1, keepdim=True), inside, nearest) & open_mask
    weight = inside.to(x.dtype)
    return weight @ x / weight.sum(-1, keepdim=True).clamp(min=1)


def _need_text(dims: Mapping[str, int], method: str) -> None:
    if "text" not in dims:
        raise ValueError(
            f"method {method!r} needs text, but the data has only {', '.join(dims)}; use amess, concat or mult"
        )


METHODS: dict[str, type[nn.Module]] = {"amess": AMESS, "text": TextOnly, "concat": Concat, "mult": MulT, "mag": MAG}
"""Method -> network. A new method is a class with ``width`` and ``forward(batch) -> Fused``, and a line here."""


def network_for(
    dims: Mapping[str, int],
    num_classes: int,
    settings: IntentSettings,
    label_embeddings: Tensor | None = None,
    reader: TextReader | None = None,
) -> IntentNetwork:
    """The network of a method with its head.

    Args:
        dims: Modality -> width of its frames.
        num_classes: Number of classes.
        settings: The method, and everything else.
        label_embeddings: Encoded label descriptions, ``(classes, label_dim)``; None: nothing synchronises.
        reader: Text encoder that learns, whose states the method takes as text; None: text comes as frames.
    """
    wide = dims if reader is None else {**dims, "text": reader.dim}
    body = METHODS[settings.method](wide, settings)
    return IntentNetwork(body, num_classes, settings, label_embeddings, reader)
