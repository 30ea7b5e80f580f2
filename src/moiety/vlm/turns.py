"""The turns of a row, read from ``conversations`` or ``messages``, and the pictures inside them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from moiety.groups import nearest_name
from moiety.records.json_reader import parse_json
from moiety.vlm.inline_pictures import picture_in
from moiety.vlm.problems import shown
from moiety.vlm.row_keys import refuse_marks, refuse_part, refuse_turn_keys, says_nothing, system_of

IMAGE_MARK = "<image>"
ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",
}
_SPOKEN = {"conversations": ("from", "value"), "messages": ("role", "content")}


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation.

    Args:
        role: Who speaks: ``user``, ``assistant`` or, in the first turn only, ``system``.
        text: What is said. Each ``<image>`` mark in it stands for one picture.
        order: Only for a question: whether the question and its answer belong to the pictures before them. The cone
            loss of scheme ``asymoe`` reads this; False marks a hard negative. None means that the row does not say
            it; then they belong.
    """

    role: str
    text: str
    order: bool | None = None


def turns_of(entry: Mapping[str, Any]) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    """The turns of a row, with its system sentence first, and the pictures that content parts name.

    Raises:
        ValueError: the row is not a conversation, or it holds a key that is refused.
    """
    found = [key for key in _SPOKEN if entry.get(key) is not None]
    if len(found) != 1:
        raise ValueError(f"expected one of 'conversations' and 'messages', got the keys {shown(sorted(entry))}")
    turns, pictures = _spoken(entry[found[0]], found[0])
    system = system_of(entry)
    if not system:
        return turns, pictures
    if turns[0].role != "system":
        return (Turn("system", system), *turns), pictures
    if turns[0].text != system:
        raise ValueError(f"'system' says {shown(system)} and the first turn {shown(turns[0].text)}; keep one of them")
    return turns, pictures


def _spoken(spoken: Any, key: str) -> tuple[tuple[Turn, ...], tuple[str, ...]]:
    if isinstance(spoken, str):  # columns of tables often hold the list as JSON text
        with suppress(ValueError):
            spoken = parse_json(spoken)
    if not isinstance(spoken, list) or not spoken:
        raise ValueError(f"{key!r} must be a list of at least one turn, got {shown(spoken)}")
    turns: list[Turn] = []
    pictures: list[str] = []
    places: list[Any] = []
    for number, turn in enumerate(spoken, start=1):
        role_key, text_key = _keys(turn, key)
        if not isinstance(turn, dict) or role_key not in turn or text_key not in turn:
            raise ValueError(f"turn {number} must have {role_key!r} and {text_key!r}, got {shown(turn)}")
        if not isinstance(turn[role_key], str) or turn[role_key] not in ROLES:
            raise ValueError(f"turn {number}: role {shown(turn[role_key])}; {nearest_name(str(turn[role_key]), ROLES)}")
        role = ROLES[turn[role_key]]
        refuse_turn_keys(turn, (role_key, text_key), role == "assistant", number)
        text = _content(turn[text_key], number, pictures, places)
        if role == "user":
            refuse_marks(text, number)
        turns.append(Turn(role, text, _order(turn, role, number)))
    if any(place is not None for place in places) and places != list(range(len(places))):
        raise ValueError(
            f"the parts name pictures by index in the order {shown(places)}; put the parts in the order of 'images'"
        )
    return tuple(turns), tuple(pictures)


def _keys(turn: Any, key: str) -> tuple[str, str]:
    """The keys of speaker and text: the pair that belongs to `key`, or the other pair if the turn has that one."""
    pairs = [_SPOKEN[key], *(pair for name, pair in _SPOKEN.items() if name != key)]
    return next(
        (pair for pair in pairs if isinstance(turn, dict) and all(turn.get(k) is not None for k in pair)), pairs[0]
    )


def _order(turn: dict[str, Any], role: str, number: int) -> bool | None:
    """The value of ``order`` in one turn; None if it has none."""
    mark = turn.get("order")
    if mark is None:
        return None
    if role != "user":
        raise ValueError(
            f"turn {number}: 'order' is set on a turn of the {role}; set it on the question before that turn"
        )
    if type(mark) is not int or mark not in (0, 1):
        raise ValueError(
            f"turn {number}: 'order' must be 1 (question and answer belong to the pictures) or 0 (they do not), "
            f"got {shown(mark)}"
        )
    return bool(mark)


def _content(content: Any, number: int, pictures: list[str], places: list[Any]) -> str:
    """Text of one turn, with a mark for each picture. Parts are joined by line breaks.

    This adds the pictures of the parts to `pictures`, and their ``index`` values to `places`.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError(f"turn {number}: content must be text or a list of parts, got {shown(content)}")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "text" and isinstance(part.get("text"), str):
            _refuse_part_keys(part, {"text"}, number)
            texts.append(part["text"])
        elif kind in ("image", "image_url"):
            texts.append(IMAGE_MARK)
            pictures += _picture_of(part, kind, number)
            places.append(part.get("index"))
        else:
            raise refuse_part(part, number)
    return "\n".join(texts)


def _picture_of(part: dict[str, Any], kind: str, number: int) -> list[str]:
    """A list with the picture that a content part names; an empty list if it names none."""
    _refuse_part_keys(part, {"image", "path", "url", "image_url", "index"}, number)
    named = [part[key] for key in ("image", "path", "url", "image_url") if not says_nothing(part.get(key))]
    if not named:
        return []
    value = named[0]
    if kind == "image_url" and isinstance(value, dict):
        if value.get("detail") not in (None, "auto", "high"):
            raise ValueError(
                f"turn {number}: detail {shown(value['detail'])} is not read; remove it, every picture is read in full"
            )
        value = value.get("url")
    try:
        return [picture_in(value)]
    except ValueError as error:
        raise ValueError(f"turn {number}: {error}") from error


def _refuse_part_keys(part: dict[str, Any], read: set[str], number: int) -> None:
    unread = {key: value for key, value in part.items() if key not in read | {"type"} and not says_nothing(value)}
    for key, value in unread.items():
        raise ValueError(
            f"turn {number}: {key!r} of a content part is not read ({shown(value)}); {nearest_name(key, read)}"
        )
