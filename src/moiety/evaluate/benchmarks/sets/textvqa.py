"""TextVQA: questions whose answer is written in the picture.

Singh et al. 2019 (1904.08920), version 0.5.1, validation. Rule ``official`` is the m4c rule for the answers of ten
people; lmms-eval gives the same numbers. Rule ``stvqa`` accepts an answer that any of them gave. An empty answer scores
0, unless a person also gave one.

LLaVA shows recognised text in the prompt. If its question file lies beside the annotations, its prompts are used; they
are joined by picture and question. Without that file only the question is asked, and the scores of both ways do not
compare.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked
from moiety.evaluate.benchmarks.files.entries import Kinds, asked_shortly, entry_with, list_in, people_in
from moiety.evaluate.benchmarks.files.layouts import (
    HUB,
    LLAVA,
    SITE,
    Layout,
    Questions,
    beside,
    hub_patterns,
    hub_table,
)
from moiety.evaluate.benchmarks.files.questions import read_json, read_lines
from moiety.evaluate.benchmarks.files.release import Release
from moiety.evaluate.benchmarks.rules.people import PeopleRule, any_of_people, long_score, people_score
from moiety.vlm.rows import Row

ANNOTATIONS = "TextVQA_0.5.1_val.json"
SPLIT = "validation"
PROMPTS = ("bunny_textvqa_val_v051_ocr.jsonl", "llava_textvqa_val_v051_ocr.jsonl")
RULES: Mapping[str, PeopleRule] = {"official": long_score, "lmms_eval": long_score, "stvqa": any_of_people}


def read(release: Release) -> Questions:
    """The validation questions, with recognised text in the prompt if a file of such prompts is there."""
    path = release.one(ANNOTATIONS)
    prompts = _prompts(release)
    entries = enumerate(list_in(read_json(path), path, "data"))
    rows = [_row(entry, prompts, f"{path}: question {number}", str(path)) for number, entry in entries]
    return Questions(rows, beside(release, "train_images", "train_val_images"))


def read_hub(release: Release) -> Questions:
    """The same questions from the table of the Hugging Face Hub."""
    table = hub_table(release, SPLIT)
    assert table is not None, "the need is met"
    prompts, rows, names = _prompts(release), [], dict[str, str]()
    for file, line, entry in table.rows():
        rows.append(_row(entry, prompts, f"{file}:{line}", file))
        names.setdefault(rows[-1].images[0], str(entry.get("image")))
    return Questions(rows, lambda: table.pictures(names), table.part)


def _row(entry: Any, prompts: Mapping[tuple[str, str], str] | None, place: str, file: str) -> Row:
    kinds: Mapping[str, Kinds] = {"question_id": (int, str), "image_id": str, "question": str, "answers": (list, dict)}
    entry = entry_with(entry, kinds, place)
    key = entry["image_id"], entry["question"].lower()
    if prompts is not None and key not in prompts:
        raise ValueError(
            f"{place} ({entry['question']!r:.60} on {entry['image_id']!r}) has no prompt in the LLaVA question "
            "file beside it; fetch both again, or remove that file to ask without recognised text"
        )
    prompt = asked_shortly(entry["question"]) if prompts is None else prompts[key]
    people, extra = people_in(entry, place), {"recognised_text": prompts is not None}
    picture = f"{entry['image_id']}.jpg"
    return asked(str(entry["question_id"]), prompt, [picture], answers=people, extra=extra, file=file)


def _prompts(release: Release) -> dict[tuple[str, str], str] | None:
    """(picture id, question in lower case) -> prompt; None if there is no such file."""
    path = release.find(*PROMPTS)
    if path is None:
        return None
    entries = (
        entry_with(entry, {"question_id": str, "text": str}, f"{path}:{line}") for line, entry in read_lines(path)
    )
    return {(entry["question_id"], entry["text"].split("\n")[0].lower()): entry["text"] for entry in entries}


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Mean agreement in percent."""
    with_text = sum(row.extra["recognised_text"] for row in rows)
    note = f"{with_text} of {len(rows)} prompts showed recognised text"
    return replace(people_score("textvqa", rows, answers, rule, RULES), notes=(note,))


TEXTVQA = Benchmark(
    name="textvqa",
    title="TextVQA 0.5.1 val",
    layouts=(
        Layout(LLAVA, (ANNOTATIONS, PROMPTS[::-1]), read, beside="pictures in train_images/"),
        Layout(SITE, (ANNOTATIONS,), read, beside="pictures in train_images/"),
        Layout(HUB, (hub_patterns(SPLIT),), read_hub),
    ),
    scorer=score,
    rules=tuple(RULES),
    max_new_tokens=16,
)
