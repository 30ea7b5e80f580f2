"""Collects the routing of questions that are answered in batches, and of one observation.

Three kinds of tokens are left out, so that a trace does not depend on the batch size: padding, the second prompts of a
contrastive decoding, and what a batch reads after the end of a shorter answer. Memory holds sums, and the decisions of
the first questions only.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from moiety.groups import ExpertGroups, Modality
from moiety.lens.numbers import in_float64, tallies_of
from moiety.lens.trace.file import Decisions, SavedTrace, ShownPicture, TracedQuestion
from moiety.lens.trace.observe import Observation, as_seen, grid_of, joined, pieces
from moiety.moe import statistics
from moiety.moe.statistics import Tally
from moiety.moe.trace import Routing, RoutingTrace
from moiety.vlm.configs import name_of
from moiety.vlm.decoders import decoder_layers
from moiety.vlm.images import Pictures, as_rgb
from moiety.vlm.model import groups_of, moe_layers, settings_of
from moiety.vlm.rows import IMAGE_MARK, Row

LARGEST_PICTURE = 336  # pixels a side
PATCHES = (Modality.IMAGE, Modality.VIDEO)
Phases = dict[str, dict[int, Routing]]


def empty_trace(model: Any, settings: Mapping[str, Any]) -> SavedTrace:
    """A trace of `model` without any question.

    Raises:
        ValueError: the model is dense.
    """
    moe, groups = settings_of(model), groups_of(model)
    if moe is None or groups is None or not moe_layers(model):
        raise ValueError(
            "this model is dense: it has no experts whose routing could be traced; make it sparse first with "
            "`moiety upcycle`"
        )
    return SavedTrace(
        model=name_of(model),
        scheme=moe.scheme,
        groups=groups,
        layers=sorted(layer.layer_index for layer in moe_layers(model)),
        num_layers=len(decoder_layers(model)),
        settings=json.loads(json.dumps({**settings, "mask_rule": moe.mask_rule})),
        num_questions=0,
        totals={},
        questions=[],
    )


def trace_of(model: Any, seen: Observation, settings: Mapping[str, Any]) -> SavedTrace:
    """The trace of one observed question."""
    phases = {phase: decisions(by_layer, seen.groups) for phase, by_layer in seen.phases.items() if by_layer}
    png = as_png(seen.picture)
    question = TracedQuestion(
        id="inspect",
        question=seen.question,
        answer=seen.answer,
        expected=None,
        note=seen.note,
        words=seen.words,
        generated=seen.generated,
        picture_of=np.where(seen.is_image, 0, -1).astype(np.int8),
        pictures=[ShownPicture(seen.grid, png)],
        phases=phases,
    )
    return replace(empty_trace(model, settings), num_questions=1, totals=tallies_of(seen), questions=[question])


def decisions(by_layer: Mapping[int, Routing], groups: ExpertGroups) -> Decisions:
    """The choices of the tokens of one question in all sparse layers, in the types of the file."""
    visible = torch.tensor([max(2, len(groups.visible(name))) for name in groups.names]).log()
    index, weights, entropy = [], [], []
    for layer in sorted(by_layer):
        routing = by_layer[layer]
        order = routing.weights.argsort(dim=-1, descending=True, stable=True)
        index.append(routing.index.gather(-1, order))
        weights.append(routing.weights.gather(-1, order).half())
        log_p = routing.logits.float().log_softmax(dim=-1)
        nats = -torch.where(log_p > -torch.inf, log_p.exp() * log_p, 0).sum(dim=-1)
        entropy.append((nats / visible[routing.modality_group]).clamp(0, 1).half())
    group = routing.modality_group.numpy().astype(np.uint8)
    small = np.uint8 if groups.num_experts <= 256 else np.uint16
    return Decisions(
        torch.stack(index).numpy().astype(small), torch.stack(weights).numpy(), torch.stack(entropy).numpy(), group
    )


def answered_lengths(said: Tensor, ends: Sequence[int]) -> list[int]:
    """Number of tokens of each answer that were read again: all but the last, which is the end mark if there is one.

    Example:
        >>> answered_lengths(torch.tensor([[5, 6, 2, 0], [5, 6, 7, 8], [2, 0, 0, 0]]), [2])
        [2, 3, 0]
    """
    is_end = torch.isin(said.cpu(), torch.tensor(list(ends), dtype=said.dtype))
    first = torch.where(is_end.any(dim=1), is_end.int().argmax(dim=1), said.shape[1] - 1)
    return [int(length) for length in first]


def end_tokens(model: Any) -> list[int]:
    """Tokens that end an answer of `model`."""
    given = getattr(model.generation_config, "eos_token_id", None)
    return [] if given is None else [given] if isinstance(given, int) else list(given)


def split_batch(trace: RoutingTrace, mask: Tensor, lengths: Sequence[int]) -> list[Phases]:
    """Split the decisions of one batch by question and phase, on the CPU.

    Args:
        trace: Trace of the generation of the batch.
        mask: True at the real positions of the prompts, ``(batch, seq)``.
        lengths: Number of tokens of each answer that were read again.

    Raises:
        RuntimeError: the first decision of a layer does not cover the prompts, so the two phases cannot be separated.
    """
    batch, seq = mask.shape
    found: list[Phases] = [{"prefill": {}, "decode": {}} for _ in lengths]
    for layer, routings in trace.by_layer().items():
        read = routings[0].index.shape[0]
        if read % seq or read // seq not in (batch, 2 * batch):
            raise RuntimeError(
                f"layer {layer} read {read} tokens at first, the prompts of the batch have {batch} x {seq}; "
                "prefill in chunks cannot be separated from decode"
            )
        first, *steps = (_lean(routing) for routing in routings)
        rows, later = read // seq, joined(steps) if steps else None
        for number, length in enumerate(lengths):
            own = number * seq + mask[number].nonzero().squeeze(-1)
            found[number]["prefill"][layer] = _rows(first, own)
            if length and later is not None:
                found[number]["decode"][layer] = _rows(later, torch.arange(length) * rows + number)
    return found


def _lean(routing: Routing) -> Routing:
    """The parts of a decision that a trace needs, on the CPU."""
    return Routing(
        logits=routing.logits.detach().float().cpu(),
        index=routing.index.cpu(),
        weights=routing.weights.detach().float().cpu(),
        modality_group=routing.modality_group.cpu(),
    )


def _rows(routing: Routing, places: Tensor) -> Routing:
    return Routing(
        routing.logits[places], routing.index[places], routing.weights[places], routing.modality_group[places]
    )


def add_totals(totals: dict[str, dict[int, Tally]], phases: Phases, groups: ExpertGroups) -> None:
    """Add the decisions of one question to sums by phase and layer."""
    for phase, by_layer in phases.items():
        for layer, routing in by_layer.items():
            count = in_float64(statistics.tally(routing, groups))
            sums = totals.setdefault(phase, {})
            sums[layer] = sums[layer] + count if layer in sums else count


def traced_question(
    row: Row,
    tokens: Tensor,
    modality_ids: Tensor,
    said: Sequence[int],
    phases: Phases,
    shown: tuple[Sequence[Image.Image], bool],
    processor: Any,
    groups: ExpertGroups,
) -> TracedQuestion:
    """Everything that is kept of one question of a batch.

    Args:
        row: The question.
        tokens: Its prompt without padding, ``(seq,)``.
        modality_ids: ``(seq,)``.
        said: Tokens of the answer; the last one was not read again.
        phases: Its decisions.
        shown: Its pictures, see :func:`pictures_of_batch`.
        processor: Processor of the model.
        groups: Expert groups of the model.
    """
    is_image = torch.isin(modality_ids, torch.tensor([int(kind) for kind in PATCHES])).numpy()
    count, num_pictures = int(is_image.sum()), len(row.images)
    whole = shown[1] and num_pictures > 0 and count % num_pictures == 0
    grid, note = grid_of(count // num_pictures if whole else count, whole) if count else (None, "")
    parts = num_pictures if grid is not None else min(1, count)  # without a grid all patches stand in one strip
    picture_of = np.full(len(tokens), -1, dtype=np.int8)
    picture_of[is_image] = np.arange(count) * parts // max(1, count)
    kept: list[Image.Image | None] = [*shown[0], *[None] * parts]
    words = pieces(processor.tokenizer, tokens.tolist())
    last = row.turns[-1].text if row.turns[-1].role == "assistant" else None
    asked = [turn.text for turn in row.turns if turn.role == "user"][-1]
    return TracedQuestion(
        id=row.id,
        question=asked.replace(IMAGE_MARK, "").strip(),
        answer=processor.tokenizer.decode(said, skip_special_tokens=True).strip(),
        expected=row.answers[0] if row.answers else last,
        note=note,
        words=["" if patch else word for patch, word in zip(is_image, words, strict=True)],
        generated=pieces(processor.tokenizer, list(said[:-1])),
        picture_of=picture_of,
        pictures=[ShownPicture(grid, None if image is None else as_png(image)) for image in kept[:parts]],
        phases={phase: decisions(by_layer, groups) for phase, by_layer in phases.items() if by_layer},
    )


def pictures_of_batch(
    same: Sequence[Row], prompts: Mapping[str, Tensor], processor: Any, images: Pictures
) -> list[tuple[list[Image.Image], bool]]:
    """Pictures of each row as the vision tower got them, and True; or the given pictures, and False."""
    pixels, total = prompts.get("pixel_values"), sum(len(row.images) for row in same)
    whole = pixels is not None and pixels.ndim == 4 and total > 0 and pixels.shape[0] in (total, 2 * total)
    found, start = [], 0
    for row in same:
        stop = start + len(row.images)
        seen = [as_seen(processor, {"pixel_values": pixels[i : i + 1]}) for i in range(start, stop)] if whole else []  # type: ignore[index]
        start = stop
        kept = [image for image in seen if image is not None]
        good = bool(kept) and len(kept) == len(row.images)
        found.append((kept if good else [images[name] for name in row.images if name in images], good))
    return found


def as_png(picture: Image.Image, largest: int = LARGEST_PICTURE) -> bytes:
    """A picture as PNG, made smaller if a side has more than `largest` pixels."""
    small = as_rgb(picture)
    small = small.copy() if small is picture else small
    small.thumbnail((largest, largest))
    content = io.BytesIO()
    small.save(content, "PNG", optimize=True)
    return content.getvalue()


def fingerprint(row: Row) -> int:
    """A number that identifies a question: a hash of its id, its turns and the names of its pictures."""
    said = json.dumps([row.id, [turn.text for turn in row.turns], row.images])
    return int.from_bytes(hashlib.sha256(said.encode()).digest()[:8], "big", signed=True)
