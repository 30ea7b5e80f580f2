"""Turns multiple-choice rows into open questions, for models that cannot choose among letters."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from moiety.evaluate.question_floors import accepted_answers
from moiety.evaluate.scorers import LETTERS, option_letter
from moiety.records.saving import whole_file
from moiety.vlm.inline_pictures import InlinePicture
from moiety.vlm.rows import ROLES, Row, load_rows

SHORT_ANSWER = "Answer with one word or a short phrase."
"""Last line of an opened question: what LLaVA's data ask short answers with."""
_SPEAKS_OF_LETTERS = re.compile(r"\b(?:letters?|options?)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Opened:
    """The numbers of rows that :func:`open_choices` wrote: rows that lost their options, and rows that had none."""

    num_opened: int
    num_kept: int


def open_choices(source: str | Path, target: str | Path, instruction: str = SHORT_ANSWER) -> Opened:
    """Write the rows of `source` without options, so that answers are words and not letters.

    The last question loses the lines with its options and the lines about letters, and ends with `instruction`;
    ``answers``, ``prior_answer`` and the last answer become the words of their option. Rows without ``choices`` are not
    changed. An older file at `target` is replaced only if all rows are good.

    Args:
        source: Conversation file (JSON or JSONL).
        target: JSONL to write.
        instruction: Last line of an opened question.

    Raises:
        FileNotFoundError: there is no `source`.
        ValueError: `target` is `source`, an answer or ``prior_answer`` is none of the row's options, or an option of
            the question has no line of its own.
    """
    if Path(target).resolve() == Path(source).resolve():
        raise ValueError(f"{target} is the file that is read; give another name, so that its letters are not lost")
    rows = load_rows([source])
    opened = [open_row(row, instruction) if row.choices else row for row in rows]
    with whole_file(target) as fresh:
        lines = (_line(row_entry(row)) for row in opened)
        fresh.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    num_opened = sum(bool(row.choices) for row in rows)
    return Opened(num_opened, len(rows) - num_opened)


def open_row(row: Row, instruction: str = SHORT_ANSWER) -> Row:
    """One row without its options, see :func:`open_choices`.

    Example:
        >>> from moiety.vlm.rows import parse_row
        >>> row = parse_row({"id": 1, "choices": ["red", "blue"], "answers": ["B"], "conversations": [
        ...     {"from": "human", "value": "Which color?\\nA. red\\nB. blue\\nAnswer with the letter."},
        ...     {"from": "gpt", "value": "B"}]})
        >>> open_row(row).turns[0].text, open_row(row).answers
        ('Which color?\\nAnswer with one word or a short phrase.', ('blue',))
    """
    asked = max((place for place, turn in enumerate(row.turns) if turn.role == "user"), default=None)
    if asked is None:
        raise ValueError(f"{row.place}: has choices and no question; give a turn of the user")
    turns = list(row.turns)
    turns[asked] = replace(turns[asked], text=_without_options(row, turns[asked].text, instruction))
    if turns[-1].role == "assistant":
        turns[-1] = replace(turns[-1], text=_words(row, turns[-1].text))
    answers = tuple(_words(row, answer) for answer in accepted_answers(row))
    prior = row.extra.get("prior_answer")
    extra = row.extra if prior is None else {**row.extra, "prior_answer": _words(row, prior)}
    return replace(row, turns=tuple(turns), answers=answers, choices=(), extra=extra)


def row_entry(row: Row) -> dict[str, Any]:
    """A row as the JSON object that :func:`~moiety.vlm.rows.parse_row` reads back, in the LLaVA form.

    Example:
        >>> from moiety.vlm.rows import parse_row
        >>> entry = {"id": "1", "image": ["a.png"], "conversations": [{"from": "human", "value": "<image>"}]}
        >>> row_entry(parse_row(entry)) == entry
        True
    """
    names = {role: name for name, role in reversed(ROLES.items())}
    turns = [
        {"from": names[turn.role], "value": turn.text} | ({} if turn.order is None else {"order": int(turn.order)})
        for turn in row.turns
    ]
    listed = {"answers": list(row.answers), "choices": list(row.choices), "type": row.type}
    return {
        "id": row.id,
        **({"image": [_whole(name) for name in row.images]} if row.images else {}),
        "conversations": turns,
        **{key: value for key, value in listed.items() if value},
        **row.extra,
    }


def _whole(name: str) -> str:
    """A picture as a file of rows holds it: its name, or the picture itself if the row held it."""
    return name.url if isinstance(name, InlinePicture) else name


def _line(entry: dict[str, Any]) -> str:
    """One line of JSON. Values that JSON does not know become text, and bytes become base64."""
    text = json.dumps(entry, ensure_ascii=False, default=_plain)
    return text if text.isascii() or _is_whole(text) else json.dumps(entry, default=_plain)


def _plain(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else str(value)


def _is_whole(text: str) -> bool:
    """Whether UTF-8 can hold a text. Broken characters in fields that moiety does not read stay escaped."""
    return text.encode("utf-8", "replace").decode() == text


def _without_options(row: Row, question: str, instruction: str) -> str:
    """The question without the lines of options and the lines about letters, followed by the instruction."""
    lines = question.split("\n")
    kept = [line for line in lines if not _is_option(line, row.choices) and not _SPEAKS_OF_LETTERS.search(line)]
    found = {line for line in lines if _is_option(line, row.choices)}
    if len(found) < len(row.choices):
        raise ValueError(
            f"{row.place}: {len(row.choices)} choices, but {len(found)} options in lines of their own (`A. red`); "
            "write the question so, or take this row out"
        )
    return "\n".join([*kept, instruction])


def _is_option(line: str, choices: Sequence[str]) -> bool:
    return any(
        line.strip() in (f"{letter}. {choice}", f"({letter}) {choice}", f"{letter}) {choice}")
        for letter, choice in zip(LETTERS, choices, strict=False)
    )


def _words(row: Row, answer: object) -> str:
    """The words of the option that an answer names."""
    letter = option_letter(answer, row.choices) if isinstance(answer, str) else None
    if letter is None:
        raise ValueError(f"{row.place}: answer {answer!r} names none of its choices {', '.join(row.choices)}")
    return row.choices[LETTERS.index(letter)]
