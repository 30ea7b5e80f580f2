"""Reads and scores answers for the benchmarks in which ten people answered each question.

A question without public answers (a test split) is read without any; scoring it is an error that says what to do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial

from moiety.evaluate.benchmarks.benchmark import BenchmarkScore, mean_score, percent_by
from moiety.evaluate.benchmarks.rules.vqa_text import NUM_PEOPLE, agreement, long_form, on_one_line, short_form
from moiety.vlm.rows import Row

PeopleRule = Callable[[str, Sequence[str]], float]
_long_form_of_reference = lru_cache(maxsize=2**16)(long_form)  # people often say the same
_short_form_of_reference = lru_cache(maxsize=2**16)(short_form)


def vqa_score(text: str, people: Sequence[str]) -> float:
    """The VQAv2 rule: forms are made only where people disagree; where all ten say the same, text is compared as it is.

    So ``Yes`` is wrong against ten times ``yes``, and ``a dog`` against ten times ``dog``.

    Source:
        GT-Vision-Lab/VQA @ a013f00, ``vqaEval.py``.

    Example:
        >>> vqa_score("Yes.", ["yes"] * 10), vqa_score("yes.", ["yes"] * 9 + ["no"])
        (0.0, 1.0)
    """
    if len(set(people)) == 1:
        return agreement(on_one_line(text), people)
    return short_score(text, people)


def short_score(text: str, people: Sequence[str]) -> float:
    """Agreement of the short forms, always made.

    Source:
        EvolvingLMMs-Lab/lmms-eval @ 75571cf, ``tasks/vqav2/utils.py``.
    """
    return agreement(short_form(text), [_short_form_of_reference(given) for given in people])


def long_score(text: str, people: Sequence[str]) -> float:
    """Agreement of the long forms: the rule of TextVQA and VizWiz.

    Source:
        ``m4c_evaluator.py`` of AlenjandroWang/MoIIE @ c614868; lmms-eval @ 75571cf has the same numbers.
    """
    return agreement(long_form(text), [_long_form_of_reference(given) for given in people])


def any_of_people(text: str, people: Sequence[str]) -> float:
    """1 if anybody gave the same long form, else 0: accuracy as ST-VQA counts it.

    Source:
        ``m4c_evaluator.py`` of AlenjandroWang/MoIIE @ c614868.
    """
    return float(long_form(text) in map(_long_form_of_reference, people))


def people_score(
    benchmark: str,
    rows: Sequence[Row],
    answers: Mapping[str, str],
    rule: str,
    rules: Mapping[str, PeopleRule],
    parts: Sequence[str] = (),
) -> BenchmarkScore:
    """Mean score over questions in percent, and over those of each kind.

    Args:
        benchmark: Its name.
        rows: Questions with ten answers each.
        answers: Row id -> text.
        rule: Key of `rules`.
        rules: The rules of this benchmark.
        parts: Names of entries of ``extra`` whose values are kinds of questions, for numbers such as ``kind value``.

    Raises:
        ValueError: a question has no ten answers.
    """
    marks = {row.id: rules[rule](answers[row.id], people_of(benchmark, row)) for row in rows}
    numbers: dict[str, float] = {}
    for part in parts:
        kinds = percent_by(rows, marks, partial(_kind, part))
        numbers |= {f"{part} {kind}": value for kind, value in kinds.items()}
    return mean_score(benchmark, rule, "accuracy", marks, numbers)


def _kind(part: str, row: Row) -> str:
    return str(row.extra[part])


def people_of(benchmark: str, row: Row) -> tuple[str, ...]:
    """The ten answers of a question.

    Raises:
        ValueError: there are none, or not ten.
    """
    if len(row.answers) != NUM_PEOPLE:
        raise ValueError(
            f"{benchmark}: {row.place} has {len(row.answers)} people's answers, expected {NUM_PEOPLE}; "
            "answers of test splits are not public: write the answer file and send it to the server of the benchmark"
        )
    return row.answers
