"""The record that describes a benchmark: how its files are read and how its answers are scored."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moiety.evaluate.benchmarks.files.layouts import Layout, Questions, in_words, questions_in
from moiety.evaluate.benchmarks.rules.resampling import Statistic, resampled
from moiety.groups import nearest_name
from moiety.stats.intervals import Estimate
from moiety.vlm.images import Pictures
from moiety.vlm.rows import IMAGE_MARK, Row, Turn

SOUND = "sound"
_SHOWN = 5


@dataclass(frozen=True)
class BenchmarkScore:
    """Score of one set of answers under one rule.

    Args:
        benchmark: Its name.
        rule: The rule set that computed the numbers. Only scores of the same rule can be compared.
        headline: Name and value of the number that tables quote, in the usual unit (mostly percent).
        numbers: Every number of the benchmark by name, the headline included. In percent unless the name says
            otherwise.
        num_questions: Questions scored.
        correct: Row id -> share of the question that is right, 0..1; None if a question has no mark of its own.
        notes: What a reader has to know, one sentence for each point.
        interval: 95 % bootstrap interval of the headline; filled in by :meth:`Benchmark.score`.
        part: Which part of the benchmark was asked; empty: all of it. Filled in by :meth:`Benchmark.score`.
        statistic: Headline from one weight for each question (aligned with the rows); the weights of a resample
            count how often each was drawn. With all weights 1 it gives the headline. None: no interval.
        unread: Answers in which the rule finds no letter, no yes or no; a rule that takes every text for something has
            the number that rule ``sound`` cannot read. None: of a rule that compares whole texts.
    """

    benchmark: str
    rule: str
    headline: tuple[str, float]
    numbers: Mapping[str, float]
    num_questions: int
    correct: Mapping[str, float] | None = None
    notes: tuple[str, ...] = ()
    interval: Estimate | None = None
    part: str = ""
    statistic: Statistic | None = field(default=None, repr=False, compare=False)
    unread: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the marks of single questions."""
        return {
            "benchmark": self.benchmark,
            "part": self.part,
            "rule": self.rule,
            "headline": list(self.headline),
            "interval": None if self.interval is None else asdict(self.interval),
            "numbers": dict(self.numbers),
            "num_questions": self.num_questions,
            "unread": self.unread,
            "notes": list(self.notes),
        }


def mean_score(
    benchmark: str,
    rule: str,
    headline: str,
    correct: Mapping[str, float],
    numbers: Mapping[str, float] | None = None,
    notes: tuple[str, ...] = (),
    unread: int | None = None,
) -> BenchmarkScore:
    """The score of a benchmark whose headline is the mean over its questions, in percent.

    Args:
        benchmark: Its name.
        rule: The rule set.
        headline: Name of the mean.
        correct: Row id -> mark in 0..1, in the order of the rows.
        numbers: Further numbers; the mean is put before them.
        notes: See :class:`BenchmarkScore`.
        unread: See there, too.
    """
    marks = np.array(list(correct.values()), dtype=np.float64)
    value = 100 * float(marks.mean())

    def mean(weights: NDArray[np.float64]) -> float:
        return 100 * float(weights @ marks / weights.sum())

    means = {headline: value, **(numbers or {})}
    return BenchmarkScore(
        benchmark, rule, (headline, value), means, len(marks), correct, notes, statistic=mean, unread=unread
    )


def percent_by(rows: Sequence[Row], correct: Mapping[str, float], group: Callable[[Row], Hashable]) -> dict[str, float]:
    """Name of each group of rows -> mean mark in percent, in the order in which groups first occur."""
    marks: dict[str, list[float]] = {}
    for row in rows:
        marks.setdefault(str(group(row)), []).append(correct[row.id])
    return {key: 100 * float(np.mean(values)) for key, values in marks.items()}


def _nothing(rows: Sequence[Row], rule: str) -> float:
    return 0.0


def _each_alone(row: Row) -> Hashable:
    return row.id


def _one_part(row: Row) -> Hashable:
    return None


def _everything(rows: Sequence[Row]) -> str:
    return ""


def spelled(name: str) -> str:
    """A name in lower case without signs. For a folder of the hub's cache, the part after the owner.

    Example:
        >>> spelled("MM-Vet"), spelled("datasets--lmms-lab--SEED-Bench")
        ('mmvet', 'seedbench')
    """
    return "".join(filter(str.isalnum, name.rpartition("--")[2].lower()))


@dataclass(frozen=True)
class Benchmark:
    """One benchmark.

    Args:
        name: Key in the registry and name of its folder below ``--data``.
        title: Its name in print, with version and split.
        layouts: The ways in which its files may lie in a folder. The first one that is found is read.
        scorer: (rows, answers, rule) -> score without interval, called with checked ids and a known rule. None: the
            answers are graded elsewhere.
        rules: Rule sets; the first is the default. ``official`` gives exactly the numbers of the released scorer.
        max_new_tokens: Longest answer in tokens. The default of 128 is that of the released MoIIE code.
        floor: (rows, rule) -> headline if all answers are empty; 0 by default.
        together: Rows with one key belong together: one picture, one circle of options. They are drawn together in the
            bootstrap and a limit never cuts them apart.
        part: Rows with one key are a part that every resample has as many of: a task whose points are added.
        portion: Rows -> what part of the benchmark they are, empty for all of it; the score says so.
        folders: Other usual names of its folder.
        writer: (rows, answers, path) -> None. Writes the file that the benchmark's own grader or server accepts.
        suffix: End of that file's name.
    """

    name: str
    title: str
    layouts: tuple[Layout, ...]
    scorer: Callable[[Sequence[Row], Mapping[str, str], str], BenchmarkScore] | None
    rules: tuple[str, ...]
    max_new_tokens: int
    floor: Callable[[Sequence[Row], str], float] = _nothing
    together: Callable[[Row], Hashable] = _each_alone
    part: Callable[[Row], Hashable] = _one_part
    portion: Callable[[Sequence[Row]], str] = _everything
    folders: tuple[str, ...] = ()
    writer: Callable[[Sequence[Row], Mapping[str, str], Path], None] | None = None
    suffix: str = ".json"

    @property
    def files(self) -> str:
        """The files that its folder may hold, in words."""
        return in_words(self.layouts)

    def folder_in(self, data: Path) -> Path:
        """The folder of the benchmark in `data`: one with its name or another usual name, or `data` itself."""
        names = {spelled(name) for name in (self.name, *self.folders)}
        own = data / self.name
        if own.is_dir() or not data.is_dir():
            return own
        likely = sorted(path for path in data.iterdir() if spelled(path.name) in names and path.is_dir())
        return likely[0] if likely else data if spelled(data.name) in names else own

    def questions(self, folder: Path) -> Questions:
        """The questions in `folder`, with their pictures and with notes for the reader.

        Raises:
            FileNotFoundError: files are missing. The text names them, and the layouts that are accepted.
            ValueError: two questions have one id, or there is none.
        """
        try:
            found = questions_in(folder, self.layouts)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{self.name}: {error}") from error
        twice = _repeated(row.id for row in found.rows)
        if twice:
            raise ValueError(f"{self.name}: {len(twice)} ids occur more than once in {folder}: {_some(twice)}")
        if not found.rows:
            raise ValueError(f"{self.name}: no question in {folder}; expected there, any one of:{self.files}")
        return found

    def read(self, folder: Path) -> list[Row]:
        """The questions in `folder`, in their official order: unique ids, the official prompt as turn of the user.

        Raises:
            FileNotFoundError: files are missing.
            ValueError: see :meth:`questions`.
        """
        return self.questions(folder).rows

    def pictures(self, folder: Path) -> Pictures:
        """The pictures in `folder`, by the names that the questions use.

        Raises:
            FileNotFoundError: files are missing.
        """
        return self.questions(folder).pictures()

    def score(self, rows: Sequence[Row], answers: Mapping[str, str], rule: str | None = None) -> BenchmarkScore:
        """Score answers, with a bootstrap interval of the headline.

        Args:
            rows: All or some of the questions that :meth:`read` returned.
            answers: Row id -> what the model wrote, for exactly these rows.
            rule: See :meth:`rule_named`.

        Raises:
            ValueError: there are no rows, answers are missing or superfluous, the rule is unknown, or the benchmark is
                graded elsewhere.
        """
        if self.scorer is None:
            raise ValueError(f"{self.name} is graded elsewhere; write its answers file and hand that in")
        rule = self.rule_named(rule)
        self.check_ids(rows, answers)
        score = replace(self.scorer(rows, answers, rule), part=self.portion(rows))
        if score.statistic is None:
            return score
        clusters, strata = [self.together(row) for row in rows], [self.part(row) for row in rows]
        return replace(score, interval=resampled(score.statistic, clusters, strata))

    def write_answers(self, rows: Sequence[Row], answers: Mapping[str, str], path: Path) -> None:
        """Write the file that the benchmark's own grader or server accepts.

        Raises:
            ValueError: there is no such file for this benchmark, or answers are missing or superfluous.
        """
        if self.writer is None:
            raise ValueError(f"{self.name} has no answers file of its own; its answers are scored here")
        self.check_ids(rows, answers)
        self.writer(rows, answers, path)

    def rule_named(self, rule: str | None) -> str:
        """The rule set called `rule`. None gives the default; so does ``sound`` if no rule has that name.

        Raises:
            ValueError: the benchmark has no such rule.
        """
        if rule in self.rules:
            return str(rule)
        if (rule is None or rule == SOUND) and self.rules:
            return self.rules[0]
        raise ValueError(f"{self.name} has no rule {rule!r}; {nearest_name(str(rule), self.rules)}")

    def check_ids(self, rows: Sequence[Row], answers: Mapping[str, str]) -> None:
        """Check that answers and questions have the same ids. They are joined by id, never by position.

        Raises:
            ValueError: no rows, an id occurs twice, or answers are missing or superfluous.
        """
        if not rows:
            raise ValueError(f"{self.name}: no questions to score")
        asked = [row.id for row in rows]
        known = set(asked)
        wrong = {
            "occur more than once": _repeated(asked),
            "have no answer": [name for name in asked if name not in answers],
            "were answered but not asked": [name for name in answers if name not in known],
        }
        told = [f"{len(names)} {what}: {_some(names)}" for what, names in wrong.items() if names]
        if told:
            raise ValueError(
                f"{self.name}: {len(answers)} answers do not fit {len(rows)} questions by id; " + "; ".join(told)
            )

    def first(self, rows: Sequence[Row], limit: int | None) -> list[Row]:
        """The first `limit` questions, and all questions that belong together with one of them."""
        kept = {self.together(row) for row in rows[:limit]}
        return [row for row in rows if self.together(row) in kept]


def asked(
    id: str,
    prompt: str,
    images: Iterable[str] = (),
    *,
    answers: Iterable[str] = (),
    choices: Iterable[str] = (),
    type: str | None = None,
    extra: Mapping[str, Any] | None = None,
    file: str = "",
    line: int = 0,
) -> Row:
    """One question as a row: its pictures first, then the prompt, as the LLaVA line asks."""
    names = tuple(images)
    turn = Turn("user", f"{IMAGE_MARK}\n" * len(names) + prompt.replace(IMAGE_MARK, ""))
    return Row(id, (turn,), names, type, tuple(answers), tuple(choices), file, line, extra or {})


def _repeated(names: Iterable[str]) -> list[str]:
    seen: set[str] = set()
    return list(dict.fromkeys(name for name in names if name in seen or seen.add(name)))  # type: ignore[func-returns-value]


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:_SHOWN])) + (", ..." if len(names) > _SHOWN else "")
