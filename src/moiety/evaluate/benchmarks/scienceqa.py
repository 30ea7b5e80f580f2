"""ScienceQA: school questions with two to five options, about half of them with a picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked, mean_score
from moiety.evaluate.benchmarks.entries import NOTHING, entry_with, list_in, object_in, texts_in
from moiety.evaluate.benchmarks.files import published, read_json
from moiety.evaluate.benchmarks.letters import LETTER_REQUEST, stated_letter, unread_letters
from moiety.evaluate.scorers import LETTERS
from moiety.vlm.images import Images
from moiety.vlm.rows import Row

FILES = (
    "llava_test_CQM-A.json (questions as conversations), problems.json (choices and answers), pid_splits.json; "
    "pictures in images/test/ID/image.png"
)
QUESTION_FILES = ("llava_test_CQM-A.json", "bunny_test_CQM-A.json")
_OFFICIAL = LETTERS[:5]
_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")


def read(folder: Path) -> list[Row]:
    """The questions of the test split, in the order of the questions file, with choices and answers by id.

    Raises:
        ValueError: the questions are not those of the test split, one has no problem, or an answer is the index
            of no choice.
    """
    path = published(folder, *QUESTION_FILES)
    problems_path, split_path = published(folder, "problems.json"), published(folder, "pid_splits.json")
    problems = object_in(read_json(problems_path), problems_path)
    split = set(map(str, list_in(read_json(split_path), split_path, "test")))
    entries = list_in(read_json(path), path)
    for number, entry in enumerate(entries, start=1):
        entry_with(entry, {"id": (int, str), "conversations": list}, f"{path}: question {number}")
    ids = {str(entry["id"]) for entry in entries}
    apart = sorted(ids ^ split) + sorted(ids - problems.keys())
    if apart:
        raise ValueError(
            f"scienceqa: {path.name}, the test split of pid_splits.json and problems.json in {folder} do not hold the "
            f"same questions, first difference {apart[0]!r}; fetch them from one place"
        )
    return [_row(entry, problems, path, number) for number, entry in enumerate(entries, start=1)]


def _row(entry: Mapping[str, Any], problems: Mapping[str, Any], path: Path, number: int) -> Row:
    place = f"{path}: question {number}"
    first = (entry["conversations"] or [None])[0]
    question = entry_with(first, {"value": str}, place)["value"].replace("<image>", "").strip()
    problem = entry_with(problems[str(entry["id"])], {"choices": list, "answer": int}, f"{path}: its problem")
    choices = texts_in(problem, "choices", place)
    if not 0 <= problem["answer"] < len(choices):
        raise ValueError(f"{place}: answer {problem['answer']} is no index of its {len(choices)} choices, from 0")
    answer = LETTERS[problem["answer"]]
    picture = entry_with({"image": None, **entry}, {"image": (str, NOTHING)}, place)["image"]
    return asked(
        str(entry["id"]),
        f"{question}\n{LETTER_REQUEST}",
        [picture] if picture else [],
        answers=[answer],
        choices=choices,
        type="with picture" if picture else "text only",
        extra={"answer": answer, "has_image": bool(picture)},
        file=str(path),
        line=number,
    )


# -- rules -------------------------------------------------------------------------------------------------------------
def official_letter(text: str, choices: Sequence[str]) -> str:
    """The rule of the LLaVA line: the letter alone, ``X. ...``, or one ``The answer is X`` with a character behind it.

    ``FAILED`` where nothing of that is there: ``A.`` alone, ``(A)``, ``a``, and ``The answer is A`` at the very end.

    Source:
        AlenjandroWang/MoIIE @ c614868, ``eval/scienceqa/eval_science_qa.py``. Its random choice never comes to pass.

    Example:
        >>> [official_letter(text, []) for text in ("B", "B. it melts", "B.", "The answer is B.", "The answer is B")]
        ['B', 'B', 'FAILED', 'B', 'FAILED']
    """
    if text in _OFFICIAL and len(text) == 1:
        return text
    if len(text) >= 3 and text[0] in _OFFICIAL and text[1:3] == ". ":
        return text[0]
    hits = _ANSWER_IS.findall(text)
    return hits[0] if len(hits) == 1 else "FAILED"


def lmms_letter(text: str, choices: Sequence[str]) -> str:
    """A letter in any case and nothing else, or a capital with a full stop behind it.

    Source:
        EvolvingLMMs-Lab/lmms-eval @ 75571cf, ``tasks/scienceqa/utils.py``.
    """
    bare = text.strip()
    opens = len(bare) >= 2 and bare[0].isupper() and bare[1] == "."
    return bare[0] if opens else bare.upper()


def internvl_letter(text: str, choices: Sequence[str]) -> str:
    """The first character, else the first option whose words occur, else the letter of ``X.`` or ``(X)`` at the start.

    Source:
        OpenGVLab/InternVL @ 2410d1d, ``evaluate_scienceqa.py``.

    Example:
        >>> said = ("because", "Because", "Both", "a lion, I think", "(C)", "C.", "none")
        >>> [internvl_letter(text, ["a fox", "a lion"]) for text in said]
        ['because', 'B', 'B', 'B', 'C', 'C', 'none']
    """
    bare, letters = text.strip(), LETTERS[: len(choices)]
    if bare[:1] and bare[0] in letters:
        return bare[0]
    for letter, choice in zip(letters, choices, strict=True):
        if choice in bare:
            return letter
    if bare[1:2] == ".":
        return bare[0]
    return bare[1] if bare[:1] == "(" and bare[2:3] == ")" else bare


RULES: Mapping[str, Callable[[str, Sequence[str]], str | None]] = {
    "sound": stated_letter,
    "official": official_letter,
    "lmms_eval": lmms_letter,
    "internvl": internvl_letter,
}


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Accuracy over all questions (the headline) and over those with a picture; silence scores 0.

    Rules are :func:`official_letter`, :func:`lmms_letter`, :func:`internvl_letter` and, as default ``sound``,
    :func:`moiety.evaluate.benchmarks.letters.stated_letter`.
    """
    read_as = RULES[rule]
    correct = {row.id: float(read_as(answers[row.id], row.choices) == row.extra["answer"]) for row in rows}
    seen = [correct[row.id] for row in rows if row.extra["has_image"]]
    numbers = {"with picture": 100 * float(np.mean(seen))} if seen else {}
    unread = unread_letters(rows, answers, read_as)
    return mean_score("scienceqa", rule, "accuracy", correct, numbers, unread=unread)


SCIENCEQA = Benchmark(
    "scienceqa",
    "ScienceQA, test",
    FILES,
    read,
    score,
    ("sound", "official", "lmms_eval", "internvl"),
    max_new_tokens=128,
    pictures=lambda folder: Images([path for path in (folder / "images" / "test", folder / "test") if path.is_dir()]),
)
