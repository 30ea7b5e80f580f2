"""The routing of a whole run in one safetensors file.

The file holds exact sums over all questions that were asked. Of the first questions it also holds every decision, with
the words, the patches and a small picture. Nothing in the file is code. Arrays of several questions are concatenated:

=====================  =============================  ==================================================================
name                   shape                          what
=====================  =============================  ==================================================================
``total.PHASE.PART``   (layers, groups, …)            float64, sums of :class:`moiety.moe.statistics.Tally`
``asked``              (rows,)                        int64, fingerprints of the rows that the sums hold
``PHASE.length``       (questions,)                   int32, tokens of each question whose decisions are kept
``PHASE.index``        (layers, tokens, top_k)        uint8 or uint16, chosen experts, the heaviest first
``PHASE.weights``      (layers, tokens, top_k)        float16
``PHASE.entropy``      (layers, tokens)               float16, of the router, 1 is undecided
``PHASE.group``        (tokens,)                      uint8, position of the modality group
``picture_of``         (prefill tokens,)              int8, number of the picture a patch belongs to; -1: a word
``picture.Q.P``        (bytes,)                       uint8, PNG of picture P of question Q
=====================  =============================  ==================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import save_file

from moiety.groups import ExpertGroups
from moiety.lens.numbers import RoutingNumbers, numbers_of_tallies
from moiety.lens.trace.head import GroupHead, PictureHead, QuestionHead, TraceHead
from moiety.lens.trace.observe import PHASES
from moiety.moe.statistics import Tally
from moiety.records.saving import whole_file

META = "moiety_trace"
PARTS = tuple(part.name for part in fields(Tally))


@dataclass(frozen=True, eq=False)
class Decisions:
    """The choices of the tokens of one question in one phase, in every sparse layer.

    Args:
        index: Chosen experts, the heaviest first, ``(layers, tokens, top_k)``.
        weights: Their weights, ``(layers, tokens, top_k)``.
        entropy: Entropy of the router divided by that of an even choice, 0..1, ``(layers, tokens)``.
        group: Position of each token's modality group in ``ExpertGroups.names``, ``(tokens,)``.
    """

    index: np.ndarray
    weights: np.ndarray
    entropy: np.ndarray
    group: np.ndarray

    @property
    def num_tokens(self) -> int:
        """Number of tokens read in this phase."""
        return len(self.group)


@dataclass(frozen=True)
class ShownPicture:
    """A picture of a question.

    Args:
        grid: Rows and columns of its patches; None if they form no grid.
        png: The picture as PNG; None if it is not kept.
    """

    grid: tuple[int, int] | None
    png: bytes | None


@dataclass(frozen=True, eq=False)
class TracedQuestion:
    """One question, its answer, and every routing decision while it was answered.

    Args:
        id: Id of its row.
        question: The question without the text that the template adds.
        answer: The answer of the model.
        expected: The right answer, if it is known.
        note: Why there is no grid; empty if there is one, or no picture.
        words: Text of every prompt position; empty for patches.
        generated: Text of every answer token that the model read again, which is all but the last one.
        picture_of: Number of the picture that each prompt position is a patch of; -1 on words, ``(seq,)``.
        pictures: Its pictures.
        phases: Phase -> its decisions; phases without tokens are absent.
    """

    id: str
    question: str
    answer: str
    expected: str | None
    note: str
    words: list[str]
    generated: list[str]
    picture_of: np.ndarray
    pictures: list[ShownPicture]
    phases: dict[str, Decisions]


@dataclass(frozen=True, eq=False)
class SavedTrace:
    """The routing of a run.

    Args:
        model: Folder or id of the model.
        scheme: Its routing scheme.
        groups: Its expert groups.
        layers: Its sparse layers, ascending.
        num_layers: Decoder layers in all.
        settings: Everything that the answers depend on: decoding, lengths, fingerprint of the weights.
        num_questions: Questions in the sums; equal questions about equal pictures count once.
        totals: Phase -> sparse layer -> sums over all questions, in float64; phases without tokens are absent.
        questions: Questions whose decisions are kept, in the order of the data.
        asked: Fingerprints of the rows that the sums hold.
    """

    model: str
    scheme: str
    groups: ExpertGroups
    layers: list[int]
    num_layers: int
    settings: dict[str, Any]
    num_questions: int
    totals: dict[str, dict[int, Tally]]
    questions: list[TracedQuestion]
    asked: frozenset[int] = frozenset()

    def describe(self) -> str:
        """Scheme and experts in words."""
        return f"{self.scheme}: {self.groups.describe()}"

    def numbers(self) -> RoutingNumbers:
        """Statistics over all questions."""
        return numbers_of_tallies(self.totals, self.groups)


def write_trace(trace: SavedTrace, path: str | Path) -> Path:
    """Write a trace atomically: a stopped write leaves no half file."""
    arrays = _total_arrays(trace.totals) | _question_arrays(trace.questions, len(trace.layers))
    arrays["asked"] = np.array(sorted(trace.asked), dtype=np.int64)
    with whole_file(path) as fresh:
        save_file(arrays, fresh, metadata={META: _head(trace).model_dump_json()})
    return Path(path)


def _total_arrays(totals: Mapping[str, Mapping[int, Tally]]) -> dict[str, np.ndarray]:
    return {
        f"total.{phase}.{part}": np.stack([getattr(by_layer[layer], part).double().numpy() for layer in by_layer])
        for phase, by_layer in totals.items()
        for part in PARTS
    }


def _question_arrays(questions: list[TracedQuestion], num_layers: int) -> dict[str, np.ndarray]:
    arrays = {}
    for phase in PHASES:
        kept = [question.phases.get(phase) for question in questions]
        arrays[f"{phase}.length"] = np.array([part.num_tokens if part else 0 for part in kept], dtype=np.int32)
        there = [part for part in kept if part is not None]
        for name in ("index", "weights", "entropy", "group") if there else ():
            whole = np.concatenate([getattr(part, name) for part in there], axis=0 if name == "group" else 1)
            arrays[f"{phase}.{name}"] = np.ascontiguousarray(whole)
    if questions:
        arrays["picture_of"] = np.concatenate([question.picture_of for question in questions]).astype(np.int8)
    for number, question in enumerate(questions):
        for place, picture in enumerate(question.pictures):
            if picture.png is not None:
                arrays[f"picture.{number}.{place}"] = np.frombuffer(picture.png, dtype=np.uint8)
    return arrays


def _head(trace: SavedTrace) -> TraceHead:
    return TraceHead(
        model=trace.model,
        scheme=trace.scheme,
        groups=[
            GroupHead(name=group.name, count=group.count, admits=group.admits, kind=group.kind)
            for group in trace.groups.groups
        ],
        modality_groups=dict(trace.groups.modality_groups),
        gates=list(trace.groups.gates),
        layers=trace.layers,
        num_layers=trace.num_layers,
        settings=trace.settings,
        num_questions=trace.num_questions,
        questions=[_question_head(question) for question in trace.questions],
    )


def _question_head(question: TracedQuestion) -> QuestionHead:
    words = [word for word, picture in zip(question.words, question.picture_of, strict=True) if picture < 0]
    return QuestionHead(
        **{name: getattr(question, name) for name in ("id", "question", "answer", "expected", "note", "generated")},
        words=words,
        pictures=[PictureHead(grid=picture.grid, stored=picture.png is not None) for picture in question.pictures],
    )


def tally_of(parts: Mapping[str, np.ndarray], place: int) -> Tally:
    """The sums of one layer, from arrays over all layers."""
    return Tally(**{name: torch.from_numpy(array[place].copy()) for name, array in parts.items()})
