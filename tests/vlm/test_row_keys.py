"""Whatever would change what is learned is obeyed or refused; the rest is carried along."""

import json
from typing import Any

import pytest

from moiety.evaluate.opening import row_entry
from moiety.vlm.row_keys import REFUSED
from moiety.vlm.rows import Turn, parse_row
from tests.conversations import entry, row


@pytest.mark.parametrize("key", ["system", "system_prompt", "systemPrompt", "System", "system_message"])
def test_a_system_sentence_becomes_the_first_turn(key: str) -> None:
    found = row("<image>q", "a", image="p", **{key: "Be brief."})
    assert found.turns[0] == Turn("system", "Be brief.")
    assert found.extra == {}
    assert parse_row(row_entry(found)).turns == found.turns
    assert len(row("q", "a", **{key: ""}).turns) == 2


def test_a_system_sentence_that_stands_in_the_turns_too() -> None:
    turns = [{"role": role, "content": role} for role in ("developer", "user", "assistant")]
    assert len(parse_row({"messages": turns, "system": "developer"}).turns) == 3
    with pytest.raises(ValueError, match="'system' says 'other' and the first turn 'developer'; keep one of them"):
        parse_row({"messages": turns, "system": "other"})
    with pytest.raises(ValueError, match="'system' and 'system_prompt' are different system sentences; keep one"):
        row("q", "a", system="x", system_prompt="y")
    with pytest.raises(ValueError, match=r"'system' must be a text, the system sentence, got \['x'\]"):
        row("q", "a", system=["x"])


@pytest.mark.parametrize(("kind", "key"), [(kind, key) for kind, (_, keys) in REFUSED.items() for key in keys.split()])
def test_keys_that_would_be_lost_are_refused_unless_they_say_nothing(kind: str, key: str) -> None:
    value = [["Hi", "Hello"]] if kind == "earlier turns" else 0.5 if "weight" in kind else True if "sw" in kind else "x"
    spelled = (key, key.upper(), key.replace("_", "-"))
    for name in spelled:
        with pytest.raises(ValueError, match=f"'{name}' is not read"):
            row("q", "a", **{name: value})
        assert len(row("q", "a", **{name: None}).turns) == 2
        assert len(row("q", "a", **{name: []}).turns) == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": False}, r"'train' is not read \(False\): all answers are learned with the same weight"),
        ({"loss_mask": [0, 1]}, "'loss_mask' is not read"),
        ({"Image": "p"}, "'Image' is not read; write 'image'"),
        ({"order": 0}, "'order' stands on the row; put it on the question"),
        ({"image_2": "p"}, "'image_2' is not read .*: put all of them into one list"),
        ({"instruction": "Be brief."}, "'instruction' is not read .*: write it into 'system' or into the first quest"),
    ],
)
def test_further_refusals(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        row("q", "a", **given)


def test_harmless_keys_are_carried_along() -> None:
    carried = {
        "source": "x",
        "split": "train",
        "metadata": {"a": 1},
        "image_id": 7,
        "weight": 1.0,
        "mask_history": False,
    }
    carried |= {"train": True, "loss_mask": [1, 1], "tools": "[]", "instruction": "q", "prior_answer": "b", "video": ""}
    assert row("q", "a", **carried).extra == carried
    assert row("<image>q", "a", image="p.png", image_path="/data/p.png").images == ("p.png",)


def turn(**fields: Any) -> Any:
    rows = entry("q", "a")
    rows["conversations"][1] |= fields
    return rows


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tool_calls": [{"id": "1"}]}, "turn 2: 'tool_calls' is not read .*: tools are not read"),
        ({"weight": 0}, r"turn 2: 'weight' is not read \(0\): all answers are learned with the same weight"),
        ({"loss": False}, "turn 2: 'loss' is not read"),
        ({"video": "v.mp4"}, "turn 2: 'video' is not read .*: no model here reads video or sound"),
        ({"image": "p"}, "turn 2: 'image' is not read .*: pictures are named on the row or in the parts of a turn"),
        ({"name": "Ada"}, "turn 2: 'name' is not read .*: names of speakers are not read"),
        ({"reasoning_content": "hm"}, "turn 2: 'reasoning_content' is not read .*: thoughts beside an answer"),
        ({"ordr": 1}, r"turn 2: 'ordr' is not read \(1\): known: from, value, order; did you mean 'order'\?"),
        ({"wieght": 0}, "did you mean 'weight'"),
        ({"foo": 1}, r"turn 2: 'foo' is not read \(1\): known: from, value, order$"),
    ],
)
def test_keys_of_a_turn(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_row(turn(**given))
    assert len(parse_row(turn(timestamp=3, weight=1, **{key: None for key in given if key != "weight"})).turns) == 2


def test_questions_are_not_learned_anyway() -> None:
    rows = entry("q", "a")
    rows["conversations"][0] |= {"weight": 0, "train": False}
    assert len(parse_row(rows).turns) == 2
    rows["conversations"][0]["train"] = True
    with pytest.raises(ValueError, match="turn 1: 'train' is not read"):
        parse_row(rows)


@pytest.mark.parametrize("text", ["<video>\nq", "q <audio>", "<video_1> q", "<sound>q", "<speech>q"])
def test_marks_of_video_and_sound(text: str) -> None:
    with pytest.raises(ValueError, match=r"turn 1: <.*> marks video or sound: no model here reads video or sound"):
        row(text, "a")
    assert row("q", f"In HTML: {text}").turns[1].text.startswith("In HTML")


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"type": "video", "video": "v.mp4"}, "of type text or image, got 'video': no model here reads video or sound"),
        ({"type": "video_url", "video_url": {"url": "x"}}, "got 'video_url': no model here reads"),
        ({"type": "input_audio", "input_audio": {}}, "got 'input_audio': no model here reads video or sound"),
        ({"type": "file", "file": {}}, "a content part must be of type text or image, got {'type': 'file'"),
        ({"type": "image", "image": "p", "max_pixels": 4}, r"turn 1: 'max_pixels' of a content part is not read \(4\)"),
        ({"type": "text", "text": "q", "bold": 1}, "'bold' of a content part is not read"),
        (
            {"type": "image_url", "image_url": {"url": "p", "detail": "low"}},
            "turn 1: detail 'low' is not read; remove it, every picture is read in full",
        ),
        ({"type": "image", "image": 3}, "turn 1: a picture must be a name"),
        (
            {"type": "image", "index": 1},
            r"the parts name pictures by index in the order \[1\]; put the parts in the order of 'images'",
        ),
    ],
)
def test_content_parts(part: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_row({"messages": [{"role": "user", "content": [part]}, {"role": "assistant", "content": "a"}]})


def test_either_spelling_of_a_turn_in_either_list() -> None:
    spoken = [{"role": "user", "content": "q", "from": None}, {"from": "gpt", "value": "a"}]
    for key in ("conversations", "messages"):
        assert [found.role for found in parse_row({key: spoken}).turns] == ["user", "assistant"]
        assert len(parse_row({key: json.dumps(spoken)}).turns) == 2


@pytest.mark.parametrize(
    ("given", "place"),
    [
        (entry("q", "yes \ud83d"), "turn 2, letter 5"),
        (entry("\udc00q", "yes"), "turn 1, letter 1"),
        (entry("q", "a", system="\ud83d"), "turn 1, letter 1"),
        (entry("q", "a", answers=["x", "\ude00\ud83d"]), "'answers', letter 1"),
        (entry("q", "a", choices=["a\ud83d"]), "'choices', letter 2"),
        (entry("q", "a", type="\ud83d"), "'type', letter 1"),
        (entry("q", "a", id="\ud83d"), "'id', letter 1"),
        (entry("<image>q", "a", image="\ud83d.png"), "'image', letter 1"),
        (entry("q", "a", prior_answer="\ud83d"), "'prior_answer', letter 1"),
    ],
)
def test_half_characters_are_told_with_turn_and_place(given: Any, place: str) -> None:
    with pytest.raises(ValueError, match=rf"^{place}: half a character \('\\u.*repair it, or remove the row$"):
        parse_row(given)


def test_whole_characters_of_two_halves_are_read() -> None:
    assert parse_row(json.loads(json.dumps(entry("q", "yes 😀")))).turns[1].text == "yes 😀"
