"""TextVQA: questions whose answer is written in the picture.

Singh et al. 2019 (1904.08920), version 0.5.1, validation. Rule ``official`` (lmms-eval gives the same numbers) is the
m4c rule of ten people, ``stvqa`` counts an answer that anybody gave. No answer scores 0 unless a person gave none.

The LLaVA line shows recognised text in the prompt. Where its question file lies beside the annotations those prompts
are used, joined on picture and question; without it the bare question is asked, and scores are not comparable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked
from moiety.evaluate.benchmarks.entries import asked_shortly, entry_with, list_in, pictures_below, texts_in
from moiety.evaluate.benchmarks.files import published, read_json, read_lines
from moiety.evaluate.benchmarks.people import PeopleRule, any_of_people, long_score, people_score
from moiety.vlm.rows import Row

ANNOTATIONS = "TextVQA_0.5.1_val.json"
PROMPTS = ("bunny_textvqa_val_v051_ocr.jsonl", "llava_textvqa_val_v051_ocr.jsonl")
RULES: Mapping[str, PeopleRule] = {"official": long_score, "lmms_eval": long_score, "stvqa": any_of_people}


def read(folder: Path) -> list[Row]:
    """The validation questions, with recognised text in the prompt where a file of such prompts is there."""
    path = published(folder, ANNOTATIONS)
    prompts = _prompts(folder)
    rows = []
    for number, entry in enumerate(list_in(read_json(path), path, "data")):
        place = f"{path}: question {number}"
        entry = entry_with(entry, {"question_id": int, "image_id": str, "question": str, "answers": list}, place)
        key = entry["image_id"], entry["question"].lower()
        if prompts is not None and key not in prompts:
            raise ValueError(
                f"{place} ({entry['question']!r:.60} on {entry['image_id']!r}) has no prompt in the LLaVA question "
                "file beside it; fetch both anew, or take that file away to ask without recognised text"
            )
        prompt = asked_shortly(entry["question"]) if prompts is None else prompts[key]
        people, extra = texts_in(entry, "answers", place), {"recognised_text": prompts is not None}
        picture = f"{entry['image_id']}.jpg"
        rows.append(asked(str(entry["question_id"]), prompt, [picture], answers=people, extra=extra, file=str(path)))
    return rows


def _prompts(folder: Path) -> dict[tuple[str, str], str] | None:
    """(picture id, question in lower case) -> prompt; None where there is no such file."""
    try:
        path = published(folder, *PROMPTS)
    except FileNotFoundError:
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
    files=f"{ANNOTATIONS}, optional {' or '.join(PROMPTS)}, pictures there or in train_images/",
    reader=read,
    scorer=score,
    rules=tuple(RULES),
    max_new_tokens=16,
    pictures=pictures_below("train_images", "train_images.tar"),
)
