"""MathVista: questions of mathematics that need the picture.

Lu et al. 2023 (2310.02255), testmini. For the published score, a language model first extracts the answer from the
text; :meth:`Benchmark.write_answers` makes the file for that. The rules here need no language model:

- ``sound`` (default) reads the option, number or list at the end of the text. An empty answer scores 0.
- ``official`` and ``lmms_eval`` use the whole text as the extracted answer and continue as the released code does. That
  code replaces an answer that it cannot read by the option with the most similar spelling. So empty answers score as
  much as these options give.

Source:
    lupantech/MathVista as in OpenGVLab/InternVL @ 2410d1d, ``calculate_score.py``; lmms-eval @ 75571cf.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked, mean_score, percent_by
from moiety.evaluate.benchmarks.files.entries import (
    NOTHING,
    Kinds,
    entry_with,
    object_in,
    texts_in,
    write_document,
)
from moiety.evaluate.benchmarks.files.layouts import SITE, Layout, Questions, beside, hub_layout
from moiety.evaluate.benchmarks.files.parquet import HubTable
from moiety.evaluate.benchmarks.files.questions import read_json
from moiety.evaluate.benchmarks.files.release import Release
from moiety.evaluate.benchmarks.rules.extracted_answers import (
    Wanted,
    is_read,
    lmms_verdict,
    released_verdict,
    sound_verdict,
)
from moiety.evaluate.scorers import LETTERS
from moiety.vlm.rows import Row

QUESTIONS = "testmini.json"
RULES: Mapping[str, Callable[[str, Wanted], bool]] = {
    "sound": sound_verdict,
    "official": released_verdict,
    "lmms_eval": lmms_verdict,
}
_ENTRY: Mapping[str, Kinds] = {
    **{"question": str, "image": str, "answer": str, "question_type": str, "answer_type": str},
    **{"choices": (list, NOTHING), "unit": (str, NOTHING), "precision": (float, int, NOTHING)},
}
_LETTER = "Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end."
_VALUE = "Please answer the question requiring {kind} and provide the final {what}, e.g., {examples}, at the end."
_HINTS = {
    ("integer", 0): ("an integer answer", "value", "1, 2, 3"),
    ("float", 1): ("a floating-point number with one decimal place", "value", "1.2, 1.3, 1.4"),
    ("float", 2): ("a floating-point number with two decimal places", "value", "1.23, 1.34, 1.45"),
    ("list", 0): ("a Python list as an answer", "list", "[1, 2, 3], [1.2, 1.3, 1.4]"),
}


def read(release: Release) -> Questions:
    """The problems of testmini by their ``pid``."""
    path = release.one(f"data/{QUESTIONS}", QUESTIONS)
    entries = object_in(read_json(path), path).items()
    rows = [_row(pid, entry, f"{path}: problem {pid!r}", str(path)) for pid, entry in entries]
    return Questions(rows, beside(release, "data"))


def read_hub(table: HubTable) -> Questions:
    """The problems of the table from the Hugging Face Hub."""
    rows, names = [], dict[str, str]()
    for file, line, entry in table.rows():
        pid = str(entry_with(entry, {"pid": (int, str)}, f"{file}:{line}")["pid"])
        problem = {key: value for key, value in entry.items() if not key.startswith("decoded_image")}
        rows.append(_row(pid, problem | {"choices": entry.get("choices") or None}, f"{file}:{line}", file))
        names.setdefault(rows[-1].images[0], str(entry.get("decoded_image")))
    return Questions(rows, lambda: table.pictures(names))


def _row(pid: str, entry: Any, place: str, file: str) -> Row:
    entry = entry_with(entry, _ENTRY, place)
    if entry["answer_type"] not in ("text", "integer", "float", "list"):
        raise ValueError(f"{place}: answer_type {entry['answer_type']!r}; expected text, integer, float or list")
    return asked(
        pid,
        prompt_of(entry),
        [entry["image"]],
        answers=[entry["answer"]],
        choices=texts_in(entry, "choices", place) if entry["choices"] else (),
        type=entry["question_type"],
        extra=entry,
        file=file,
    )


def prompt_of(problem: Mapping[str, Any]) -> str:
    """The official prompt without captions and recognised text: a hint about the form, the question, the options.

    Example:
        >>> print(prompt_of({"question": "x?", "choices": ["1", "2"], "unit": None}))
        Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.
        Question: x?
        Choices:
        (A) 1
        (B) 2
    """
    unit = f" (Unit: {problem['unit']})" if problem["unit"] else ""
    question = f"Question: {problem['question']}{unit}"
    if problem["choices"]:
        options = "\n".join(f"({letter}) {text}" for letter, text in zip(LETTERS, problem["choices"], strict=False))
        return f"Hint: {_LETTER}\n{question}\nChoices:\n{options}"
    hint = _HINTS.get((problem["answer_type"], int(problem["precision"] or 0)))
    if hint is None:
        return question
    return f"Hint: {_VALUE.format(kind=hint[0], what=hint[1], examples=hint[2])}\n{question}"


def wanted(row: Row) -> Wanted:
    """What the rules must know about a problem: its answer, the form of the answer, and the options."""
    return Wanted(row.answers[0], row.extra["answer_type"], int(row.extra["precision"] or 0), row.choices)


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Accuracy in percent, over all problems and separately for multiple choice and free form."""
    correct = {row.id: float(RULES[rule](answers[row.id], wanted(row))) for row in rows}
    numbers = percent_by(rows, correct, lambda row: row.type)
    note = "answers are read by a rule; for published scores, a language model extracts them from the text"
    unread = sum(not is_read(answers[row.id], wanted(row)) for row in rows)
    return mean_score("mathvista", rule, "accuracy", correct, numbers, (note,), unread)


def floor(rows: Sequence[Row], rule: str) -> float:
    """Score of a model that never answers: 0, or what the released rules give by guessing options."""
    return 100 * sum(RULES[rule]("", wanted(row)) for row in rows) / len(rows)


def write_answers(rows: Sequence[Row], answers: Mapping[str, str], path: Path) -> None:
    """The problems by pid with ``query`` and ``response``, which the official extraction reads."""
    write_document(
        path,
        {
            row.id: {**row.extra, "pid": row.id, "query": prompt_of(row.extra), "response": answers[row.id]}
            for row in rows
        },
    )


MATHVISTA = Benchmark(
    name="mathvista",
    title="MathVista testmini",
    layouts=(
        Layout(SITE, ((f"data/{QUESTIONS}", QUESTIONS),), read, beside="pictures images/1.jpg, ... there or in data/"),
        hub_layout("testmini", read_hub),
    ),
    scorer=score,
    rules=tuple(RULES),
    max_new_tokens=512,
    floor=floor,
    writer=write_answers,
)
