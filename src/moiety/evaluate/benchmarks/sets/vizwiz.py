"""VizWiz: questions that blind people asked about their own photos, some of which cannot be answered.

Gurari et al. 2018 (1802.08218). The only rule with public numbers is that of lmms-eval. It compares with ten people in
the long form. An empty answer scores 0, unless a person also gave one. The answers of the test split are not public;
``vizwiz_test`` writes the file for its server.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked
from moiety.evaluate.benchmarks.files.entries import asked_shortly, entry_with, list_in, people_in, write_document
from moiety.evaluate.benchmarks.files.layouts import LLAVA, SITE, Layout, Questions, beside, hub_layout
from moiety.evaluate.benchmarks.files.parquet import HubTable
from moiety.evaluate.benchmarks.files.questions import read_json, read_lines
from moiety.evaluate.benchmarks.files.release import Release
from moiety.evaluate.benchmarks.rules.people import PeopleRule, long_score, people_score
from moiety.evaluate.benchmarks.rules.vqa_text import long_form
from moiety.vlm.rows import Row

LLAVA_TEST = ("llava_test.jsonl", "bunny_test.jsonl")
UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."
RULES: Mapping[str, PeopleRule] = {"lmms_eval": long_score}


def read_val(release: Release) -> Questions:
    """The validation questions with the answers of ten people."""
    return _read(release, "val")


def read_test(release: Release) -> Questions:
    """The test questions, without answers."""
    return _read(release, "test")


def _read(release: Release, split: str) -> Questions:
    path = release.one(*_files(split))
    rows = []
    for number, entry in enumerate(list_in(read_json(path), path)):
        place = f"{path}: question {number}"
        entry = entry_with(entry, {"image": str, "question": str}, place)
        rows.append(_row(entry["image"], entry["question"], entry, split, place, str(path)))
    return Questions(rows, beside(release, split))


def read_hub_val(table: HubTable) -> Questions:
    """The validation questions of the table from the Hugging Face Hub."""
    return _read_hub(table, "val")


def read_hub_test(table: HubTable) -> Questions:
    """The test questions of the table from the Hugging Face Hub."""
    return _read_hub(table, "test")


def _read_hub(table: HubTable, split: str) -> Questions:
    rows, names = [], dict[str, str]()
    for file, line, entry in table.rows():
        entry = entry_with(entry, {"question_id": str, "question": str}, f"{file}:{line}")
        name = entry["question_id"] if "." in entry["question_id"] else f"{entry['question_id']}.jpg"
        known = {**entry, "answer_type": entry.get("answer_type") or entry.get("category")}
        rows.append(_row(name, entry["question"], known, split, f"{file}:{line}", file))
        names[name] = str(entry.get("image"))
    return Questions(rows, lambda: table.pictures(names))


def _row(picture: str, question: str, entry: Mapping[str, Any], split: str, place: str, file: str) -> Row:
    extra = {"image": picture}
    people = people_in(entry, place) if split == "val" else []
    extra |= {key: entry[key] for key in ("answer_type", "answerable") if entry.get(key) is not None}
    prompt = asked_shortly(f"{question}\n{UNANSWERABLE}")
    return asked(picture, prompt, [picture], answers=people, extra=extra, file=file)


def read_llava(release: Release) -> Questions:
    """The test questions from the list of LLaVA, with its prompts."""
    path = release.one(*LLAVA_TEST)
    rows = []
    for line, entry in read_lines(path):
        entry = entry_with(entry, {"image": str, "text": str}, f"{path}:{line}")
        extra = {"image": entry["image"]}
        rows.append(asked(entry["image"], entry["text"], [entry["image"]], extra=extra, file=str(path), line=line))
    return Questions(rows, beside(release, "test"))


def _files(split: str) -> tuple[str, ...]:
    return tuple(f"{place}/{split}.json" for place in (".", "Annotations", "vqa", "annotations"))


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Mean agreement in percent; also by answer type if the file names it."""
    typed = all("answer_type" in row.extra for row in rows)
    return people_score("vizwiz", rows, answers, rule, RULES, ("answer_type",) if typed else ())


def write_answers(rows: Sequence[Row], answers: Mapping[str, str], path: Path) -> None:
    """The list of ``image`` and ``answer`` for the server. Answers are in the long form, as in MoIIE."""
    write_document(path, [{"image": row.extra["image"], "answer": long_form(answers[row.id])} for row in rows])


VIZWIZ = Benchmark(
    name="vizwiz",
    title="VizWiz-VQA val",
    layouts=(
        Layout(SITE, (_files("val"),), read_val, "val.json or Annotations/val.json", "pictures in val/"),
        Layout(LLAVA, (_files("val"),), read_val, "val.json", "pictures in val/"),
        hub_layout("{val,validation}", read_hub_val),
    ),
    scorer=score,
    rules=tuple(RULES),
    max_new_tokens=16,
    folders=("VizWiz-VQA",),
    writer=write_answers,
)
VIZWIZ_TEST = Benchmark(
    name="vizwiz_test",
    title="VizWiz-VQA test",
    layouts=(
        Layout(SITE, (_files("test"),), read_test, "test.json or Annotations/test.json", "pictures in test/"),
        Layout(LLAVA, (LLAVA_TEST,), read_llava, beside="pictures in test/"),
        hub_layout("test", read_hub_test),
    ),
    scorer=None,
    rules=("official",),
    max_new_tokens=16,
    folders=("vizwiz", "VizWiz-VQA"),
    writer=write_answers,
)
