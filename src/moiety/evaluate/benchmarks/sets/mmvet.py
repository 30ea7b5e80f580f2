"""MM-Vet: 218 open questions, graded by a language model. moiety asks them and writes the file for that grader.

Yu et al. 2023 (2308.02490). The grader gives each answer 0, 0.1, ..., or 1. moiety has no rule that replaces it.
:mod:`moiety.evaluate.benchmarks.rules.graded` computes the score from the grades.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from moiety.evaluate.benchmarks.benchmark import Benchmark, asked
from moiety.evaluate.benchmarks.files.entries import Kinds, entry_with, object_in, write_document
from moiety.evaluate.benchmarks.files.layouts import LLAVA, SITE, Layout, Questions, beside, hub_layout
from moiety.evaluate.benchmarks.files.parquet import HubTable
from moiety.evaluate.benchmarks.files.questions import read_json, read_lines
from moiety.evaluate.benchmarks.files.release import Release
from moiety.vlm.rows import Row

QUESTIONS = "mm-vet.json"
LLAVA_QUESTIONS = ("bunny-mm-vet.jsonl", "llava-mm-vet.jsonl")
_ENTRY: Mapping[str, Kinds] = {"imagename": str, "question": str, "answer": str, "capability": list}
_LLAVA_ENTRY: Mapping[str, Kinds] = {"question_id": (int, str), "image": str, "text": str}


def read(release: Release) -> Questions:
    """The questions of the official file, ids ``v1_0``, ``v1_1``, ..."""
    path = release.one(QUESTIONS)
    rows = []
    for name, entry in object_in(read_json(path), path).items():
        entry = entry_with(entry, _ENTRY, f"{path}: question {name!r}")
        extra = {"answer": entry["answer"], "capability": entry["capability"]}
        rows.append(asked(name, entry["question"], [entry["imagename"]], extra=extra, file=str(path)))
    return Questions(rows, beside(release, "images"))


def read_llava(release: Release) -> Questions:
    """The same questions from the list of LLaVA, which does not name their capabilities."""
    path = release.one(*LLAVA_QUESTIONS)
    lines = ((line, entry_with(entry, _LLAVA_ENTRY, f"{path}:{line}")) for line, entry in read_lines(path))
    rows = [
        asked(
            f"v1_{str(entry['question_id']).removeprefix('v1_')}",
            entry["text"],
            [entry["image"]],
            file=str(path),
            line=line,
        )
        for line, entry in lines
    ]
    return Questions(rows, beside(release, "images"))


def read_hub(table: HubTable) -> Questions:
    """The questions of the table from the Hugging Face Hub."""
    rows = []
    for file, line, entry in table.rows():
        entry = entry_with(entry, {"question_id": (int, str), "question": str, "answer": str}, f"{file}:{line}")
        name = f"v1_{str(entry['question_id']).removeprefix('v1_')}"
        extra = {"answer": entry["answer"]}
        if entry.get("capability"):
            given = entry["capability"]
            extra["capability"] = given.split(",") if isinstance(given, str) else given
        rows.append(asked(name, entry["question"], [str(entry.get("image"))], extra=extra, file=file, line=line))
    return Questions(rows, table.pictures)


def write_answers(rows: Sequence[Row], answers: Mapping[str, str], path: Path) -> None:
    """The file for the grader: a JSON object of question id -> answer."""
    write_document(path, {row.id: answers[row.id] for row in rows})


MMVET = Benchmark(
    name="mmvet",
    title="MM-Vet",
    layouts=(
        Layout(SITE, (QUESTIONS,), read, beside="pictures in images/"),
        Layout(LLAVA, (LLAVA_QUESTIONS[::-1],), read_llava, beside="in mm-vet/; pictures in images/"),
        hub_layout("test", read_hub),
    ),
    scorer=None,
    rules=("official",),
    max_new_tokens=512,
    folders=("MM-Vet",),
    writer=write_answers,
)
