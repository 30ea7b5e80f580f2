"""POPE: is there such a thing in the picture? Half the questions name an object that is not there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked
from moiety.evaluate.benchmarks.entries import Kinds, entry_with
from moiety.evaluate.benchmarks.files import published, read_lines
from moiety.evaluate.benchmarks.yes_no import POPE_RULES, SHORT_ANSWER, Verdicts
from moiety.vlm.images import Images, Pictures
from moiety.vlm.rows import Row

CATEGORIES = ("random", "popular", "adversarial")
WORLDS = ("coco", "aokvqa", "gqa")
QUESTION_FILES = ("llava_pope_test.jsonl", "bunny_pope_test.jsonl")
FILES = (
    "coco_pope_random.json, coco_pope_popular.json and coco_pope_adversarial.json (or aokvqa_..., gqa_...), here or in "
    "coco/; pictures here or in val2014/; if llava_pope_test.jsonl lies there, too, its questions are asked and joined"
)
_LABELLED: Mapping[str, Kinds] = {"question_id": (int, str), "image": str, "text": str, "label": str}
_QUESTION: Mapping[str, Kinds] = {"question_id": (int, str), "image": str, "text": str, "category": str}


def read(folder: Path) -> list[Row]:
    """Questions with labels, in the order of the files.

    Without a file of questions ids are ``category/number``. With one its ids and prompts are taken and each of its
    lines is joined with the label of the same category, picture and question: the official script pairs by line, which
    is a silent error where the two files are of different versions.

    Raises:
        ValueError: questions and labels do not join one to one, or a label is neither yes nor no.
    """
    labelled = [row for category in CATEGORIES for row in _labelled(folder, category)]
    try:
        path = published(folder, *QUESTION_FILES)
    except FileNotFoundError:
        return labelled
    by_question = {(row.type, row.images, _bare(row.turns[0].text)): row for row in labelled}
    rows, alone = [], []
    for line, entry in read_lines(path):
        entry_with(entry, _QUESTION, f"{path}:{line}")
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


def _labelled(folder: Path, category: str) -> list[Row]:
    path = published(folder, *(f"{part}{world}_pope_{category}.json" for part in ("", "coco/") for world in WORLDS))
    return [_row(entry, category, path, line) for line, entry in read_lines(path)]


def _row(entry: Mapping[str, Any], category: str, path: Path, line: int) -> Row:
    entry_with(entry, _LABELLED, f"{path}:{line}")
    if entry["label"] not in ("yes", "no"):
        raise ValueError(f"{path}:{line}: label must be yes or no, got {entry['label']!r}")
    return asked(
        f"{category}/{entry['question_id']}",
        f"{entry['text']}\n{SHORT_ANSWER}",
        [entry["image"]],
        answers=[entry["label"]],
        type=category,
        extra={"label": entry["label"]},
        file=str(path),
        line=line,
    )


def _bare(text: str) -> str:
    """The question alone: without mark of the picture and request for a short answer."""
    return text.replace("<image>", "").replace(SHORT_ANSWER, "").strip()


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Accuracy, precision, recall, F1 and share of yes per category; the headline is the mean F1 of the categories.

    - ``official``: ``no`` if a word of the first sentence is exactly No, no or not, else yes: an empty answer is yes.
      The default, because every published number rests on it; answers without a verdict, which it reads as yes, are
      counted as not read.
    - ``sound``: yes or no as :func:`moiety.evaluate.statements.stated_word` reads it; anything else is wrong and counts
      as no yes.
    - ``lmms_eval``: the whole text is yes or no; else wrong, but neither a false positive nor a miss. ``yes_ratio`` is
      that of the labels.
    - ``vcd``: right if the text contains the label.

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
    """Silence is yes under ``official``: F1 2y / (1 + y) for a share y of true yes, 66.7 for one half.

    Under ``vcd`` silence contradicts every label, under the others it has no verdict: 0.
    """
    if rule != "official":
        return 0.0
    shares = [
        [row.extra["label"] == "yes" for row in rows if row.type == category]
        for category in dict.fromkeys(row.type for row in rows)
    ]
    return 100 * float(np.mean([2 * np.mean(share) / (1 + np.mean(share)) for share in shares]))


def pictures(folder: Path) -> Pictures:
    """Pictures of COCO beside the files or in ``val2014``."""
    return Images([path for path in (folder, folder / "val2014", folder / "images") if path.is_dir()])


POPE = Benchmark(
    "pope",
    "POPE (COCO)",
    FILES,
    read,
    score,
    ("official", "sound", "lmms_eval", "vcd"),
    max_new_tokens=128,
    floor=floor,
    together=lambda row: row.images,
    pictures=pictures,
)
