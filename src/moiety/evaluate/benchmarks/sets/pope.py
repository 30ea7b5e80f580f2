"""POPE: questions whether an object is in the picture. Half of them name an object that is not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked
from moiety.evaluate.benchmarks.files.entries import Kinds, entry_with
from moiety.evaluate.benchmarks.files.layouts import LLAVA, SITE, Layout, Questions, beside, hub_layout, listed
from moiety.evaluate.benchmarks.files.parquet import HubTable
from moiety.evaluate.benchmarks.files.questions import read_entries, read_lines
from moiety.evaluate.benchmarks.files.release import Readable, Release
from moiety.evaluate.benchmarks.rules.yes_no import POPE_RULES, SHORT_ANSWER, Verdicts
from moiety.vlm.rows import Row

CATEGORIES = ("random", "popular", "adversarial")
WORLDS = ("coco", "aokvqa", "gqa")
PICTURES = ("val2014", "images")
QUESTION_FILES = ("llava_pope_test.jsonl", "bunny_pope_test.jsonl")
LABELS = "*_pope_{random,popular,adversarial}.json"
_LABELLED: Mapping[str, Kinds] = {"question_id": (int, str), "image": str, "text": str, "label": str}
_QUESTION: Mapping[str, Kinds] = {"question_id": (int, str), "image": str, "text": str, "category": str}


def read(release: Release) -> Questions:
    """Questions with labels, in the order of the files. They belong to one data set: COCO, if its files are there.

    Without a file of questions, ids are ``category/number``. With one, its ids and prompts are used, and each of its
    lines is joined with the label of the same category, picture and question. The official script joins by line number
    instead, which gives wrong labels without an error if the two files are of different versions.

    Raises:
        ValueError: questions and labels do not join one to one, or a label is neither yes nor no.
    """
    worlds = _worlds(release)
    world = worlds[0]
    labelled = [row for category in CATEGORIES for row in _labelled(release, world, category)]
    asked_from = release.find(*QUESTION_FILES) if world == WORLDS[0] else None
    rows = labelled if asked_from is None else _joined(labelled, asked_from, release.folder)
    others = ", ".join(worlds[1:])
    notes = (f"only {world} is asked; to ask {others}, put it into another folder",) if others else ()
    return Questions(rows, beside(release, *PICTURES), notes=notes)


def _worlds(release: Release) -> list[str]:
    """Data sets that have labels here; known data sets come first."""
    names = {file.name.lower().split("_pope_")[0] for file in release.all(LABELS)}
    return [world for world in WORLDS if world in names] + sorted(names - set(WORLDS))


def _labelled(release: Release, world: str, category: str) -> list[Row]:
    name = f"{world}_pope_{category}.json"
    path = release.find(f"{world}/{name}", name)
    if path is None:
        return []
    return [_row(entry, world, category, str(path), line) for line, entry in read_entries(path)]


def _joined(labelled: Sequence[Row], path: Readable, folder: Path) -> list[Row]:
    """The questions of a LLaVA question file, for the categories that have both questions and labels."""
    entries = [(line, entry_with(entry, _QUESTION, f"{path}:{line}")) for line, entry in read_lines(path)]
    both = {row.type for row in labelled} & {entry["category"] for _, entry in entries}
    by_question = {(row.type, row.images, _bare(row.turns[0].text)): row for row in labelled if row.type in both}
    rows, alone = [], []
    for line, entry in entries:
        if entry["category"] not in both:
            continue
        key = (entry["category"], (entry["image"],), _bare(entry["text"]))
        row = by_question.pop(key, None)
        if row is None:
            alone.append(f"{path.name}:{line}")
            continue
        rows.append(replace(row, id=str(entry["question_id"]), file=str(path), line=line))
    if alone or by_question:
        without = [row.place for row in by_question.values()]
        raise ValueError(
            f"pope: {len(alone)} questions have no label (first {alone[:1]}) and {len(without)} labels no question "
            f"(first {without[:1]}) in {folder}: {path.name} and the label files are of different versions of POPE; "
            f"fetch them from one place, or remove {path.name}"
        )
    return rows


def read_hub(table: HubTable) -> Questions:
    """Questions of the table from the Hugging Face Hub. Pictures have the same names as in the other layouts."""
    rows, names = [], dict[str, str]()
    for file, line, entry in table.rows():
        entry = entry_with(entry, {"question_id": (int, str), "question": str, "answer": str}, f"{file}:{line}")
        category = str(entry.get("category") or Path(file).name.split("-")[0])
        name = f"{PurePosixPath(str(entry.get('image_source') or entry.get('image'))).name.removesuffix('.jpg')}.jpg"
        names.setdefault(name, str(entry.get("image")))
        known = {"image": name, "text": entry["question"].replace(SHORT_ANSWER, "").strip(), "label": entry["answer"]}
        rows.append(_row({**entry, **known}, WORLDS[0], category, file, line))
    return Questions(rows, lambda: table.pictures(names))


def _row(entry: Mapping[str, Any], world: str, category: str, path: str, line: int) -> Row:
    entry_with(entry, _LABELLED, f"{path}:{line}")
    label = entry["label"].strip().lower()
    if label not in ("yes", "no"):
        raise ValueError(f"{path}:{line}: label must be yes or no, got {entry['label']!r}")
    return asked(
        f"{category}/{entry['question_id']}",
        f"{entry['text']}\n{SHORT_ANSWER}",
        [entry["image"]],
        answers=[label],
        type=category,
        extra={"label": label, "world": world},
        file=path,
        line=line,
    )


def _bare(text: str) -> str:
    """The question without the image mark and without the request for a short answer."""
    return text.replace("<image>", "").replace(SHORT_ANSWER, "").strip()


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Accuracy, precision, recall, F1 and share of yes per category. The headline is the mean F1 of the categories.

    - ``official``, the default, because every published number uses it: the answer is no if a word of the first
      sentence is exactly No, no or not. Every other answer is yes, even an empty one. Answers without yes or no are
      also counted as not read.
    - ``sound``: yes or no as :func:`moiety.evaluate.statements.stated_word` reads it. Any other answer is wrong and
      does not count as yes.
    - ``lmms_eval``: the whole text must be yes or no. Any other answer is wrong, but counts neither as a false positive
      nor as a miss. ``yes_ratio`` is the share of yes among the labels.
    - ``vcd``: the answer is right if it contains the label.

    Source:
        RUCAIBox/POPE @ 3df3ba1 and AlenjandroWang/MoIIE @ c614868, ``eval/pope/eval_pope.py``; lmms-eval @ 75571cf;
        DAMO-NLP-SG/VCD @ d6568ff. Where the source divides by zero the ratio is 0 here.
    """
    labels = [str(row.extra["label"]) for row in rows]
    verdicts = [POPE_RULES[rule](answers[row.id], label) for row, label in zip(rows, labels, strict=True)]
    said = Verdicts(labels, verdicts, unreadable_misses=rule != "lmms_eval")
    of = {name: np.array([row.type == name for row in rows], dtype=np.float64) for name in CATEGORIES}
    present = [category for category in CATEGORIES if of[category].any()]
    ones = np.ones(len(rows))

    def mean_f1(weights: NDArray[np.float64]) -> float:
        return 100 * sum(said.counted(weights * of[category]).f1 for category in present) / len(present)

    numbers = {"average F1": mean_f1(ones)}
    for category in present:
        found = said.counted(of[category])
        numbers |= {f"{category} {name}": 100 * getattr(found, name) for name in ("accuracy", "precision", "recall")}
        ratio = _label_ratio(labels, of[category]) if rule == "lmms_eval" else found.yes_ratio
        numbers |= {f"{category} F1": 100 * found.f1, f"{category} yes ratio": 100 * ratio}
    correct = {row.id: float(label == verdict) for row, label, verdict in zip(rows, labels, verdicts, strict=True)}
    reads = POPE_RULES["lmms_eval" if rule == "lmms_eval" else "sound"]
    unread = sum(reads(answers[row.id], "") is None for row in rows)
    headline = ("average F1", numbers["average F1"])
    return BenchmarkScore("pope", rule, headline, numbers, len(rows), correct, statistic=mean_f1, unread=unread)


def _label_ratio(labels: Sequence[str], chosen: NDArray[np.float64]) -> float:
    return float(np.mean([label == "yes" for label, kept in zip(labels, chosen, strict=True) if kept]))


def floor(rows: Sequence[Row], rule: str) -> float:
    """Score of a model that never answers.

    Under ``official``, an empty answer is yes. With a share y of labels yes, this gives an F1 of 2y / (1 + y), which is
    66.7 for one half. Under the other rules, an empty answer is wrong, and the score is 0.
    """
    if rule != "official":
        return 0.0
    shares = [
        [row.extra["label"] == "yes" for row in rows if row.type == category]
        for category in dict.fromkeys(row.type for row in rows)
    ]
    return 100 * float(np.mean([2 * np.mean(share) / (1 + np.mean(share)) for share in shares]))


def portion(rows: Sequence[Row]) -> str:
    """Which part of the benchmark was asked: data set and categories; empty for all of COCO."""
    world = str(rows[0].extra.get("world", WORLDS[0]))
    present = [category for category in CATEGORIES if any(row.type == category for row in rows)]
    told = listed(present, len(CATEGORIES)) if len(present) < len(CATEGORIES) else ""
    return ": ".join(one for one in ("" if world == WORLDS[0] else world, told) if one)


POPE = Benchmark(
    "pope",
    "POPE (COCO)",
    (
        Layout(
            LLAVA,
            (QUESTION_FILES, LABELS),
            read,
            f"{QUESTION_FILES[0]} and coco/coco{LABELS[1:]}",
            "pictures in val2014/",
        ),
        Layout(
            SITE,
            (LABELS,),
            read,
            f"output/coco/coco{LABELS[1:]}, or aokvqa_..., gqa_..., or some of them",
            "pictures in val2014/ or images/",
        ),
        hub_layout("test", read_hub),
        hub_layout("{random,popular,adversarial}", read_hub, "Full"),
    ),
    score,
    ("official", "sound", "lmms_eval", "vcd"),
    max_new_tokens=128,
    floor=floor,
    together=lambda row: row.images,
    portion=portion,
)
