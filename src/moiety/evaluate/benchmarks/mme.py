"""MME: two questions a picture, one true and one false; both must be right for the second half of the points."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked
from moiety.evaluate.benchmarks.files import published, text_of
from moiety.evaluate.benchmarks.yes_no import SHORT_ANSWER
from moiety.evaluate.statements import stated_word
from moiety.vlm.images import Images
from moiety.vlm.rows import Row

PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
FILES = (
    "one file a task, existence.txt to code_reasoning.txt (picture TAB question TAB answer), here or in Your_Results/; "
    "pictures in TASK/ or TASK/images/"
)
REQUEST = "Please answer yes or no."


def read(folder: Path) -> list[Row]:
    """All tasks, perception first. Ids are ``task/picture/1`` and ``.../2``.

    The published request for yes or no gives way to that for a short answer, as the LLaVA line asks.

    Raises:
        ValueError: a line has not three columns, or a picture not one true and one false question.
    """
    return [row for task in (*PERCEPTION, *COGNITION) for row in _of_task(folder, task)]


def _of_task(folder: Path, task: str) -> list[Row]:
    path = published(folder, f"{task}.txt", f"Your_Results/{task}.txt")
    rows: list[Row] = []
    asked_of: Counter[str] = Counter()
    for line, text in enumerate(text_of(path).split("\n"), start=1):
        if not text.strip():
            continue
        columns = text.rstrip("\r").split("\t")
        if len(columns) != 3 or columns[2].lower() not in ("yes", "no"):
            raise ValueError(f"{path}:{line}: expected picture, question and Yes or No between tabs, got {text!r:.80}")
        picture, question, answer = columns
        asked_of[picture] += 1
        prompt = f"{question.replace(REQUEST, '').strip()}\n{SHORT_ANSWER}"
        name = f"{task}/{picture}"
        label = answer.lower()
        extra = {"label": label, "picture": name, "question": question}
        identity = f"{name}/{asked_of[picture]}"
        rows.append(asked(identity, prompt, [name], answers=[label], type=task, extra=extra, file=str(path), line=line))
    uneven = [name for name, labels in _labels_of(rows).items() if sorted(labels) != ["no", "yes"]]
    if uneven:
        raise ValueError(f"{path}: {len(uneven)} pictures have not one Yes and one No question, first {uneven[0]!r}")
    return rows


def _labels_of(rows: Sequence[Row]) -> dict[str, list[str]]:
    labels: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        labels[row.extra["picture"]].append(row.extra["label"])
    return labels


# -- rules -------------------------------------------------------------------------------------------------------------
def official_reading(text: str) -> str | None:
    """Yes or no among the first four characters, yes first; None: neither.

    The tool keeps answers in lines with columns: of an answer with a line break it sees the first line only. One with
    a tab it drops, after which all later pairs are shifted; here such an answer is wrong and shifts nothing.

    Example:
        >>> [official_reading(text) for text in ("Yes.", "Know", "Unknown", "The answer is yes", "No\\tnot")]
        ['yes', 'no', None, None, None]
    """
    line = text.split("\n")[0]
    return None if "\t" in line else _among_first(line.lower())


def lmms_reading(text: str) -> str | None:
    """The same without blanks at the ends and full stops; ``y`` and ``n`` alone will do.

    Example:
        >>> [lmms_reading(text) for text in ("\\n N.", "y", "y es")]
        ['no', 'yes', None]
    """
    bare = text.lower().strip().replace(".", "")
    return {"y": "yes", "n": "no"}.get(bare, _among_first(bare))


def _among_first(text: str) -> str | None:
    return next((verdict for verdict in ("yes", "no") if verdict in text[:4]), None)


RULES: Mapping[str, Callable[[str], str | None]] = {
    "official": official_reading,
    "sound": stated_word,
    "lmms_eval": lmms_reading,
}


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Points: per task 100 for accuracy and 100 for pictures with both answers right; sums over 10 and 4 tasks.

    Perception is 0..2000 and the headline, cognition 0..800. ``sound`` is
    :func:`moiety.evaluate.statements.stated_word`, ``lmms_eval`` :func:`lmms_reading`. Silence scores 0 under each.

    Source:
        MME evaluation tool, as in AlenjandroWang/MoIIE @ c614868, ``eval/mme/calculation_mme.py``; lmms-eval @ 75571cf.
    """
    read_as = RULES[rule]
    said = [read_as(answers[row.id]) for row in rows]
    right = np.array([one == row.extra["label"] for one, row in zip(said, rows, strict=True)], dtype=np.float64)
    of = {task: np.array([row.type == task for row in rows], dtype=np.float64) for task in (*PERCEPTION, *COGNITION)}
    numbers_of: dict[str, int] = {}
    picture = np.array([numbers_of.setdefault(row.extra["picture"], len(numbers_of)) for row in rows])
    both = (np.bincount(picture) == np.bincount(picture, weights=right))[picture]

    def points(task: str, weights: NDArray[np.float64]) -> float:
        drawn = weights * of[task]
        # every picture has two questions: a mean over questions of "both right" is the mean over pictures
        return 100 * float(drawn @ (right + both) / drawn.sum()) if drawn.any() else 0.0

    def perception(weights: NDArray[np.float64]) -> float:
        return sum(points(task, weights) for task in PERCEPTION)

    ones = np.ones(len(rows))
    each = {task: points(task, ones) for task in (*PERCEPTION, *COGNITION) if of[task].any()}
    headline = ("perception", perception(ones))
    numbers = dict([headline]) | {"cognition": sum(each.get(task, 0.0) for task in COGNITION)} | each
    absent = [task for task in (*PERCEPTION, *COGNITION) if task not in each]
    notes = (f"sums lack {', '.join(absent)}: not asked",) if absent else ()
    correct = {row.id: float(mark) for row, mark in zip(rows, right, strict=True)}
    unread = said.count(None)
    return BenchmarkScore(
        "mme", rule, headline, numbers, len(rows), correct, notes, statistic=perception, unread=unread
    )


class _Pictures:
    """``task/picture`` below the folder of a task or its ``images``: the release keeps tasks in both ways."""

    def __init__(self, folder: Path) -> None:
        self.images = Images([folder])

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._place(name) in self.images

    def __getitem__(self, name: str) -> Image.Image:
        return self.images[self._place(name)]

    def _place(self, name: str) -> str:
        task, _, picture = name.partition("/")
        inner = f"{task}/images/{picture}"
        return inner if inner in self.images else name


MME = Benchmark(
    "mme",
    "MME",
    FILES,
    read,
    score,
    ("official", "sound", "lmms_eval"),
    max_new_tokens=128,
    together=lambda row: row.extra["picture"],
    part=lambda row: row.type,
    pictures=_Pictures,
)
