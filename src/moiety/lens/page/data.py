"""The content of the interactive page as one tree for JSON: experts, numbers and questions of each model."""

from __future__ import annotations

import base64
from collections.abc import Collection, Sequence
from pathlib import PurePath
from typing import Any

import numpy as np

from moiety.lens.draw.palette import colours_of, is_dark, label_of
from moiety.lens.trace.file import Decisions, SavedTrace, TracedQuestion

LARGEST_PAGE = 16_000_000  # characters of questions; browsers open a page of this size quickly
DIGITS = 5
Key = tuple[str, str]


def page_tree(traces: Sequence[SavedTrace], only: Collection[str] | None = None) -> dict[str, Any]:
    """Make the tree, with as many questions as fit a page.

    Args:
        traces: One trace, or two that stand side by side; of two, only questions that both hold are shown.
        only: Ids of the questions to show; None: the first ones.

    Raises:
        ValueError: the traces have no question in common, an id in `only` is unknown, or no question is kept.
    """
    keys = _common(traces)
    if only is not None:
        known = {name for name, _ in keys}
        unknown = [name for name in only if name not in known]
        if unknown:
            raise ValueError(
                f"no question {', '.join(map(repr, unknown))} in the trace; it keeps those of "
                f"{', '.join(map(repr, sorted(known)[:8]))}{', …' * (len(known) > 8)}"
            )
        keys = [key for key in keys if key[0] in only]
    models = [_model(trace) for trace in traces]
    by_key = [{_key(question): question for question in trace.questions} for trace in traces]
    room = LARGEST_PAGE
    for number, key in enumerate(keys):
        made = [_question(questions[key]) for questions in by_key]
        room -= sum(map(_size, made))
        if room < 0 and number:
            break
        for model, question in zip(models, made, strict=True):
            model["questions"].append(question)
    return {"models": models, "note": _note(traces, len(models[0]["questions"]), only is not None)}


def _key(question: TracedQuestion) -> Key:
    return question.id, question.question


def _common(traces: Sequence[SavedTrace]) -> list[Key]:
    """Questions that all traces hold, in the order of the first."""
    held = [[_key(question) for question in trace.questions] for trace in traces]
    if not all(held):
        raise ValueError("the trace keeps no question; write it with --trace-limit 1 or more")
    common = [key for key in held[0] if all(key in other for other in held[1:])]
    if not common:
        first, second = (", ".join(repr(name) for name, _ in keys[:3]) for keys in held[:2])
        raise ValueError(
            f"the two traces have no question in common: one keeps {first} …, the other {second} …; "
            "let both models answer the same data"
        )
    return common


def _note(traces: Sequence[SavedTrace], shown: int, chosen: bool) -> str:
    """A sentence about what is not on the page; empty if everything is on it."""
    kept, asked = min(len(trace.questions) for trace in traces), min(trace.num_questions for trace in traces)
    if shown == kept == asked:
        return ""
    which = "chosen ones" if chosen else "first ones" if shown < asked else "ones that both traces hold"
    parts = [f"This page holds {shown:,} of {asked:,} questions, the {which}"]
    if shown < kept and not chosen:
        parts.append(f"the trace keeps {kept:,}, and `moiety inspect --trace FILE --only ID` shows any of them")
    parts.append("numbers of all questions include every one of them")
    return "; ".join(parts) + "."


def _model(trace: SavedTrace) -> dict[str, Any]:
    groups, numbers = trace.groups, trace.numbers()
    totals = {
        phase: {
            "tokens": numbers.of(phase, "tokens").astype(int).tolist(),
            "load": _rounded(numbers.of(phase, "load_share")),
            "together": _rounded(numbers.of(phase, "co_select")),
            "entropy": _rounded(numbers.of(phase, "normalised_entropy")),
            "inter": _rounded(numbers.of(phase, "inter_share")),
        }
        for phase in numbers.phases
    }
    return {
        "name": short_name(trace.model),
        "scheme": trace.describe(),
        "groups": list(groups.names),
        "experts": [
            {"label": label_of(groups, expert), "colour": colour, "ink": "#fff" if is_dark(colour) else "#000"}
            for expert, colour in enumerate(colours_of(groups))
        ],
        "visible": [list(groups.visible(name)) for name in groups.names],
        "inter": list(groups.inter),
        "layers": trace.layers,
        "numLayers": trace.num_layers,
        "numQuestions": trace.num_questions,
        "settings": {name: str(value) for name, value in trace.settings.items()},
        "totals": totals,
        "questions": [],
    }


def short_name(model: str) -> str:
    """A Hub id as it is; of a folder the last two names.

    Example:
        >>> short_name("llava-hf/llava-1.5-7b"), short_name("/data/runs/moiie-seed0/tune")
        ('llava-hf/llava-1.5-7b', 'moiie-seed0/tune')
    """
    return "/".join(part for part in PurePath(model).parts[-2:] if part not in ("/", ".."))


def _rounded(values: np.ndarray) -> list[Any]:
    found: list[Any] = np.round(values, DIGITS).tolist()
    return found


def _question(question: TracedQuestion) -> dict[str, Any]:
    return {
        **{name: getattr(question, name) for name in ("id", "question", "answer", "expected", "note")},
        "words": question.words,
        "generated": question.generated,
        "pictureOf": _packed(question.picture_of.astype(np.int8)),
        "pictures": [
            {"grid": picture.grid, "src": None if picture.png is None else base64.b64encode(picture.png).decode()}
            for picture in question.pictures
        ],
        "phases": {phase: _decisions(part) for phase, part in question.phases.items()},
    }


def _decisions(part: Decisions) -> dict[str, Any]:
    return {
        "tokens": part.num_tokens,
        "topK": part.index.shape[2],
        "index": _packed(part.index.astype("<u2")),
        "weights": _packed(_bytes(part.weights)),
        "entropy": _packed(_bytes(part.entropy)),
        "group": _packed(part.group),
    }


def _bytes(values: np.ndarray) -> np.ndarray:
    """Values of 0..1 as 0..255."""
    return np.round(255 * values.astype(np.float32).clip(0, 1)).astype(np.uint8)


def _packed(values: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(values).tobytes()).decode()


def _size(question: dict[str, Any]) -> int:
    """Approximate number of characters that a question takes on the page."""
    pictures = sum(len(picture["src"] or "") for picture in question["pictures"])
    parts = [value for part in question["phases"].values() for value in part.values()]
    arrays = sum(len(value) for value in parts if isinstance(value, str))
    return pictures + arrays + sum(8 + len(word) for word in question["words"])
