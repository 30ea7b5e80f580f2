"""Reads one question together with a given answer in one forward, and keeps attention, routing and gates.

The answer is given (forced) rather than generated, so that several models, or one model with several pictures, are
compared at the same positions.
"""

from __future__ import annotations

import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moiety.evaluate.decoding import keywords_of_generate
from moiety.groups import Modality
from moiety.lens.trace.observe import pieces
from moiety.moe.trace import Routing, RoutingTrace, recording
from moiety.vlm.data import Encoder
from moiety.vlm.decoder_calls import embeddings_changed
from moiety.vlm.decoders import attention_kept, decoder_of
from moiety.vlm.encoded import positions_in
from moiety.vlm.rows import Row

BOX = "answer_box"


@dataclass(frozen=True)
class Forced:
    """A prompt and its answer as a batch of one.

    Args:
        keywords: Keywords of the model's forward, with the batch axis.
        modality_ids: ``(seq,)``.
        evidence: True at positions of pictures and of given text; all others are memory, ``(seq,)``.
        prompt_length: Number of positions before the answer; the last of them predicts its first token.
        bearing: True at evidence positions that contain the answer, ``(seq,)``: its words in the text, and patches
            inside the ``answer_box`` of the row. All false if neither is known.
        words: Text of each of the ``seq`` positions; empty for pictures.
    """

    keywords: dict[str, Tensor]
    modality_ids: Tensor
    evidence: Tensor
    prompt_length: int
    bearing: Tensor
    words: list[str]

    @property
    def predicting(self) -> slice:
        """Positions that predict a token of the answer."""
        return slice(self.prompt_length - 1, max(self.prompt_length, len(self.modality_ids) - 1))

    @property
    def is_text(self) -> Tensor:
        """Positions of text."""
        return self.modality_ids == Modality.TEXT


def force(encoder: Encoder, row: Row, answer: str) -> Forced:
    """Encode the question of `row`, followed by `answer`.

    Raises:
        FileNotFoundError: a picture is missing.
        ValueError: see :meth:`moiety.vlm.data.Encoder.encode_prompt`, or a box is not within the picture.
    """
    prompt = dict(encoder.encode_prompt(row))
    length = len(prompt["input_ids"])
    said = encoder.processor.tokenizer(answer, add_special_tokens=False)["input_ids"]
    modality_ids, given = prompt.pop("modality_ids"), prompt.pop("evidence_mask")
    keywords, flat = {}, positions_in(prompt)
    for name, value in prompt.items():
        tail = torch.tensor(said if name == "input_ids" else [0] * len(said), dtype=value.dtype)
        keywords[name] = torch.cat([value, tail]).unsqueeze(0) if name in flat else value
    keywords["attention_mask"] = torch.ones_like(keywords["input_ids"])
    modality_ids = torch.cat([modality_ids, torch.zeros(len(said), dtype=modality_ids.dtype)])
    evidence = torch.cat([given, torch.zeros(len(said), dtype=torch.bool)])
    keywords["evidence_mask"] = evidence.unsqueeze(0)
    words = pieces(encoder.processor.tokenizer, keywords["input_ids"][0].tolist())
    words = ["" if modality else word for word, modality in zip(words, modality_ids.tolist(), strict=True)]
    told = [word if kept else "\0" for word, kept in zip(words, evidence.tolist(), strict=True)]
    bearing = said_in(told, answer) | patches_in(row, modality_ids)
    return Forced(keywords, modality_ids, evidence, length, bearing, words)


def said_in(words: list[str], answer: str) -> Tensor:
    """Positions whose text belongs to an occurrence of `answer` as whole words, in upper or lower case.

    Example:
        >>> said_in(["the", " b", "lue", " one"], "Blue").tolist()
        [False, True, True, False]
    """
    found = torch.zeros(len(words), dtype=torch.bool)
    ends = [0]
    for word in words:
        ends.append(ends[-1] + len(word))
    if answer.strip():
        for match in re.finditer(rf"(?<!\w){re.escape(answer.strip())}(?!\w)", "".join(words), re.IGNORECASE):
            for place in range(len(words)):
                found[place] |= ends[place] < match.end() and ends[place + 1] > match.start()
    return found


def patches_in(row: Row, modality_ids: Tensor) -> Tensor:
    """Patches of the only picture of a row whose centre lies in its ``answer_box``: left, top, right, bottom in 0..1.

    No patch if the row has no box, or if the picture is no square of patches.

    Raises:
        ValueError: the box has another form.
    """
    found, box = torch.zeros_like(modality_ids, dtype=torch.bool), row.extra.get(BOX)
    if box is None:
        return found
    if len(box) != 4 or not (0 <= box[0] < box[2] <= 1 and 0 <= box[1] < box[3] <= 1):
        raise ValueError(f"{row.place}: {BOX} {box!r} is not left, top, right, bottom in 0..1")
    patches = (modality_ids == Modality.IMAGE).nonzero().squeeze(-1)
    side = int(len(patches) ** 0.5)
    if len(row.images) == 1 and side * side == len(patches):
        middle = (torch.arange(side) + 0.5) / side
        across, down = ((middle >= box[i]) & (middle <= box[i + 2]) for i in (0, 1))
        found[patches] = (down.unsqueeze(1) & across).flatten()  # (rows, columns) -> (patches,)
    return found


@dataclass(frozen=True)
class Reading:
    """Attention and routing of one forward.

    Args:
        attention: Attention of every decoder layer, mean over heads, ``(layers, seq, seq)``; None if not asked for.
        routing: Sparse layer -> its decision over the ``seq`` tokens; empty for a dense model.
    """

    attention: Tensor | None
    routing: dict[int, Routing]


@torch.no_grad()
def read(
    model: Any, forced: Forced, *, attention: bool = False, mean_patch: bool = False, keeps_inputs: bool = False
) -> Reading:
    """One forward of `model` over a question and its answer.

    Args:
        model: Any vision-language model, in eval mode.
        forced: Question and answer.
        attention: Keep attention weights, which only the slow ``eager`` attention gives.
        mean_patch: Replace every patch embedding of a picture by their mean, which removes its content.
        keeps_inputs: Keep the inputs of the sparse layers in the trace, too.
    """
    keywords = keywords_of_generate(model, forced.keywords)
    trace = RoutingTrace(keeps_inputs=keeps_inputs)
    blank = pictures_averaged(model, forced.modality_ids) if mean_patch else nullcontext()
    with recording(trace), blank, attention_kept(model) if attention else nullcontext() as kept:
        model(**keywords, use_cache=False)
    routing = {layer: decisions[0] for layer, decisions in trace.by_layer().items()}
    return Reading(torch.stack(kept) if kept is not None else None, routing)


def pictures_averaged(model: Any, modality_ids: Tensor) -> AbstractContextManager[None]:
    """Replace every patch embedding of a picture by the mean of the patches of that picture.

    Pictures are separated by the text between them; two pictures without text between them share one mean. What a
    family feeds into deeper layers in addition (deepstack) is not changed.
    """
    is_image = modality_ids == Modality.IMAGE
    run = (is_image & ~torch.nn.functional.pad(is_image[:-1], (1, 0))).cumsum(0)  # number of the picture

    def average(embeddings: Tensor) -> Tensor:
        embeddings = embeddings.clone()  # (1, seq, hidden)
        for number in range(1, int(run.max()) + 1):
            here = (is_image & (run == number)).to(embeddings.device)
            embeddings[:, here] = embeddings[:, here].mean(dim=1, keepdim=True)
        return embeddings

    return embeddings_changed(decoder_of(model), average)
