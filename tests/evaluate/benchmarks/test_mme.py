"""MME: points of two public scorers, the official files and the answers that shift pairs in the official tool."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from moiety.evaluate.benchmarks.benchmark import asked
from moiety.evaluate.benchmarks.sets.mme import COGNITION, MME, PERCEPTION, official_reading
from moiety.vlm.rows import Row
from tests.evaluate.benchmarks.golden import checked_score, golden_rows, golden_scores


def row(name: str, task: str, picture: str, label: str) -> Row:
    return asked(name, "?", [picture], type=task, extra={"label": label, "picture": f"{task}/{picture}"})


@pytest.mark.parametrize("rule", ["official", "lmms_eval"])
def test_equals_the_public_scorer(shared: Path, rule: str) -> None:
    lines = golden_rows(shared, "mme")
    rows = [row(str(number), line["task"], line["image"], line["label"]) for number, line in enumerate(lines)]
    answers = {str(number): line["text"] for number, line in enumerate(lines)}
    score = checked_score(MME, rows, answers, rule)
    expected = golden_scores(shared, "mme")[rule]
    assert score.numbers["perception"] == pytest.approx(expected["perception"], abs=1e-6)
    assert score.numbers["cognition"] == pytest.approx(expected["cognition"], abs=1e-6)
    for task, points in expected.get("per_task", {}).items():
        assert score.numbers[task] == pytest.approx(points, abs=1e-6)
    for number, line in enumerate(lines):
        if rule == "official":
            assert (official_reading(line["text"]) or "other") == line["official_verdict"]
        else:
            assert score.correct is not None
            assert score.correct[str(number)] == line["lmms_score"]


def test_pairs_are_joined_by_picture_not_by_order() -> None:
    rows = [row("1", "count", "a", "yes"), row("2", "count", "b", "yes")]
    rows += [row("3", "count", "a", "no"), row("4", "count", "b", "no")]
    score = MME.score(rows, {"1": "yes", "2": "yes", "3": "no", "4": "yes"})
    assert score.numbers["count"] == 75 + 50
    assert score.notes[0].startswith("the sums do not contain existence")


def test_an_answer_with_a_tab_costs_itself_only() -> None:
    rows = [row("1", "OCR", "a", "yes"), row("2", "OCR", "a", "no"), row("3", "OCR", "b", "yes")]
    rows += [row("4", "OCR", "b", "no")]
    answers = {"1": "yes\tindeed", "2": "no", "3": "Yes", "4": "No\nnot\tat all"}
    assert MME.score(rows, answers, "official").numbers["OCR"] == 75 + 50
    assert MME.score(rows, answers, "sound").numbers["OCR"] == 200


def test_perfect_answers_to_the_official_files_score_2000_and_800(shared: Path) -> None:
    rows = MME.read(shared / "data" / "benchmark_formats" / "mme")
    assert len(rows) == 2374
    first = "<image>\nIs there a train in this image?\nAnswer the question using a single word or phrase."
    assert (rows[0].id, rows[0].turns[0].text) == ("existence/000000006040.jpg/1", first)
    perfect = {row.id: row.answers[0].capitalize() for row in rows}
    for rule in MME.rules:
        score = checked_score(MME, rows, perfect, rule)
        assert (score.numbers["perception"], score.numbers["cognition"]) == (2000, 800)
        assert checked_score(MME, rows, dict.fromkeys(perfect, ""), rule).headline[1] == 0


def test_a_sum_of_which_nothing_was_asked_is_left_out(shared: Path) -> None:
    rows = MME.read(shared / "data" / "benchmark_formats" / "mme")
    for tasks, headline, other in (
        (("existence", "OCR"), "perception", "cognition"),
        (("code_reasoning",), "cognition", "perception"),
    ):
        part = [row for row in rows if row.type in tasks]
        score = checked_score(MME, part, {row.id: row.answers[0] for row in part}, "official")
        assert score.headline == (headline, 200.0 * len(tasks))
        assert other not in score.numbers


def test_a_limit_keeps_pairs_whole(shared: Path) -> None:
    rows = MME.read(shared / "data" / "benchmark_formats" / "mme")
    assert [row.id for row in MME.first(rows, 3)] == [row.id for row in rows[:4]]


# -- files -------------------------------------------------------------------------------------------------------------
def write(folder: Path, text: str) -> None:
    for task in (*PERCEPTION, *COGNITION):
        (folder / f"{task}.txt").write_text(text)


def test_a_bad_line_and_an_uneven_picture_are_named(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg\tIs it?\tmaybe\n")
    with pytest.raises(ValueError, match=r"existence.txt:1: expected picture, question and Yes or No between tabs"):
        MME.read(tmp_path)
    write(tmp_path, "a.jpg\tIs it?\tYes\n")
    with pytest.raises(
        ValueError, match=r"1 pictures do not have one Yes and one No question, first 'existence/a.jpg'"
    ):
        MME.read(tmp_path)


def test_pictures_lie_in_the_folder_of_a_task_or_in_its_images(tmp_path: Path) -> None:
    write(tmp_path, "a.jpg\tIs it?\tYes\na.jpg\tIs it not?\tNo\n")
    for name, shade in {"count/images/a.png": 10, "scene/a.png": 20}.items():
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("L", (2, 2), shade).save(tmp_path / name)
    pictures = MME.pictures(tmp_path)
    assert [int(np.asarray(pictures[name])[0, 0, 0]) for name in ("count/a.png", "scene/a.png")] == [10, 20]
    assert ["count/a.png" in pictures, "count/b.png" in pictures] == [True, False]
