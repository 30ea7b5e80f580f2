"""AI2D: diagrams of school books, four options."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from moiety.evaluate.benchmarks.benchmark import Benchmark, BenchmarkScore, asked, mean_score
from moiety.evaluate.benchmarks.entries import entry_with, list_in
from moiety.evaluate.benchmarks.files import published, read_json, read_lines
from moiety.evaluate.benchmarks.letters import option_prompt, stated_letter
from moiety.evaluate.scorers import LETTERS
from moiety.vlm.images import Images
from moiety.vlm.rows import Row

FILES = (
    "ai2d_test.jsonl or ai2d_test.json (question, options, answer = index of the right one, image; question_id where "
    "there is one); pictures in images/ or beside it"
)
_MARKERS = ("answer is", "answer is:", "answer:", "assistant:")
_LETTER_AND_STOP = re.compile(r"\s*([A-Z])\.")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def read(folder: Path) -> list[Row]:
    """Questions in the order of the file; without ``question_id`` their place in the file is their id.

    Raises:
        ValueError: an answer is not the index of one of the options.
    """
    path = published(folder, "ai2d_test.jsonl", "ai2d_test.json")
    whole = path.name.startswith("ai2d_test.json") and "jsonl" not in path.name
    entries = enumerate(list_in(read_json(path), path), start=1) if whole else read_lines(path)
    rows = []
    for number, entry in entries:
        entry_with(entry, {"question": str, "options": list, "answer": (str, int), "image": str}, f"{path}:{number}")
        options = [str(option) for option in entry["options"]]
        answer = str(entry["answer"])
        if not answer.isdecimal() or int(answer) >= len(options):
            raise ValueError(f"{path}:{number}: answer {answer!r} is no index of its {len(options)} options, from 0")
        letter = LETTERS[int(answer)]
        rows.append(
            asked(
                str(entry.get("question_id", number)),
                option_prompt(entry["question"], options),
                [entry["image"]],
                answers=[letter],
                choices=options,
                extra={"answer": answer},
                file=str(path),
                line=number,
            )
        )
    return rows


# -- rules: a letter, capital or not, or None --------------------------------------------------------------------------
def official_character(text: str, choices: Sequence[str]) -> str:
    """One small character: the first behind the last of four phrases, without brackets and stops around it.

    So ``because`` is b, and ``the answer is: b`` is ``:``, because ``answer is`` comes first in the list.

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
    """Index as the source compares it: of a letter, or the character itself."""
    character = official_character(text, choices)
    place = "abcd".find(character) if character else -1
    return str(place) if place >= 0 else character


def lmms_filtered(text: str) -> str:
    """The capital letter that opens the text with a full stop behind it, else the text as it is.

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
    """Accuracy in percent; silence scores 0.

    ``sound`` is :func:`moiety.evaluate.benchmarks.letters.stated_letter`, ``official`` :func:`official_character` (a
    digit is taken for an index), ``lmms_eval`` :func:`lmms_filtered` and then the letter without case and punctuation,
    ``internvl`` the letter alone (OpenGVLab/InternVL @ 2410d1d, ``evaluate_vqa.py``).
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
    FILES,
    read,
    score,
    ("sound", "official", "lmms_eval", "internvl"),
    max_new_tokens=512,
    together=lambda row: row.images,
    pictures=lambda folder: Images([path for path in (folder / "images", folder) if path.is_dir()]),
)
