"""SEED-Bench, ScienceQA and AI2D: numbers of public scorers, official files, full marks and the floor."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from moiety.evaluate.benchmarks.benchmark import asked
from moiety.evaluate.benchmarks.registry import BENCHMARKS
from moiety.evaluate.benchmarks.sets.ai2d import AI2D, lmms_filtered, official_character
from moiety.evaluate.benchmarks.sets.scienceqa import SCIENCEQA, internvl_letter, official_letter
from moiety.evaluate.benchmarks.sets.seed_bench import SEED
from moiety.evaluate.scorers import LETTERS
from moiety.vlm.rows import Row
from tests.evaluate.benchmarks.golden import checked_score, golden_rows, golden_scores
from tests.evaluate.benchmarks.made_options import MADE_OPTIONS, scienceqa
from tests.evaluate.benchmarks.test_made import damaged


# -- SEED-Bench --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("rule", "variant"), [("official", "moiie"), ("internvl", "internvl"), ("lmms_eval",) * 2])
def test_seed_equals_the_public_scorer(shared: Path, rule: str, variant: str) -> None:
    lines = golden_rows(shared, "seed_bench")
    rows = [
        asked(line["question_id"], "?", choices="wxyz", type=f"type {line['question_type_id']}", extra=line)
        for line in lines
    ]
    score = checked_score(SEED, rows, {line["question_id"]: line["text"] for line in lines}, rule)
    expected = golden_scores(shared, "seed_bench")[variant]
    shares = rule == "lmms_eval"
    names = {"image": "SEED-I", "video": "all of video", "total": "all", "all": "all"}
    for name, key in names.items():
        if name in expected:
            tolerance = 1e-7 if shares else 0.00501
            assert score.numbers[key] == pytest.approx(expected[name] * (100 if shares else 1), abs=tolerance)
    for name, value in expected.get("per_type", {}).items():
        assert score.numbers[name] == pytest.approx(value, abs=0.00501)


def test_seed_reads_the_questions_on_pictures(tmp_path: Path) -> None:
    question = {"question": "What?", "choice_a": "w", "choice_b": 2, "choice_c": "y", "choice_d": "z", "answer": "B"}
    kinds = (("7", 3, "image"), ("8", 11, "video"), ("9", 1, "image"))
    entries = [
        {**question, "question_id": name, "question_type_id": kind, "data_type": data, "data_id": f"p{name}"}
        for name, kind, data in kinds
    ]
    (tmp_path / "SEED-Bench.json").write_text(json.dumps({"question_type": {}, "questions": entries}))
    rows = SEED.read(tmp_path)
    assert [(row.id, row.images, row.type) for row in rows] == [("7", ("p7",), "type 3"), ("9", ("p9",), "type 1")]
    assert rows[0].turns[0].text.startswith("<image>\nWhat?\nA. w\nB. 2\nC. y\nD. z\nAnswer with")
    full_marks_and_floor(SEED, rows)


# -- ScienceQA ---------------------------------------------------------------------------------------------------------
def science_rows(shared: Path) -> tuple[list[dict[str, Any]], list[Row]]:
    """Here every question has an answer; the source counts one without as wrong and as one without picture."""
    lines = golden_rows(shared, "scienceqa")
    rows = []
    for line in lines:
        extra = {"answer": LETTERS[line["answer"]], "has_image": line["has_image"] and line["text"] is not None}
        rows.append(asked(line["question_id"], "?", choices=line["choices"], extra=extra))
    return lines, rows


def test_scienceqa_equals_the_official_scorer(shared: Path) -> None:
    lines, rows = science_rows(shared)
    score = checked_score(SCIENCEQA, rows, {line["question_id"]: line["text"] or "" for line in lines}, "official")
    expected = golden_scores(shared, "scienceqa")["official"]
    assert score.numbers["accuracy"] == pytest.approx(expected["acc"], abs=1e-9)
    assert score.numbers["with picture"] == pytest.approx(expected["image_acc"], abs=1e-9)
    assert score.correct is not None
    for line in lines:
        assert score.correct[line["question_id"]] == line["official_correct"]
        if line["text"] is not None:
            assert official_letter(line["text"], line["choices"]) == line["official_parsed"]


@pytest.mark.parametrize(("rule", "key"), [("lmms_eval", "exact_match"), ("internvl", "accuracy")])
def test_scienceqa_equals_the_other_scorers(shared: Path, rule: str, key: str) -> None:
    lines, rows = science_rows(shared)
    kept = [(line, row) for line, row in zip(lines, rows, strict=True) if line["text"] is not None]
    answers = {line["question_id"]: line["text"] for line, _ in kept}
    score = checked_score(SCIENCEQA, [row for _, row in kept], answers, rule)
    expected = golden_scores(shared, "scienceqa")[rule]
    assert len(kept) == expected["rows"]
    assert score.headline[1] == pytest.approx(100 * expected[key], abs=1e-7)
    assert score.correct is not None
    for line, _ in kept:
        if rule == "lmms_eval":
            assert score.correct[line["question_id"]] == line["lmms_score"]
        else:
            assert score.correct[line["question_id"]] == line["internvl_correct"]
            assert internvl_letter(line["text"], line["choices"]) == line["internvl_parsed"]


def test_scienceqa_official_files(shared: Path) -> None:
    rows = SCIENCEQA.read(shared / "data" / "benchmark_formats" / "scienceqa")
    assert len(rows) == 4241
    assert sum(bool(row.images) for row in rows) == 2017
    assert (
        rows[0]
        .turns[0]
        .text.endswith("B. apostrophe\nAnswer with the option's letter from the given choices directly.")
    )
    full_marks_and_floor(SCIENCEQA, rows)


def test_scienceqa_refuses_files_of_different_splits(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "benchmark_formats" / "scienceqa"
    for name in ("bunny_test_CQM-A.json.gz", "problems.json.gz"):
        shutil.copy(source / name, tmp_path)
    (tmp_path / "pid_splits.json").write_text(json.dumps({"test": ["4", "5"]}))
    with pytest.raises(
        ValueError, match=r"do not hold the same questions, first difference '10001'; fetch them from one"
    ):
        SCIENCEQA.read(tmp_path)


def test_scienceqa_refuses_an_answer_beyond_the_choices(tmp_path: Path) -> None:
    scienceqa(tmp_path)
    problems = {"4": {"choices": ["red", "blue"], "answer": 2}, "5": {"choices": ["I", "you"], "answer": 0}}
    (tmp_path / "problems.json").write_text(json.dumps(problems))
    with pytest.raises(
        ValueError, match=r"question 1: answer 2 is not the index of one of its 2 choices, counted from 0"
    ):
        SCIENCEQA.read(tmp_path)


# -- damaged files -----------------------------------------------------------------------------------------------------
DAMAGED = {
    "pope": ["coco/coco_pope_random.json"],
    "seed": ["SEED-Bench.json"],
    "scienceqa": ["llava_test_CQM-A.json", "problems.json", "pid_splits.json"],
    "ai2d": ["ai2d_test.jsonl"],
    "cmmmu": ["cmmmu-data-val-answer.jsonl"],
}


def written(document: Any, as_lines: bool) -> str:
    return "\n".join(map(json.dumps, document)) if as_lines and isinstance(document, list) else json.dumps(document)


@pytest.mark.parametrize(("name", "file"), [(name, file) for name, files in DAMAGED.items() for file in files])
def test_damaged_files_are_refused_by_name_or_harmless(tmp_path: Path, name: str, file: str) -> None:
    """Whatever one value is replaced by: reading says which folder is wrong, or its rows can be scored."""
    MADE_OPTIONS[name](tmp_path)
    benchmark, text = BENCHMARKS[name], (tmp_path / file).read_text()
    told = []
    assert benchmark.scorer is not None
    as_lines = "\n" in text.strip()
    document = [json.loads(line) for line in text.strip().split("\n")] if as_lines else json.loads(text)
    for damage in (None, 3, -1, True, "x", [], {}):
        for broken in damaged(document, damage):
            (tmp_path / file).write_text(written(broken, as_lines))
            try:
                rows = benchmark.read(tmp_path)
            except ValueError as error:
                told.append(str(error))
            else:
                benchmark.scorer(rows, {row.id: "A" for row in rows}, benchmark.rules[0])
    assert len(told) > 3
    assert [text for text in told if str(tmp_path) not in text] == []


# -- AI2D --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("rule", "variant"), [("official", "moiie"), ("lmms_eval", "lmms"), ("internvl", "internvl")])
def test_ai2d_equals_the_public_scorer(shared: Path, rule: str, variant: str) -> None:
    lines = golden_rows(shared, "ai2d")
    rows = [asked(str(line["question_id"]), "?", choices=line["options"], extra=line) for line in lines]
    score = checked_score(AI2D, rows, {str(line["question_id"]): line["text"] for line in lines}, rule)
    assert score.headline[1] == pytest.approx(golden_scores(shared, "ai2d")[variant]["accuracy"], abs=1e-9)
    assert score.correct is not None
    for line in lines:
        assert score.correct[str(line["question_id"])] == line[f"{variant}_correct"]
        assert official_character(line["text"], []) == line["moiie_parsed"]
        assert lmms_filtered(line["text"]) == line["lmms_filtered"]


def test_ai2d_reads_lines_and_documents(tmp_path: Path) -> None:
    entry = {"question": "Which?", "options": ["w", "x", "y", "z"], "answer": "2", "image": "1.png"}
    (tmp_path / "ai2d_test.json").write_text(json.dumps([entry, entry]))
    rows = AI2D.read(tmp_path)
    assert [row.id for row in rows] == ["1", "2"]
    full_marks_and_floor(AI2D, rows)
    (tmp_path / "ai2d_test.jsonl").write_text(json.dumps({**entry, "answer": "4"}) + "\n")
    with pytest.raises(
        ValueError, match=r"ai2d_test.jsonl:1: answer '4' is not the index of one of its 4 options, counted from 0"
    ):
        AI2D.read(tmp_path)


def full_marks_and_floor(benchmark: Any, rows: list[Row]) -> None:
    for rule in benchmark.rules:
        perfect = checked_score(benchmark, rows, {row.id: row.answers[0] for row in rows}, rule)
        assert perfect.headline[1] == 100
        silent = checked_score(benchmark, rows, {row.id: "" for row in rows}, rule)
        assert silent.headline[1] == benchmark.floor(rows, rule) == 0
