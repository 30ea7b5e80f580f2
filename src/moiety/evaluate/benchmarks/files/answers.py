"""Reads answers of moiety and of other tools as row id -> text, in one way for all kinds of files."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from moiety.evaluate.benchmarks.files.answer_files import REPLY, AnswerFile, files_at, read_file
from moiety.evaluate.benchmarks.files.joining import join
from moiety.evaluate.benchmarks.files.replies import replies_of
from moiety.vlm.rows import Row

PARTS: Mapping[str, Callable[[Row], Hashable]] = {"pope": lambda row: row.type, "mme": lambda row: row.type}
"""Benchmarks whose answers come a category a file, and the category of a question: one alone is scored as a part."""


@dataclass(frozen=True)
class Answers:
    """The answers in one or several files.

    Args:
        texts: Row id -> what the model wrote.
        kinds: What was read and how: one sentence for each kind of file.
        notes: What else a reader has to know.
    """

    texts: Mapping[str, str]
    kinds: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_answers(path: Path) -> dict[str, str]:
    """Answers of one file whose lines have ids. The questions are not needed; see :func:`answers_to`.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line has no id or no reply, or an id occurs twice.
    """
    return dict(answers_to("", (), [path]).texts)


def answers_to(benchmark: str, rows: Sequence[Row], paths: Sequence[Path]) -> Answers:
    """Answers to the questions of a benchmark.

    Read are answers made here, the lines of LLaVA's evaluation, samples of lmms-eval, tables of VLMEvalKit, MME's
    result files of four columns, POPE's own lines, each benchmark's own form of submission, one object of answers by
    id, and lines with an id or a question and a reply. The content of a file tells its kind.

    Args:
        benchmark: Its name.
        rows: Its questions.
        paths: Files, or folders of files. Together they answer each question once.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: a spreadsheet needs openpyxl.
        ValueError: a file belongs to another benchmark or to other questions, an answer has no question, or no field
            can be identified as the model's reply.
    """
    by_id = {row.id: row for row in rows}
    texts: dict[str, str] = {}
    told: dict[str, None] = {}
    notes: dict[str, None] = {}
    for path in files_at(paths):
        file = read_file(path)
        _check_made_for(file, benchmark)
        joined = join(file, rows, benchmark)
        found, key, remarks = replies_of(joined, by_id, benchmark)
        twice = [name for name in found if name in texts]
        if twice:
            raise ValueError(f"{path}: {twice[0]!r} is answered a second time; each question has one answer")
        texts |= found
        read_as = "" if key == REPLY else f", reply under {key!r}"
        told[f"{file.kind}{read_as}, joined {joined.how}"] = None
        notes |= dict.fromkeys(remarks)
    return Answers(texts, tuple(told), tuple(notes))


def answered_part(benchmark: str, rows: Sequence[Row], texts: Mapping[str, str]) -> tuple[list[Row], tuple[str, ...]]:
    """The questions of all categories that have an answer, and a note about the other categories.

    If one question of a category has an answer, all of them need one. A benchmark without categories counts as one
    category.
    """
    part = PARTS.get(benchmark)
    if part is None:
        return list(rows), ()
    kept = {part(row) for row in rows if row.id in texts}
    absent = [str(name) for name in dict.fromkeys(map(part, rows)) if name not in kept]
    if not kept or not absent:
        return list(rows), ()
    verb = "has no answers and does" if len(absent) == 1 else "have no answers and do"
    return [row for row in rows if part(row) in kept], (f"a part: {', '.join(absent)} {verb} not enter",)


def _check_made_for(file: AnswerFile, benchmark: str) -> None:
    made_for = file.made_for.get("benchmark", benchmark)
    if benchmark and made_for != benchmark:
        raise ValueError(f"{file.path} holds answers to {made_for}, not to {benchmark}; give the file of {benchmark}")
