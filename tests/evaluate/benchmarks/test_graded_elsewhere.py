"""MathVista and MM-Vet: prompts, rule-based scores, and the files for the graders."""

import json
from pathlib import Path
from typing import Any

import pytest

from moiety.evaluate.benchmarks.benchmark import asked
from moiety.evaluate.benchmarks.sets.mathvista import MATHVISTA, QUESTIONS
from moiety.evaluate.benchmarks.sets.mmvet import MMVET
from tests.evaluate.benchmarks.golden import checked_score, golden_rows, golden_scores


# -- MathVista ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("rule", "variant"), [("official", "internvl"), ("lmms_eval", "lmms")])
def test_mathvista_equals_the_released_scorers(shared: Path, rule: str, variant: str) -> None:
    lines = golden_rows(shared, "mathvista")
    rows = [
        asked(
            str(n), "?", answers=[line["answer"]], choices=line["choices"] or (), type=line["question_type"], extra=line
        )
        for n, line in enumerate(lines)
    ]
    answers = {row.id: line["extraction"] for row, line in zip(rows, lines, strict=True)}
    score = checked_score(MATHVISTA, rows, answers, rule)
    assert score.headline[1] == pytest.approx(100 * golden_scores(shared, "mathvista")[variant]["accuracy"], abs=1e-9)
    assert score.correct == {row.id: line[f"{variant}_correct"] for row, line in zip(rows, lines, strict=True)}


def problem(**more: Any) -> dict[str, Any]:
    common = {"question": "What is x?", "image": "images/1.jpg", "choices": None, "unit": None, "precision": None}
    return {**common, "answer": "3", "question_type": "free_form", "answer_type": "integer", **more}


PROBLEMS = {
    "1": problem(unit="cm"),
    "2": problem(answer="1.25", answer_type="float", precision=2.0),
    "3": problem(answer="[1, 2]", answer_type="list"),
    "4": problem(answer="no", answer_type="text", question_type="multi_choice", choices=["perhaps", "no"]),
}


def test_mathvista_files_and_prompts(tmp_path: Path) -> None:
    (tmp_path / QUESTIONS).write_text(json.dumps(PROBLEMS))
    rows = MATHVISTA.read(tmp_path)
    prompts = [row.turns[0].text for row in rows]
    assert prompts[0] == (
        "<image>\nHint: Please answer the question requiring an integer answer and provide the final value, "
        "e.g., 1, 2, 3, at the end.\nQuestion: What is x? (Unit: cm)"
    )
    assert "with two decimal places and provide the final value, e.g., 1.23, 1.34, 1.45" in prompts[1]
    assert "a Python list as an answer and provide the final list, e.g., [1, 2, 3], [1.2, 1.3, 1.4]" in prompts[2]
    assert prompts[3].endswith("Question: What is x?\nChoices:\n(A) perhaps\n(B) no")
    perfect = {"1": "3", "2": "1.25", "3": "[1, 2]", "4": "(B)"}
    for rule in MATHVISTA.rules:
        assert MATHVISTA.score(rows, perfect, rule).headline[1] == 100
        silent = MATHVISTA.score(rows, dict.fromkeys(perfect, ""), rule)
        assert silent.headline[1] == MATHVISTA.floor(rows, rule) == (0 if rule == "sound" else 25)
    MATHVISTA.write_answers(rows, perfect, tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["4"] == {
        **PROBLEMS["4"],
        "pid": "4",
        "query": prompts[3].removeprefix("<image>\n"),
        "response": "(B)",
    }


def test_mathvista_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / QUESTIONS).write_text(json.dumps({"7": problem(answer_type="proof")}))
    with pytest.raises(ValueError, match=r"problem '7': answer_type 'proof'; expected text, integer, float or list"):
        MATHVISTA.read(tmp_path)
    (tmp_path / QUESTIONS).write_text(json.dumps([problem()]))
    with pytest.raises(ValueError, match="expected an object of entries, got list; is this the official"):
        MATHVISTA.read(tmp_path)


# -- MM-Vet ------------------------------------------------------------------------------------------------------------
def test_mmvet_reads_both_forms_and_writes_for_its_grader(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/benchmark_formats/mm-vet/bunny-mm-vet.jsonl"
    (tmp_path / source.name).write_bytes(source.read_bytes())
    rows = MMVET.read(tmp_path)
    assert len(rows) == 218
    assert (rows[1].id, rows[1].images) == ("v1_1", ("v1_1.png",))
    assert rows[1].turns[0].text == "<image>\nWhat is d in the last equation?"
    answers = {row.id: f"It is {number}." for number, row in enumerate(rows)}
    with pytest.raises(ValueError, match="mmvet is graded elsewhere; write its answers file and hand that in"):
        MMVET.score(rows, answers)
    MMVET.write_answers(rows, answers, tmp_path / "out.json")
    assert json.loads((tmp_path / "out.json").read_text()) == answers
    official = {
        row.id: {
            "imagename": row.images[0],
            "question": row.turns[0].text.removeprefix("<image>\n"),
            "answer": "-1",
            "capability": ["ocr", "math"],
        }
        for row in rows
    }
    (tmp_path / "mm-vet.json").write_text(json.dumps(official))
    again = MMVET.read(tmp_path)
    assert [(row.id, row.images, row.turns) for row in again] == [(row.id, row.images, row.turns) for row in rows]
    assert again[0].extra["capability"] == ["ocr", "math"]
