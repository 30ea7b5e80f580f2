"""MME: two questions for each picture, one with answer yes and one with answer no.

Half of the points are for single answers. The other half are for pictures with two right answers.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked
from moiety.evaluate.benchmarks.files.entries import Kinds, entry_with
from moiety.evaluate.benchmarks.files.layouts import LLAVA, SITE, Layout, Questions, hub_layout, parts_by
from moiety.evaluate.benchmarks.files.parquet import HubTable
from moiety.evaluate.benchmarks.files.questions import text_of
from moiety.evaluate.benchmarks.files.release import Readable, Release, ReleasePictures
from moiety.evaluate.benchmarks.rules.yes_no import SHORT_ANSWER
from moiety.evaluate.statements import stated_word
from moiety.vlm.rows import Row

PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
TASKS = (*PERCEPTION, *COGNITION)
REQUEST = "Please answer yes or no."


def read(release: Release) -> Questions:
    """The tasks that are there, first those of perception. Ids are ``task/picture/1`` and ``.../2``.

    The published request for yes or no is replaced by the request of LLaVA for a short answer.

    Raises:
        ValueError: a line does not have its columns, or a picture does not have one question of each answer.
    """
    pictures = _Pictures(release)
    rows: list[Row] = []
    for task in TASKS:
        path = release.find(f"./{task}.txt", f"Your_Results/{task}.txt")
        rows += _of_table(path, task) if path is not None else _of_release(release, task, pictures)
    return Questions(rows, lambda: pictures)


def _of_table(path: Readable, task: str) -> list[Row]:
    """A task in one file with columns picture, question, answer. A fourth column holds the answer of a model."""
    lines = []
    for line, text in enumerate(text_of(path).split("\n"), start=1):
        if not text.strip():
            continue
        columns = text.rstrip("\r").split("\t")
        if len(columns) not in (3, 4) or columns[2].strip().lower() not in ("yes", "no"):
            raise ValueError(f"{path}:{line}: expected picture, question and Yes or No between tabs, got {text!r:.80}")
        lines.append((str(path), line, columns[0], columns[1], columns[2]))
    return _asked(task, lines)


def _of_release(release: Release, task: str, pictures: _Pictures) -> list[Row]:
    """A task as in the release: a file of questions for each picture, beside it or in ``questions_answers_YN``."""
    lines = []
    for path in release.all(f"{task}/questions_answers_YN/*.txt") or release.all(f"{task}/*.txt"):
        picture = pictures.of_stem(task, path.name.split(".txt")[0])
        for line, text in enumerate(text_of(path).split("\n"), start=1):
            columns = text.rstrip("\r").split("\t")
            if len(columns) == 2 and columns[1].strip().lower() in ("yes", "no"):
                lines.append((str(path), line, picture, columns[0], columns[1]))
            elif text.strip():
                raise ValueError(f"{path}:{line}: expected a question and Yes or No between tabs, got {text!r:.80}")
    return _asked(task, lines)


def read_hub(table: HubTable) -> Questions:
    """The questions of the table from the Hugging Face Hub. Pictures have the same names as in the other layouts."""
    of_task: dict[str, list[tuple[str, int, str, str, str]]] = {task: [] for task in TASKS}
    names: dict[str, str] = {}
    for file, line, entry in table.rows():
        kinds: Mapping[str, Kinds] = dict.fromkeys(("question_id", "question", "answer", "category"), str)
        entry = entry_with(entry, kinds, f"{file}:{line}")
        task, picture = entry["category"], PurePosixPath(entry["question_id"]).name
        if task not in of_task or entry["answer"].strip().lower() not in ("yes", "no"):
            given = f"category {task!r:.40} and answer {entry['answer']!r:.40}"
            raise ValueError(f"{file}:{line}: {given}; expected a task of MME and Yes or No")
        names.setdefault(f"{task}/{picture}", str(entry.get("image")))
        of_task[task].append((file, line, picture, entry["question"], entry["answer"]))
    rows = [row for task, lines in of_task.items() for row in _asked(task, lines)]
    return Questions(rows, lambda: table.pictures(names))


def _asked(task: str, lines: Sequence[tuple[str, int, str, str, str]]) -> list[Row]:
    """The questions of a task. Each line holds file, line number, picture, question and answer."""
    rows: list[Row] = []
    asked_of: Counter[str] = Counter()
    for file, line, picture, question, answer in lines:
        asked_of[picture] += 1
        prompt = f"{question.replace(REQUEST, '').strip()}\n{SHORT_ANSWER}"
        name = f"{task}/{picture}"
        label = answer.strip().lower()
        extra = {"label": label, "picture": name, "question": question}
        identity = f"{name}/{asked_of[picture]}"
        rows.append(asked(identity, prompt, [name], answers=[label], type=task, extra=extra, file=file, line=line))
    uneven = [name for name, labels in _labels_of(rows).items() if sorted(labels) != ["no", "yes"]]
    if uneven:
        where = lines[0][0]
        raise ValueError(
            f"{where}: {len(uneven)} pictures do not have one Yes and one No question, first {uneven[0]!r}; "
            "fetch the files again"
        )
    return rows


def _labels_of(rows: Sequence[Row]) -> dict[str, list[str]]:
    labels: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        labels[row.extra["picture"]].append(row.extra["label"])
    return labels


# -- rules -------------------------------------------------------------------------------------------------------------
def official_reading(text: str) -> str | None:
    """Yes or no, if it occurs in the first four characters; None if neither does. Yes is looked for first.

    The official tool keeps each answer on one line with columns. So it reads only the first line of an answer. It drops
    an answer with a tab, and then all later pairs of answers are shifted. Here such an answer is wrong, and no pair is
    shifted.

    Example:
        >>> [official_reading(text) for text in ("Yes.", "Know", "Unknown", "The answer is yes", "No\\tnot")]
        ['yes', 'no', None, None, None]
    """
    line = text.split("\n")[0]
    return None if "\t" in line else _among_first(line.lower())


def lmms_reading(text: str) -> str | None:
    """Like :func:`official_reading`, but without blanks at the ends and full stops; ``y`` and ``n`` alone count too.

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
    """Points. Each task gives up to 100 for accuracy and up to 100 for pictures with two right answers.

    Perception, the headline, is the sum over 10 tasks, 0..2000. Cognition is the sum over 4 tasks, 0..800. A sum is
    left out if none of its tasks was asked. Rule ``official`` is :func:`official_reading`, ``sound`` is
    :func:`moiety.evaluate.statements.stated_word`, and ``lmms_eval`` is :func:`lmms_reading`. An empty answer scores 0
    under each of them.

    Source:
        MME evaluation tool, as in AlenjandroWang/MoIIE @ c614868, ``eval/mme/calculation_mme.py``; lmms-eval @ 75571cf.
    """
    read_as = RULES[rule]
    said = [read_as(answers[row.id]) for row in rows]
    right = np.array([one == row.extra["label"] for one, row in zip(said, rows, strict=True)], dtype=np.float64)
    of = {task: np.array([row.type == task for row in rows], dtype=np.float64) for task in TASKS}
    numbers_of: dict[str, int] = {}
    picture = np.array([numbers_of.setdefault(row.extra["picture"], len(numbers_of)) for row in rows])
    both = (np.bincount(picture) == np.bincount(picture, weights=right))[picture]

    def points(task: str, weights: NDArray[np.float64]) -> float:
        drawn = weights * of[task]
        # every picture has two questions, so the mean of "both right" over questions is the mean over pictures
        return 100 * float(drawn @ (right + both) / drawn.sum()) if drawn.any() else 0.0

    ones = np.ones(len(rows))
    each = {task: points(task, ones) for task in TASKS if of[task].any()}
    sums = {"perception": PERCEPTION, "cognition": COGNITION}
    asked_sums = {name: tasks for name, tasks in sums.items() if each.keys() & {*tasks}}
    summed = {name: sum(each.get(task, 0.0) for task in tasks) for name, tasks in asked_sums.items()}
    headline = next(iter(summed.items()))

    def first_sum(weights: NDArray[np.float64]) -> float:
        return sum(points(task, weights) for task in asked_sums[headline[0]])

    numbers = summed | each
    absent = [task for task in TASKS if task not in each]
    notes = (f"the sums do not contain {', '.join(absent)}, which were not asked",) if absent else ()
    correct = {row.id: float(mark) for row, mark in zip(rows, right, strict=True)}
    unread = said.count(None)
    return BenchmarkScore("mme", rule, headline, numbers, len(rows), correct, notes, statistic=first_sum, unread=unread)


class _Pictures:
    """Pictures by the name ``task/picture``. The release has them in the folder of a task or in its ``images``."""

    def __init__(self, release: Release) -> None:
        self.release = release
        above = {name[: -len(task) - 1] for task in TASKS for name in release.folders if name.endswith(f"/{task}")}
        self.inner = ReleasePictures(release, (*sorted(above), "MME_Benchmark", "MME_Benchmark_release_version"))

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._place(name) in self.inner

    def __getitem__(self, name: str) -> Image.Image:
        return self.inner[self._place(name)]

    def of_stem(self, task: str, stem: str) -> str:
        """The name of the picture that belongs to a file of questions; it ends in ``.jpg`` if there is no picture."""
        names = [f"{stem}{ending}" for ending in (".jpg", ".png", ".jpeg")]
        return next((name for name in names if f"{task}/{name}" in self), names[0])

    def _place(self, name: str) -> str:
        task, _, picture = name.partition("/")
        places = [f"{task}/images/{picture}", name]
        if self.release.name == task:
            places += [f"images/{picture}", picture]
        return next((place for place in places if place in self.inner), name)


_ANY = "{" + ",".join(TASKS) + "}"
_TABLES = (f"./{_ANY}.txt", f"Your_Results/{_ANY}.txt")
_RELEASED = (f"{_ANY}/*.txt", f"{_ANY}/questions_answers_YN/*.txt")
MME = Benchmark(
    "mme",
    "MME",
    (
        Layout(
            SITE,
            (_RELEASED,),
            read,
            "TASK/*.txt or TASK/questions_answers_YN/*.txt (question TAB answer) for any of the tasks",
            "pictures beside them or in TASK/images/",
        ),
        Layout(
            LLAVA,
            ((*_TABLES, *_RELEASED),),
            read,
            "MME_Benchmark_release_version/TASK/..., or eval_tool/Your_Results/TASK.txt (picture, question, answer)",
            "pictures in TASK/ or TASK/images/",
        ),
        hub_layout("test", read_hub),
    ),
    score,
    ("official", "sound", "lmms_eval"),
    max_new_tokens=128,
    together=lambda row: row.extra["picture"],
    part=lambda row: row.type,
    portion=parts_by(lambda row: str(row.type), TASKS),
    folders=("MME_Benchmark_release_version", "MME_Benchmark"),
)
