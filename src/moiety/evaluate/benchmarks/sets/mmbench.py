"""MMBench: every question is asked once for each rotation of its options, and counts if all answers are right."""

from __future__ import annotations

import base64
import binascii
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked, percent_by
from moiety.evaluate.benchmarks.files.entries import entry_with
from moiety.evaluate.benchmarks.files.layouts import LLAVA, SITE, Layout, Questions, hub_layout
from moiety.evaluate.benchmarks.files.parquet import HubTable
from moiety.evaluate.benchmarks.files.questions import read_table
from moiety.evaluate.benchmarks.files.release import Readable, Release
from moiety.evaluate.benchmarks.files.spreadsheet import write_xlsx
from moiety.evaluate.benchmarks.rules.letters import option_prompt, stated_letter, unread_letters, weighed_letter
from moiety.evaluate.scorers import LETTERS
from moiety.vlm.images import decode
from moiety.vlm.rows import Row

EDITIONS = {
    "": ("mmbench_{split}_20230712.tsv", "MMBench_{SPLIT}_EN.tsv", "mmbench_{split}_en_20231003.tsv"),
    "V1.1": ("MMBench_{SPLIT}_EN_V11.tsv",),
    "Chinese": ("mmbench_{split}_cn_20231003.tsv", "MMBench_{SPLIT}_CN.tsv"),
    "Chinese, V1.1": ("MMBench_{SPLIT}_CN_V11.tsv",),
}
"""Tables of each edition; English as first published is the benchmark itself."""
OPTIONS = LETTERS[:4]
ROUND = 1_000_000
"""Rotation r of question q has index q + r * ROUND."""
_SHORT_REFERENCE = 64
_AROUND = ("{}.", "{},", "{}:", "{})", "{}).", "({})", "({}).", ":{}", ":{},", ":{}.", ":{})", ":{}).")


# -- questions and pictures --------------------------------------------------------------------------------------------
def read(release: Release, split: str) -> Questions:
    """Questions in the order of the table. The name of a picture is the index of the first row that holds it.

    Raises:
        ValueError: an index is not a whole number, or an answer is not one of the options.
    """
    edition, path = next(
        (edition, path) for edition in EDITIONS for path in [release.find(*_files(split, edition))] if path is not None
    )
    rows = [_row(cells, _picture_name(cells), edition, str(path), line) for line, cells in read_table(path)]
    return Questions(rows, lambda: TablePictures(path))


def read_hub(table: HubTable, edition: str) -> Questions:
    """The questions of the table from the Hugging Face Hub, each with its own picture."""
    rows, names = [], dict[str, str]()
    for file, line, entry in table.rows():
        cells = {key.lower() if len(key) > 1 else key: "" if cell is None else str(cell) for key, cell in entry.items()}
        rows.append(_row(cells, cells.get("index", ""), edition, file, line))
        names[rows[-1].id] = str(entry.get("image"))
    return Questions(rows, lambda: table.pictures(names))


def _files(split: str, edition: str) -> tuple[str, ...]:
    return tuple(name.format(split=split, SPLIT=split.upper()) for name in EDITIONS[edition])


def _row(cells: Mapping[str, str], picture: str, edition: str, file: str, line: int) -> Row:
    entry_with(dict(cells), dict.fromkeys(("index", "question", *OPTIONS, "image"), str), f"{file}:{line}")
    index = cells["index"]
    if not index.isdecimal():
        raise ValueError(f"{file}:{line}: index must be a whole number, got {index!r:.40}")
    filled = {letter: cells[letter] for letter in OPTIONS if not _empty(cells.get(letter))}
    answer = "" if _empty(cells.get("answer")) else cells["answer"]
    if (answer and answer not in filled) or list(filled) != list(OPTIONS[: len(filled)]):
        raise ValueError(
            f"{file}:{line}: answer {answer!r} does not fit the options {', '.join(filled)}; fetch the table again"
        )
    hint = "" if _empty(cells.get("hint")) else f"{cells['hint']}\n"
    return asked(
        index,
        option_prompt(hint + cells["question"], list(filled.values())),
        [picture],
        answers=[answer] if answer else [],
        choices=filled.values(),
        type=cells.get("category") or None,
        extra={
            **{key: cells.get(key, "") for key in ("question", "category", "l2-category")},
            **{"index": int(index), "answer": answer, "edition": edition},
        },
        file=file,
        line=line,
    )


def _empty(cell: str | None) -> bool:
    """Whether a cell is empty; pandas writes an empty cell as nan."""
    return cell is None or cell.strip() in ("", "nan")


def _picture_name(cells: Mapping[str, str]) -> str:
    """The index of the row with the picture. A short cell holds that index; an empty cell means the first rotation."""
    cell, index = cells.get("image", "").strip(), cells.get("index", "")
    if (cell and len(cell) > _SHORT_REFERENCE) or not index.isdecimal():
        return index
    return cell or str(int(index) % ROUND)


class TablePictures:
    """Pictures in base64 in a table, by index. The table is read once, and a picture is decoded when it is needed."""

    def __init__(self, path: Readable) -> None:
        self.path = path
        self._cells = {
            cells["index"]: cells["image"] for _, cells in read_table(path) if len(cells["image"]) > _SHORT_REFERENCE
        }

    def __contains__(self, name: object) -> bool:
        return name in self._cells

    def __getitem__(self, name: str) -> Image.Image:
        """The picture of the row with index `name`.

        Raises:
            FileNotFoundError: that row has no picture.
            ValueError: the cell is not the base64 of a picture.
        """
        if name not in self._cells:
            raise FileNotFoundError(f"row {name} of {self.path} has no picture; fetch the table again")
        try:
            content = base64.b64decode(self._cells[name], validate=True)
        except binascii.Error as error:
            raise ValueError(f"picture of row {name} of {self.path} is not base64 ({error}); fetch it again") from error
        return decode(content, f"of row {name} of {self.path}")


# -- rules -------------------------------------------------------------------------------------------------------------
def fast_letter(text: str, choices: Sequence[str]) -> str | None:
    """The letter that the fast rule of lmms-eval reads; None if it finds none.

    It is the only word that is a letter from A to E; otherwise the only letter in a form like ``X.`` or ``(X)``;
    otherwise the only option whose text occurs. In a sentence of more than three words with the word A, no letter is
    read in the first step, because A may be the article.

    Source:
        EvolvingLMMs-Lab/lmms-eval @ 75571cf, ``tasks/mmbench/mmbench_evals.py``, from a description of its rule.

    Example:
        >>> said = ("The answer is A", "C) A minor", "B, for it fits", "I see a Fox.", "A or B", "none")
        >>> [fast_letter(text, ["fox", "dog"]) for text in said]
        [None, 'A', 'B', 'A', None, None]
    """
    words = text.split()
    letters = [letter for letter in LETTERS[:5] if letter in words]
    if len(letters) == 1 and not ("A" in words and len(words) > 3):
        return letters[0]
    for form in _AROUND:
        around = [letter for letter in LETTERS[:5] if form.format(letter) in words]
        if len(around) == 1:
            return around[0]
    lowered = text.lower()
    named = [letter for letter, choice in zip(OPTIONS, choices, strict=False) if choice.lower() in lowered]
    return named[0] if len(named) == 1 else None


def static_letter(text: str, choices: Sequence[str]) -> str | None:
    """:func:`fast_letter`, or :func:`~moiety.evaluate.benchmarks.rules.letters.weighed_letter` if it finds none."""
    return fast_letter(text, choices) or weighed_letter(text, OPTIONS[: len(choices)]) or None


RULES = {"sound": stated_letter, "lmms_eval": static_letter}


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Share of questions that are right in every rotation (the headline), also per category.

    ``single pass`` counts only rotation 0. Rule ``sound`` is
    :func:`moiety.evaluate.benchmarks.rules.letters.stated_letter`; rule ``lmms_eval`` is :func:`static_letter`. There
    is no rule ``official``: if the fast rule finds no letter, the server of the benchmark asks a language model. For
    its numbers, send the answer file to the server. An empty answer scores 0.

    Raises:
        ValueError: a question has no answer in the table.
    """
    hidden = [row.id for row in rows if not row.extra["answer"]]
    if hidden:
        raise ValueError(
            f"mmbench: {len(hidden)} questions have no answer in the table, first {hidden[0]!r}; write the "
            "answer file and send it to the server of the benchmark"
        )
    read_as = RULES[rule]
    correct = {row.id: float(read_as(answers[row.id], row.choices) == row.extra["answer"]) for row in rows}
    circles: dict[int, list[float]] = defaultdict(list)
    for row in rows:
        circles[_question(row)].append(correct[row.id])
    firsts = list({_question(row): row for row in reversed(rows)}.values())[::-1]
    hits = {row.id: float(all(circles[_question(row)])) for row in firsts}
    is_first = np.array([row.id in hits for row in rows], dtype=np.float64)
    marks = np.array([hits.get(row.id, 0.0) for row in rows])

    def hit_rate(weights: NDArray[np.float64]) -> float:
        drawn = weights * is_first  # all rows of a question are drawn together, so its first row is enough
        return 100 * float(drawn @ marks / drawn.sum())

    headline = ("circular accuracy", hit_rate(np.ones(len(rows))))
    base = [correct[row.id] for row in rows if row.extra["index"] < ROUND]
    numbers = dict([headline]) | ({"single pass": 100 * float(np.mean(base))} if base else {})
    numbers |= percent_by(firsts, hits, lambda row: row.extra["l2-category"])
    numbers |= {
        f"- {name}": value for name, value in percent_by(firsts, hits, lambda row: row.extra["category"]).items()
    }
    alone = sum(len(marks) == 1 for marks in circles.values())
    notes = (f"{alone} of {len(circles)} questions have no rotation in the table",) if alone else ()
    unread = unread_letters(rows, answers, read_as)
    return BenchmarkScore(
        "mmbench", rule, headline, numbers, len(rows), correct, notes, statistic=hit_rate, unread=unread
    )


def _question(row: Row) -> int:
    return int(row.extra["index"]) % ROUND


def write_answers(rows: Sequence[Row], answers: Mapping[str, str], path: Path) -> None:
    """The ``.xlsx`` sheet for the server: index, question, A to D, prediction.

    Source:
        The columns of AlenjandroWang/MoIIE @ c614868, ``convert_mmbench_for_submission.py``.
    """
    lines = []
    for row in rows:
        options = [*row.choices, *[""] * (len(OPTIONS) - len(row.choices))]
        lines.append([row.extra["index"], row.extra["question"], *options, answers[row.id]])
    write_xlsx(path, ["index", "question", *OPTIONS, "prediction"], lines)


def _benchmark(name: str, title: str, split: str, scored: bool) -> Benchmark:
    tables = tuple(file for edition in EDITIONS for file in _files(split, edition))
    questions = partial(read, split=split)
    return Benchmark(
        name,
        title,
        (
            Layout(SITE, (tables,), questions, f"{tables[0]}, {tables[1]}, {tables[3]}, or the Chinese ones (cn, CN)"),
            Layout(LLAVA, (tables,), questions, f"{tables[0]} or {_files(split, 'Chinese')[0]}"),
            hub_layout(split, partial(read_hub, edition=""), "!en"),
            hub_layout(split, partial(read_hub, edition="Chinese"), "!cn"),
            hub_layout(split, partial(read_hub, edition="")),
        ),
        score if scored else None,
        tuple(RULES) if scored else ("official",),
        max_new_tokens=128,
        together=_question,
        portion=lambda rows: str(rows[0].extra.get("edition", "")),
        folders=("MMBench", "MMBench_EN"),
        writer=write_answers,
        suffix=".xlsx",
    )


MMBENCH = _benchmark("mmbench", "MMBench, dev (English)", "dev", scored=True)
MMBENCH_TEST = _benchmark("mmbench_test", "MMBench, test (English)", "test", scored=False)
