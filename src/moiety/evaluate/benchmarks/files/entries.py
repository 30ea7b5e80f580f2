"""Checks entries of official files, and ends prompts with the usual request for a short answer."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moiety.evaluate.benchmarks.files.release import Readable
from moiety.evaluate.benchmarks.rules.yes_no import SHORT_ANSWER
from moiety.records.saving import write_atomically

Kinds = type | tuple[type, ...]
NOTHING = type(None)
_KINDS = {str: "a text", int: "a whole number", float: "a number", list: "a list", dict: "an object", NOTHING: "null"}
_OFFICIAL = "is this the official file?"


def entry_with(entry: Any, kinds: Mapping[str, Kinds], place: str) -> dict[str, Any]:
    """`entry` itself, once it is an object that has the keys of `kinds` with values of those kinds.

    Raises:
        ValueError: it is not.

    Example:
        >>> entry_with({"question": "Why?", "id": 3}, {"question": str}, "questions.json: question 0")
        {'question': 'Why?', 'id': 3}
    """
    if not isinstance(entry, dict):
        raise ValueError(f"{place}: expected an object, got {entry!r:.60}; {_OFFICIAL}")
    missing = [key for key in kinds if key not in entry]
    if missing:
        found = ", ".join(map(repr, entry)) or "nothing"
        raise ValueError(f"{place} lacks {', '.join(map(repr, missing))}; it has {found}: {_OFFICIAL}")
    for key, kind in kinds.items():
        if not isinstance(entry[key], kind):
            wanted = " or ".join(_KINDS[one] for one in (kind if isinstance(kind, tuple) else (kind,)))
            raise ValueError(f"{place}: {key!r} must be {wanted}, got {entry[key]!r:.60}; {_OFFICIAL}")
    return entry


def texts_in(entry: Mapping[str, Any], key: str, place: str) -> list[str]:
    """A list of texts, or one text as a list of one.

    Raises:
        ValueError: it is neither.
    """
    values = [entry[key]] if isinstance(entry[key], str) else entry[key]
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ValueError(f"{place}: {key!r} must be a list of texts, got {entry[key]!r:.60}; {_OFFICIAL}")
    return values


def people_in(entry: Mapping[str, Any], place: str) -> list[str]:
    """The answers of people, under ``answers``: texts, objects with ``answer``, or an object with a list under it.

    The first is TextVQA's form, the second VQAv2's and VizWiz', the third that of a sequence of the hub.

    Raises:
        ValueError: it is none of them.

    Example:
        >>> people_in({"answers": [{"answer": "red", "answer_id": 1}]}, ""), people_in({"answers": ["red"]}, "")
        (['red'], ['red'])
    """
    given = entry.get("answers")
    if isinstance(given, dict):
        given = given.get("answer")
    if isinstance(given, list) and all(isinstance(one, dict) for one in given):
        given = [one.get("answer") for one in given]
    if not isinstance(given, list) or not all(isinstance(one, str) for one in given):
        raise ValueError(f"{place}: 'answers' must be a list of texts, got {entry.get('answers')!r:.60}; {_OFFICIAL}")
    return given


def list_in(document: Any, path: Readable, key: str | None = None) -> list[Any]:
    """The list of entries of a file, under `key` if one is given.

    Raises:
        ValueError: there is none.
    """
    entries = document.get(key) if key is not None and isinstance(document, dict) else document
    if not isinstance(entries, list):
        what = "a list" if key is None else f"a list under {key!r}"
        raise ValueError(f"{path}: expected {what}, got {type(entries).__name__}; {_OFFICIAL}")
    return entries


def object_in(document: Any, path: Readable) -> dict[str, Any]:
    """The object name -> entry of a file.

    Raises:
        ValueError: there is none.
    """
    if not isinstance(document, dict):
        raise ValueError(f"{path}: expected an object of entries, got {type(document).__name__}; {_OFFICIAL}")
    return document


def asked_shortly(question: str) -> str:
    """The question and, on a line of its own, the sentence with which the LLaVA line asks for a short answer."""
    return f"{question}\n{SHORT_ANSWER}"


def write_document(path: Path, document: Any) -> None:
    """Write one JSON document, whole or not at all. As ASCII it can hold answers with broken characters."""
    write_atomically(path, json.dumps(document, indent=1) + "\n")
