"""Letters in texts: the sound rule by hand, lmms-eval's rule against its golden numbers."""

from pathlib import Path

import pytest

from moiety.evaluate.benchmarks.rules.letters import option_prompt, stated_letter, weighed_letter
from tests.evaluate.benchmarks.golden import golden_rows, golden_scores


def test_weighed_letter_equals_the_public_extraction(shared: Path) -> None:
    rows = golden_rows(shared, "option_letters")
    stars = [row for row in rows if row["kind"] == "mmstar"]
    assert [weighed_letter(row["text"], "ABCD") for row in stars] == [row["extracted"] for row in stars]
    right: dict[str, list[bool]] = {}
    for row in stars:
        right.setdefault(row["l2_category"], []).append(weighed_letter(row["text"], "ABCD") == row["answer"])
    means = [sum(marks) / len(marks) for marks in right.values()]
    expected = golden_scores(shared, "option_letters")["mmstar"]["average_over_l2_categories"]
    assert sum(means) / len(means) == pytest.approx(expected, abs=1e-12)
    for row in rows:
        if row["kind"] == "realworldqa" and row["answer"] in "ABCD":
            assert float(weighed_letter(row["text"], "ABCD") == row["answer"]) == row["score"]


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        *(("B", "B"), ("b", "B"), (" (C)\n", "C"), ("**A**", "A"), ("（B）", "B"), ("B，pear", "B"), ("C：plum", "C")),
        *(("A\nbecause", "A"), ("B) pear", "B"), ("c. plum", "C"), ("'B'", "B"), ('"B"', "B")),
        *(("The answer is (B).", "B"), ("The best option is A, not B.", "A"), ("Answer:C", "C"), ("Option B", "B")),
        *(("I think it is (C) because", "C"), ("Both (A) and (B)", None), ("plum", "C"), ("PEAR..", "B")),
        *(("the answer is a pear", None), ("A pear", None), ("DNA", None), ("D", None), ("", None), ("(D) plum", None)),
    ],
)
def test_stated_letter(text: str, letter: str | None) -> None:
    assert stated_letter(text, ["apple", "pear", "plum"]) == letter


def test_equal_options_are_no_answer_by_their_words() -> None:
    assert stated_letter("pear", ["pear", "Pear."]) is None


def test_the_prompt_asks_for_a_letter() -> None:
    asked = "Which?\nA. red\nB. blue\nAnswer with the option's letter from the given choices directly."
    assert option_prompt("Which?", ["red", "blue"]) == asked
