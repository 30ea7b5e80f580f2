"""AI2D: questions about diagrams in school books, with four options each."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked, mean_score
from moiety.evaluate.benchmarks.files.entries import entry_with, object_in
from moiety.evaluate.benchmarks.files.layouts import LLAVA, SITE, Layout, Questions, beside, hub_layout
from moiety.evaluate.benchmarks.files.parquet import HubTable
from moiety.evaluate.benchmarks.files.questions import read_entries, read_json, text_of
from moiety.evaluate.benchmarks.files.release import Release
from moiety.evaluate.benchmarks.rules.letters import option_prompt, stated_letter
from moiety.evaluate.scorers import LETTERS
from moiety.vlm.rows import Row

LISTED = ("ai2d_test.jsonl", "ai2d_test.json")
TEST_IDS = "ai2d_test_ids.csv"
_MARKERS = ("answer is", "answer is:", "answer:", "assistant:")
_LETTER_AND_STOP = re.compile(r"\s*([A-Z])\.")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def read(release: Release) -> Questions:
    """Questions of one list, in its order. A question without ``question_id`` has its place in the list as id.

    Raises:
        ValueError: an answer is not the index of one of the options.
    """
    path = release.one(*LISTED)
    rows = []
    for number, entry in read_entries(path):
        entry_with(entry, {"image": str}, f"{path}:{number}")
        rows.append(_row(str(entry.get("question_id", number)), entry, entry["image"], str(path), number))
    return Questions(rows, beside(release, "images"))


def read_site(release: Release) -> Questions:
    """The questions of the release about the pictures in its list of test ids; the release has a file per picture."""
    listed = release.one(TEST_IDS)
    ids = {line.strip().strip('"').removesuffix(".png") for line in text_of(listed).split("\n")} - {""}
    rows = []
    for path in release.all("questions/*.json"):
        document = object_in(read_json(path), path)
        picture = str(document.get("imageName") or path.name.split(".json")[0])
        if PurePosixPath(picture).stem not in ids:
            continue
        asked_of = document.get("questions", {})
        for number, (question, entry) in enumerate(object_in(asked_of, path).items(), start=1):
            entry = entry_with(
                entry, {"answerTexts": list, "correctAnswer": int, "questionId": str}, f"{path}:{number}"
            )
            known = {"question": question, "options": entry["answerTexts"], "answer": entry["correctAnswer"]}
            rows.append(_row(entry["questionId"], known, picture, str(path), number))
    return Questions(rows, beside(release, "images"))


def read_hub(table: HubTable) -> Questions:
    """The questions of the table from the Hugging Face Hub. Ids are its lines, from 1. Equal pictures count as one."""
    rows, names = [], dict[str, str]()
    for place, (file, line, entry) in enumerate(table.rows(same=["image"]), start=1):
        picture = str(entry.get("image#same") or f"{file}:{line}")  # a table without pictures can be scored
        names.setdefault(picture, str(entry.get("image")))
        rows.append(_row(str(place), entry, picture, file, line))
    return Questions(rows, lambda: table.pictures(names))


def _row(name: str, entry: Mapping[str, Any], picture: str, file: str, line: int) -> Row:
    place = f"{file}:{line}"
    entry = entry_with(dict(entry), {"question": str, "options": list, "answer": (str, int)}, place)
    options = [str(option) for option in entry["options"]]
    answer = str(entry["answer"])
    if not answer.isdecimal() or int(answer) >= len(options):
        raise ValueError(
            f"{place}: answer {answer!r} is not the index of one of its {len(options)} options, counted from 0"
        )
    return asked(
        name,
        option_prompt(entry["question"], options),
        [picture],
        answers=[LETTERS[int(answer)]],
        choices=options,
        extra={"answer": answer},
        file=file,
        line=line,
    )


# -- rules: a letter, capital or not, or None --------------------------------------------------------------------------
def official_character(text: str, choices: Sequence[str]) -> str:
    """The character that the released code takes for the answer, in lower case.

    The code looks for four phrases, such as ``answer is``, and reads the text after each of them. It removes brackets
    and full stops around the rest and takes its first character. So ``because`` gives b. ``the answer is: b`` gives
    ``:``, because the phrase ``answer is`` comes before ``answer is:`` in the list.

    Source:
        AlenjandroWang/MoIIE @ c614868, ``bunny/eval/ai2d/ai2d_test.py``.

    Example:
        >>> [official_character(text, []) for text in ("(B)", "Answer: A", "because", "the answer is: b", "option b")]
        ['b', 'a', 'b', ':', 'o']
    """
    rest = text.lower().strip()
    for marker in _MARKERS:
        rest = rest.rsplit(marker, 1)[-1]
    bare = rest.strip().rstrip(".:,").lstrip("(").rstrip(")")
    return bare[:1]


def _official_index(text: str, choices: Sequence[str]) -> str:
    """The index of a letter, as the source compares it; any other character stays as it is."""
    character = official_character(text, choices)
    place = "abcd".find(character) if character else -1
    return str(place) if place >= 0 else character


def lmms_filtered(text: str) -> str:
    """The capital letter at the start of the text if a full stop follows it; otherwise the whole text.

    Source:
        EvolvingLMMs-Lab/lmms-eval @ 75571cf, ``tasks/ai2d``.
    """
    opening = _LETTER_AND_STOP.match(text)
    return opening.group(1) if opening else text


def _index_of(letter: str | None) -> str | None:
    place = LETTERS.find(letter.upper()) if letter and len(letter) == 1 else -1
    return str(place) if place >= 0 else None


RULES: Mapping[str, Callable[[str, Sequence[str]], str | None]] = {
    "sound": lambda text, choices: _index_of(stated_letter(text, choices)),
    "official": _official_index,
    "lmms_eval": lambda text, choices: _index_of(lmms_filtered(text).translate(_NO_PUNCTUATION)),
    "internvl": lambda text, choices: _index_of(text.strip()),
}


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Accuracy in percent. An empty answer scores 0.

    - ``sound``: :func:`moiety.evaluate.benchmarks.rules.letters.stated_letter`.
    - ``official``: :func:`official_character`; a digit is read as an index.
    - ``lmms_eval``: :func:`lmms_filtered`, then the letter without case and punctuation.
    - ``internvl``: the text must be the letter alone (OpenGVLab/InternVL @ 2410d1d, ``evaluate_vqa.py``).
    """
    read_as = RULES[rule]
    correct = {row.id: float(read_as(answers[row.id], row.choices) == row.extra["answer"]) for row in rows}
    places = (read_as(answers[row.id], row.choices) for row in rows)
    unread = sum(
        place not in [str(n) for n in range(len(row.choices))] for place, row in zip(places, rows, strict=True)
    )
    return mean_score("ai2d", rule, "accuracy", correct, unread=unread)


AI2D = Benchmark(
    "ai2d",
    "AI2D, test",
    (
        Layout(
            LLAVA,
            (LISTED,),
            read,
            "ai2d_test.jsonl or ai2d_test.json (question, options, answer = index of the right one, image)",
            "pictures in images/",
        ),
        Layout(SITE, (TEST_IDS, "questions/*.json"), read_site, beside="pictures in images/"),
        hub_layout("test", read_hub),
    ),
    score,
    ("sound", "official", "lmms_eval", "internvl"),
    max_new_tokens=512,
    together=lambda row: row.images,
)
