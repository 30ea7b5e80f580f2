"""Which words speak of which picture: the text spans of a batch, and the true and false pairs that they form.

The number of spans depends on the data, so both functions read sizes back from the device. Call them in a training
step, never in a layer.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from moiety.recipe.asymoe import AsyMoESettings


@dataclass(frozen=True, eq=False)
class Spans:
    """Text spans of one batch with the pictures they speak of.

    Args:
        vision_mask: Image tokens of the same sample before the span, ``(spans, tokens)``; true where the token belongs
            to the picture.
        text_mask: Tokens of the span, ``(spans, tokens)``.
        sample: Row of the batch that the span stands in, ``(spans,)``.
        number: 1-based number of the span in its sample, ``(spans,)``, as in ``span_ids``.
    """

    vision_mask: Bool[Tensor, "spans tokens"]
    text_mask: Bool[Tensor, "spans tokens"]
    sample: Int[Tensor, " spans"]
    number: Int[Tensor, " spans"]


@dataclass(frozen=True, eq=False)
class ConePairs:
    """Which picture is paired with which span. A pair is two rows of :class:`Spans`: the picture's, then the text's."""

    true: Int[Tensor, "2 pairs"]
    false: Int[Tensor, "2 negatives"]


def cone_spans(image_mask: Bool[Tensor, "batch seq"], span_ids: Int[Tensor, "batch seq"]) -> Spans:
    """Spans of a batch that have a picture before them, with the tokens of that picture or of all such pictures.

    Args:
        image_mask: True on image tokens.
        span_ids: 1-based number of the span that a text token belongs to, 0 elsewhere.

    Example:
        >>> spans = cone_spans(torch.tensor([[True, False, False]]), torch.tensor([[0, 1, 1]]))
        >>> spans.vision_mask.int().tolist(), spans.text_mask.int().tolist()
        ([[1, 0, 0]], [[0, 1, 1]])
    """
    batch, seq = span_ids.shape
    position = torch.arange(batch * seq, device=span_ids.device)
    sample = position // seq
    names = torch.stack([sample, span_ids.reshape(-1)], dim=1)  # (tokens, 2)
    found = torch.unique(names[names[:, 1] > 0], dim=0)  # (spans, 2), by sample and number
    text_mask = (names == found.unsqueeze(1)).all(dim=-1)  # (spans, tokens)
    start = torch.where(text_mask, position, batch * seq).amin(dim=1)
    before = (position < start.unsqueeze(1)) & (sample == found[:, :1])
    vision_mask = before & image_mask.reshape(-1)
    seen = vision_mask.any(dim=1)
    return Spans(vision_mask[seen], text_mask[seen], found[seen, 0], found[seen, 1])


def cone_pairs(
    spans: Spans,
    settings: AsyMoESettings,
    image_key: Int[Tensor, " batch"],
    belongs: Bool[Tensor, " spans"] | None = None,
) -> ConePairs:
    """True pairs, and the false pairs that the setting ``negatives`` asks for.

    ``hard`` pairs each span that the data marks as false with its own picture. ``in_batch`` pairs every span that is
    true of its own picture with each picture of another key. A picture that many spans share counts once.

    Args:
        spans: Spans of the batch.
        settings: Section ``moe.asymoe``; the field ``negatives`` is read.
        image_key: Number of each sample's picture, ``(batch,)``; equal numbers mean the same picture.
        belongs: Whether each span is true of its picture, ``(spans,)``. None: all are true.
    """
    if belongs is None:
        belongs = torch.ones_like(spans.sample, dtype=torch.bool)
    own = torch.arange(len(spans.sample), device=spans.sample.device)
    true, false = own[belongs].expand(2, -1), [own.new_empty(2, 0)]
    if settings.negatives in ("hard", "both"):
        false.append(own[~belongs].expand(2, -1))
    if settings.negatives in ("in_batch", "both"):
        extent = spans.vision_mask.sum(dim=1)  # of one sample's prefixes, equal length is the same pictures
        same = (spans.sample == spans.sample.unsqueeze(1)) & (extent == extent.unsqueeze(1))
        first = ~same.tril(-1).any(dim=1)
        key = image_key[spans.sample]
        other = first.unsqueeze(1) & belongs & (key.unsqueeze(1) != key)
        false.append(other.nonzero().T)
    return ConePairs(true, torch.cat(false, dim=1))
