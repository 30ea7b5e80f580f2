"""MMBench: every question asked once for each rotation of its options; a hit is a question right in all of them."""

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
    """Questions in the order of the table. A picture is named after the first row that holds it.

    Raises:
        ValueError: an index is no whole number, or an answer none of the options.
    """
    edition, path = next(
        (edition, path) for edition in EDITIONS for path in [release.find(*_files(split, edition))] if path is not None
    )
    rows = [_row(cells, _picture_name(cells), edition, str(path), line) for line, cells in read_table(path)]
    return Questions(rows, lambda: TablePictures(path))


def read_hub(table: HubTable, edition: str) -> Questions:
    """The questions of the hub's table, each with its own picture."""
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
        raise ValueError(f"{file}:{line}: answer {answer!r} and options {', '.join(filled)} do not fit each other")
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
    """An absent cell; tables of pandas write it as nan."""
    return cell is None or cell.strip() in ("", "nan")


def _picture_name(cells: Mapping[str, str]) -> str:
    """The index of the row with the picture: a short cell names that row, an empty one means the first rotation's."""
    cell, index = cells.get("image", "").strip(), cells.get("index", "")
    if (cell and len(cell) > _SHORT_REFERENCE) or not index.isdecimal():
        return index
    return cell or str(int(index) % ROUND)


class TablePictures:
    """Pictures in base64 in a table, by index; read once, decoded when asked for."""

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
            FileNotFoundError: that row has none.
            ValueError: it is not base64 of a picture.
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
    """The only word that is a letter A to E, else the only one of a form like ``X.`` or ``(X)``, else the only option.

    A sentence of more than three words with the word A in it has no letter as a word: that may be the article.

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
    """:func:`fast_letter`; where it finds nothing, :func:`~moiety.evaluate.benchmarks.rules.letters.weighed_letter`."""
    return fast_letter(text, choices) or weighed_letter(text, OPTIONS[: len(choices)]) or None


RULES = {"sound": stated_letter, "lmms_eval": static_letter}


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Share of questions right in every rotation (the headline), per category; ``single pass`` counts rotation 0 alone.

    ``sound`` is :func:`moiety.evaluate.benchmarks.rules.letters.stated_letter`, ``lmms_eval`` :func:`static_letter`.
    The benchmark's own server asks a language model where its fast rule finds nothing, so its numbers can differ: there
    is no rule ``official``; hand in the answers file. Silence scores 0.

    Raises:
        ValueError: a question has no answer in the table.
    """
    hidden = [row.id for row in rows if not row.extra["answer"]]
    if hidden:
        raise ValueError(
            f"mmbench: {len(hidden)} questions have no answer in the table, first {hidden[0]!r}; write the answers "
            "file and hand it in"
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
        drawn = weights * is_first  # the rows of one question are drawn together: its first row stands for it
        return 100 * float(drawn @ marks / drawn.sum())

    headline = ("circular accuracy", hit_rate(np.ones(len(rows))))
    base = [correct[row.id] for row in rows if row.extra["index"] < ROUND]
    numbers = dict([headline]) | ({"single pass": 100 * float(np.mean(base))} if base else {})
    numbers |= {
        str(name): value for name, value in percent_by(firsts, hits, lambda row: row.extra["l2-category"]).items()
    }
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
    """The sheet that the server takes: index, question, A to D, prediction, as ``.xlsx``.

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
            Layout(
                SITE, (tables,), questions, f"{tables[0]}, {tables[1]}, {tables[3]}, or their Chinese sisters (cn, CN)"
            ),
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
