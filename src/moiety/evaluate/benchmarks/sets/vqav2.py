"""VQAv2: open questions about photos, each answered by ten people.

Goyal et al. 2017 (1612.00837). Rule ``official`` is that of the evaluation server. Rule ``lmms_eval`` always normalises
both answer and label. Rule ``m4c`` is the longer normalisation that InternVL and others use. An empty answer scores 0,
unless a person also gave one.

Published tables show test-dev, whose answers are not public; ``vqav2_testdev`` writes the file for its server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked
from moiety.evaluate.benchmarks.files.entries import (
    Kinds,
    asked_shortly,
    entry_with,
    list_in,
    people_in,
    write_document,
)
from moiety.evaluate.benchmarks.files.layouts import LLAVA, SITE, Layout, Questions, beside, hub_layout
from moiety.evaluate.benchmarks.files.parquet import HubTable
from moiety.evaluate.benchmarks.files.questions import read_json, read_lines
from moiety.evaluate.benchmarks.files.release import Release
from moiety.evaluate.benchmarks.rules.people import PeopleRule, long_score, people_score, short_score, vqa_score
from moiety.evaluate.benchmarks.rules.vqa_text import long_form
from moiety.vlm.rows import Row

QUESTIONS = "v2_OpenEnded_mscoco_{split}_questions.json"
ANNOTATIONS = "v2_mscoco_val2014_annotations.json"
LLAVA_TESTDEV = ("llava_vqav2_mscoco_test-dev2015.jsonl", "bunny_vqav2_mscoco_test-dev2015.jsonl")
_KINDS_OF_QUESTION = ("question_type", "answer_type")
_QUESTION: Mapping[str, Kinds] = {"question_id": (int, str), "image_id": (int, str), "question": str}
_ANNOTATION: Mapping[str, Kinds] = {
    **{"question_id": (int, str), "question_type": str, "answer_type": str},
    **{"answers": (list, dict)},
}
Annotations = dict[int, tuple[dict[str, Any], list[str]]]
"""Question id -> its annotation, and the answers of ten people."""
RULES: Mapping[str, PeopleRule] = {"official": vqa_score, "lmms_eval": short_score, "m4c": long_score}


def read_val(release: Release) -> Questions:
    """The validation questions with the answers of ten people, joined by question id."""
    path = release.one(ANNOTATIONS)
    annotations: Annotations = {}
    for number, entry in enumerate(list_in(read_json(path), path, "annotations")):
        place = f"{path}: annotation {number}"
        entry = entry_with(entry, _ANNOTATION, place)
        annotations[int(entry["question_id"])] = entry, people_in(entry, place)
    found = _read(release, "val2014", "val2014", annotations)
    if len(found.rows) != len(annotations):
        raise ValueError(
            f"{path} has {len(annotations)} annotations for {len(found.rows)} questions; fetch both files again"
        )
    return found


def read_testdev(release: Release) -> Questions:
    """The questions of test-dev, without answers."""
    return _read(release, "test-dev2015", "test2015", None)


def _read(release: Release, split: str, pictures: str, annotations: Annotations | None) -> Questions:
    path = release.one(QUESTIONS.format(split=split))
    rows = []
    for number, entry in enumerate(list_in(read_json(path), path, "questions")):
        entry = entry_with(entry, _QUESTION, f"{path}: question {number}")
        name = int(entry["question_id"])
        if annotations is not None and name not in annotations:
            raise ValueError(f"{path}: question {name} has no annotation in {ANNOTATIONS}; fetch both files again")
        annotation, people = ({}, []) if annotations is None else annotations[name]
        rows.append(_row(name, pictures, entry, annotation, people, str(path)))
    return Questions(rows, beside(release, pictures))


def read_hub_val(table: HubTable) -> Questions:
    """The validation questions of the table from the Hugging Face Hub, which holds the answers of ten people."""
    return _read_hub(table, "val2014")


def read_hub_testdev(table: HubTable) -> Questions:
    """The questions of test-dev from the table of the Hugging Face Hub, without answers."""
    return _read_hub(table, "test2015")


def _read_hub(table: HubTable, pictures: str) -> Questions:
    rows, names = [], dict[str, str]()
    for file, line, entry in table.rows():
        place = f"{file}:{line}"
        entry = entry_with(entry, _QUESTION, place)
        scored = pictures == "val2014"
        people = people_in(entry, place) if scored else []
        annotation = entry_with(entry, _ANNOTATION, place) if scored else {}
        rows.append(_row(int(entry["question_id"]), pictures, entry, annotation, people, file))
        names.setdefault(rows[-1].images[0], str(entry.get("image")))
    return Questions(rows, lambda: table.pictures(names))


def _row(
    name: int,
    pictures: str,
    entry: Mapping[str, Any],
    annotation: Mapping[str, Any],
    people: Sequence[str],
    file: str,
) -> Row:
    extra = {"question_id": name, **{key: annotation[key] for key in _KINDS_OF_QUESTION if key in annotation}}
    picture = f"COCO_{pictures}_{int(entry['image_id']):012d}.jpg"
    return asked(str(name), asked_shortly(entry["question"]), [picture], answers=people, extra=extra, file=file)


def read_llava(release: Release) -> Questions:
    """The questions of test-dev from the list of LLaVA, with its prompts."""
    path = release.one(*LLAVA_TESTDEV)
    rows = []
    for line, entry in read_lines(path):
        entry = entry_with(entry, {"question_id": (int, str), "image": str, "text": str}, f"{path}:{line}")
        name = int(entry["question_id"])
        extra = {"question_id": name}
        rows.append(asked(str(name), entry["text"], [entry["image"]], extra=extra, file=str(path), line=line))
    return Questions(rows, beside(release, "test2015"))


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Mean agreement in percent: over all questions, by answer type and by question type."""
    return people_score("vqav2", rows, answers, rule, RULES, ("answer_type", "question_type"))


def write_answers(rows: Sequence[Row], answers: Mapping[str, str], path: Path) -> None:
    """The list of ``question_id`` and ``answer`` for the server. Answers are in the long form, as in MoIIE."""
    said = ((row.extra["question_id"], long_form(answers[row.id])) for row in rows)
    write_document(path, [{"question_id": name, "answer": text} for name, text in said])


VQAV2 = Benchmark(
    name="vqav2",
    title="VQAv2 val2014",
    layouts=(
        Layout(SITE, (QUESTIONS.format(split="val2014"), ANNOTATIONS), read_val, beside="pictures in val2014/"),
        hub_layout("validation", read_hub_val),
    ),
    scorer=score,
    rules=tuple(RULES),
    max_new_tokens=16,
    writer=write_answers,
)
VQAV2_TESTDEV = Benchmark(
    name="vqav2_testdev",
    title="VQAv2 test-dev2015",
    layouts=(
        Layout(SITE, (QUESTIONS.format(split="test-dev2015"),), read_testdev, beside="pictures in test2015/"),
        Layout(LLAVA, (LLAVA_TESTDEV,), read_llava, beside="pictures in test2015/"),
        hub_layout("testdev", read_hub_testdev),
    ),
    scorer=None,
    rules=("official",),
    max_new_tokens=16,
    folders=("vqav2",),
    writer=write_answers,
)
