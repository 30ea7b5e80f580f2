"""POPE: the numbers of three public scorers, the join of questions with labels, and its floor."""

import gzip
import json
import shutil
from pathlib import Path

import pytest

from moiety.evaluate.benchmarks.benchmark import asked
from moiety.evaluate.benchmarks.sets.pope import CATEGORIES, POPE
from tests.evaluate.benchmarks.golden import checked_score, golden_rows, golden_scores


@pytest.fixture(scope="module")
def golden(shared: Path) -> tuple[list, dict, list]:
    lines = golden_rows(shared, "pope")
    rows = [
        asked(line["question_id"], "?", [line["question_id"]], type=line["category"], extra={"label": line["label"]})
        for line in lines
    ]
    return rows, {line["question_id"]: line["text"] for line in lines}, lines


@pytest.mark.parametrize("rule", ["official", "lmms_eval", "vcd"])
def test_equals_the_public_scorer(shared: Path, golden: tuple[list, dict, list], rule: str) -> None:
    rows, answers, lines = golden
    score = checked_score(POPE, rows, answers, rule)
    expected = golden_scores(shared, "pope")[rule]
    for category in CATEGORIES:
        for name, value in expected[category].items():
            key = {"f1": "F1", "yes_ratio": "yes ratio", "yes": "yes ratio"}.get(name, name)
            if name not in ("tp", "fp", "tn", "fn", "unknow"):
                assert score.numbers[f"{category} {key}"] == pytest.approx(100 * value, abs=1e-7)
    if rule == "official":
        assert score.headline == ("average F1", pytest.approx(100 * expected["average_f1"], abs=1e-7))
    assert score.correct is not None
    for line in lines:
        if rule == "official":
            assert score.correct[line["question_id"]] == (line["official_verdict"] == line["label"])
        if rule == "lmms_eval":
            assert score.correct[line["question_id"]] == line["lmms_score"]


def test_the_sound_rule_reads_what_the_official_one_takes_for_yes() -> None:
    texts = {"a": "NO", "b": "No\n", "c": "Nope", "d": "", "e": "yes, not one but two"}
    rows = [asked(name, "?", [name], type="random", extra={"label": "no"}) for name in texts]
    official, sound = (POPE.score(rows, texts, rule) for rule in ("official", "sound"))
    assert official.correct == {"a": 0, "b": 0, "c": 0, "d": 0, "e": 1}
    assert sound.correct == {"a": 1, "b": 1, "c": 0, "d": 0, "e": 0}
    assert (sound.unread, official.unread) == (2, 2)


# -- the files ---------------------------------------------------------------------------------------------------------
def folder_of(shared: Path, tmp_path: Path, labels: str, questions: bool) -> Path:
    source = shared / "data" / "benchmark_formats" / "pope"
    shutil.copytree(source / labels, tmp_path / "coco")
    if questions:
        shutil.copy(source / "bunny_pope_test.jsonl.gz", tmp_path)
    return tmp_path


def test_perfect_answers_to_the_official_files_score_100(shared: Path, tmp_path: Path) -> None:
    rows = POPE.read(folder_of(shared, tmp_path, "coco_e3e3926", questions=True))
    assert len(rows) == 8910
    assert rows[0].id == "1"
    prompt = "<image>\nIs there a snowboard in the image?\nAnswer the question using a single word or phrase."
    assert rows[0].turns[0].text == prompt
    perfect = {row.id: row.answers[0].capitalize() for row in rows}
    for rule in POPE.rules:
        score = checked_score(POPE, rows, perfect, rule)
        assert score.headline[1] == 100
        silent = checked_score(POPE, rows, dict.fromkeys(perfect, ""), rule)
        assert silent.headline[1] == pytest.approx(POPE.floor(rows, rule))
    assert POPE.floor(rows, "official") == pytest.approx(100 * (2 / 3 + 2 / 3 + 3000 / 4410) / 3)


def test_labels_of_another_version_are_refused(shared: Path, tmp_path: Path) -> None:
    folder = folder_of(shared, tmp_path, "coco_head", questions=True)
    with pytest.raises(ValueError, match=r"questions have no label .* of different versions of POPE; fetch them"):
        POPE.read(folder)


def test_without_a_file_of_questions_the_labels_are_asked(shared: Path, tmp_path: Path) -> None:
    rows = POPE.read(folder_of(shared, tmp_path, "aokvqa_vcd", questions=False))
    assert len(rows) == 9000
    assert rows[3000].id == "popular/1"


def test_a_label_that_is_neither_yes_nor_no_is_refused(tmp_path: Path) -> None:
    for category in CATEGORIES:
        line = json.dumps({"question_id": 1, "image": "a.jpg", "text": "?", "label": "maybe"})
        (tmp_path / f"gqa_pope_{category}.json.gz").write_bytes(gzip.compress(line.encode()))
    with pytest.raises(ValueError, match=r"gqa_pope_random.json.gz:1: label must be yes or no, got 'maybe'"):
        POPE.read(tmp_path)
