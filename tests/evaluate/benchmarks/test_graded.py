"""What graders gave back becomes the official numbers; files of another form are refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from moiety.cli import app
from moiety.evaluate.benchmarks.rules.graded import CODE, GRADED, SAME, score_graded
from moiety.evaluate.benchmarks.sets.hallusionbench import PLACE, place_of
from tests.evaluate.benchmarks.golden import golden_rows, golden_scores
from tests.evaluate.benchmarks.made import MADE

Write = Callable[[str, Any], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write what a grader gave back."""

    def document(name: str, content: Any) -> Path:
        (tmp_path / name).write_text(json.dumps(content), encoding="utf-8")
        return tmp_path / name

    return document


MMVET = {
    "v1_0": {"imagename": "v1_0.png", "question": "?", "answer": "1", "capability": ["ocr", "math"]},
    "v1_1": {"imagename": "v1_1.png", "question": "?", "answer": "2", "capability": ["rec"]},
    "v1_2": {"imagename": "v1_2.png", "question": "?", "answer": "3", "capability": ["math", "ocr"]},
}


def grades(**values: list[float]) -> dict[str, Any]:
    """In the form of the official grader."""
    return {name: {"model": ["m"] * len(v), "content": ["c"] * len(v), "score": v} for name, v in values.items()}


def test_grades_of_mmvet_by_capability_and_run(write: Write, tmp_path: Path) -> None:
    write("mm-vet.json", MMVET)
    file = write("grades.json", grades(v1_0=[0.5, 0.7], v1_1=[1, 1], v1_2=[0.0, 0.4]))
    score = score_graded("mmvet", tmp_path, [file])
    assert score.headline == ("total", pytest.approx(60))  # runs: 50 and 70
    assert dict(score.numbers) == {
        "total": pytest.approx(60),
        "ocr": pytest.approx(40),
        "math": pytest.approx(40),
        "rec": pytest.approx(100),
        "math+ocr": pytest.approx(40),
        "std over runs": pytest.approx(10),
    }
    assert score.notes == ("2 runs of the grader",)
    assert (score.rule, score.num_questions) == ("graded", 3)
    assert score.interval is not None
    assert score.interval.low <= 60 <= score.interval.high


def test_grades_of_mmvet_without_capabilities(write: Write, tmp_path: Path) -> None:
    line = {"question_id": 0, "image": "v1_0.png", "text": "?"}
    write("llava-mm-vet.jsonl", line)
    score = score_graded("mmvet", tmp_path, [write("grades.json", grades(v1_0=[0.25]))])
    assert dict(score.numbers) == {"total": 25.0}
    assert score.notes == ("1 runs of the grader", "no capabilities in these questions; mm-vet.json has them")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"v1_0": {"score": []}}, "question 'v1_0': 'score' must be one grade from 0 to 1 a run, got []"),
        ({"v1_0": {"score": [1.5]}}, "question 'v1_0': 'score' must be one grade from 0 to 1 a run, got [1.5]"),
        ({"v1_0": {"score": [True]}}, "must be one grade from 0 to 1 a run, got [True]"),
        (grades(v1_0=[1], v1_1=[1, 0], v1_2=[1]), "not graded equally often ('v1_2' has 1, 'v1_1' has 2); let the"),
        (grades(v1_0=[1], v1_1=[1]), "1 have no answer: 'v1_2'"),
        (grades(v1_0=[1], v1_1=[1], v1_2=[1], v1_9=[1]), "1 were answered but not asked: 'v1_9'"),
        ({"v1_0": "1"}, "question 'v1_0': expected an object, got '1'"),
    ],
)
def test_what_is_no_file_of_grades(write: Write, tmp_path: Path, given: dict, told: str) -> None:
    write("mm-vet.json", MMVET)
    with pytest.raises(ValueError) as caught:
        score_graded("mmvet", tmp_path, [write("grades.json", given)])
    assert told in str(caught.value)


@pytest.fixture
def judged(shared: Path, write: Write, tmp_path: Path) -> list[dict[str, Any]]:
    """The golden verdicts in the form of the official tool, their questions beside them."""
    lines = golden_rows(shared, "hallusionbench")
    questions = [{**line, "question": "Is it?", "filename": None} for line in lines]
    write("HallusionBench.json", questions)
    return [{key: line[key] for key in (*PLACE, SAME)} | {CODE: line["judge"]} for line in lines]


def test_verdicts_give_the_golden_numbers(shared: Path, judged: list, write: Write, tmp_path: Path) -> None:
    files = [
        write(f"hallusion_output_{kind.lower()}_model.json", [line for line in judged if line["category"] == kind])
        for kind in ("VD", "VS")
    ]
    score = score_graded("hallusionbench", tmp_path, files)
    wanted = golden_scores(shared, "hallusionbench")["official"]
    expected = {name: value for name, value in wanted.items() if name != "counts"}
    assert {name: score.numbers[name] for name in expected} == {
        name: pytest.approx(value, abs=1e-4) for name, value in expected.items()
    }
    assert score.headline == ("aAcc", score.numbers["aAcc"])
    assert score.notes == ()


def test_verdicts_without_agreement_tell_no_causes(judged: list, write: Write, tmp_path: Path) -> None:
    without = [{key: value for key, value in line.items() if key != SAME} for line in judged]
    score = score_graded("hallusionbench", tmp_path, [write("out.json", without)])
    assert "language_hallucination" not in score.numbers
    assert score.numbers["qAcc"] == pytest.approx(27.6786, abs=1e-4)
    assert score.notes == ("no 'same' in the file: language hallucination and visual illusion are not told apart",)


def test_what_is_no_file_of_verdicts(write: Write, tmp_path: Path) -> None:
    MADE["hallusionbench"].write(tmp_path)
    entries = MADE["hallusionbench"].files["HallusionBench.json"]
    good = [{**entry, CODE: "1"} for entry in entries]
    for given, told in (
        (
            [{**good[0], CODE: "3"}],
            "'gpt4v_output_gpt_check' must be 0 (wrong), 1 (right) or 2 (unclear) and 'same' 0 or",
        ),
        ([{**good[0], SAME: "yes"}], "and 'same' 0 or 1, got '1' and 'yes'"),
        (entries, "question 0 lacks 'gpt4v_output_gpt_check'"),
        ([*good, good[0]], f"question 2: {place_of(good[0])!r} is judged a second time"),
        (good[:1], "1 have no answer: 'VS/map/0/1/0'"),
    ):
        with pytest.raises(ValueError) as caught:
            score_graded("hallusionbench", tmp_path, [write("out.json", given)])
        assert told in str(caught.value)
    file = write("out.json", good)
    with pytest.raises(ValueError, match=r"out\.json: 'VS/map/0/0/0' was graded in another file, too"):
        score_graded("hallusionbench", tmp_path, [file, file])
    with pytest.raises(FileNotFoundError, match=r"nothing graded at .*gone\.json"):
        score_graded("hallusionbench", tmp_path, [tmp_path / "gone.json"])


def test_extractions_give_the_golden_accuracy(shared: Path, write: Write, tmp_path: Path) -> None:
    lines = golden_rows(shared, "mathvista")
    common = {"question": "What?", "image": "1.jpg", "unit": None}
    write("testmini.json", {str(number): {**common, **line} for number, line in enumerate(lines)})
    file = write("output.json", {str(number): {"extraction": line["extraction"]} for number, line in enumerate(lines)})
    score = score_graded("mathvista", tmp_path, [file])
    wanted = golden_scores(shared, "mathvista")["internvl"]["accuracy"]
    assert score.headline == ("accuracy", pytest.approx(100 * wanted, abs=1e-9))
    assert {row: bool(mark) for row, mark in score.correct.items()} == {
        str(number): bool(line["internvl_correct"]) for number, line in enumerate(lines)
    }


def test_answers_before_extraction_are_refused(write: Write, tmp_path: Path) -> None:
    MADE["mathvista"].write(tmp_path)
    with pytest.raises(ValueError, match=r"problem '1' lacks 'extraction'; it has 'response'"):
        score_graded("mathvista", tmp_path, [write("output.json", {"1": {"response": "So it is 1.2"}})])


def test_on_the_command_line(write: Write, tmp_path: Path) -> None:
    made = MADE["mathvista"]
    made.write(tmp_path)
    file = write("output.json", {pid: {"extraction": text} for pid, text in made.right.items()})

    def score(*words: object) -> Any:
        return CliRunner().invoke(app, ["score", *map(str, words)], catch_exceptions=False)

    result = score("mathvista", tmp_path, file, "--graded")
    assert result.exit_code == 0, result.stderr
    assert "mathvista, rule graded, 4 questions" in result.stdout
    assert "100.00" in result.stdout
    result = score("pope", tmp_path, file, "--graded")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: pope has no grader whose file can be read; ")
    for name in GRADED:
        assert name in result.stderr
    assert score("mathvista", tmp_path, file, "--graded", "--scorer", "sound").stderr == (
        "error: --graded has one rule, the grader's own; leave out --scorer sound\n"
    )
    told = score("mathvista", tmp_path, file, file).stderr
    assert told.endswith("got {'id': '1', 'extraction': '1.2'}; name the reply 'prediction'\n")
