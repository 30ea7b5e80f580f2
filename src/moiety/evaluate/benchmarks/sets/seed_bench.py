"""SEED-Bench: nineteen thousand questions with four options. SEED-I is the part about single pictures, types 1 to 9."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked, percent_by
from moiety.evaluate.benchmarks.files.entries import Kinds, entry_with, list_in
from moiety.evaluate.benchmarks.files.layouts import LLAVA, SITE, Layout, Questions, beside, hub_layout, parts_by
from moiety.evaluate.benchmarks.files.parquet import HubTable
from moiety.evaluate.benchmarks.files.questions import read_json
from moiety.evaluate.benchmarks.files.release import Release
from moiety.evaluate.benchmarks.rules.letters import option_prompt, stated_letter, unread_letters
from moiety.evaluate.scorers import LETTERS
from moiety.vlm.rows import Row

QUESTIONS = "SEED-Bench.json"
PICTURE_FOLDER = "SEED-Bench-image"
IMAGE = "image"
_KINDS: Mapping[str, Kinds] = {
    **{"question_id": (int, str), "question_type_id": (int, str), "data_type": str, "question": str, "answer": str},
    **{f"choice_{letter.lower()}": (str, int, float) for letter in LETTERS[:4]},
}


def read(release: Release) -> Questions:
    """The questions about pictures, in the order of the file. Questions about videos are left out."""
    path = release.one(QUESTIONS)
    rows = []
    for number, entry in enumerate(list_in(read_json(path), path, "questions"), start=1):
        row = _row(entry, str(path), number)
        if row is not None:
            rows.append(row)
    return Questions(rows, beside(release, PICTURE_FOLDER))


def read_hub(table: HubTable) -> Questions:
    """The questions about pictures from the table of the Hugging Face Hub."""
    rows, names = [], dict[str, str]()
    for file, line, entry in table.rows():
        row = _row(entry, file, line)
        if row is not None:
            shown = entry.get("image")
            names.setdefault(row.images[0], str(shown[0] if isinstance(shown, list) and shown else shown))
            rows.append(row)
    return Questions(rows, lambda: table.pictures(names))


def _row(entry: Any, file: str, line: int) -> Row | None:
    """The row of a question about a picture; None for a question about a video."""
    place = f"{file}: question {line}"
    entry = entry_with(entry, _KINDS, place)
    if entry["data_type"] != IMAGE:
        return None
    entry_with(entry, {"data_id": (str, int)}, place)
    choices = [str(entry[f"choice_{letter.lower()}"]) for letter in LETTERS[:4]]
    extra = {key: entry[key] for key in ("answer", "data_type", "question_type_id")}
    return asked(
        str(entry["question_id"]),
        option_prompt(entry["question"], choices),
        [str(entry["data_id"])],
        answers=[entry["answer"]],
        choices=choices,
        type=f"type {entry['question_type_id']}",
        extra=extra,
        file=file,
        line=line,
    )


RULES: Mapping[str, Callable[[str, Sequence[str]], str | None]] = {
    "sound": stated_letter,
    "official": lambda text, choices: text,
    "lmms_eval": lambda text, choices: text.strip()[:1].upper(),
    "internvl": lambda text, choices: text[:1],
}


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Accuracy on pictures (SEED-I, the headline), by type of question, and by pictures and videos.

    - ``sound``: :func:`moiety.evaluate.benchmarks.rules.letters.stated_letter`.
    - ``official``: the text must be the letter and nothing else.
    - ``internvl``: the first character must be the letter.
    - ``lmms_eval``: the same, but blanks before the letter and its case do not matter.

    An empty answer scores 0.

    Source:
        AlenjandroWang/MoIIE @ c614868, ``convert_seed_for_submission.py``; OpenGVLab/InternVL @ 2410d1d (it stops at an
        empty text, which is a wrong answer here); lmms-eval @ 75571cf.
    """
    read_as = RULES[rule]
    correct = {row.id: float(read_as(answers[row.id], row.choices) == row.extra["answer"]) for row in rows}
    marks = np.array(list(correct.values()))
    on_picture = np.array([row.extra["data_type"] == IMAGE for row in rows], dtype=np.float64)

    def accuracy(weights: NDArray[np.float64]) -> float:
        drawn = weights * on_picture
        return 100 * float(drawn @ marks / drawn.sum()) if drawn.any() else float("nan")

    headline = ("SEED-I", accuracy(np.ones(len(rows))))
    means = {
        f"all of {key}": value for key, value in percent_by(rows, correct, lambda row: row.extra["data_type"]).items()
    }
    types = percent_by(rows, correct, lambda row: row.type)
    numbers = dict([headline]) | {"all": 100 * float(marks.mean())} | means | types
    unread = unread_letters(rows, answers, read_as)
    return BenchmarkScore("seed", rule, headline, numbers, len(rows), correct, statistic=accuracy, unread=unread)


SEED = Benchmark(
    "seed",
    "SEED-Bench, image part (SEED-I)",
    (
        Layout(SITE, (QUESTIONS,), read, beside="pictures in SEED-Bench-image/"),
        Layout(LLAVA, (QUESTIONS,), read, beside="in seed_bench/; pictures in SEED-Bench-image/"),
        hub_layout("test", read_hub),
    ),
    score,
    ("sound", "official", "lmms_eval", "internvl"),
    max_new_tokens=128,
    together=lambda row: row.images,
    portion=parts_by(lambda row: str(row.type), [f"type {number}" for number in range(1, 10)]),
    folders=("SEED-Bench", "seed_bench", "seedbench"),
)
