"""For scheme ``asymoe``: which positions of an encoded conversation are evidence, and to which turn each belongs."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from moiety.groups import Modality
from moiety.vlm.rows import Row


def evidence_mask(
    input_ids: Int[Tensor, " seq"],
    modality_ids: Int[Tensor, " seq"],
    answered: Bool[Tensor, " seq"],
    control_ids: Collection[int],
) -> Bool[Tensor, " seq"]:
    """Positions that are evidence: image tokens, and text that is neither a control token nor an answer.

    Args:
        input_ids: Tokens.
        modality_ids: The modality of each token.
        answered: True on the content of all turns of the assistant and on their end tokens, trained or not.
        control_ids: Tokens that are never evidence, see :func:`moiety.vlm.templates.control_ids`.

    Source:
        AsyMoE (arXiv 2606.00275), section 3.2, names both sides; the rule per token is ours.

    Example:
        >>> ids, answered = torch.tensor([1, 9, 9, 5, 6, 2]), torch.tensor([0, 0, 0, 0, 1, 1]).bool()
        >>> evidence_mask(ids, torch.tensor([0, 1, 1, 0, 0, 0]), answered, {1, 2}).tolist()
        [False, True, True, True, False, False]
    """
    return (modality_ids > Modality.TEXT) | (_plain_text(input_ids, modality_ids, control_ids) & ~answered)


def span_ids(
    input_ids: Int[Tensor, " seq"],
    modality_ids: Int[Tensor, " seq"],
    answered: Bool[Tensor, " seq"],
    control_ids: Collection[int],
    opening: int = 0,
) -> Int[Tensor, " seq"]:
    """For each text token, the number of the question and answer that it belongs to, counted from 1.

    A span begins after the answer before it and ends with its own answer. Role headers of ordinary text belong to it.
    Pictures, control tokens, the opening and everything after the last answer get 0.

    Args:
        input_ids: Tokens.
        modality_ids: The modality of each token.
        answered: As for :func:`evidence_mask`.
        control_ids: As for :func:`evidence_mask`.
        opening: Number of positions before the first question, written by the template or a system turn.

    Example:
        >>> answered = torch.tensor([0, 0, 0, 1, 0, 1, 0]).bool()
        >>> ids, modality_ids = torch.tensor([3, 9, 5, 6, 5, 6, 7]), torch.tensor([0, 1, 0, 0, 0, 0, 0])
        >>> span_ids(ids, modality_ids, answered, {2}, opening=1).tolist()
        [0, 0, 1, 1, 2, 2, 0]
    """
    ends = answered & ~torch.nn.functional.pad(answered[1:], (0, 1))
    number = ends.long().cumsum(0) - ends.long() + 1
    outside = (number > ends.sum()) | ~_plain_text(input_ids, modality_ids, control_ids)
    outside[:opening] = True
    return number.masked_fill(outside, 0)


def span_order(row: Row, spans: Int[Tensor, " seq"]) -> Int[Tensor, " seq"]:
    """1 on spans that belong to the pictures before them; 0 on spans that the row marks as false, and elsewhere.

    Args:
        row: The row with the ``order`` marks. A question without a mark belongs to its pictures.
        spans: Result of :func:`span_ids`.

    Raises:
        ValueError: questions and answers do not alternate, so marks and spans cannot be matched.
    """
    spoken = [turn for turn in row.turns if turn.role != "system"]
    roles = [turn.role for turn in spoken]
    if roles != [("user", "assistant")[number % 2] for number in range(len(roles))]:
        raise ValueError(f"{row.place}: turns must alternate user, assistant to have spans; got {', '.join(roles)}")
    marks = [1 if turn.order is None else int(turn.order) for turn in spoken if turn.role == "user"]
    return torch.tensor([0, *marks])[spans]


def image_key(names: Sequence[str]) -> Tensor:
    """A number for the pictures of a row, a scalar. It is equal for equal names, and 0 for a row without pictures.

    Example:
        >>> int(image_key([])), bool(image_key(["a.png"]) == image_key(["a.png"])), bool(image_key(["a.png"]) > 0)
        (0, True, True)
    """
    if not names:
        return torch.tensor(0)
    digest = hashlib.blake2b("\0".join(names).encode(), digest_size=8).digest()
    return torch.tensor(1 + int.from_bytes(digest, "big") % (2**63 - 1))


def _plain_text(input_ids: Tensor, modality_ids: Tensor, control_ids: Collection[int]) -> Tensor:
    control = torch.tensor(sorted(control_ids), dtype=input_ids.dtype)
    return (modality_ids == Modality.TEXT) & ~torch.isin(input_ids, control)
