"""Entries of official files: what is missing is said with its place."""

import json
from pathlib import Path

import pytest
from PIL import Image

from moiety.evaluate.benchmarks.entries import entry_with, list_in, object_in, pictures_below, texts_in, write_document


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


def test_pictures_lie_in_the_folder_or_in_one_below(tmp_path: Path) -> None:
    for name in ("top.png", "images/deep.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (2, 3)).save(tmp_path / name)
    pictures = pictures_below("images", "absent")(tmp_path)
    assert [pictures[name].size for name in ("top.png", "deep.png", "images/deep.png")] == [(2, 3)] * 3


def test_broken_answers_can_be_written(tmp_path: Path) -> None:
    answers = {"1": "\ud800 half a surrogate", "2": "\x00é\n"}
    write_document(tmp_path / "new" / "out.json", answers)
    assert json.loads((tmp_path / "new" / "out.json").read_text()) == answers
