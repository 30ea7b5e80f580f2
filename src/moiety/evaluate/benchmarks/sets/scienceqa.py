"""ScienceQA: school questions with two to five options, about half of them with a picture."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked, mean_score
from moiety.evaluate.benchmarks.files.entries import NOTHING, entry_with, list_in, object_in, texts_in
from moiety.evaluate.benchmarks.files.layouts import LLAVA, SITE, Layout, Questions, beside, hub_layout, parts_by
from moiety.evaluate.benchmarks.files.parquet import HubTable
from moiety.evaluate.benchmarks.files.questions import read_json
from moiety.evaluate.benchmarks.files.release import Release
from moiety.evaluate.benchmarks.rules.letters import LETTER_REQUEST, stated_letter, unread_letters
from moiety.evaluate.scorers import LETTERS
from moiety.vlm.rows import Row

QUESTION_FILES = ("llava_test_CQM-A.json", "bunny_test_CQM-A.json")
PICTURES = ("images/test", "test")
KINDS = ("with picture", "text only")
_OFFICIAL = LETTERS[:5]
_ANSWER_IS = re.compile(r"The answer is ([A-Z]).")


def read(release: Release) -> Questions:
    """The questions of the test split, in the order of the question file. Choices and answers are joined by id.

    The file may hold only a part of the split, for instance the questions with a picture.

    Raises:
        ValueError: a question is not in the test split or has no problem, or an answer is not the index of a choice.
    """
    path = release.one(*QUESTION_FILES)
    problems, split = _problems(release)
    entries = list_in(read_json(path), path)
    for number, entry in enumerate(entries, start=1):
        entry_with(entry, {"id": (int, str), "conversations": list}, f"{path}: question {number}")
    ids = {str(entry["id"]) for entry in entries}
    apart = sorted(ids - set(split)) + sorted(ids - problems.keys())
    if apart:
        raise ValueError(
            f"scienceqa: {path.name}, the test split of pid_splits.json and problems.json in {release.folder} do not "
            f"hold the same questions, first difference {apart[0]!r}; fetch them from one place"
        )
    rows = [_of_conversation(entry, problems, str(path), number) for number, entry in enumerate(entries, start=1)]
    return Questions(rows, beside(release, *PICTURES), _lacking(rows, split))


def read_site(release: Release) -> Questions:
    """The questions of the test split, made from the problems, with the prompts of LLaVA.

    The folder may hold the problems of only a part of the split.

    Raises:
        ValueError: an answer is not the index of a choice.
    """
    problems, split = _problems(release)
    rows = []
    for number, name in enumerate((name for name in split if name in problems), start=1):
        picture = problems[name].get("image")
        shown = f"{name}/{picture}" if picture else None
        rows.append(_of_problem(name, problems[name], shown, f"problems.json in {release.folder}", number))
    return Questions(rows, beside(release, *PICTURES), _lacking(rows, split))


def read_hub(table: HubTable) -> Questions:
    """The questions of the table from the Hugging Face Hub. It has no ids, so the ids are its lines, from 0."""
    rows = [
        _of_problem(str(place), entry, entry.get("image"), file, line)
        for place, (file, line, entry) in enumerate(table.rows())
    ]
    return Questions(rows, table.pictures)


def _problems(release: Release) -> tuple[dict[str, Any], list[str]]:
    """Problems by id, and the ids of the test split."""
    path, split_path = release.one("problems.json"), release.find("pid_splits.json")
    problems = object_in(read_json(path), path)
    if split_path is not None:
        return problems, [str(name) for name in list_in(read_json(split_path), split_path, "test")]
    return problems, [name for name, problem in problems.items() if problem.get("split", "test") == "test"]


def _lacking(rows: Sequence[Row], split: Sequence[str]) -> str:
    """How much of the test split is asked; empty if all of it is asked, or exactly the questions with a picture."""
    if len(rows) == len(split) or all(row.extra["has_image"] for row in rows):
        return ""
    return f"{len(rows):,} of {len(split):,} questions"


def _of_conversation(entry: Mapping[str, Any], problems: Mapping[str, Any], path: str, number: int) -> Row:
    place = f"{path}: question {number}"
    first = (entry["conversations"] or [None])[0]
    question = entry_with(first, {"value": str}, place)["value"].replace("<image>", "").strip()
    picture = entry_with({"image": None, **entry}, {"image": (str, NOTHING)}, place)["image"]
    return _row(str(entry["id"]), question, problems[str(entry["id"])], picture, path, number)


def _of_problem(name: str, problem: Any, picture: str | None, path: str, number: int) -> Row:
    """A question with the prompt of LLaVA: first the context, then the question and the options."""
    place = f"{path}: question {name!r}"
    entry_with(problem, {"question": str, "choices": list}, place)
    known = f"Context: {problem['hint']}\n" if problem.get("hint") else ""
    options = "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, problem["choices"], strict=False))
    return _row(name, f"{known}{problem['question']}\n{options}", problem, picture, path, number)


def _row(name: str, question: str, problem: Any, picture: str | None, path: str, number: int) -> Row:
    place = f"{path}: question {number}"
    problem = entry_with(problem, {"choices": list, "answer": int}, f"{path}: its problem")
    choices = texts_in(problem, "choices", place)
    if not 0 <= problem["answer"] < len(choices):
        raise ValueError(
            f"{place}: answer {problem['answer']} is not the index of one of its {len(choices)} choices, counted from 0"
        )
    answer = LETTERS[problem["answer"]]
    return asked(
        name,
        f"{question}\n{LETTER_REQUEST}",
        [picture] if picture else [],
        answers=[answer],
        choices=choices,
        type=KINDS[0] if picture else KINDS[1],
        extra={"answer": answer, "has_image": bool(picture)},
        file=path,
        line=number,
    )


# -- rules -------------------------------------------------------------------------------------------------------------
def official_letter(text: str, choices: Sequence[str]) -> str:
    """The rule of LLaVA: the letter alone, ``X. ...``, or one ``The answer is X`` with another character after it.

    Any other answer gives ``FAILED``, for instance ``A.`` alone, ``(A)``, ``a``, or ``The answer is A`` at the end.

    Source:
        AlenjandroWang/MoIIE @ c614868, ``eval/scienceqa/eval_science_qa.py``. Its random choice is never reached.

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
    """A single letter in any case, or a capital letter at the start if a full stop follows it.

    Source:
        EvolvingLMMs-Lab/lmms-eval @ 75571cf, ``tasks/scienceqa/utils.py``.
    """
    bare = text.strip()
    opens = len(bare) >= 2 and bare[0].isupper() and bare[1] == "."
    return bare[0] if opens else bare.upper()


def internvl_letter(text: str, choices: Sequence[str]) -> str:
    """The letter that the code of InternVL reads.

    It is the first character if that is a letter of an option; otherwise the first option whose text occurs in the
    answer; otherwise the letter of ``X.`` or ``(X)`` at the start.

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
    """Accuracy over all questions (the headline) and over those with a picture. An empty answer scores 0.

    Rules are :func:`official_letter`, :func:`lmms_letter`, :func:`internvl_letter` and, as default ``sound``,
    :func:`moiety.evaluate.benchmarks.rules.letters.stated_letter`.
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
    (
        Layout(
            LLAVA,
            (QUESTION_FILES, "problems.json", "pid_splits.json"),
            read,
            beside="the first file may hold only questions with pictures; pictures in images/test/ID/image.png",
        ),
        Layout(
            SITE,
            (("data/scienceqa/problems.json", "problems.json"), "pid_splits.json"),
            read_site,
            beside="pictures in images/test/ID/image.png",
        ),
        hub_layout("test", read_hub, "ScienceQA-FULL"),
        hub_layout("test", read_hub, "!ScienceQA-IMG"),
    ),
    score,
    ("sound", "official", "lmms_eval", "internvl"),
    max_new_tokens=128,
    portion=parts_by(lambda row: str(row.type), KINDS),
)
