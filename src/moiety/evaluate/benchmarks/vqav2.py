"""VQAv2: open questions about photos, each answered by ten people.

Goyal et al. 2017 (1612.00837). Rule ``official`` is that of the evaluation server, ``lmms_eval`` always brings both
sides to one form, ``m4c`` is the longer form that InternVL and others use. No answer scores 0 unless a person gave
none.

Answers of test-dev, which tables quote, are public to its server alone: ``vqav2_testdev`` writes the file to hand in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked
from moiety.evaluate.benchmarks.entries import Kinds, asked_shortly, entry_with, list_in, pictures_below, write_document
from moiety.evaluate.benchmarks.files import published, read_json
from moiety.evaluate.benchmarks.people import PeopleRule, long_score, people_score, short_score, vqa_score
from moiety.evaluate.benchmarks.vqa_text import long_form
from moiety.vlm.rows import Row

QUESTIONS = "v2_OpenEnded_mscoco_{split}_questions.json"
ANNOTATIONS = "v2_mscoco_val2014_annotations.json"
_QUESTION: Mapping[str, Kinds] = {"question_id": int, "image_id": int, "question": str}
_ANNOTATION: Mapping[str, Kinds] = {"question_id": int, "question_type": str, "answer_type": str, "answers": list}
Annotations = dict[int, tuple[dict[str, Any], list[str]]]
"""Question id -> its annotation, and what ten people answered."""
RULES: Mapping[str, PeopleRule] = {"official": vqa_score, "lmms_eval": short_score, "m4c": long_score}


def read_val(folder: Path) -> list[Row]:
    """The validation questions with their people's answers, joined by question id."""
    path = published(folder, ANNOTATIONS)
    annotations: Annotations = {}
    for number, entry in enumerate(list_in(read_json(path), path, "annotations")):
        place = f"{path}: annotation {number}"
        entry = entry_with(entry, _ANNOTATION, place)
        people = [entry_with(given, {"answer": str}, place)["answer"] for given in entry["answers"]]
        annotations[entry["question_id"]] = entry, people
    rows = _read(folder, "val2014", "val2014", annotations)
    if len(rows) != len(annotations):
        raise ValueError(f"{path} has {len(annotations)} annotations for {len(rows)} questions; fetch both files anew")
    return rows


def read_testdev(folder: Path) -> list[Row]:
    """The questions of test-dev, without answers."""
    return _read(folder, "test-dev2015", "test2015", None)


def _read(folder: Path, split: str, pictures: str, annotations: Annotations | None) -> list[Row]:
    path = published(folder, QUESTIONS.format(split=split))
    rows = []
    for number, entry in enumerate(list_in(read_json(path), path, "questions")):
        entry = entry_with(entry, _QUESTION, f"{path}: question {number}")
        name = entry["question_id"]
        people: list[str] = []
        extra = {"question_id": name}
        if annotations is not None:
            if name not in annotations:
                raise ValueError(f"{path}: question {name} has no annotation in {ANNOTATIONS}; fetch both files anew")
            annotation, people = annotations[name]
            extra |= {key: annotation[key] for key in ("question_type", "answer_type")}
        picture = f"COCO_{pictures}_{entry['image_id']:012d}.jpg"
        prompt = asked_shortly(entry["question"])
        rows.append(asked(str(name), prompt, [picture], answers=people, extra=extra, file=str(path)))
    return rows


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Mean agreement in percent: over all questions, by answer type and by question type."""
    return people_score("vqav2", rows, answers, rule, RULES, ("answer_type", "question_type"))


def write_answers(rows: Sequence[Row], answers: Mapping[str, str], path: Path) -> None:
    """The list of ``question_id`` and ``answer`` that the server takes; answers in their long form, as MoIIE's are."""
    said = ((row.extra["question_id"], long_form(answers[row.id])) for row in rows)
    write_document(path, [{"question_id": name, "answer": text} for name, text in said])


VQAV2 = Benchmark(
    name="vqav2",
    title="VQAv2 val2014",
    files=f"{QUESTIONS.format(split='val2014')}, {ANNOTATIONS}, pictures there or in val2014/",
    reader=read_val,
    scorer=score,
    rules=tuple(RULES),
    max_new_tokens=16,
    pictures=pictures_below("val2014", "val2014.tar"),
    writer=write_answers,
)
VQAV2_TESTDEV = Benchmark(
    name="vqav2_testdev",
    title="VQAv2 test-dev2015",
    files=f"{QUESTIONS.format(split='test-dev2015')}, pictures there or in test2015/",
    reader=read_testdev,
    scorer=None,
    rules=("official",),
    max_new_tokens=16,
    pictures=pictures_below("test2015", "test2015.tar"),
    writer=write_answers,
)
