"""Computes a picture once for all questions about it.

The *opening* of a prompt is everything up to its last picture token: the system sentence, the first header and the
pictures. Questions about one picture have the same opening. It is computed once for each picture. Its key-value cache
is repeated for each question, and ``generate`` goes on from there. The answers are those of whole prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moiety.evaluate.decoding import keywords_of_generate
from moiety.groups import Modality
from moiety.vlm.contracts import MODALITY_TYPES, cache_in, cache_keyword
from moiety.vlm.decoders import base_of
from moiety.vlm.encoded import positions_in
from moiety.vlm.positions import keep_offsets, rows_of

_POSITIONS = {"input_ids", "modality_ids", "evidence_mask", MODALITY_TYPES}
"""What may be said of each token. Families that say more see the tokens of a picture in both directions."""

Prompt = Mapping[str, Tensor]
Collate = Callable[[Sequence[Prompt]], dict[str, Tensor]]


@dataclass(frozen=True)
class Question:
    """One prompt without its opening.

    Args:
        number: Place of the prompt among those that were split.
        opening: Place of its opening.
        rest: What is said of each token after the opening, ``(tokens,)``.
    """

    number: int
    opening: int
    rest: dict[str, Tensor]


@dataclass(frozen=True)
class Split:
    """Prompts as openings and questions.

    Args:
        openings: One prompt for each picture with several questions, up to its last picture token, with its pictures.
        questions: All prompts that begin with one of the openings.
        whole: Number -> prompt, for prompts that share nothing: they are alone with their picture or with what stands
            before it, they have no picture, or their family needs to be told more about each token.
    """

    openings: list[dict[str, Tensor]]
    questions: list[Question]
    whole: dict[int, Prompt]


def split_prompts(prompts: Iterable[Prompt], pictures: Sequence[Hashable]) -> Split:
    """Split prompts into openings and questions. Of equal openings, the pictures of the first one are kept.

    Args:
        prompts: Of :meth:`moiety.vlm.data.Encoder.encode_prompt`, without padding.
        pictures: What each prompt shows. Prompts that show the same have equal picture tensors.
    """
    first: dict[Hashable, tuple[int, Prompt]] = {}
    alike: dict[Hashable, list[tuple[int, dict[str, Tensor]]]] = {}
    whole: dict[int, Prompt] = {}
    for number, (prompt, shown) in enumerate(zip(prompts, pictures, strict=True)):
        end = opening_length(prompt)
        flat = positions_in(prompt)
        if not end or flat - _POSITIONS:
            whole[number] = prompt
            continue
        said = (tuple(prompt[name][:end].tolist()) for name in sorted(flat))
        key = (shown, *said)
        first.setdefault(key, (number, prompt))
        rest = {name: prompt[name][end:] for name in flat - {MODALITY_TYPES}}
        alike.setdefault(key, []).append((number, rest))
    openings: list[dict[str, Tensor]] = []
    questions: list[Question] = []
    for shared, (number, prompt) in first.items():
        if len(alike[shared]) == 1:
            whole[number] = prompt
            continue
        questions += [Question(one, len(openings), rest) for one, rest in alike[shared]]
        openings.append(_opening(prompt))
    return Split(openings, questions, whole)


class Opened:
    """The key-value cache of some openings. It stays as it is while questions are answered with copies of its rows.

    Args:
        model: Any model with `generate`.
        openings: Of :class:`Split`; all are computed in one batch.
        collate: Joins prompts into a left-padded batch.
    """

    def __init__(self, model: Any, openings: Sequence[Prompt], collate: Collate) -> None:
        self._model, self._collate = model, collate
        self._tokens = collate(openings)
        made = self._generate(self._tokens, max_new_tokens=1, return_dict_in_generate=True)
        self._cache = cache_in(made)
        keep_offsets(base_of(model), self._cache)

    def answer(self, questions: Sequence[Question], max_new_tokens: int, **options: Any) -> Any:
        """What ``generate`` returns for these questions, greedily; each row begins with its whole prompt.

        Args:
            questions: One batch of questions about the openings.
            max_new_tokens: Longest answer in tokens.
            options: Further keywords of ``generate``.
        """
        batch, chosen = self.prompts(questions)
        cache = rows_of(base_of(self._model), self._cache, chosen.to(self._model.device))
        return self._generate(batch, max_new_tokens=max_new_tokens, **{cache_keyword(): cache}, **options)

    def prompts(self, questions: Sequence[Question]) -> tuple[dict[str, Tensor], Tensor]:
        """Whole prompts without pictures, ``(questions, seq)``, and the opening of each, ``(questions,)``.

        Each prompt begins with its opening, padding included, so that it fits the cache.
        """
        chosen = torch.tensor([question.opening for question in questions])
        rests = self._collate([question.rest for question in questions])
        return {name: torch.cat([self._tokens[name][chosen], rest], dim=1) for name, rest in rests.items()}, chosen

    @torch.inference_mode()
    def _generate(self, batch: Prompt, **options: Any) -> Any:
        asked = keywords_of_generate(self._model, batch)
        return self._model.generate(**asked, do_sample=False, num_beams=1, **options)


def opening_length(prompt: Prompt) -> int:
    """Number of tokens up to the last picture token; 0 without pictures.

    Example:
        >>> opening_length({"modality_ids": torch.tensor([0, 1, 1, 0, 0])})
        3
    """
    seen = (prompt["modality_ids"] != int(Modality.TEXT)).nonzero()
    return int(seen[-1]) + 1 if len(seen) else 0


def _opening(prompt: Prompt) -> dict[str, Tensor]:
    """The tokens up to the last picture token, and all pictures."""
    flat, end = positions_in(prompt), opening_length(prompt)
    return {name: value[:end] if name in flat else value for name, value in prompt.items()}
