"""MathVista's forms and comparisons against the numbers of the released scorers; our own rule on hand-made cases."""

import json
from pathlib import Path

import pytest

from moiety.evaluate.benchmarks.rules.extracted_answers import (
    Wanted,
    lmms_verdict,
    numbers_in,
    released_form,
    released_verdict,
    sound_verdict,
)


def test_forms_and_verdicts_equal_the_released_ones(shared: Path) -> None:
    folder = shared / "golden/scorers/mathvista"
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text("utf-8").split("\n") if line]
    assert rows
    num_right = [0, 0]
    for row in rows:
        wanted = Wanted(row["answer"], row["answer_type"], row["precision"] or 0, tuple(row["choices"] or ()))
        assert released_form(row["extraction"], wanted) == row["internvl_normalised"] == row["lmms_normalised"], row
        verdicts = released_verdict(row["extraction"], wanted), lmms_verdict(row["extraction"], wanted)
        assert verdicts == (bool(row["internvl_correct"]), bool(row["lmms_correct"])), row
        num_right = [count + verdict for count, verdict in zip(num_right, verdicts, strict=True)]
    scores = json.loads((folder / "scores.json").read_text())
    assert [count / 180 for count in num_right] == [scores["internvl"]["accuracy"], scores["lmms"]["accuracy"]]


INTEGER, FLOAT, LIST = Wanted("7", "integer"), Wanted("1.2", "float", 1), Wanted("[1, 2]", "list")
OPTION = Wanted("two", "text", choices=("one", "two"))


@pytest.mark.parametrize(
    ("text", "wanted", "right"),
    [
        ("The sum of 3 and 4 is 7.", INTEGER, True),
        ("7.0 cm", INTEGER, True),
        ("7.7", INTEGER, False),
        ("seven", INTEGER, False),
        ("1.249", FLOAT, True),
        ("12", FLOAT, False),
        ("It is [1, 2].", LIST, True),
        ("[1,2]", LIST, True),
        ("1, 2", LIST, False),
        ("[2, 1]", LIST, False),
        ("[1.0, 2]", LIST, True),
        ("[1,200]", Wanted("[1, 200]", "list"), True),
        ("[1200]", Wanted("[1, 200]", "list"), False),
        ("[]", LIST, False),
        ("B", OPTION, True),
        ("The answer is (B) two.", OPTION, True),
        ("Two.", OPTION, True),
        ("C", OPTION, False),
        ("Not (A): twice one makes (B), as said", OPTION, True),
        ("One plus one makes B.", OPTION, True),
        ("It has vitamin C", OPTION, False),
        ("plan-B or Plan bB", OPTION, False),
        ("", OPTION, False),
        (" Circle.", Wanted("circle", "text"), True),
    ],
)
def test_the_sound_rule(text: str, wanted: Wanted, right: bool) -> None:
    assert sound_verdict(text, wanted) == right


def test_the_released_rule_gives_points_for_saying_nothing() -> None:
    assert released_verdict("", Wanted("no", "text", choices=("maybe", "no")))


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("12,345", [12345]),
        ("1,2", [1, 2]),
        ("2024-05", [2024, 5]),
        ("-", []),
        ("1,2.5,", [1, 2.5]),
        ("+1,000.25", [1000.25]),
        ("1,0000", [1, 0]),
        ("v.1", [0.1]),
    ],
)
def test_numbers(text: str, numbers: list[float]) -> None:
    assert numbers_in(text) == numbers
