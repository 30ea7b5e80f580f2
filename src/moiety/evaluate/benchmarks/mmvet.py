"""MM-Vet: 218 open questions, graded by a language model elsewhere; here its questions and the file for its grader.

Yu et al. 2023 (2308.02490). Grades are 0, 0.1, ..., 1 an answer; there is no rule without the grader, so none is
offered. What the grader gives back is scored by :mod:`moiety.evaluate.benchmarks.graded`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from moiety.evaluate.benchmarks.benchmark import Benchmark, asked
from moiety.evaluate.benchmarks.entries import Kinds, entry_with, object_in, pictures_below, write_document
from moiety.evaluate.benchmarks.files import published, read_json, read_lines
from moiety.vlm.rows import Row

QUESTIONS = "mm-vet.json"
LLAVA_QUESTIONS = ("bunny-mm-vet.jsonl", "llava-mm-vet.jsonl")
_ENTRY: Mapping[str, Kinds] = {"imagename": str, "question": str, "answer": str, "capability": list}
_LLAVA_ENTRY: Mapping[str, Kinds] = {"question_id": int, "image": str, "text": str}


def read(folder: Path) -> list[Row]:
    """The questions, ids ``v1_0``, ``v1_1``, ...: of the official file, or of the LLaVA line's list of the same."""
    path = published(folder, QUESTIONS, *LLAVA_QUESTIONS)
    if ".jsonl" in path.suffixes:
        lines = ((line, entry_with(entry, _LLAVA_ENTRY, f"{path}:{line}")) for line, entry in read_lines(path))
        return [
            asked(f"v1_{entry['question_id']}", entry["text"], [entry["image"]], file=str(path), line=line)
            for line, entry in lines
        ]
    rows = []
    for name, entry in object_in(read_json(path), path).items():
        entry = entry_with(entry, _ENTRY, f"{path}: question {name!r}")
        extra = {"answer": entry["answer"], "capability": entry["capability"]}
        rows.append(asked(name, entry["question"], [entry["imagename"]], extra=extra, file=str(path)))
    return rows


def write_answers(rows: Sequence[Row], answers: Mapping[str, str], path: Path) -> None:
    """The object of answers by question that the grader reads."""
    write_document(path, {row.id: answers[row.id] for row in rows})


MMVET = Benchmark(
    name="mmvet",
    title="MM-Vet",
    files=f"{QUESTIONS} or {' or '.join(LLAVA_QUESTIONS)}, pictures v1_0.png, ... there or in images/",
    reader=read,
    scorer=None,
    rules=("official",),
    max_new_tokens=512,
    pictures=pictures_below("images", "images.tar"),
    writer=write_answers,
)
