"""Runs benchmarks. All files are read before the first question is asked, and every answer is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore
from moiety.evaluate.benchmarks.files.answers import answered_part, answers_to
from moiety.evaluate.benchmarks.files.layouts import Questions
from moiety.evaluate.benchmarks.registry import benchmarks_named
from moiety.evaluate.run import answer_rows
from moiety.evaluate.watch import Watches
from moiety.recipe.evaluate import DecodingSettings
from moiety.records.saving import write_atomically
from moiety.vlm.rows import Row

RESULTS = "benchmarks.json"
HEADS = ("benchmark", "rule", "#questions", "number", "#value", "#95 %", "#not read")


@dataclass(frozen=True)
class BenchmarkRun:
    """The result of one benchmark.

    Args:
        benchmark: Its name.
        num_questions: Questions asked.
        num_all: Number of all questions of the benchmark.
        predictions: The file of answers, one line for each answer.
        score: Its score; None if the benchmark is graded elsewhere.
        answers_file: The file to hand in; None if the benchmark is scored here, or if only some questions were asked.
        part: What of the benchmark was asked; empty: all of it.
    """

    benchmark: str
    num_questions: int
    num_all: int
    predictions: Path
    score: BenchmarkScore | None
    answers_file: Path | None
    part: str = ""

    @property
    def line(self) -> list[str]:
        """One line of the table whose headings are :data:`HEADS`."""
        asked = f"{self.num_questions:,}" + (f" of {self.num_all:,}" if self.num_questions < self.num_all else "")
        name = named(self.benchmark, self.part)
        if self.score is None:
            where = "graded elsewhere" if self.answers_file else "graded elsewhere; ask all questions for its file"
            return [name, "–", asked, where, "–", "–", "–"]
        unread = "–" if self.score.unread is None else f"{self.score.unread:,}"
        return [name, self.score.rule, asked, *shown(self.score), unread]


def named(benchmark: str, part: str) -> str:
    """Name of a benchmark in a table, with the part of it that was asked.

    Example:
        >>> named("pope", "random, popular"), named("pope", "")
        ('pope (part: random, popular)', 'pope')
    """
    return f"{benchmark} (part: {part})" if part else benchmark


def shown(score: BenchmarkScore) -> list[str]:
    """Name, value and interval of a headline, two decimals."""
    name, value = score.headline
    found = score.interval
    interval = f"{found.low:.2f} to {found.high:.2f}" if found is not None and found.has_interval else "–"
    return [name, f"{value:.2f}", interval]


@dataclass(frozen=True)
class Asking:
    """How benchmarks are asked and scored.

    Args:
        rule: Rule set, see :meth:`moiety.evaluate.benchmarks.benchmark.Benchmark.rule_named`.
        limit: Ask only the first questions, up to this number. Questions that belong together stay together.
        batch_size: Number of questions asked at once. Answers do not depend on it.
        max_new_tokens: Longest answer; None: the benchmark's own.
        blank_image: Replace each picture by one of a single colour: the question-only control.
        decoding: How an answer is chosen from scores; None: greedily.
        clamp_alpha: Force alpha of every evidence expert.
        watches: Makes observers, such as :class:`moiety.lens.trace.writer.TraceFiles`; None: there are none.
    """

    rule: str | None = None
    limit: int | None = None
    batch_size: int = 32
    max_new_tokens: int | None = None
    blank_image: bool = False
    decoding: DecodingSettings | None = None
    clamp_alpha: float | None = None
    watches: Watches | None = None


def evaluate_benchmarks(
    model: nn.Module,
    processor: Any,
    names: Sequence[str],
    data: Path,
    output: Path,
    asking: Asking | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[BenchmarkRun]:
    """Ask `model` the questions of benchmarks and score its answers. Nothing is fetched from a network.

    Each answer is written to ``OUTPUT/NAME.jsonl`` when it is made, and a stopped run continues from there. A file that
    was made by another model, with other settings or for other questions raises an error. ``OUTPUT/benchmarks.json``
    holds the scores of all benchmarks that were run with this `output`; files to hand in are
    ``OUTPUT/NAME.answers.json``.

    Args:
        model: A vision-language model.
        processor: Its processor.
        names: Keys of :data:`moiety.evaluate.benchmarks.registry.BENCHMARKS`.
        data: Folder with one folder for each benchmark, called by its name or by another usual name.
        output: Folder for answers and scores.
        asking: See :class:`Asking`.
        progress: Called with (benchmark, answers made, answers asked for) after each batch.

    Raises:
        FileNotFoundError: files of a benchmark are missing; all benchmarks are read before the first question is asked.
        ValueError: an unknown benchmark or rule, files that contradict each other, or answers made with other settings.
    """
    asking = asking or Asking()
    runs = []
    for benchmark, questions in read_all(names, data, asking.rule):
        asked = benchmark.first(questions.rows, asking.limit)
        predictions = output / f"{benchmark.name}.jsonl"
        told = None if progress is None else partial(progress, benchmark.name)
        answers = _answers(model, processor, benchmark, questions, asked, predictions, asking, told)
        runs.append(_finished(benchmark, questions, asked, answers, asking.rule, predictions))
        _record(output / RESULTS, runs[-1])
    return runs


def read_all(names: Sequence[str], data: Path, rule: str | None = None) -> list[tuple[Benchmark, Questions]]:
    """Read benchmarks and their questions. Every problem with a file is found before the first question is asked.

    Raises:
        FileNotFoundError: files are missing.
        ValueError: an unknown benchmark or rule, or files that contradict each other.
    """
    chosen = benchmarks_named(names)
    for benchmark in chosen:
        if benchmark.scorer is not None:
            benchmark.rule_named(rule)
    return [(benchmark, benchmark.questions(benchmark.folder_in(data))) for benchmark in chosen]


def score_answers(
    name: str, data: Path, answers: Path | Sequence[Path], rule: str | None = None, limit: int | None = None
) -> tuple[BenchmarkScore, int]:
    """Score files of answers from moiety or another tool. Returns the score and the number of all questions.

    The first note of the score says what kind of file it was and how it was joined with the questions.

    Args:
        name: Key of the benchmark.
        data: Folder with its official files.
        answers: See :func:`moiety.evaluate.benchmarks.files.answers.answers_to`.
        rule: Rule set.
        limit: The answers belong to the first questions, up to this number.

    Raises:
        FileNotFoundError: files are missing.
        ValueError: answers and questions do not fit each other, see
            :meth:`moiety.evaluate.benchmarks.benchmark.Benchmark.check_ids`.
    """
    benchmark = benchmarks_named([name])[0]
    questions = benchmark.questions(data)
    asked = benchmark.first(questions.rows, limit)
    found = answers_to(name, asked, [answers] if isinstance(answers, Path) else answers)
    answered, told = answered_part(name, asked, found.texts)
    score = benchmark.score(answered, found.texts, rule)
    read = tuple(f"answers: {kind}" for kind in found.kinds)
    score = replace(score, notes=(*read, *told, *found.notes, *score.notes))
    return with_reading(score, questions), len(questions.rows)


def with_reading(score: BenchmarkScore, questions: Questions) -> BenchmarkScore:
    """The score with the part that was asked, and with the notes from reading the questions."""
    part = ", ".join(one for one in (score.part, questions.part) if one)
    return replace(score, part=part, notes=(*questions.notes, *score.notes))


def questions_digest(rows: Sequence[Row]) -> str:
    """Short fingerprint of questions: ids, prompts and names of pictures, in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps([row.id, [turn.text for turn in row.turns], row.images]).encode())
    return digest.hexdigest()[:16]


def _answers(
    model: nn.Module,
    processor: Any,
    benchmark: Benchmark,
    questions: Questions,
    asked: Sequence[Row],
    predictions: Path,
    asking: Asking,
    progress: Callable[[int, int], None] | None,
) -> dict[str, str]:
    pictures = questions.pictures()
    return answer_rows(
        model,
        processor,
        asked,
        pictures,
        batch_size=asking.batch_size,
        max_new_tokens=asking.max_new_tokens or benchmark.max_new_tokens,
        blank_image=asking.blank_image,
        decoding=asking.decoding,
        clamp_alpha=asking.clamp_alpha,
        predictions=predictions,
        made_for={"benchmark": benchmark.name, "questions": questions_digest(questions.rows)},
        watch=None if asking.watches is None else asking.watches.of(model, processor, pictures, benchmark.name),
        progress=progress,
    )


def _finished(
    benchmark: Benchmark,
    questions: Questions,
    asked: Sequence[Row],
    answers: Mapping[str, str],
    rule: str | None,
    predictions: Path,
) -> BenchmarkRun:
    """Score the answers, and write the file to hand in where there is one and all questions were asked."""
    score, num_all = None, len(questions.rows)
    part = ", ".join(one for one in (benchmark.portion(asked), questions.part) if one)
    if benchmark.scorer is not None:
        score = with_reading(benchmark.score(asked, answers, rule), questions)
    answers_file = None
    if benchmark.writer is not None and len(asked) == num_all:
        answers_file = predictions.with_name(f"{benchmark.name}.answers{benchmark.suffix}")
        benchmark.write_answers(asked, answers, answers_file)
    return BenchmarkRun(benchmark.name, len(asked), num_all, predictions, score, answers_file, part)


def _record(path: Path, run: BenchmarkRun) -> None:
    """Write one benchmark into the file of results. It replaces an earlier result with the same rule."""
    kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    entry = {"num_questions": run.num_questions, "num_all": run.num_all, "answers": run.predictions.name}
    if run.score is None:
        kept[run.benchmark] = entry
    else:
        kept[f"{run.benchmark}/{run.score.rule}"] = entry | run.score.to_dict()
    write_atomically(path, json.dumps(kept, indent=2, ensure_ascii=False) + "\n")
