"""Finds the field of a line that holds the model's text, and never takes the right answer for it.

``answer`` is the reply in some files and the right answer in others: CMMMU and MMMU keep the model's text under
``response`` and the right answer under ``answer``. The field is chosen by the benchmark's own rule, or by the rule of
the kind of file, or because only one field can be the reply. If two fields can be the reply, an error is raised.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from moiety.evaluate.benchmarks.files.answer_files import AnswerLine
from moiety.evaluate.benchmarks.files.joining import Joined
from moiety.evaluate.benchmarks.files.matching import bare
from moiety.evaluate.scorers import LETTERS, normalise
from moiety.vlm.rows import Row

ANSWER = "answer"
OWN: Mapping[str, tuple[str, ...]] = {
    "mmmu": ("response",),
    "cmmmu": ("response",),
    "mathvista": ("response",),
    "hallusionbench": ("model_prediction",),
    "ocrbench": ("predict",),
}
"""Benchmark -> where its own result files keep the reply."""
REPLIES = (
    *("prediction", "predictions", "pred", "predict", "predicted", "predicted_answer", "pred_answer"),
    *("model_prediction", "model_answer", "model_output", "model_response", "response", "output", "outputs"),
    *("generated_text", "generated_answer", "generation", "completion", "reply", "text"),
)
"""Names that mean the model's text; ``answer`` may mean the right one."""
LABELS = (
    *("annotation", "annotations", "gt_answer", "gt", "target", "ground_truth", "label", "labels", "gold"),
    "answers",
)
_OF_QUESTIONS = frozenset(
    (
        *("options", "choices", "option1", "choice_a", "A", "image", "img_list", "imageId", "type", "category"),
        *("question_type", "data_type", "explanation", "analysis", "semantic", "hint"),
    )
)
_GOLD_IN_ANSWER = ("mmbench", "mme", "gqa", "seed", "ai2d", "mmmu", "cmmmu", "mathvista", "scienceqa")
"""Benchmarks whose questions come with the right answer under ``answer``."""


def replies_of(joined: Joined, rows: Mapping[str, Row], benchmark: str) -> tuple[dict[str, str], str, tuple[str, ...]]:
    """Replies by question, the key that they were read from, and notes for the reader.

    Raises:
        ValueError: no field is the reply, two can be, it is the right answer throughout, a line lacks it or it is no
            text, or a question is answered twice.
    """
    key, notes = _key_of(joined, rows, benchmark)
    answers: dict[str, str] = {}
    for line, names in joined.pairs:
        if key not in line.fields:
            raise ValueError(f"{line.place}: no reply under {key!r}, where the other lines have it")
        text = _text(line, key, names[0])
        for name in names:
            if name in answers:
                raise ValueError(f"{line.place}: {name!r} is answered a second time; each question has one answer")
            answers[name] = text
    return answers, key, notes


def _text(line: AnswerLine, key: str, name: str) -> str:
    value = line.fields[key]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{line.place}: the answer to {name!r} is no text, got {value!r:.40}")
    return str(value)


def _key_of(joined: Joined, rows: Mapping[str, Row], benchmark: str) -> tuple[str, tuple[str, ...]]:
    file, lines = joined.file, [line for line, _ in joined.pairs]
    own = [key for key in OWN.get(benchmark, ()) if any(key in line.fields for line in lines)]
    if own and file.kind != "table of VLMEvalKit":
        return own[0], ()
    if file.reply is not None:
        return file.reply, ()
    found = [key for key in REPLIES if any(key in line.fields for line in lines)]
    found = [key for key in found if not _is_question(joined, rows, key)]
    found = [key for place, key in enumerate(found) if not any(_equal(lines, key, other) for other in found[:place])]
    has_answer = any(ANSWER in line.fields for line in lines)
    if not found and has_answer:
        _refuse_questions(joined, rows, benchmark)
        return ANSWER, ()
    if not found:
        told = ", ".join((*REPLIES[:1], "text", ANSWER, "response"))
        held = f"{dict(lines[0].fields)!r:.60}"
        raise ValueError(f"{lines[0].place}: no text under any of {told}, got {held}; name the reply 'prediction'")
    return _one_of(joined, rows, found, has_answer)


def _one_of(
    joined: Joined, rows: Mapping[str, Row], found: Sequence[str], has_answer: bool
) -> tuple[str, tuple[str, ...]]:
    """The only field that can be the reply, given that ``answer`` may be the right answer."""
    lines = [line for line, _ in joined.pairs]
    if len(found) > 1:
        golden = [key for key in found if _is_gold(joined, rows, key)]
        kept = [key for key in found if key not in golden]
        if len(kept) != 1:
            raise _two(lines[0], found[0], found[1])
        found = kept
    key = found[0]
    if not has_answer or _equal(lines, key, ANSWER):
        return key, ()
    label = _is_gold(joined, rows, ANSWER)
    if not label and (_is_gold(joined, rows, key) or key == "text"):
        raise _two(lines[0], key, ANSWER)
    held = "it holds the right answers" if label else f"{key!r} holds the replies"
    return key, (f"{ANSWER!r} in these lines is not read: {held}",)


def _two(line: AnswerLine, first: str, second: str) -> ValueError:
    return ValueError(
        f"{line.place}: {first!r} and {second!r} can both be the model's reply, and they differ; keep the reply alone, "
        "under 'prediction'"
    )


def _refuse_questions(joined: Joined, rows: Mapping[str, Row], benchmark: str) -> None:
    """Raise an error for a file of questions: it has right answers under ``answer``, and no replies.

    Raises:
        ValueError: this is one.
    """
    lines = [line for line, _ in joined.pairs]
    about = _OF_QUESTIONS.intersection(*(line.fields for line in lines))
    labels = [key for key in LABELS if all(key in line.fields for line in lines)]
    if about and not labels and benchmark in _GOLD_IN_ANSWER and _is_gold(joined, rows, ANSWER):
        raise ValueError(
            f"{lines[0].place}: {ANSWER!r} is the right answer in all {len(lines)} lines, beside "
            f"{', '.join(map(repr, sorted(about)[:3]))}: these are the benchmark's questions; give the replies, under "
            "'prediction'"
        )


def _is_question(joined: Joined, rows: Mapping[str, Row], key: str) -> bool:
    """Whether a field holds the questions."""
    for line, names in joined.pairs:
        row = rows.get(names[0])
        told = [line.fields.get(other) for other in ("question", "prompt") if other != key]
        asked = [] if row is None else [*(turn.text for turn in row.turns), row.extra.get("question")]
        text = bare(str(line.fields.get(key, "")))
        if not text or text not in {bare(str(one)) for one in (*told, *asked) if one}:
            return False
    return True


def _is_gold(joined: Joined, rows: Mapping[str, Row], key: str) -> bool:
    """Whether a field is the right answer in every line."""
    for line, names in joined.pairs:
        row = rows.get(names[0])
        given = line.fields.get(key)
        if row is None or given is None or not _forms(given) <= _right(row):
            return False
    return True


def _right(row: Row) -> set[str]:
    """The right answers of a row in every form that files use: text, letter, number and words of the option."""
    found = {normalise(answer) for answer in row.answers}
    found |= {normalise(str(row.extra[key])) for key in ("answer", "label", "gt_answer") if key in row.extra}
    for answer in row.answers:
        place = LETTERS.find(answer) if len(answer) == 1 and answer else -1
        if 0 <= place < len(row.choices):
            found |= {str(place), normalise(row.choices[place])}
    return found


def _forms(given: Any) -> set[str]:
    """The texts in a field. A list, or a text that shows a list, gives its parts."""
    if isinstance(given, str) and given.startswith("["):
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            given = ast.literal_eval(given)
    return {normalise(str(part)) for part in (given if isinstance(given, list) else [given])}


def _equal(lines: Sequence[AnswerLine], first: str, second: str) -> bool:
    return all(line.fields.get(first) == line.fields.get(second) for line in lines)
