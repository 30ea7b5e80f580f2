"""The keys of a row and of a turn: which keys are read, which are refused, and which are kept but not read.

A key that would change what a model learns is either read or refused. It is never ignored. ``docs/rows.md`` has the
same tables.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from moiety.vlm.problems import shown

ROW_KEYS = {
    "id": "name of the row in messages and predictions, a text or a whole number; null and an empty text are no id",
    "conversations": "the turns, LLaVA style: `from` (`human`, `gpt`, `system`) and `value`; or `role` and `content`",
    "messages": "the turns as chat APIs write them: `role` (`user`, `assistant`, `system`) and `content`",
    "image": "one picture or a list, in the order of the `<image>` marks",
    "images": "the same as `image`; a row has one of them",
    "system": "system sentence, put before the first turn; also spelled `system_prompt`, `system_message` and the like",
    "type": "kind of question; scores are counted for each",
    "answers": "accepted answers to the last question, a text or a list; without it the last answer counts",
    "choices": "options of a multiple-choice question, in the order A, B, C, …",
    "prior_answer": "what memory alone would say; `evaluate` counts how often a model believes it against the evidence",
    "context": "passage that the question quotes word for word; decoding `context_aware` asks again without it",
    "answer_box": "where in the first picture the answer stands: left, top, right, bottom in 0..1; read by `ground`",
}
"""Keys of a row that something reads, and what they mean."""

TURN_KEYS = {
    "from": "who speaks: `human` (or `user`), `gpt` (or `assistant`), `system`",
    "value": "what is said: a text, or a list of parts",
    "role": "as `from`",
    "content": "as `value`",
    "order": "of a question: 1, it belongs to the pictures (as without the key); 0, it does not, a hard negative for "
    "the cone loss of scheme `asymoe`",
}
"""Keys of a turn that are read, and what they mean."""

CARRIED = "id index turn turn_id message_id timestamp time date created_at lang language source model metadata"
"""Keys of a turn that nothing reads and that change nothing. In a row, every key that is not refused is such a key."""

_SYSTEM = {"system", "systemprompt", "systemmessage", "systeminstruction", "systeminstructions", "sysprompt"}
_SYSTEM |= {"systemtext", "systemcontent"}

_NO_READER = "no model here reads video or sound: remove the row, or give frames as pictures"
_NO_TOOLS = "tools are not read, so another prompt would be learned: write them into 'system', or remove the row"
_NO_WEIGHTS = "all answers are learned with the same weight: remove what should not be learned, then the key"
REFUSED: dict[str, tuple[str, str]] = {
    "video and sound": (
        _NO_READER,
        "video videos video_path video_paths video_file video_url clip clips audio audios audio_path audio_paths "
        "audio_file audio_url input_audio sound sounds speech wav",
    ),
    "tools": (
        _NO_TOOLS,
        "tools tool tool_calls tool_call tool_call_id tool_choice tool_responses tool_results functions function "
        "function_call function_calls",
    ),
    "earlier turns": (
        "earlier turns are read as the first turns of 'conversations' or 'messages': put them there",
        "history chat_history dialog_history dialogue_history conversation_history message_history previous_turns "
        "prior_turns past_turns earlier_turns previous_messages",
    ),
    "training weights": (
        _NO_WEIGHTS,
        "weight weights loss_weight loss_weights sample_weight loss loss_mask loss_scale label_mask train trainable "
        "train_on_turn is_trained",
    ),
    "training switches": (
        _NO_WEIGHTS,
        "mask_history train_on_input train_on_inputs train_on_prompt ignore_loss",
    ),
    "preferences": (
        "one answer is learned, not a pair of answers: keep the right answer and remove the key",
        "chosen rejected rejected_response rejected_messages rejected_images",
    ),
    "the template": (
        "chat templates get only turns and pictures: write it into a turn, or remove the row",
        "documents chat_template chat_template_kwargs",
    ),
    "further pictures": (
        "pictures are read only from 'image', 'images' and the parts of a turn: put all of them into one list",
        "image_path image_paths image_file image_files image_url image_urls image_bytes image_list image_base64 img "
        "imgs img_path img_paths picture pictures photo photos",
    ),
}
"""Keys that a row must not hold, because they are not read. Kind -> the remedy and the keys, in upper or lower case,
with or without ``_``."""

_THOUGHTS = "thoughts beside an answer are not learned: write them into the text of the turn, or take the key out"
_TURN_REFUSED = {
    "name": "names of speakers are not read: write them into the text, or take the key out",
    "reasoning": _THOUGHTS,
    "reasoningcontent": _THOUGHTS,
    "thinking": _THOUGHTS,
}
_NUMBERED = re.compile(r"(?:image|img|picture)(?:[0-9]+|[ab])")
_MARKS = re.compile(r"<(?:video|audio|sound|speech)(?:[ _-]?[0-9]+)?>")


def _plain(key: str) -> str:
    return re.sub(r"[^a-z0-9]", "", key.lower())


_CARRIED = {_plain(key) for key in CARRIED.split()}
_KIND_OF = {_plain(key): kind for kind, (_, keys) in REFUSED.items() for key in keys.split()}


def system_of(entry: Mapping[str, Any]) -> str:
    """The system sentence that stands beside the turns; empty if there is none.

    Raises:
        ValueError: it is not a text, or two keys hold different sentences.
    """
    given = {key: value for key, value in entry.items() if _plain(key) in _SYSTEM and not says_nothing(value)}
    for key, value in given.items():
        if not isinstance(value, str):
            raise ValueError(f"{key!r} must be a text, the system sentence, got {shown(value)}")
    if len(set(given.values())) > 1:
        raise ValueError(f"{' and '.join(map(repr, given))} are different system sentences; keep one")
    return next(iter(given.values()), "")


def is_system(key: str) -> bool:
    """Whether a key of a row names the system sentence."""
    return _plain(key) in _SYSTEM


def refuse_row_keys(entry: Mapping[str, Any], has_pictures: bool, said: str) -> None:
    """Refuse keys that should change what is learned, but that moiety does not read.

    Args:
        entry: The row as it was read.
        has_pictures: Whether `image`, `images` or a turn names its pictures; other keys for pictures are then ignored.
        said: Text of all turns.

    Raises:
        ValueError: there is such a key; the text names the key and the remedy.
    """
    for key, value in entry.items():
        if key in ROW_KEYS or is_system(key) or says_nothing(value):
            continue
        kind = _KIND_OF.get(_plain(key))
        if kind == "further pictures" and has_pictures:
            continue
        if kind is None and _NUMBERED.fullmatch(_plain(key)):
            kind = "further pictures"
        if kind is not None and not _is_neutral(kind, value):
            raise ValueError(f"{key!r} is not read ({shown(value)}): {REFUSED[kind][0]}")
        if _plain(key) in ("image", "images", "conversations", "messages"):
            raise ValueError(f"{key!r} is not read; write {key.lower()!r}")
        if key == "order":
            raise ValueError("'order' stands on the row; put it on the question that it describes")
        if _plain(key) in ("instruction", "instructions") and isinstance(value, str) and value.strip() not in said:
            raise ValueError(f"{key!r} is not read ({shown(value)}): write it into 'system' or into the first question")


def refuse_turn_keys(turn: Mapping[str, Any], read: tuple[str, str], answers: bool, number: int) -> None:
    """Refuse keys of turn `number` that moiety does not read, unless their value is empty.

    Args:
        turn: The turn as it was read.
        read: Its keys for speaker and text.
        answers: Whether the turn is an answer, because only answers are learned.
        number: Number of the turn, from 1.

    Raises:
        ValueError: there is such a key; the text names the key and the remedy, or the nearest key.
    """
    for key, value in turn.items():
        if key in (*read, "order") or says_nothing(value) or _plain(key) in _CARRIED:
            continue
        kind = _KIND_OF.get(_plain(key))
        if kind == "further pictures" or _plain(key) in ("image", "images"):
            remedy = "pictures are named on the row or in the parts of a turn"
        elif kind is None and _plain(key) not in _TURN_REFUSED:
            close = difflib.get_close_matches(key, (*read, "order", "tool_calls", "weight"), n=1)
            remedy = f"known: {', '.join((*read, 'order'))}" + (f"; did you mean {close[0]!r}?" if close else "")
        elif kind is not None:
            if _is_neutral(kind, value, answers):
                continue
            remedy = REFUSED[kind][0]
        else:
            remedy = _TURN_REFUSED[_plain(key)]
        raise ValueError(f"turn {number}: {key!r} is not read ({shown(value)}): {remedy}")


def refuse_marks(text: str, number: int) -> None:
    """Refuse marks of video and sound in a turn of the user.

    Raises:
        ValueError: the text holds such a mark.
    """
    found = _MARKS.search(text)
    if found:
        raise ValueError(f"turn {number}: {found.group()} marks video or sound: {_NO_READER}")


def refuse_part(part: Any, number: int) -> ValueError:
    """The error for a content part that is neither text nor picture."""
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and _KIND_OF.get(_plain(kind)) == "video and sound":
        return ValueError(f"turn {number}: a content part must be of type text or image, got {kind!r}: {_NO_READER}")
    return ValueError(f"turn {number}: a content part must be of type text or image, got {shown(part)}")


def says_nothing(value: Any) -> bool:
    """Whether a value is empty: null, or an empty text, list or object. The same values written as text count too."""
    return value is None or value in ("", [], {}, "[]", "{}", "null") or value == [None]


def half_characters(fields: Iterator[tuple[str, str]]) -> str | None:
    """The error text for a surrogate, which is one half of a character in UTF-16; None if there is no surrogate.

    Args:
        fields: Pairs of a place, for instance ``turn 2``, and the text that stands there.
    """
    for name, text in fields:
        found = re.search("[\ud800-\udfff]", text)
        if found:
            return (
                f"{name}, letter {found.start() + 1}: half a character ({found.group()!a}), which no text can "
                "contain. The text was cut there: repair it, or remove the row"
            )
    return None


def _is_neutral(kind: str, value: Any, answers: bool = True) -> bool:
    """Whether a value changes nothing. Answers are always learned with weight 1, and the rest is not learned."""
    if isinstance(value, list):
        return all(_is_neutral(kind, one, answers) for one in value)
    is_number = isinstance(value, bool | int | float)
    if kind == "training weights":
        return is_number and value == (1 if answers else 0)
    if kind == "training switches":
        return is_number and value == (0 if answers else 1)
    return value is False
