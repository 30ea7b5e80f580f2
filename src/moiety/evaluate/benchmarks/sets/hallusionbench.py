"""HallusionBench: the same yes-or-no question about a figure, about an edited figure, and without a figure.

Guan et al. 2023 (2310.14566), `HallusionBench.json`, 1,129 questions. The questions show whether an answer comes from
memory or from the figure. For the official score, a language model judges whether an answer is right. The rules here
need no language model:

- ``sound`` (default) reads yes or no with :func:`moiety.evaluate.statements.stated_word` and computes the official
  measures. Any other answer is unclear. As in the official rule, an unclear answer to a question without a figure
  counts as right. So empty answers score the share of those questions (15.8 % of the whole file).
- ``official`` repeats the released MoIIE script. The file stores each label as text, and the script compares it with a
  number. So it reads every label as No, and the score is the share of answers whose first word is no. ``first word``
  is the score that it would give with the real labels. An empty answer scores 0 here; the script itself stops.
- ``lmms_eval`` reads every text that contains ``yes`` as yes and any other text as no. So empty answers score the share
  of no among the labels. lmms-eval publishes it for questions with a figure; here it scores all questions asked.

If a judge has written its verdicts, :mod:`moiety.evaluate.benchmarks.rules.graded` computes the official numbers.

Source:
    tianyi-lab/HallusionBench @ 744007c; AlenjandroWang/MoIIE @ c614868, ``hallusionbench_test.py``; lmms-eval @
    75571cf, ``evaluate_hb.py``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked, mean_score
from moiety.evaluate.benchmarks.files.entries import (
    NOTHING,
    Kinds,
    asked_shortly,
    entry_with,
    list_in,
    write_document,
)
from moiety.evaluate.benchmarks.files.layouts import SITE, Layout, Questions, beside, hub_layout, parts_by
from moiety.evaluate.benchmarks.files.parquet import HubTable
from moiety.evaluate.benchmarks.files.questions import read_json
from moiety.evaluate.benchmarks.files.release import Release
from moiety.evaluate.benchmarks.rules.hallusion_metrics import RIGHT, UNCLEAR, WRONG, Judged, all_right, judged_numbers
from moiety.evaluate.statements import stated_word
from moiety.vlm.rows import Row

QUESTIONS = "HallusionBench.json"
PLACE = ("category", "subcategory", "set_id", "figure_id", "question_id")
_ENTRY: Mapping[str, Kinds] = {
    **dict.fromkeys((*PLACE, "visual_input", "gt_answer"), (str, int)),
    **{"question": str, "filename": (str, NOTHING)},
}


def read(release: Release) -> Questions:
    """All questions; ids are ``category/subcategory/set/figure/question``."""
    path = release.one(QUESTIONS)
    entries = enumerate(list_in(read_json(path), path))
    rows = [_row(entry, f"{path}: question {number}", str(path)) for number, entry in entries]
    return Questions(rows, beside(release, "hallusion_bench"))


def read_hub(table: HubTable) -> Questions:
    """The questions of the tables from the Hugging Face Hub. Questions with and without a figure are two splits."""
    rows, names = [], dict[str, str]()
    for file, line, entry in table.rows():
        known = {key: value for key, value in entry.items() if key != "image" and not key.startswith("image#")}
        rows.append(_row({"filename": None, **known}, f"{file}:{line}", file))
        names |= dict.fromkeys(rows[-1].images, str(entry.get("image")))
    return Questions(rows, lambda: table.pictures(names))


def _row(entry: Any, place: str, file: str) -> Row:
    entry = entry_with(entry, _ENTRY, place)
    if str(entry["gt_answer"]) not in ("0", "1"):
        raise ValueError(f"{place}: gt_answer must be 0 (no) or 1 (yes), got {entry['gt_answer']!r}")
    return asked(
        place_of(entry),
        asked_shortly(entry["question"]),
        [entry["filename"].removeprefix("./")] if entry["filename"] else [],
        answers=["yes" if str(entry["gt_answer"]) == "1" else "no"],
        type=str(entry["category"]),
        extra=entry,
        file=file,
    )


def _kind(row: Row) -> str:
    return f"{row.type} {'with' if row.images else 'without'} figure"


def place_of(entry: Mapping[str, Any]) -> str:
    """Id of a question: category, subcategory, set, figure and question, joined by ``/``."""
    return "/".join(str(entry[key]) for key in PLACE)


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """aAcc, qAcc and fAcc; under ``sound`` also all official rates; under ``official`` the accuracy of its script."""
    if rule == "official":
        return _released_score(rows, answers)
    if rule == "lmms_eval":
        verdicts: dict[str, str | None] = {row.id: "yes" if "yes" in answers[row.id].lower() else "no" for row in rows}
        judged = judged_by(rows, verdicts)
        numbers = {"qAcc": all_right(judged), "fAcc": all_right(judged, group=lambda row: row.figure)}
        unread = sum(stated_word(answers[row.id]) is None for row in rows)
        return replace(_answers_right(rule, rows, judged, numbers), unread=unread)
    verdicts = {row.id: stated_word(answers[row.id]) for row in rows}
    judged = judged_by(rows, verdicts)
    numbers = {name: value for name, value in judged_numbers(judged).items() if name != "aAcc"}
    unread = sum(verdict is None for verdict in verdicts.values())
    return replace(_answers_right(rule, rows, judged, numbers), unread=unread)


def judged_by(rows: Sequence[Row], verdicts: Mapping[str, str | None]) -> list[Judged]:
    """The judgement of answers that were read as yes or no; None means unclear.

    Two answers say the same if both have the same verdict, or if both are unclear.
    """
    originals = {_question(row): verdicts[row.id] for row in rows if str(row.extra["figure_id"]) == "0"}
    judged = []
    for row in rows:
        verdict = verdicts[row.id]
        code = UNCLEAR if verdict is None else RIGHT if verdict == row.answers[0] else WRONG
        same = verdict == originals.get(_question(row), verdict)
        names = {key: str(row.extra[key]) for key in (*PLACE, "visual_input")}
        judged.append(Judged(**names, truth=int(row.answers[0] == "yes"), code=code, same=same))
    return judged


def _question(row: Row) -> tuple[str, ...]:
    return tuple(str(row.extra[key]) for key in ("category", "subcategory", "set_id", "question_id"))


def _answers_right(
    rule: str, rows: Sequence[Row], judged: Sequence[Judged], numbers: Mapping[str, float]
) -> BenchmarkScore:
    correct = {row.id: float(answer.correct) for row, answer in zip(rows, judged, strict=True)}
    return mean_score("hallusionbench", rule, "aAcc", correct, numbers)


def _released_score(rows: Sequence[Row], answers: Mapping[str, str]) -> BenchmarkScore:
    words = {row.id: (answers[row.id].split() or [""])[0].lower().rstrip(".:,") for row in rows}
    recorded = {name: float(word == "no") for name, word in words.items()}
    right = sum(words[row.id] == row.answers[0] for row in rows)
    note = "the released script reads every label as no; `first word` is its rule with the real labels"
    numbers = {"first word": 100 * right / len(rows)}
    unread = sum(word not in ("yes", "no") for word in words.values())
    return mean_score("hallusionbench", "official", "accuracy", recorded, numbers, (note,), unread)


def floor(rows: Sequence[Row], rule: str) -> float:
    """Score of a model that never answers.

    Under ``sound``, it is the share of questions without a figure; under ``lmms_eval``, the share of questions whose
    answer is no; under ``official``, 0.
    """
    if rule == "official":
        return 0.0
    without = judged_by(rows, dict.fromkeys((row.id for row in rows), "no" if rule == "lmms_eval" else None))
    return 100 * sum(row.correct for row in without) / len(rows)


def together(row: Row) -> Hashable:
    """Key of the questions that belong together: a set holds all questions about one figure and its edits."""
    return tuple(str(row.extra[key]) for key in ("category", "subcategory", "set_id"))


def write_answers(rows: Sequence[Row], answers: Mapping[str, str], path: Path) -> None:
    """The question file with ``model_prediction``; the official tool sends it to its judge."""
    write_document(path, [{**row.extra, "model_prediction": answers[row.id]} for row in rows])


HALLUSIONBENCH = Benchmark(
    name="hallusionbench",
    title="HallusionBench",
    layouts=(
        Layout(SITE, (QUESTIONS,), read, beside="pictures VD/..., VS/... there or in hallusion_bench/"),
        hub_layout("{image,non_image}", read_hub),
    ),
    scorer=score,
    rules=("sound", "official", "lmms_eval"),
    max_new_tokens=16,
    floor=floor,
    together=together,
    portion=parts_by(_kind, ("VD with figure", "VS with figure", "VS without figure")),
    writer=write_answers,
)
