"""Computes a picture once for all questions about it.

The *opening* of a prompt is everything up to its last picture token: the system sentence, the first header and the
pictures. Questions about one picture have the same opening. It is computed once for each picture. Its key-value cache
is repeated for each question, and ``generate`` goes on from there. The answers are those of whole prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moiety.groups import Modality
from moiety.vlm.contracts import MODALITY_TYPES
from moiety.vlm.encoded import positions_in

_POSITIONS = {"input_ids", "modality_ids", "evidence_mask", MODALITY_TYPES}
"""What may be said of each token. Families that say more see the tokens of a picture in both directions."""

Prompt = Mapping[str, Tensor]
Collate = Callable[[Sequence[Prompt]], dict[str, Tensor]]


@dataclass(frozen=True)
class SharedPrompts:
    """One batch of questions whose openings are computed once.

    Args:
        openings: Left-padded batch of the different openings, with their pictures.
        questions: All prompts without pictures, ``(questions, seq)``. Each begins with its opening, padding included.
        opening_of: For each question the row of `openings`, ``(questions,)``.
    """

    openings: dict[str, Tensor]
    questions: dict[str, Tensor]
    opening_of: Tensor


def shared_prompts(prompts: Sequence[Prompt], pictures: Sequence[Hashable], collate: Collate) -> SharedPrompts | None:
    """Split prompts into openings and questions.

    Args:
        prompts: Of :meth:`moiety.vlm.data.Encoder.encode_prompt`, without padding.
        pictures: What each prompt shows. Prompts that show the same have equal picture tensors.
        collate: Joins prompts into a left-padded batch.

    Returns:
        The split. None where nothing is shared: every picture has one question; a prompt has no picture; questions
        about the same pictures have different text before the last one; or the family needs to be told more about
        each token.
    """
    if len(set(pictures)) == len(pictures) or any(positions_in(prompt) - _POSITIONS for prompt in prompts):
        return None
    first: dict[Hashable, int] = {}
    leaders = [first.setdefault(shown, number) for number, shown in enumerate(pictures)]
    ends = [opening_length(prompt) for prompt in prompts]
    for prompt, end, leader in zip(prompts, ends, leaders, strict=True):
        opening = prompts[leader]["input_ids"][:end]
        if not end or end != ends[leader] or not torch.equal(prompt["input_ids"][:end], opening):
            return None
    openings = collate([_cut(prompts[leader], slice(ends[leader])) for leader in first.values()])
    rests = collate(
        [_without_pictures(_cut(prompt, slice(end, None))) for prompt, end in zip(prompts, ends, strict=True)]
    )
    place = {leader: number for number, leader in enumerate(first.values())}
    opening_of = torch.tensor([place[leader] for leader in leaders])
    questions = {name: torch.cat([openings[name][opening_of], rest], dim=1) for name, rest in rests.items()}
    return SharedPrompts(openings, questions, opening_of)


def opening_length(prompt: Prompt) -> int:
    """Number of tokens up to the last picture token; 0 without pictures.

    Example:
        >>> opening_length({"modality_ids": torch.tensor([0, 1, 1, 0, 0])})
        3
    """
    seen = (prompt["modality_ids"] != int(Modality.TEXT)).nonzero()
    return int(seen[-1]) + 1 if len(seen) else 0


def _cut(prompt: Prompt, part: slice) -> dict[str, Tensor]:
    """Some tokens of a prompt, and all its pictures."""
    flat = positions_in(prompt)
    return {name: value[part] if name in flat else value for name, value in prompt.items()}


def _without_pictures(prompt: Prompt) -> dict[str, Tensor]:
    return {name: prompt[name] for name in positions_in(prompt) - {MODALITY_TYPES}}
