"""The shared rules for free text against the numbers of the released scorers."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moiety.evaluate.benchmarks.rules.anls import anls, anls_stvqa, edit_distance
from moiety.evaluate.benchmarks.rules.relaxed import RELAXED_RULES
from moiety.evaluate.benchmarks.rules.vqa_text import agreement, long_form, without_articles, without_punctuation


def golden(shared: Path, name: str) -> list[dict[str, Any]]:
    text = (shared / "golden" / "scorers" / name).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def test_normaliser_equals_the_released_one(shared: Path) -> None:
    rows = golden(shared, "textvqa/answer_normaliser.jsonl")
    assert rows
    for row in rows:
        steps = long_form(row["input"]), without_punctuation(row["input"]), without_articles(row["input"])
        assert steps == (row["normalised"], row["punctuation_only"], row["digit_article_only"]), row


def test_only_the_first_stops_go() -> None:
    assert without_punctuation("." * 40) == "." * 8


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("1,000-2", "10002"),  # a comma between digits takes every sign away
        ("a-b - c", "ab  c"),  # so does one copy beside a blank
        ("-5", " 5"),
        ("5 (five)-six", "5 five  six"),
    ],
)
def test_punctuation(text: str, form: str) -> None:
    assert without_punctuation(text) == form


def test_agreement_needs_ten_people() -> None:
    with pytest.raises(ValueError, match="3 answers; this rule is defined for the answers of 10 people"):
        agreement("red", ["red"] * 3)


@given(st.lists(st.sampled_from("abc"), min_size=10, max_size=10), st.sampled_from("abcd"))
def test_agreement_is_the_mean_over_those_left_out(people: list[str], answer: str) -> None:
    slow = [min(1, sum(other == answer for other in people[:one] + people[one + 1 :]) / 3) for one in range(10)]
    assert agreement(answer, people) == pytest.approx(sum(slow) / 10, abs=1e-12)


def test_anls_equals_the_released_one(shared: Path) -> None:
    rows = golden(shared, "docvqa/predictions.jsonl")
    assert rows
    for row in rows:
        assert anls(row["text"], row["answers"]) == pytest.approx(row["official_score"], abs=1e-9), row
        assert anls_stvqa(row["text"], row["answers"]) == pytest.approx(row["stvqa_score"], abs=1e-9), row


@pytest.mark.parametrize("score", [anls, anls_stvqa])
def test_anls_needs_an_answer(score: Any) -> None:
    with pytest.raises(ValueError, match="without accepted answers cannot be scored by ANLS"):
        score("text", [])


def slow_distance(first: str, second: str) -> int:
    """The table of the textbook, one row at a time."""
    before = list(range(len(second) + 1))
    for row, letter in enumerate(first, start=1):
        now = [row]
        for column, other in enumerate(second):
            now.append(min(before[column] + (letter != other), before[column + 1] + 1, now[column] + 1))
        before = now
    return before[-1]


@given(st.text("abc", max_size=90), st.text("abc", max_size=20))
def test_edit_distance_equals_the_table(first: str, second: str) -> None:
    assert edit_distance(first, second) == edit_distance(second, first) == slow_distance(first, second)


@given(st.text("ab c", max_size=12), st.text("ab c", max_size=12))
def test_edit_distance_is_a_distance(first: str, second: str) -> None:
    distance = edit_distance(first, second)
    assert distance == edit_distance(second, first)
    assert (distance == 0) == (first == second)
    assert abs(len(first) - len(second)) <= distance <= max(len(first), len(second))
    assert edit_distance(first + "x", second + "x") == distance


@given(st.text("abß ", max_size=8), st.text("abß ", max_size=30))
def test_the_shortcut_by_length_changes_no_score(text: str, answer: str) -> None:
    first, second = (" ".join(side.lower().split()) for side in (text, answer))
    length = max(len(text.upper()), len(answer.upper()))
    similarity = 1 - edit_distance(first, second) / length if length else 1.0
    assert anls(text, [answer]) == (similarity if similarity >= 0.5 else 0)


@pytest.mark.parametrize(("rule", "column"), [("official", "internvl"), ("lmms_eval", "lmms"), ("moiie", "moiie")])
def test_relaxed_accuracy_equals_the_released_ones(shared: Path, rule: str, column: str) -> None:
    rows = golden(shared, "chartqa/predictions.jsonl")
    assert rows
    for row in rows:
        assert RELAXED_RULES[rule](row["text"], row["answer"]) == bool(row[f"{column}_correct"]), row


@given(st.floats(0.01, 1e4), st.floats(-0.2, 0.2))
def test_the_sound_rule_has_the_tolerance_of_the_label(value: float, change: float) -> None:
    label, text = f"{value:.2f}", f"{value * (1 + change):.2f}"
    inside = abs(float(text) - float(label)) <= 0.05 * float(label)
    assert RELAXED_RULES["sound"](text, label) == inside


@pytest.mark.parametrize("rule", RELAXED_RULES)
def test_a_label_is_right_and_nothing_is_wrong_by_every_relaxed_rule(rule: str) -> None:
    for label in ("0", "12%", "0.0", "-3.5", "2015", "Yes", "New York", "1,400", "$5"):
        assert RELAXED_RULES[rule](label, label)
        assert not RELAXED_RULES[rule]("", label)


@pytest.mark.parametrize("text", ["1_000", "1e3", "١٠٠٠", "inf", "nan", "1" * 100_000 + "x"])
def test_the_sound_rule_reads_decimal_numbers_only(text: str) -> None:
    assert not RELAXED_RULES["sound"](text, "1000")
