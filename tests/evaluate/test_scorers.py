"""Rules from text to verdict, against hand-made cases and the numbers of official scorers."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moiety.evaluate.scorers import (
    YES_NO_RULES,
    exact_match,
    first_word_verdict,
    option_letter,
    yes_no_metrics,
)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [("yes", "yes"), ("Yes.", "yes"), (" NO!", "no"), ("**No**, it is", "no"), ("", None), ("not at all", None)],
)
def test_first_word(text: str, verdict: str | None) -> None:
    assert first_word_verdict(text) == verdict


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        ("b", "B"),
        ("(C)", "C"),
        ("B. pear", "B"),
        ("c: plum", "C"),
        ("The answer is (B).", "B"),
        ("Option C", "C"),
        ("plum", "C"),
        ("Pear.", "B"),
        ("a pear", None),  # an article is not an option
        ("D", None),
        ("", None),
    ],
)
def test_option_letter(text: str, letter: str | None) -> None:
    assert option_letter(text, ["apple", "pear", "plum"]) == letter


def test_exact_match_takes_any_answer() -> None:
    assert exact_match(" Red Apple\n", ["apple", "red apple"])
    assert not exact_match("apples", ["apple"])


@given(st.lists(st.tuples(st.sampled_from(["yes", "no"]), st.sampled_from(["yes", "no", None])), min_size=1))
def test_yes_no_metrics_follow_their_definitions(pairs: list[tuple[str, str | None]]) -> None:
    metrics = yes_no_metrics([truth for truth, _ in pairs], [verdict for _, verdict in pairs])
    hits = sum(truth == verdict == "yes" for truth, verdict in pairs)
    assert metrics["yes_rate"] * len(pairs) == pytest.approx(sum(verdict == "yes" for _, verdict in pairs))
    if hits:
        harmonic = 2 / (1 / metrics["precision"] + 1 / metrics["recall"])
        assert metrics["f1"] == pytest.approx(harmonic)
    else:
        assert metrics["f1"] == 0


@pytest.mark.parametrize("rule", ["official", "lmms_eval"])
def test_rules_repeat_the_published_scorers(shared: Path, rule: str) -> None:
    folder = shared / "golden" / "scorers" / "pope"
    rows = [json.loads(line) for line in (folder / "predictions.jsonl").read_text(encoding="utf-8").split("\n") if line]
    scores = json.loads((folder / "scores.json").read_text())[rule]
    for category in ("random", "popular", "adversarial"):
        members = [row for row in rows if row["category"] == category]
        verdicts = [YES_NO_RULES[rule](row["text"]) for row in members]
        right = [verdict == row["label"] for verdict, row in zip(verdicts, members, strict=True)]
        assert sum(right) / len(right) == pytest.approx(scores[category]["accuracy"], abs=1e-9)
        if rule == "official":
            assert verdicts == [row["official_verdict"] for row in members]
            metrics = yes_no_metrics([row["label"] for row in members], verdicts)
            for name in ("precision", "recall", "f1"):
                assert metrics[name] == pytest.approx(scores[category][name], abs=1e-9)
            assert metrics["yes_rate"] == pytest.approx(scores[category]["yes_ratio"], abs=1e-9)
        else:
            assert [float(hit) for hit in right] == [row["lmms_score"] for row in members]
