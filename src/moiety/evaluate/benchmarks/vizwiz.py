"""VizWiz: questions that blind people asked about their own photos, some of which cannot be answered.

Gurari et al. 2018 (1802.08218). The only rule with public numbers is that of lmms-eval, ten people in the long form; no
answer scores 0 unless a person gave none. Test answers are kept by the server: ``vizwiz_test`` writes the file for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked
from moiety.evaluate.benchmarks.entries import asked_shortly, entry_with, list_in, pictures_below, write_document
from moiety.evaluate.benchmarks.files import published, read_json
from moiety.evaluate.benchmarks.people import PeopleRule, long_score, people_score
from moiety.evaluate.benchmarks.vqa_text import long_form
from moiety.vlm.rows import Row

UNANSWERABLE = "When the provided information is insufficient, respond with 'Unanswerable'."
RULES: Mapping[str, PeopleRule] = {"lmms_eval": long_score}


def read_val(folder: Path) -> list[Row]:
    """The validation questions with their people's answers."""
    return _read(published(folder, "val.json"), with_answers=True)


def read_test(folder: Path) -> list[Row]:
    """The test questions, without answers."""
    return _read(published(folder, "test.json"), with_answers=False)


def _read(path: Path, with_answers: bool) -> list[Row]:
    rows = []
    for number, entry in enumerate(list_in(read_json(path), path)):
        place = f"{path}: question {number}"
        entry = entry_with(entry, {"image": str, "question": str, **({"answers": list} if with_answers else {})}, place)
        extra = {"image": entry["image"]}
        given = (entry_with(one, {"answer": str}, place) for one in (entry["answers"] if with_answers else ()))
        people = [one["answer"] for one in given]
        extra |= {key: entry[key] for key in ("answer_type", "answerable") if key in entry}
        prompt = asked_shortly(f"{entry['question']}\n{UNANSWERABLE}")
        rows.append(asked(entry["image"], prompt, [entry["image"]], answers=people, extra=extra, file=str(path)))
    return rows


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Mean agreement in percent, also by answer type where the file names it."""
    typed = all("answer_type" in row.extra for row in rows)
    return people_score("vizwiz", rows, answers, rule, RULES, ("answer_type",) if typed else ())


def write_answers(rows: Sequence[Row], answers: Mapping[str, str], path: Path) -> None:
    """The list of ``image`` and ``answer`` that the server takes; answers in their long form, as MoIIE's are."""
    write_document(path, [{"image": row.extra["image"], "answer": long_form(answers[row.id])} for row in rows])


VIZWIZ = Benchmark(
    name="vizwiz",
    title="VizWiz-VQA val",
    files="val.json, pictures VizWiz_val_00000000.jpg, ... there or in val/",
    reader=read_val,
    scorer=score,
    rules=tuple(RULES),
    max_new_tokens=16,
    pictures=pictures_below("val", "val.tar"),
    writer=write_answers,
)
VIZWIZ_TEST = Benchmark(
    name="vizwiz_test",
    title="VizWiz-VQA test",
    files="test.json, pictures VizWiz_test_00000000.jpg, ... there or in test/",
    reader=read_test,
    scorer=None,
    rules=("official",),
    max_new_tokens=16,
    pictures=pictures_below("test", "test.tar"),
    writer=write_answers,
)
