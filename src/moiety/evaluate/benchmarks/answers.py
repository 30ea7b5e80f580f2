"""Files of answers made here or elsewhere, read as row id -> text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from moiety.evaluate.benchmarks.files import read_json, read_lines

ID_KEYS = ("id", "question_id", "questionId", "index")
TEXT_KEYS = ("prediction", "text", "answer", "response")


def read_answers(path: Path) -> dict[str, str]:
    """Answers of a JSON-lines file, of a JSON list of such objects, or of one JSON object id -> text.

    An object has its id under ``id``, ``question_id``, ``questionId`` or ``index`` and its text under ``prediction``,
    ``text``, ``answer`` or ``response``, of each the first there is. The first line of a predictions file made here,
    which names its settings, is passed over.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line has no id or no text, or an id occurs twice.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no answers at {path}")
    answers: dict[str, str] = {}
    for place, name, text in _entries(path):
        if not isinstance(text, str):
            raise ValueError(f"{place}: the answer to {name!r} is no text, got {text!r:.80}")
        if name in answers:
            raise ValueError(f"{place}: {name!r} is answered a second time; each question has one answer")
        answers[name] = text
    return answers


def _entries(path: Path) -> Iterator[tuple[str, str, Any]]:
    """Place, id and text of every answer."""
    if path.name.removesuffix(".gz").endswith(".json"):
        whole = read_json(path)
        if isinstance(whole, dict):
            yield from ((str(path), name, text) for name, text in whole.items())
            return
        if not isinstance(whole, list):
            raise ValueError(f"{path}: expected a list or an object id -> text, got {type(whole).__name__}")
        lines: Iterator[tuple[int, Any]] = enumerate(whole, start=1)
    else:
        lines = read_lines(path)
    for number, entry in lines:
        if number == 1 and isinstance(entry, dict) and set(entry) == {"settings"}:
            continue
        place = f"{path}:{number}"
        yield place, str(_first(entry, ID_KEYS, "id", place)), _first(entry, TEXT_KEYS, "text", place)


def _first(entry: Any, keys: tuple[str, ...], what: str, place: str) -> Any:
    if isinstance(entry, Mapping):
        for key in keys:
            if key in entry:
                return entry[key]
    raise ValueError(f"{place}: no {what} under any of {', '.join(keys)}, got {entry!r:.80}")
