"""GQA against the numbers of the released scorers and the official question file."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from moiety.evaluate.benchmarks.benchmark import asked
from moiety.evaluate.benchmarks.sets.gqa import GQA, converted, unpunctuated
from moiety.vlm.rows import Row
from tests.evaluate.benchmarks.golden import checked_score, golden_rows, golden_scores


@pytest.fixture(scope="module")
def golden(shared: Path) -> tuple[list[Row], dict[str, str], list[dict[str, Any]]]:
    questions = json.loads((shared / "golden/scorers/gqa/questions.json").read_text())
    lines = golden_rows(shared, "gqa")
    rows = [
        asked(name, "?", answers=[entry["answer"]], type=entry["types"]["structural"], extra=entry)
        for name, entry in questions.items()
    ]
    return rows, {line["question_id"]: line["text"] for line in lines}, lines


def test_official_numbers(shared: Path, golden: tuple) -> None:
    rows, answers, lines = golden
    assert lines
    score = checked_score(GQA, rows, answers, "official")
    wanted = golden_scores(shared, "gqa")["official"]
    for name in ("accuracy", "binary", "open", "distribution"):
        assert score.numbers[name] == pytest.approx(wanted.pop(name), abs=1e-6)
    families = {"Structural": "structural", "Semantic": "semantic", "Steps": "steps", "Length": "words"}
    for theirs, ours in families.items():
        kinds = wanted.pop(f"accuracyPer{theirs}" + ("Type" if theirs.startswith("S") and theirs != "Steps" else ""))
        assert len(kinds) == sum(name.startswith(f"{ours} ") for name in score.numbers)
        for kind, (percent, _) in kinds.items():
            assert score.numbers[f"{ours} {kind:0>2}"] == pytest.approx(percent, abs=1e-6)
    assert not wanted
    for line in lines:
        assert converted(line["text"]) == line["converted"]
        assert score.correct is not None
        assert score.correct[line["question_id"]] == line["official_correct"]


def test_lmms_eval_numbers(shared: Path, golden: tuple) -> None:
    rows, answers, lines = golden
    score = checked_score(GQA, rows, answers, "lmms_eval")
    assert score.headline[1] == pytest.approx(100 * golden_scores(shared, "gqa")["lmms_eval"]["exact_match"], abs=1e-9)
    assert score.correct == {line["question_id"]: line["lmms_correct"] for line in lines}


def test_blanks_are_never_taken_away() -> None:
    assert converted("white. ") == "white. "
    assert unpunctuated(" no!") == " no"


def test_the_official_file_and_the_released_prompts(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data/benchmark_formats/gqa"
    rows = GQA.read(folder)  # the archive as it is published
    assert len(rows) == 12_578
    released = gzip.decompress((folder / "bunny_gqa_testdev_balanced.jsonl.gz").read_bytes()).decode().split("\n")
    asked_there = {line["question_id"]: line for line in map(json.loads, filter(None, released))}
    for row in rows:
        line = asked_there[row.id]
        assert (row.turns[0].text, row.images) == (f"<image>\n{line['text']}", (line["image"],))
    perfect = {row.id: row.answers[0].capitalize() + "." for row in rows}
    official = checked_score(GQA, rows, perfect, "official")
    assert (official.headline[1], official.numbers["distribution"]) == (100, 0)
    assert checked_score(GQA, rows, perfect, "lmms_eval").headline[1] == 100
    few = dict.fromkeys((row.id for row in rows[:500]), "")
    for rule in GQA.rules:
        assert checked_score(GQA, rows[:500], few, rule).headline[1] == GQA.floor(rows, rule) == 0
    GQA.write_answers(rows[:2], {row.id: "Yes." for row in rows[:2]}, tmp_path / "answers.json")
    written = json.loads((tmp_path / "answers.json").read_text())
    assert written == [{"questionId": row.id, "prediction": "yes"} for row in rows[:2]]
