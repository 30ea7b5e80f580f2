"""GQA: one-word answers about relations in a scene, with a program behind each question.

Hudson and Manning 2019 (1902.09506). Rule ``official`` repeats the released conversion and ``eval.py`` on one split;
``lmms_eval`` compares after lower case and without ASCII punctuation. No answer scores 0 under both.

Source:
    AlenjandroWang/MoIIE @ c614868, ``convert_gqa_for_eval.py`` and ``eval_gqa.py``; lmms-eval @ 75571cf.
    Consistency, validity and plausibility need files that are published for other splits only and are not computed.
"""

from __future__ import annotations

import string
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked, mean_score, percent_by
from moiety.evaluate.benchmarks.entries import (
    NOTHING,
    Kinds,
    asked_shortly,
    entry_with,
    object_in,
    pictures_below,
    write_document,
)
from moiety.evaluate.benchmarks.files import published, read_json
from moiety.vlm.rows import Row

QUESTIONS = "testdev_balanced_questions.json"
_KEPT = ("semantic", "types", "groups")
_ENTRY: Mapping[str, Kinds] = {
    **{"question": str, "imageId": str, "answer": str},
    **{"semantic": list, "types": dict, "groups": dict},
}
_NOT_A_STEP = ("exist", "query: name", "choose name")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def read(folder: Path) -> list[Row]:
    """The questions of the balanced test-dev split."""
    path = published(folder, QUESTIONS)
    rows = []
    for name, entry in object_in(read_json(path), path).items():
        place = f"{path}: question {name!r}"
        entry = entry_with(entry, _ENTRY, place)
        entry_with(entry["types"], {"structural": str, "semantic": str}, f"{place}: types")
        entry_with(entry["groups"], {"global": (str, NOTHING)}, f"{place}: groups")
        for step in entry["semantic"]:
            entry_with(step, {"operation": str, "argument": str}, f"{place}: semantic")
        rows.append(
            asked(
                name,
                asked_shortly(entry["question"]),
                [f"{entry['imageId']}.jpg"],
                answers=[entry["answer"]],
                type=entry["types"]["structural"],
                extra={"question": entry["question"], **{key: entry[key] for key in _KEPT}},
                file=str(path),
            )
        )
    return rows


def converted(text: str) -> str:
    """What the official conversion hands to the scorer: full stops at the end go, then lower case; blanks stay.

    Example:
        >>> converted("Yes.."), converted("white. ")
        ('yes', 'white. ')
    """
    return text.rstrip(".").lower()


def unpunctuated(text: str) -> str:
    """Lower case without ASCII punctuation, as lmms-eval compares; blanks stay.

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
        numbers |= dict(sorted((str(name), value) for name, value in percent_by(rows, correct, kind).items()))
    numbers["distribution"] = distribution_distance(rows, said)
    note = "distribution (lower is better) depends on the set of questions: compare it on whole splits only"
    return mean_score("gqa", rule, "accuracy", correct, numbers, (note,))


def num_steps(row: Row) -> int:
    """Reasoning steps of a question: operations of its program but for those that only name or check existence."""
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
    r"""How unlike the answers given are to the right ones within groups of like questions; 0 is equal, no upper end.

    Per global group :math:`\chi^2 = \sum_a (n_a - g_a)^2 / g_a` over its right answers a, with counts given and right;
    mean over questions in groups, over 100. Answers that are never right in a group do not enter.

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


GQA = Benchmark(
    name="gqa",
    title="GQA test-dev balanced",
    files=f"{QUESTIONS}, pictures n161313.jpg, ... there or in images/",
    reader=read,
    scorer=score,
    rules=("official", "lmms_eval"),
    max_new_tokens=16,
    pictures=pictures_below("images", "images.tar"),
    writer=write_answers,
)
