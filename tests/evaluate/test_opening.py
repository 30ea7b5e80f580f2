"""Multiple-choice rows without their options: words in the place of letters, and nothing written when one is bad."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moiety.evaluate.opening import open_choices, row_entry
from moiety.vlm.rows import load_rows, parse_row

QUESTION = "<image>\nWhat color is it?\nA. red\nB. blue\nAnswer with the letter of the right option."


def choice(**other: Any) -> dict[str, Any]:
    row = {
        "id": "1",
        "image": "a.png",
        "conversations": spoken(QUESTION, "B"),
        "type": "conflict",
        "answers": ["B"],
        "choices": ["red", "blue"],
        "prior_answer": "A",
        "split": "dev",
    }
    return row | other


def spoken(question: str, answer: str) -> list[dict[str, str]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_letters_become_words_and_options_go(tmp_path: Path) -> None:
    made = open_choices(write(tmp_path / "a.jsonl", choice()), tmp_path / "b.jsonl")
    (row,) = load_rows([tmp_path / "b.jsonl"])
    assert (made.num_opened, made.num_kept) == (1, 0)
    assert row.turns[0].text == "<image>\nWhat color is it?\nAnswer with one word or a short phrase."
    assert (row.turns[1].text, row.answers, row.choices) == ("blue", ("blue",), ())
    assert row.extra == {"prior_answer": "red", "split": "dev"}
    assert (row.id, row.type, row.images) == ("1", "conflict", ("a.png",))


@pytest.mark.parametrize("mark", ["{}. {}", "({}) {}", "{}) {}"])
def test_every_common_mark_of_an_option_is_known(tmp_path: Path, mark: str) -> None:
    options = "\n".join(mark.format(letter, word) for letter, word in zip("AB", ("red", "blue"), strict=True))
    row = choice(image=None, conversations=spoken(f"Which?\n{options}", "blue"))
    open_choices(write(tmp_path / "a.jsonl", row), tmp_path / "b.jsonl", "Say.")
    assert load_rows([tmp_path / "b.jsonl"])[0].turns[0].text == "Which?\nSay."


def test_rows_without_options_stay(tmp_path: Path) -> None:
    plain = {"id": "2", "conversations": spoken("Is it red?\nAnswer yes or no.", "no"), "answers": ["no"]}
    made = open_choices(write(tmp_path / "a.jsonl", plain, choice()), tmp_path / "b.jsonl")
    assert (made.num_opened, made.num_kept) == (1, 1)
    assert json.loads((tmp_path / "b.jsonl").read_text().splitlines()[0]) == plain


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"answers": ["E"]}, "'e' names none of its choices red, blue"),
        ({"prior_answer": "green"}, "'green' names none"),
        ({"prior_answer": 3}, "3 names none"),
        ({"choices": ["red", "blue", "green"]}, "3 choices, but 2 options in lines of their own"),
    ],
)
def test_a_bad_row_is_named_and_the_file_that_was_there_stays(
    tmp_path: Path, wrong: dict[str, Any], message: str
) -> None:
    target = tmp_path / "b.jsonl"
    target.write_text("before")
    with pytest.raises(ValueError, match=f"a.jsonl:2: row '1': .*{message}"):
        open_choices(write(tmp_path / "a.jsonl", choice(id="0"), choice(**wrong)), target)
    assert target.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "b.jsonl"]


def test_the_file_that_is_read_is_never_written(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", choice())
    before = source.read_text()
    with pytest.raises(ValueError, match="is the file that is read"):
        open_choices(source, tmp_path / "." / "a.jsonl")
    assert source.read_text() == before


def test_a_row_is_read_back_as_it_was() -> None:
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "<image>\nA pear?", "order": 0},
        {"role": "assistant", "content": "no"},
    ]
    row = parse_row({"id": "x", "images": ["p.png"], "messages": messages, "choices": ["yes", "no"], "level": 2})
    assert parse_row(row_entry(row)) == row
