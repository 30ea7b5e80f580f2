"""GQA: questions about relations in a scene, with answers of one word. Each question was made from a program.

Hudson and Manning 2019 (1902.09506). Rule ``official`` repeats the released conversion and ``eval.py`` on one split.
Rule ``lmms_eval`` compares in lower case and without ASCII punctuation. An empty answer scores 0 under both.

Source:
    AlenjandroWang/MoIIE @ c614868, ``convert_gqa_for_eval.py`` and ``eval_gqa.py``; lmms-eval @ 75571cf.
    Consistency, validity and plausibility need files that are published for other splits only and are not computed.
"""

from __future__ import annotations

import string
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked, mean_score, percent_by
from moiety.evaluate.benchmarks.files.entries import (
    NOTHING,
    Kinds,
    asked_shortly,
    entry_with,
    object_in,
    write_document,
)
from moiety.evaluate.benchmarks.files.layouts import (
    HUB,
    LLAVA,
    SITE,
    Layout,
    Questions,
    beside,
    hub_patterns,
    hub_table,
    parts_by,
)
from moiety.evaluate.benchmarks.files.parquet import HubTable
from moiety.evaluate.benchmarks.files.questions import read_json
from moiety.evaluate.benchmarks.files.release import Release
from moiety.vlm.images import Pictures
from moiety.vlm.rows import Row

SPLITS = ("testdev_balanced", "testdev_all", "val_balanced", "val_all")
"""Splits with public answers. The first is the benchmark itself."""
_KEPT = ("semantic", "types", "groups")
_ENTRY: Mapping[str, Kinds] = {
    **{"question": str, "imageId": str, "answer": str},
    **{"semantic": list, "types": dict, "groups": dict},
}
_HUB_FILES = (
    "SPLIT_instructions/*.parquet and SPLIT_images/*.parquet for testdev_balanced, testdev_all, val_balanced or val_all"
)
_NOT_A_STEP = ("exist", "query: name", "choose name")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def read(release: Release) -> Questions:
    """The questions of the balanced test-dev split, or of the first split in :data:`SPLITS` that is there."""
    split, path = next(
        (split, path) for split in SPLITS for path in [release.find(f"{split}_questions.json")] if path is not None
    )
    entries = object_in(read_json(path), path).items()
    rows = [_row(name, entry, split, f"{path}: question {name!r}", str(path)) for name, entry in entries]
    return Questions(rows, beside(release, "images"))


def _row(name: str, entry: Any, split: str, place: str, file: str) -> Row:
    entry = entry_with(entry, _ENTRY, place)
    entry_with(entry["types"], {"structural": str, "semantic": str}, f"{place}: types")
    entry_with(entry["groups"], {"global": (str, NOTHING)}, f"{place}: groups")
    for step in entry["semantic"]:
        entry_with(step, {"operation": str, "argument": str}, f"{place}: semantic")
    return asked(
        name,
        asked_shortly(entry["question"]),
        [f"{entry['imageId']}.jpg"],
        answers=[entry["answer"]],
        type=entry["types"]["structural"],
        extra={"question": entry["question"], **{key: entry[key] for key in _KEPT}, "split": split},
        file=file,
    )


def _hub_layout(split: str) -> Layout:
    """The layout of the Hugging Face Hub, which has separate tables: ``SPLIT_instructions`` and ``SPLIT_images``."""
    short = split.split("_")[0]

    def read_hub(release: Release) -> Questions:
        table = hub_table(release, short, f"!{split}_instructions")
        assert table is not None, "the need is met"
        rows = []
        for file, line, entry in table.rows():
            name = str(entry_with(entry, {"id": (str, int)}, f"{file}:{line}")["id"])
            rows.append(_row(name, entry, split, f"{file}:{line}", file))
        shown = hub_table(release, short, f"!{split}_images")
        return Questions(rows, beside(release, "images") if shown is None else lambda: _by_id(shown), table.part)

    needs = hub_patterns(short, f"!{split}_instructions")
    return Layout(HUB, (needs,), read_hub, _HUB_FILES)


def _by_id(table: HubTable) -> Pictures:
    return table.pictures({f"{entry['id']}.jpg": str(entry["image"]) for _, _, entry in table.rows()})


def converted(text: str) -> str:
    """An answer as the official conversion writes it: without full stops at the end, in lower case. Blanks stay.

    Example:
        >>> converted("Yes.."), converted("white. ")
        ('yes', 'white. ')
    """
    return text.rstrip(".").lower()


def unpunctuated(text: str) -> str:
    """An answer as lmms-eval compares it: in lower case, without ASCII punctuation. Blanks stay.

    Example:
        >>> unpunctuated("T-Shirt!"), unpunctuated("no. ")
        ('tshirt', 'no ')
    """
    return text.lower().translate(_NO_PUNCTUATION)


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Accuracy under `rule`; under ``official`` also by kind of question, and the distribution distance."""
    if rule == "lmms_eval":
        same = {row.id: unpunctuated(answers[row.id]) == unpunctuated(row.answers[0]) for row in rows}
        return mean_score("gqa", rule, "exact_match", {name: float(right) for name, right in same.items()})
    said = {row.id: converted(answers[row.id]) for row in rows}
    correct = {row.id: float(said[row.id] == row.answers[0]) for row in rows}
    numbers: dict[str, float] = {}
    for kind in _KINDS:
        numbers |= dict(sorted(percent_by(rows, correct, kind).items()))
    numbers["distribution"] = distribution_distance(rows, said)
    note = "distribution (lower is better) depends on the set of questions: compare it on whole splits only"
    return mean_score("gqa", rule, "accuracy", correct, numbers, (note,))


def num_steps(row: Row) -> int:
    """Number of reasoning steps: operations of the program, except those that only name or check existence."""
    steps = (f"{step['operation']}: {step['argument']}" for step in row.extra["semantic"])
    return sum(not any(phrase in step for phrase in _NOT_A_STEP) for step in steps)


_KINDS: tuple[Callable[[Row], str], ...] = (
    lambda row: "open" if row.type == "query" else "binary",
    lambda row: f"structural {row.type}",
    lambda row: f"semantic {row.extra['types']['semantic']}",
    lambda row: f"steps {num_steps(row):02d}",
    lambda row: f"words {len(row.extra['question'].split()):02d}",
)


def distribution_distance(rows: Sequence[Row], said: Mapping[str, str]) -> float:
    r"""How much the given answers differ from the right ones within groups of similar questions; from 0 (equal) up.

    For each global group, :math:`\chi^2 = \sum_a (n_a - g_a)^2 / g_a` over its right answers a. Answer a was given
    :math:`n_a` times and is right :math:`g_a` times. The result is the mean over all questions in groups, divided by
    100. Answers that are never right in a group do not count.

    Args:
        rows: Questions; those without a global group are left out.
        said: Row id -> converted answer.
    """
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row.extra["groups"]["global"] is not None:
            groups[row.extra["groups"]["global"]].append(row)
    total = 0.0
    for members in groups.values():
        right = Counter(row.answers[0] for row in members)
        given = Counter(said[row.id] for row in members)
        total += len(members) * sum((given[answer] - count) ** 2 / count for answer, count in right.items())
    asked_in_groups = sum(map(len, groups.values()))
    return total / asked_in_groups / 100 if asked_in_groups else 0.0


def write_answers(rows: Sequence[Row], answers: Mapping[str, str], path: Path) -> None:
    """The list of ``questionId`` and ``prediction`` that the official scorer reads."""
    write_document(path, [{"questionId": row.id, "prediction": converted(answers[row.id])} for row in rows])


_FILES = tuple(f"{split}_questions.json" for split in SPLITS)
GQA = Benchmark(
    name="gqa",
    title="GQA test-dev balanced",
    layouts=(
        Layout(
            SITE, (_FILES,), read, f"questions1.2/{_FILES[0]} or {_FILES[2]}, or their archive", "pictures in images/"
        ),
        Layout(LLAVA, (_FILES,), read, f"data/{_FILES[0]}", "pictures in data/images/"),
        *map(_hub_layout, SPLITS),
    ),
    scorer=score,
    rules=("official", "lmms_eval"),
    max_new_tokens=16,
    portion=parts_by(lambda row: str(row.extra.get("split", SPLITS[0])), SPLITS[:1]),
    writer=write_answers,
)
