from pathlib import Path

import pytest

from moiety.evaluate.question_floors import accepted_answers, majority_floor, question_of, question_only_floor
from moiety.vlm.rows import Row, load_rows, parse_row
from tests.conversations import row


def asked(question: str, answer: str, kind: str | None = "x") -> Row:
    return row(f"<image>\n{question}", answer, image="p", answers=[answer], type=kind)


def test_the_most_frequent_answer_is_given() -> None:
    train = [asked("q", "a"), asked("q", "a"), asked("r", "b"), asked("s", "c"), asked("s", "c"), asked("s", "c")]
    test = [asked("q", "A "), asked("r", "b"), asked("r", "c"), asked("unseen", "c"), asked("q", "b", None)]
    assert majority_floor(train, test) == {"x": 0.5}
    assert question_only_floor(train, test) == {"x": 0.75}


def test_a_type_that_training_lacks_has_no_floor_and_one_that_is_never_right_has_zero() -> None:
    test = [asked("q", "b", None), asked("q", "b", "y"), asked("q", "b", "x")]
    for floor in (majority_floor, question_only_floor):
        assert floor([asked("q", "a")], test) == {"x": 0.0}
        assert floor([], test) == {}


def test_equal_counts_do_not_depend_on_the_order() -> None:
    train, test = [asked("q", "b"), asked("q", "a")], [asked("q", "a")]
    assert question_only_floor(train, test) == question_only_floor(train[::-1], test) == {"x": 1}


def test_questions_and_answers_of_a_row() -> None:
    assert question_of(row("first", "a", "<image>\nlast", "b")) == "last"
    assert question_of(parse_row({"messages": [{"role": "assistant", "content": "a"}]})) == ""
    assert accepted_answers(row("q", " Red ")) == ("red",)
    assert accepted_answers(row("q", "x", answers=["A", "b"])) == ("a", "b")
    with pytest.raises(ValueError, match="row 'x': no answer to score against"):
        accepted_answers(parse_row({"id": "x", "messages": [{"role": "user", "content": "q"}]}))


def test_the_published_floors_of_the_grocery_set(shared: Path) -> None:
    folder = shared / "data/grocery"
    train, test = (load_rows([folder / f"conversations-{split}.jsonl"]) for split in ("train", "test"))
    majority, question_only = majority_floor(train, test), question_only_floor(train, test)
    assert {kind: round(value, 3) for kind, value in majority.items()} == {
        "coarse": 0.111,
        "super": 0.449,
        "exist": 0.5,
        "fine_mcq": 0.304,
        "coarse_mcq": 0.246,
        "color": 0.266,
        "color_named": 0.266,
    }
    # multiple choice: most questions are new, and a new question is answered in another way there (.285, .246)
    equal = {kind: round(value, 3) for kind, value in question_only.items() if not kind.endswith("mcq")}
    assert equal == {"coarse": 0.111, "super": 0.449, "exist": 0.5, "color": 0.31, "color_named": 0.81}
