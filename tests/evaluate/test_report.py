"""Rows and predictions to scores per type; the file of predictions."""

import json
from pathlib import Path

import pytest

from moiety.evaluate.predictions import PredictionFile
from moiety.evaluate.report import percent, score_predictions
from moiety.evaluate.tasks import TASKS, task_of
from moiety.stats.intervals import wilson_interval
from moiety.vlm.rows import Row, Turn, load_rows


def row(name: str, answer: str, kind: str = "colour", **more: object) -> Row:
    turns = (Turn("user", f"<image>\nquestion {name}?"), Turn("assistant", answer))
    return Row(name, turns, ("a.png",), type=kind, answers=(answer,), file="rows.jsonl", line=1, **more)  # type: ignore[arg-type]


def test_each_row_finds_its_task() -> None:
    assert task_of(row("1", "B", choices=("red", "blue"))).name == "choice"
    assert task_of(row("2", "Yes")).name == "yes_no"
    assert task_of(row("3", "apple")).name == "exact"


def test_scores_per_type() -> None:
    rows = [
        row("1", "red"),
        row("2", "blue"),
        row("3", "yes", "exist"),
        row("4", "no", "exist"),
        row("5", "no", "exist"),
    ]
    result = score_predictions(rows, {"1": "Red ", "2": "green", "3": "Yes", "4": "yes", "5": "perhaps"})
    assert list(result.types) == ["colour", "exist"]
    assert result.types["colour"].accuracy.mean == 0.5
    exist = result.types["exist"]
    assert (exist.task, exist.num_questions, exist.accuracy.mean) == ("yes_no", 3, pytest.approx(1 / 3))
    assert exist.metrics["precision"] == 0.5
    assert exist.metrics["unreadable"] == pytest.approx(1 / 3)
    assert result.overall.mean == pytest.approx(2 / 5)
    assert result.mean_of_types == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert percent(result.overall) == "40.0 [11.8, 76.9]"
    assert result.table()[0]["accuracy %"].startswith("50.0 [")
    assert set(result.to_dict()["rules"]) == {"exact", "yes_no"}


def test_any_accepted_answer_counts() -> None:
    accepted = Row("1", (Turn("user", "q"),), answers=("granny smith", "apple"), type="fine")
    assert score_predictions([accepted], {"1": "Apple"}).overall.mean == 1


def test_the_last_turn_answers_when_no_answers_are_given() -> None:
    spoken = Row("1", (Turn("user", "q"), Turn("assistant", "pear")), type="fine")
    assert TASKS["exact"].truth(spoken) == "pear"


def test_choice_given_in_words_becomes_its_letter() -> None:
    assert TASKS["choice"].truth(row("1", "blue", choices=("red", "blue"))) == "B"


def test_messages() -> None:
    with pytest.raises(ValueError, match="no rows to score"):
        score_predictions([], {})
    with pytest.raises(ValueError, match="1 of 2 rows have no prediction, first '2'"):
        score_predictions([row("1", "red"), row("2", "red")], {"1": "red"})
    with pytest.raises(ValueError, match=r"rows.jsonl:1: row '1': answer 'plum' is none of its choices A 'red'"):
        TASKS["choice"].truth(row("1", "plum", choices=("red",)))
    with pytest.raises(ValueError, match="row '9': no answer to score against"):
        task_of(Row("9", (Turn("user", "q"),)))


def test_prediction_file_goes_on_after_a_torn_line(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "predictions.jsonl"
    PredictionFile(path, {"weights": "a"}).add({"1": "red", "2": "blüe\n"})
    with path.open("ab") as file:
        file.write(b'{"id": "3", "predic')
    again = PredictionFile(path, {"weights": "a"})
    assert again.answers == {"1": "red", "2": "blüe\n"}
    again.add({"3": "green"})
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line.get("id") for line in lines] == [None, "1", "2", "3"]


def test_prediction_file_torn_in_its_first_line_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    path.write_text('{"settin')
    assert PredictionFile(path, {"weights": "a"}).answers == {}
    assert json.loads(path.read_text()) == {"settings": {"weights": "a"}}


def test_prediction_file_messages(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    PredictionFile(path, {"weights": "a", "max_new_tokens": 4}).add({"1": "red"})
    with pytest.raises(ValueError, match=r"made with other settings \(weights: 'a' there, 'b' now\)"):
        PredictionFile(path, {"weights": "b", "max_new_tokens": 4})
    path.write_text('{"settings": {}}\nnot json\n')
    with pytest.raises(ValueError, match=r"predictions.jsonl:2 is not a line of predictions"):
        PredictionFile(path, {})


def conflict_row(name: str, answer: str, prior: object, **more: object) -> Row:
    return row(name, answer, "conflict", extra={"prior_answer": prior}, **more)


def test_evidence_against_memory_in_letters() -> None:
    options = ("red", "green", "yellow", "purple", "blue")
    rows = [conflict_row(str(number), "E", "C", choices=options) for number in range(5)]
    written = ["E", "blue", "C.", "A", "no idea"]
    conflict = score_predictions(rows, {str(k): text for k, text in enumerate(written)}).types["conflict"].conflict
    assert conflict is not None
    assert (conflict.num_questions, conflict.evidence.mean, conflict.memory.mean) == (5, 0.4, 0.2)
    assert conflict.ratio == wilson_interval(1, 3)


def test_evidence_against_memory_in_words_and_yes_or_no() -> None:
    words = [conflict_row("1", "blue", "Yellow"), conflict_row("2", "red", "orange")]
    conflict = score_predictions(words, {"1": "yellow ", "2": "green"}).types["conflict"].conflict
    assert conflict is not None
    assert (conflict.evidence.mean, conflict.memory.mean) == (0, 0.5)
    assert conflict.ratio is not None
    assert conflict.ratio.mean == 1
    yes_no = [conflict_row("1", "no", "yes")]
    answered = score_predictions(yes_no, {"1": "No."}).types["conflict"]
    assert answered.conflict is not None
    assert answered.conflict.evidence.mean == 1
    assert "ConR 100.0 [" in score_predictions(yes_no, {"1": "No."}).table()[0]["more"]


def test_where_memory_is_right_nothing_is_in_conflict() -> None:
    control = [conflict_row("1", "yellow", "yellow"), row("2", "green")]
    score = score_predictions(control, {"1": "yellow", "2": "green"})
    assert all(found.conflict is None for found in score.types.values())
    mixed = [*control, conflict_row("3", "blue", "yellow")]
    conflict = score_predictions(mixed, {"1": "yellow", "2": "green", "3": "red"}).types["conflict"].conflict
    assert conflict is not None
    assert (conflict.num_questions, conflict.ratio) == (1, None)


def test_conflict_questions_of_real_photos(shared: Path) -> None:
    """Answering like memory, and like the picture, gives the floors that the data set states."""
    rows = load_rows([shared / "data" / "grocery" / "conversations-conflict_dev.jsonl"])
    memory = score_predictions(rows, {entry.id: str(entry.extra["prior_answer"]) for entry in rows}).types
    assert memory["conflict_control"].accuracy.mean == 1
    assert memory["conflict_control"].conflict is None
    believed = memory["conflict"].conflict
    assert believed is not None
    assert (believed.num_questions, believed.evidence.mean, believed.memory.mean) == (192, 0, 1)
    seen = score_predictions(rows, {entry.id: entry.answers[0] for entry in rows}).types["conflict"].conflict
    assert seen is not None
    assert seen.ratio is not None
    assert (seen.evidence.mean, seen.ratio.mean) == (1, 0)


@pytest.mark.parametrize("prior", ["plum", "F", "", 3])
def test_a_prior_that_is_no_answer_is_refused(prior: object) -> None:
    asked = conflict_row("1", "A", prior, choices=("red", "blue"))
    with pytest.raises(ValueError, match=rf"row '1': prior_answer {prior!r} is no answer .*; give one of red, blue or"):
        score_predictions([asked], {"1": "A"})


def test_one_name_for_two_kinds_of_questions_is_kept_apart() -> None:
    rows = [row("1", "B", "quiz", choices=("red", "blue")), row("2", "yes", "quiz"), row("3", "red", "colour")]
    result = score_predictions(rows, {"1": "\\boxed{B}", "2": "I cannot say", "3": "**Red.**"})
    assert {name: score.accuracy.mean for name, score in result.types.items()} == {
        "quiz (choice)": 1,
        "quiz (yes_no)": 0,
        "colour": 1,
    }
    assert [score.num_unreadable for score in result.types.values()] == [0, 1, None]
    assert [line["more"].rpartition(", ")[2] for line in result.table()] == [
        "unreadable 0 of 1",
        "unreadable 1 of 1",
        "",
    ]
    assert result.to_dict()["types"]["quiz (yes_no)"]["num_unreadable"] == 1
    assert set(result.to_dict()["rules"]) == {"choice", "yes_no", "exact"}
