"""Entries of official files: what is missing is said with its place."""

import json
from pathlib import Path

import pytest

from moiety.evaluate.benchmarks.files.entries import entry_with, list_in, object_in, people_in, texts_in, write_document


def test_an_entry_that_lacks_something() -> None:
    with pytest.raises(
        ValueError, match=r"val.json: question 3 lacks 'answer'; it has 'question': is this the official"
    ):
        entry_with({"question": "?"}, {"question": str, "answer": str}, "val.json: question 3")
    with pytest.raises(
        ValueError, match=r"val.json: question 3: expected an object, got \['a'\]; is this the official"
    ):
        entry_with(["a"], {}, "val.json: question 3")

    with pytest.raises(
        ValueError, match=r"q: 'id' must be a whole number or null, got 'x'; is this the official file\?"
    ):
        entry_with({"id": "x"}, {"id": (int, type(None))}, "q")
    with pytest.raises(ValueError, match=r"q: 'answers' must be a list of texts, got \['a', 3\]; is this the official"):
        texts_in({"answers": ["a", 3]}, "answers", "q")


def test_a_file_that_is_no_list() -> None:
    assert list_in({"data": [1]}, Path("a.json"), "data") == [1]
    with pytest.raises(ValueError, match=r"a.json: expected a list, got dict; is this the official file\?"):
        list_in({}, Path("a.json"))
    with pytest.raises(ValueError, match=r"a.json: expected a list under 'data', got NoneType"):
        list_in({"rows": []}, Path("a.json"), "data")
    with pytest.raises(ValueError, match=r"a.json: expected an object of entries, got list; is this the official"):
        object_in([], Path("a.json"))


def test_what_people_answered_is_read_in_every_form() -> None:
    for given in (["a", "b"], [{"answer": "a"}, {"answer": "b", "answer_id": 2}], {"answer": ["a", "b"]}):
        assert people_in({"answers": given}, "q") == ["a", "b"]
    for wrong in (None, [3], [{"said": "a"}], {"answer": "a"}):
        with pytest.raises(ValueError, match=r"q: 'answers' must be a list of texts, got .*; is this the official"):
            people_in({"answers": wrong}, "q")


def test_broken_answers_can_be_written(tmp_path: Path) -> None:
    answers = {"1": "\ud800 half a surrogate", "2": "\x00é\n"}
    write_document(tmp_path / "new" / "out.json", answers)
    assert json.loads((tmp_path / "new" / "out.json").read_text()) == answers
