"""ChartQA: questions about charts, half written by people, half made from captions.

Masry et al. 2022 (2203.10244), test. In the published measure, a number may differ by five per cent. The widely used
code of it takes answer and label in the wrong order. Rule ``official`` repeats this mistake, and ``sound`` (default)
does not. ``lmms_eval`` and ``moiie`` are the rules of those projects; see
:mod:`moiety.evaluate.benchmarks.rules.relaxed`. An empty answer scores 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked, mean_score, percent_by
from moiety.evaluate.benchmarks.files.entries import asked_shortly, entry_with, list_in
from moiety.evaluate.benchmarks.files.layouts import (
    SITE,
    Layout,
    Questions,
    beside,
    first_of,
    hub_layout,
    parts_by,
)
from moiety.evaluate.benchmarks.files.parquet import HubTable
from moiety.evaluate.benchmarks.files.questions import read_json
from moiety.evaluate.benchmarks.files.release import Release
from moiety.evaluate.benchmarks.rules.relaxed import RELAXED_RULES
from moiety.vlm.rows import Row

SPLITS = ("human", "augmented")


def read(release: Release) -> Questions:
    """The questions of split test, or of val if test is not there. Questions by people come first, as ``human/0``."""
    split = next(split for split in ("test", "val") if release.has(*_files(split)))
    rows = []
    for half in SPLITS:
        path = release.find(f"{split}/{split}_{half}.json", f"{split}_{half}.json")
        for number, entry in enumerate(list_in(read_json(path), path)) if path is not None else ():
            entry = entry_with(entry, {"imgname": str, "query": str, "label": str}, f"{path}: question {number}")
            rows.append(_row(split, half, number, entry["query"], entry["label"], entry["imgname"], str(path)))
    return Questions(rows, beside(release, f"{split}/png", "png"))


def read_hub(table: HubTable) -> Questions:
    """The test questions of the table from the Hugging Face Hub, both by people and by machine."""
    halves: dict[str, list[Row]] = {half: [] for half in SPLITS}
    for file, line, entry in table.rows():
        place = f"{file}:{line}"
        if "human_or_machine" in entry:
            half = SPLITS[int(entry_with(entry, {"human_or_machine": int}, place)["human_or_machine"])]
        else:
            half = entry_with(entry, {"type": str}, place)["type"].removesuffix("_test")
        question, label = first_of(entry, "question", "query"), first_of(entry, "answer", "label")
        label = label[0] if isinstance(label, list) and label else label
        if half not in halves or not isinstance(question, str) or not isinstance(label, str):
            raise ValueError(f"{place}: expected a question by people or by machine with its answer, got {entry!r:.80}")
        found = halves[half]
        found.append(_row("test", half, len(found), question, label, str(entry.get("image")), file))
    return Questions([row for rows in halves.values() for row in rows], table.pictures)


def _row(split: str, half: str, number: int, question: str, label: str, picture: str, file: str) -> Row:
    extra, prompt = {"split": split}, asked_shortly(question)
    return asked(f"{half}/{number}", prompt, [picture], answers=[label], type=half, extra=extra, file=file)


def _files(split: str) -> tuple[str, ...]:
    halves = "{" + ",".join(SPLITS) + "}"
    return f"{split}/{split}_{halves}.json", f"{split}_{halves}.json"


def _part(row: Row) -> str:
    split = row.extra.get("split", "test")
    return str(row.type) if split == "test" else f"{split} {row.type}"


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Relaxed accuracy in percent over all questions and over each half."""
    correct = {row.id: float(RELAXED_RULES[rule](answers[row.id], row.answers[0])) for row in rows}
    numbers = percent_by(rows, correct, lambda row: row.type)
    return mean_score("chartqa", rule, "relaxed_accuracy", correct, numbers)


CHARTQA = Benchmark(
    name="chartqa",
    title="ChartQA test",
    layouts=(
        Layout(
            SITE,
            ((*_files("test"), *_files("val")),),
            read,
            "test/test_human.json, test/test_augmented.json, or one of them",
            "pictures in test/png/ or png/",
        ),
        hub_layout("test", read_hub),
    ),
    scorer=score,
    rules=tuple(RELAXED_RULES),
    max_new_tokens=16,
    portion=parts_by(_part, SPLITS),
    folders=("ChartQA Dataset",),
)
