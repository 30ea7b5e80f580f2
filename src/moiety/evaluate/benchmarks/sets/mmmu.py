"""MMMU val: nine hundred questions from thirty college subjects. Nearly all of them have options."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, mean_score, percent_by
from moiety.evaluate.benchmarks.files.entries import Kinds, entry_with
from moiety.evaluate.benchmarks.files.layouts import SITE, Layout, Questions, hub_layout, hub_table, parts_by
from moiety.evaluate.benchmarks.files.parquet import HubTable
from moiety.evaluate.benchmarks.files.release import Release
from moiety.evaluate.benchmarks.rules.letters import LETTER_REQUEST, stated_letter
from moiety.evaluate.benchmarks.rules.open_answers import any_agrees, as_number, between_blanks, kept_tails, numbers_in
from moiety.evaluate.benchmarks.rules.yes_no import SHORT_ANSWER
from moiety.evaluate.scorers import LETTERS
from moiety.evaluate.wrappers import answer_parts
from moiety.vlm.rows import IMAGE_MARK, Row, Turn

DOMAINS: Mapping[str, tuple[str, ...]] = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        *("Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine"),
        *("Pharmacy", "Public_Health"),
    ),
    "Humanities and Social Science": ("History", "Literature", "Sociology", "Psychology"),
    "Tech and Engineering": (
        *("Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics", "Energy_and_Power"),
        *("Materials", "Mechanical_Engineering"),
    ),
}
SUBJECTS = tuple(subject for subjects in DOMAINS.values() for subject in subjects)
PICTURES = tuple(f"image_{number}" for number in range(1, 8))
CHOICE = "multiple-choice"
_KINDS: Mapping[str, Kinds] = {"id": str, "question": str, "options": (str, list), "answer": str, "question_type": str}
_SPLIT = "validation"
_SUBJECT_OF_ID = re.compile(r"[a-z]+_(.+)_\d+")
_MARK = re.compile(r"<image (\d)>")
_MARKERS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")


# -- questions ---------------------------------------------------------------------------------------------------------
def read(release: Release) -> Questions:
    """The questions of all subjects that are there, in the order of the domains.

    Each picture stands where the text mentions it first.

    Raises:
        ImportError: pyarrow is not installed.
        ValueError: a question with options has fewer than two options.
    """
    tables = {subject: hub_table(release, _SPLIT, f"!{subject}") for subject in SUBJECTS}
    files = {
        subject if len(table.files) == 1 else f"{subject}/{place}": path
        for subject, table in tables.items()
        if table is not None
        for place, path in enumerate(table.files.values())
    }
    return read_hub(HubTable(files))


def read_hub(table: HubTable) -> Questions:
    """The questions of a table with one or more subjects. The id of a question names its subject."""
    return Questions([_row(entry, file, line) for file, line, entry in table.rows()], table.pictures)


def _row(entry: Mapping[str, Any], file: str, line: int) -> Row:
    where = f"{file}: question {line - 1}"
    entry_with(dict(entry), _KINDS, where)
    named = _SUBJECT_OF_ID.fullmatch(entry["id"])
    subject = named.group(1) if named else ""
    if subject not in SUBJECTS:
        raise ValueError(f"{where}, {entry['id']!r:.40}, names no subject of MMMU; ids look like {_SPLIT}_Art_1")
    options = _listed(entry["options"], where)
    if entry["question_type"] == CHOICE and len(options) < 2:
        raise ValueError(f"{where}, {entry['id']!r}, has {len(options)} options; fetch the file again")
    if entry["question_type"] == CHOICE:
        shown = "\n".join(f"({letter}) {option}" for letter, option in zip(LETTERS, options, strict=False))
        prompt = f"{entry['question']}\n\n{shown}\n\n{LETTER_REQUEST}"
    else:
        prompt = f"{entry['question']}\n\n{SHORT_ANSWER}"
    text, names = in_place(prompt, [name for name in PICTURES if entry.get(name)])
    gold = _listed(entry["answer"], where) if str(entry["answer"]).startswith("[") else [str(entry["answer"])]
    return Row(
        entry["id"],
        (Turn("user", text),),
        tuple(str(entry[name]) for name in names),
        subject,
        tuple(gold),
        tuple(options),
        file,
        line,
        {"question_type": entry["question_type"], "subject": subject},
    )


def in_place(prompt: str, pictures: Sequence[str]) -> tuple[str, list[str]]:
    """A prompt with an image mark where it first mentions each picture, and the pictures in that order.

    Pictures without a mention come first. A second mention stays as words, and so does the mention of a picture that
    does not exist.

    Example:
        >>> in_place("Is <image 2> like <image 1>? See <image 2>.", ["image_1", "image_2", "image_3"])
        ('<image>\\nIs <image> like <image>? See image 2.', ['image_3', 'image_2', 'image_1'])
    """
    mentioned = [f"image_{number}" for number in dict.fromkeys(_MARK.findall(prompt))]
    named = [name for name in mentioned if name in pictures]
    loose = [name for name in pictures if name not in named]
    left = set(named)

    def shown(match: re.Match[str]) -> str:
        name = f"image_{match.group(1)}"
        if name in left:
            left.remove(name)
            return IMAGE_MARK
        return f"image {match.group(1)}"

    text = _MARK.sub(shown, prompt.replace(IMAGE_MARK, "image"))
    return f"{IMAGE_MARK}\n" * len(loose) + text, loose + named


def _listed(value: Any, place: str) -> list[str]:
    """A list, read from a list or from its text in Python.

    Raises:
        ValueError: the text is not a list.
    """
    try:
        parts = ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        parts = None
    if not isinstance(parts, list):
        raise ValueError(f"{place}: expected a list, got {value!r:.60}; fetch the file again")
    return [str(part) for part in parts]


# -- rules -------------------------------------------------------------------------------------------------------------
def official_letter(text: str, choices: Sequence[str]) -> str | None:
    """The letter that the released code reads; None if it finds none.

    It is ``(X)``; otherwise X between blanks; otherwise, in a text of more than five words, the option whose text
    occurs. If there are several, the last one counts.

    Source:
        AlenjandroWang/MoIIE @ c614868, ``bunny/eval/model_vqa_mmmu.py``, which draws an option where this gives None.

    Example:
        >>> said = ("Both (A) and (B)", "A good choice is B", "b", "B) pear", "B!")
        >>> [official_letter(text, ["apple", "pear"]) for text in said]
        ['B', 'B', None, None, 'B']
    """
    padded = between_blanks(text)
    letters = LETTERS[: len(choices)]
    for form in ("({})", " {} "):
        places = {letter: padded.rfind(form.format(letter)) for letter in letters if form.format(letter) in padded}
        if places:
            return max(places, key=places.__getitem__)
    return _by_words(padded, choices)


def lmms_letter(text: str, choices: Sequence[str]) -> str | None:
    """The letter that lmms-eval reads; None if it finds none.

    It differs from :func:`official_letter` in two ways. The second step needs no blank before the letter, and a further
    step accepts ``X.``. If the second step finds several letters, the one that stands last between blanks counts. If
    none stands between blanks, the first letter counts.

    Source:
        EvolvingLMMs-Lab/lmms-eval @ 75571cf, ``tasks/_task_utils/mmmu_mcq_utils.py``.

    Example:
        >>> [lmms_letter(text, ["apple", "pear"]) for text in ("Answer:B", "B. pear", "DNA test or B", "b")]
        ['B', 'B', 'B', None]
    """
    padded = between_blanks(text)
    letters = LETTERS[: len(choices)]
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {}.")):
        found = [letter for letter in letters if form.format(letter) in padded]
        if found:
            return max(found, key=lambda letter: padded.rfind(place.format(letter)))
    return _by_words(padded, choices)


def _by_words(padded: str, choices: Sequence[str]) -> str | None:
    if len(padded.split()) <= 5:
        return None
    lowered = padded.lower()
    places = {
        letter: lowered.rfind(choice.lower())
        for letter, choice in zip(LETTERS, choices, strict=False)
        if choice.lower() in lowered
    }
    return max(places, key=places.__getitem__) if places else None


def open_candidates(text: str) -> list[float | str]:
    """What a free answer may mean: numbers with two decimals, and texts in lower case.

    A single character gets a blank before or after it, so that it is not found inside words.

    Example:
        >>> open_candidates("So the result is 0.3"), open_candidates("It could be C")
        ([0.3], [' c', 'c '])
    """
    lowered = text.strip().strip(".").lower()
    kept = kept_tails(lowered.split("\n"), _MARKERS, ("=",)) or [lowered]
    numbers = [number for piece in kept for number in numbers_in(piece, ",", bounded=True)]
    return list(dict.fromkeys(value for piece in (*kept, *numbers) for value in _normal(piece)))


def _normal(text: str) -> list[float | str]:
    number = as_number(text.strip())
    if number is not None:
        return [number]
    lowered = text.strip().lower()
    return [f" {lowered}", f"{lowered} "] if len(lowered) == 1 else [lowered]


def is_open_right(text: str, gold: Sequence[str]) -> bool:
    """Whether a number of the answer is equal to a right number, or a text of the answer contains a right text.

    Source:
        AlenjandroWang/MoIIE @ c614868, ``eval/mmmu/eval_mmmu.py``. lmms-eval @ 75571cf compares single characters, so
        that no open answer can be right; this is not repeated here.
    """
    wanted = [value for answer in gold for value in _normal(answer)]
    return any_agrees(open_candidates(text), wanted)


LETTER_RULES = {"sound": stated_letter, "official": official_letter, "lmms_eval": lmms_letter}


def mark(row: Row, text: str, rule: str) -> float:
    """Mark of an answer: 0 or 1; if the released scorer would draw one of n options, 1 / n."""
    if row.extra["question_type"] != CHOICE:
        said = [text, *(part.text for part in answer_parts(text)[:1] if rule == "sound")]
        return float(any(is_open_right(one, row.answers) for one in said))
    if rule == "parsed":
        return float(text == row.answers[0])
    letter = LETTER_RULES[rule](text, row.choices)
    if letter is None:
        return 0.0 if rule == "sound" else 1 / len(row.choices)
    return float(letter == row.answers[0])


def is_read(row: Row, text: str, rule: str) -> bool:
    """Whether a rule finds an option in a text. For a question without options, any text counts as read."""
    if row.extra["question_type"] != CHOICE:
        return bool(text.strip())
    letter = text if rule == "parsed" else LETTER_RULES[rule](text, row.choices)
    return letter in tuple(LETTERS[: len(row.choices)])


def score(rows: Sequence[Row], answers: Mapping[str, str], rule: str) -> BenchmarkScore:
    """Accuracy over all questions, per domain and per subject, in percent.

    - ``sound``: :func:`moiety.evaluate.benchmarks.rules.letters.stated_letter`. Nothing is guessed.
    - ``official``: :func:`official_letter`. If it finds no letter, the source draws one of n options at random. Here
      such an answer scores 1 / n, the mean of these draws.
    - ``lmms_eval``: :func:`lmms_letter`, and 1 / n in the same way.
    - ``parsed``: answers are letters already, as ``eval_mmmu.py`` expects them; ``B.`` is wrong.

    Open questions are scored by :func:`is_open_right` under every rule; ``sound`` first removes thinking and wrappers.
    """
    correct = {row.id: mark(row, answers[row.id], rule) for row in rows}
    domain_of = {subject: domain for domain, subjects in DOMAINS.items() for subject in subjects}
    numbers = {
        **percent_by(rows, correct, lambda row: f"Overall-{domain_of[row.extra['subject']]}"),
        **percent_by(rows, correct, lambda row: row.extra["subject"]),
    }
    drawn = sum(0 < value < 1 for value in correct.values())
    notes = (f"{drawn} answers name no option and count as options drawn at random",) if drawn else ()
    unread = sum(not is_read(row, answers[row.id], rule) for row in rows)
    return mean_score("mmmu", rule, "accuracy", correct, numbers, notes, unread)


def floor(rows: Sequence[Row], rule: str) -> float:
    """Score of a model that never answers: 0; under ``official`` and ``lmms_eval``, the score of random options."""
    if rule in ("sound", "parsed"):
        return 0.0
    shares = [1 / len(row.choices) if row.extra["question_type"] == CHOICE else 0.0 for row in rows]
    return 100 * float(np.mean(shares))


MMMU = Benchmark(
    "mmmu",
    "MMMU, val",
    (
        Layout(
            SITE,
            (tuple(f"{subject}/{_SPLIT}-*.parquet" for subject in SUBJECTS),),
            read,
            "SUBJECT/validation-*.parquet for any of the 30 subjects, Accounting/ to Sociology/",
        ),
        hub_layout(_SPLIT, read_hub),
    ),
    score,
    ("sound", "official", "lmms_eval", "parsed"),
    max_new_tokens=128,
    floor=floor,
    portion=parts_by(lambda row: str(row.type), SUBJECTS),
)
