"""Rows that share an id are told apart by what they ask, whatever their order, and answers find their way back."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from moiety.evaluate.identities import identity_of, told_apart
from moiety.evaluate.predictions import PredictionFile
from moiety.evaluate.report import score_predictions
from moiety.vlm.rows import Row
from tests.conversations import row


def questions() -> list[Row]:
    asked = [("<image>\nCat?", "yes", "a.png"), ("<image>\nDog?", "no", "a.png"), ("<image>\nCat?", "no", "b.png")]
    return [row(text, answer, image=image, id="7") for text, answer, image in asked] + [row("Which?", "x", id="8")]


def test_names_do_not_depend_on_the_order() -> None:
    rows = told_apart(questions())
    assert len({found.id for found in rows}) == 4
    assert rows[3].id == "8"
    assert [found.id for found in told_apart(questions()[::-1])] == [found.id for found in rows[::-1]]
    assert told_apart(rows) == rows
    assert [identity_of(found).id for found in rows] == ["7", "7", "7", "8"]
    assert identity_of(rows[1]).question == "<image>\nDog?"
    assert identity_of(rows[3]).question is None


def test_one_question_with_two_references_is_two_rows() -> None:
    first, second = told_apart([row("Which?", "x"), row("Which?", "y")])
    assert second.id == f"{first.id}.2"
    assert identity_of(first).asked == identity_of(second).asked


def test_what_stands_twice_is_refused_unless_it_has_no_id() -> None:
    with pytest.raises(ValueError, match="answers are kept by id: give each its own, or take out what stands twice"):
        told_apart([row("Which?", "x"), row("Which?", "x")])
    unnamed = row("Which?", "x", id=None)
    assert not unnamed.is_named
    assert len({found.id for found in told_apart([unnamed, unnamed])}) == 2
    with pytest.raises(ValueError, match="no rows to evaluate"):
        told_apart([])


def test_answers_of_shared_ids_are_found_again(tmp_path: Path) -> None:
    rows, path = told_apart(questions()), tmp_path / "predictions.jsonl"
    PredictionFile(path, {}, rows).add({found.id: f"answer {number}" for number, found in enumerate(rows)})
    lines = [json.loads(line) for line in path.read_text().splitlines()[1:]]
    assert [line["id"] for line in lines] == ["7", "7", "7", "8"]
    assert [line.get("question") for line in lines] == ["<image>\nCat?", "<image>\nDog?", "<image>\nCat?", None]
    backwards = told_apart(questions()[::-1])
    assert PredictionFile(path, {}, backwards).answers == {found.id: f"answer {i}" for i, found in enumerate(rows)}
    alone = questions()[1:2]  # the id is its own here, and still it is not the answer of another row
    assert PredictionFile(path, {}, told_apart(alone)).answers == {"7": "answer 1"}


def test_an_answer_to_another_question_is_not_taken(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    before = row("<image>\nCat?", "yes", image="a.png")
    PredictionFile(path, {}, [before]).add({"a": "yes"})
    for change in (
        {"images": ("b.png",)},
        {"extra": {"context": "A cat."}},
        {"turns": row("<image>\nDog?", "yes").turns},
    ):
        assert PredictionFile(path, {}, [replace(before, **change)]).answers == {}
    other_reference: Any = row("<image>\nCat?", "no", image="a.png")
    assert PredictionFile(path, {}, [other_reference]).answers == {"a": "yes"}


def test_lines_without_a_question_count_for_ids_of_one_row(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"settings": {}}\n{"id": "8", "prediction": "x"}\n')
    assert PredictionFile(path, {}, told_apart(questions())).answers == {"8": "x"}
    path.write_text('{"settings": {}}\n{"id": "7", "prediction": "x"}\n')
    with pytest.raises(ValueError, match=r"jsonl:2: 3 rows have the id '7', and the line does not say which of them"):
        PredictionFile(path, {}, told_apart(questions()))


def test_scores_of_shared_ids() -> None:
    rows = told_apart(questions())
    result = score_predictions(questions(), {found.id: found.turns[-1].text for found in rows})
    assert result.overall.mean == 1
    assert set(result.predictions) == {found.id for found in rows}
