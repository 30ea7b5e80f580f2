"""DocVQA, ChartQA and OCRBench: released numbers, official files, perfect and empty answers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from moiety.evaluate.benchmarks.benchmark import asked
from moiety.evaluate.benchmarks.sets.chartqa import CHARTQA
from moiety.evaluate.benchmarks.sets.docvqa import DOCVQA, DOCVQA_TEST
from moiety.evaluate.benchmarks.sets.ocrbench import FORMULAS, OCRBENCH
from tests.evaluate.benchmarks.golden import checked_score, golden_rows, golden_scores

SHORT = "Answer the question using a single word or phrase."


# -- DocVQA ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("rule", ["official", "lmms_eval", "stvqa"])
def test_docvqa_equals_the_released_scorers(shared: Path, rule: str) -> None:
    lines = golden_rows(shared, "docvqa")
    rows = [asked(str(line["questionId"]), "?", answers=line["answers"]) for line in lines]
    answers = {str(line["questionId"]): line["text"] for line in lines}
    score = checked_score(DOCVQA, rows, answers, rule)
    assert score.headline[1] == pytest.approx(100 * golden_scores(shared, "docvqa")[rule]["anls"], abs=1e-9)
    left_out = sum(line["stvqa_score"] is None for line in lines) if rule == "stvqa" else 0
    assert score.correct is not None
    assert len(score.correct) == len(lines) - left_out
    told = f"{left_out} questions are left out, because both their answer and their label are empty"
    assert score.notes == ((told,) if left_out else ())


def test_docvqa_interval_bears_questions_that_are_left_out() -> None:
    rows = [asked("1", "?", answers=[""]), asked("2", "?", answers=["a"])]
    score = DOCVQA.score(rows, {"1": "", "2": "a"}, "stvqa")
    assert score.headline == ("anls", 100)
    assert score.interval is not None
    assert (score.interval.low, score.interval.high) == (100, 100)
    assert score.statistic is not None
    assert np.isnan(score.statistic(np.array([2.0, 0.0])))


def docvqa_file(folder: Path, name: str, **more: Any) -> None:
    entry = {"questionId": 49153, "question": "Which date?", "image": "documents/p_1.png", "docId": 7, **more}
    document = {"dataset_name": "docvqa", "dataset_split": name, "data": [entry]}
    (folder / f"{name}_v1.0.json").write_text(json.dumps(document))


def test_docvqa_files(tmp_path: Path) -> None:
    docvqa_file(tmp_path, "val", answers=["1/8/93", "1/8/1993"])
    docvqa_file(tmp_path, "test")
    row = DOCVQA.read(tmp_path)[0]
    assert (row.id, row.images) == ("49153", ("p_1.png",))
    assert row.turns[0].text == f"<image>\nWhich date?\n{SHORT}"
    (tmp_path / "val" / "documents").mkdir(parents=True)
    (tmp_path / "val" / "documents" / "p_1.png").write_bytes(b"")
    assert row.images[0] in DOCVQA.pictures(tmp_path)
    for rule in DOCVQA.rules:
        assert DOCVQA.score([row], {"49153": "1/8/93"}, rule).headline[1] == 100
        assert DOCVQA.score([row], {"49153": ""}, rule).headline[1] == DOCVQA.floor([row], rule) == 0
    DOCVQA_TEST.write_answers(DOCVQA_TEST.read(tmp_path), {"49153": "1/8/93"}, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == [{"questionId": 49153, "answer": "1/8/93"}]


def test_docvqa_without_answers(tmp_path: Path) -> None:
    docvqa_file(tmp_path, "val", answers=[])
    with pytest.raises(ValueError, match=r"val_v1.0.json: question 0 has no answers; fetch the file again"):
        DOCVQA.read(tmp_path)


# -- ChartQA -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("rule", "variant"), [("official", "internvl"), ("lmms_eval", "lmms"), ("moiie", "moiie")])
def test_chartqa_equals_the_released_scorers(shared: Path, rule: str, variant: str) -> None:
    lines = golden_rows(shared, "chartqa")
    rows = [asked(str(line["question_id"]), "?", answers=[line["answer"]], type=line["split"]) for line in lines]
    score = checked_score(CHARTQA, rows, {row.id: line["text"] for row, line in zip(rows, lines, strict=True)}, rule)
    wanted = golden_scores(shared, "chartqa")[variant]
    assert score.headline[1] == pytest.approx(wanted["accuracy"], abs=1e-9)
    assert {name: score.numbers[name] for name in ("human", "augmented")} == {
        name: pytest.approx(wanted[name], abs=1e-9) for name in ("human", "augmented")
    }


def test_chartqa_files(tmp_path: Path) -> None:
    (tmp_path / "test" / "png").mkdir(parents=True)
    for split, label in (("human", "14"), ("augmented", "Yes")):
        entries = [{"imgname": f"{split}.png", "query": "How many?", "label": label}]
        (tmp_path / "test" / f"test_{split}.json").write_text(json.dumps(entries))
    rows = CHARTQA.read(tmp_path)
    assert [row.id for row in rows] == ["human/0", "augmented/0"]
    assert rows[0].turns[0].text == f"<image>\nHow many?\n{SHORT}"
    for rule in CHARTQA.rules:
        assert CHARTQA.score(rows, {"human/0": "14", "augmented/0": "yes"}, rule).headline[1] == 100
        assert CHARTQA.score(rows, dict.fromkeys(("human/0", "augmented/0"), ""), rule).headline[1] == 0
    assert CHARTQA.rule_named(None) == "sound"
    (tmp_path / "test" / "png" / "human.png").write_bytes(b"")
    assert "human.png" in CHARTQA.pictures(tmp_path)


# -- OCRBench ----------------------------------------------------------------------------------------------------------
def test_ocrbench_equals_the_released_scorer(shared: Path) -> None:
    lines = golden_rows(shared, "ocrbench")
    assert lines
    rows = [
        asked(
            str(number),
            "?",
            answers=[line["answer"]] if isinstance(line["answer"], str) else line["answer"],
            type=line["question_type"],
            extra={"dataset_name": line["dataset"]},
        )
        for number, line in enumerate(lines)
    ]
    answers = {row.id: line["text"] for row, line in zip(rows, lines, strict=True)}
    score = checked_score(OCRBENCH, rows, answers, "lmms_eval")
    assert score.correct == {row.id: line["lmms_score"] for row, line in zip(rows, lines, strict=True)}
    wanted = golden_scores(shared, "ocrbench")["lmms_eval"]
    assert score.headline == ("points", wanted["total_points"])
    assert {kind: score.numbers[f"points {kind}"] for kind in wanted["per_type"]} == wanted["per_type"]
    assert score.notes == ("points of 120 questions; the benchmark has 1,000",)


def test_ocrbench_files(tmp_path: Path) -> None:
    question = "Please write out the expression of the formula in the image using LaTeX format."
    entries = [
        {"dataset_name": FORMULAS, "type": "formula", "question": question, "answers": "x ^ 2", "image_path": "a.jpg"},
        {"dataset_name": "SVT", "type": "text", "question": "?", "answers": ["HOTEL", "Inn"], "image_path": "b.jpg"},
    ]
    (tmp_path / "OCRBench.json").write_text(json.dumps(entries))
    rows = OCRBENCH.read(tmp_path)
    assert [row.id for row in rows] == ["0", "1"]
    assert OCRBENCH.score(rows, {"0": "$x^2$", "1": "an inn"}).headline == ("points", 2)
    assert OCRBENCH.score(rows, {"0": "X^2", "1": "in n"}).headline == ("points", 0)  # case counts in formulas
    assert OCRBENCH.score(rows, {"0": "", "1": ""}).headline[1] == OCRBENCH.floor(rows, "lmms_eval") == 0
