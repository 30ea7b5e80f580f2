"""HallusionBench without a judge: released rules, its own file, floors."""

import json
from pathlib import Path

import pytest

from moiety.evaluate.benchmarks.benchmark import asked
from moiety.evaluate.benchmarks.rules.hallusion_metrics import RIGHT, UNCLEAR, WRONG
from moiety.evaluate.benchmarks.sets.hallusionbench import HALLUSIONBENCH, QUESTIONS, judged_by
from moiety.vlm.rows import Row
from tests.evaluate.benchmarks.golden import checked_score, golden_rows, golden_scores

PLACE = ("category", "subcategory", "set_id", "figure_id", "question_id")


@pytest.fixture(scope="module")
def golden(shared: Path) -> tuple[list[Row], dict[str, str], list[dict]]:
    lines = golden_rows(shared, "hallusionbench")
    rows = [
        asked(
            "/".join(line[key] for key in PLACE), "?", answers=["no", "yes"][int(line["gt_answer"]) :][:1], extra=line
        )
        for line in lines
    ]
    return rows, {row.id: line["model_prediction"] for row, line in zip(rows, lines, strict=True)}, lines


def test_the_rule_of_lmms_eval(shared: Path, golden: tuple) -> None:
    rows, answers, _ = golden
    score = checked_score(HALLUSIONBENCH, rows, answers, "lmms_eval")
    wanted = golden_scores(shared, "hallusionbench")["lmms_yes_substring"]
    assert score.numbers == {name: pytest.approx(100 * value, abs=1e-9) for name, value in wanted.items()}


def test_the_rule_of_the_released_code_with_its_labels(shared: Path, golden: tuple) -> None:
    rows, answers, lines = golden
    score = checked_score(HALLUSIONBENCH, rows, answers, "official")
    wanted = golden_scores(shared, "hallusionbench")["moiie_first_word"]
    recorded = wanted["accuracy_with_the_labels_its_own_writer_would_record"]
    assert score.headline == ("accuracy", pytest.approx(recorded, abs=1e-9))
    assert score.numbers["first word"] == pytest.approx(wanted["accuracy"], abs=1e-9)
    assert sum(line["moiie_correct"] for line in lines) == round(score.numbers["first word"] * 5.51)


def questions(*answers: str) -> list[Row]:
    """One VS question without a figure, with its figure, with an edited one."""
    common = {"category": "VS", "subcategory": "map", "set_id": "3", "question_id": "0"}
    extras = [{**common, "figure_id": str(shown), "visual_input": str(shown)} for shown in range(3)]
    return [
        asked(extra["figure_id"], "?", answers=[answer], extra=extra)
        for extra, answer in zip(extras, answers, strict=True)
    ]


def test_plain_verdicts_as_a_judge_would_give_them() -> None:
    rows = questions("yes", "yes", "no")
    judged = judged_by(rows, {"0": None, "1": "no", "2": "no"})
    assert [row.code for row in judged] == [UNCLEAR, WRONG, RIGHT]
    assert [row.same for row in judged] == [True, False, False]
    assert [row.correct for row in judged] == [True, False, True]
    score = HALLUSIONBENCH.score(rows, {"0": "I cannot tell.", "1": "No.", "2": "no"})
    assert score.headline == ("aAcc", pytest.approx(200 / 3))
    assert (score.numbers["qAcc"], score.numbers["fAcc"], score.numbers["visual_illusion"]) == (0, 50, 100)
    assert score.unread == 1


def test_the_official_file(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/benchmark_formats/hallusionbench/HallusionBench.json.gz"
    (tmp_path / source.name).write_bytes(source.read_bytes())
    rows = HALLUSIONBENCH.read(tmp_path)
    assert len(rows) == 1129
    assert sum(not row.images for row in rows) == 178
    assert rows[150].images == ("VS/chart/13_2.png",)
    assert len({HALLUSIONBENCH.together(row) for row in rows}) == 167
    perfect = {row.id: f"{row.answers[0].capitalize()}, it is." for row in rows}
    silent = dict.fromkeys(perfect, "")
    for rule in HALLUSIONBENCH.rules:
        score = checked_score(HALLUSIONBENCH, rows, silent, rule)
        assert score.headline[1] == pytest.approx(HALLUSIONBENCH.floor(rows, rule))
    assert HALLUSIONBENCH.floor(rows, "sound") == pytest.approx(100 * 178 / 1129)
    for rule in ("sound", "lmms_eval"):
        numbers = checked_score(HALLUSIONBENCH, rows, perfect, rule).numbers
        assert (numbers["aAcc"], numbers["qAcc"], numbers["fAcc"]) == (100, 100, 100)
    words = {row.id: f"{row.answers[0]}." for row in rows}
    official = checked_score(HALLUSIONBENCH, rows, words, "official")
    assert official.numbers["first word"] == 100
    assert official.headline[1] == pytest.approx(100 * sum(row.answers[0] == "no" for row in rows) / 1129)
    HALLUSIONBENCH.write_answers(rows, perfect, tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert written[0]["model_prediction"] == perfect[rows[0].id]
    assert list(written[0])[:3] == ["category", "subcategory", "visual_input"]


def test_a_label_that_is_neither(tmp_path: Path) -> None:
    entry = dict.fromkeys((*PLACE, "visual_input", "question", "filename"), "0") | {"gt_answer": "2"}
    (tmp_path / QUESTIONS).write_text(json.dumps([entry]))
    with pytest.raises(ValueError, match=r"question 0: gt_answer must be 0 \(no\) or 1 \(yes\), got '2'"):
        HALLUSIONBENCH.read(tmp_path)
