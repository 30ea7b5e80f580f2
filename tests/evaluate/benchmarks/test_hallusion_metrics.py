"""HallusionBench behind its judge, against the numbers of the released tool."""

import json
from pathlib import Path

import pytest

from moiety.evaluate.benchmarks.rules.hallusion_metrics import (
    RIGHT,
    UNCLEAR,
    WRONG,
    Judged,
    failure_counts,
    failure_of,
    judged_numbers,
)


def judged(shared: Path) -> list[Judged]:
    text = (shared / "golden/scorers/hallusionbench/predictions.jsonl").read_text(encoding="utf-8")
    names = ("category", "subcategory", "set_id", "figure_id", "question_id", "visual_input")
    rows = [json.loads(line) for line in text.split("\n") if line]
    return [
        Judged(*(row[name] for name in names), int(row["gt_answer"]), int(row["judge"]), row["same"] == "1")
        for row in rows
    ]


def test_all_rates_equal_the_released_ones(shared: Path) -> None:
    rows = judged(shared)
    wanted = json.loads((shared / "golden/scorers/hallusionbench/scores.json").read_text())["official"]
    counts, numbers = wanted.pop("counts"), judged_numbers(rows)
    assert rows
    for name, value in wanted.items():
        assert numbers[name] == pytest.approx(value, abs=1e-4), name
    pairs = counts["per_question_pair"]
    assert list(failure_counts(rows).values()) == [pairs["LH_cg"], pairs["VI_cg"], pairs["Mix_cg"]]
    assert numbers["figure_score"] == pytest.approx(100 * counts["per_figure"]["score"], abs=1e-9)


def made(category: str = "VS", figure_id: str = "1", code: int = WRONG, same: bool = False, shown: str = "1") -> Judged:
    return Judged(category, "chart", "0", figure_id, "0", shown, 1, code, same)


def test_nothing_to_see_makes_unclear_a_right_answer() -> None:
    blind = made(figure_id="0", code=UNCLEAR, shown="0")
    assert blind.correct
    assert not made(code=UNCLEAR).correct
    assert not made("VD", figure_id="0", code=UNCLEAR).correct
    assert judged_numbers([blind])["fAcc"] == 0  # no figure was shown


@pytest.mark.parametrize(
    ("row", "original", "failure"),
    [
        (made(code=RIGHT), WRONG, None),
        (made("VD", code=WRONG, same=True), RIGHT, "mixed"),
        (made("VD", code=WRONG, same=True), WRONG, "visual_illusion"),
        (made("VD", figure_id="0", code=UNCLEAR), UNCLEAR, "visual_illusion"),
        (made(figure_id="0", code=WRONG), WRONG, "language_hallucination"),
        (made(figure_id="0", code=UNCLEAR), UNCLEAR, None),
        (made(code=WRONG, same=True), WRONG, "language_hallucination"),
        (made(code=WRONG, same=False), WRONG, "mixed"),
        (made(code=UNCLEAR, same=True), WRONG, "mixed"),
        (made(code=WRONG), UNCLEAR, "visual_illusion"),
        (made(code=UNCLEAR), RIGHT, "visual_illusion"),
        (made(code=WRONG, same=True, shown="2"), RIGHT, "language_hallucination"),
        (made(code=WRONG, same=True, shown="1"), RIGHT, "visual_illusion"),
        (made(code=WRONG), None, None),
    ],
)
def test_where_an_answer_went_wrong(row: Judged, original: int | None, failure: str | None) -> None:
    assert failure_of(row, original) == failure


def test_no_rows() -> None:
    with pytest.raises(ValueError, match="no judged answers of HallusionBench; give at least one"):
        judged_numbers([])
