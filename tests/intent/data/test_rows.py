"""Rows files: what is understood, and that every bad line is named at once."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from moiety.intent.data.rows import ClipRow, RowsError, listed, read_clip_rows

FULL = {
    "key": "a", "clip": "clips/a.mp4", "text": 'so, "fine"\nthen', "audio": "a.wav", "start_s": 1.5, "end_s": 2.0,
    "label": "Thank", "split": "train",
}  # fmt: skip


def jsonl(folder: Path, *rows: Any, name: str = "rows.jsonl") -> Path:
    path = folder / name
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def test_both_forms_say_the_same(tmp_path: Path) -> None:
    rows = [FULL, {"key": "b", "text": "only words"}, {"key": "c", "clip": "/somewhere/c.mp4", "end_s": 3}]
    with (tmp_path / "rows.csv").open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(FULL))
        writer.writeheader()
        writer.writerows(rows)
    found = read_clip_rows(jsonl(tmp_path, *rows))
    assert found == read_clip_rows(tmp_path / "rows.csv")
    clip, wav = tmp_path / "clips/a.mp4", tmp_path / "a.wav"
    assert found[0] == ClipRow("a", clip, 'so, "fine"\nthen', wav, 1.5, 2.0, "Thank", "train")
    assert found[1] == ClipRow("b", text="only words")
    assert found[2] == ClipRow("c", Path("/somewhere/c.mp4"), end_s=3.0)


def test_blank_and_null_are_not_given(tmp_path: Path) -> None:
    row = {"key": " a ", "clip": "", "text": " hi ", "label": None, "end_s": "", "split": "  "}
    assert read_clip_rows(jsonl(tmp_path, row, "", "  ")) == [ClipRow("a", text="hi")]


BAD = [
    ({"text": "hi"}, "no key; give each row a key that no other row has"),
    ({"key": "  ", "text": "hi"}, "no key"),
    ({"key": "a"}, "no clip, audio or text; give at least one"),
    ({"key": 7, "text": "hi"}, "key is int 7, expected text"),
    ({"key": "a", "clip": ["a.mp4"]}, r"clip is list \['a.mp4'\], expected text"),
    ({"key": "a", "clip": "a\0.mp4"}, "clip holds a zero byte"),
    ({"key": "a", "text": "hi", "lable": "x"}, "unknown field 'lable'; known: audio, .*did you mean 'label'"),
    ({"key": "a", "text": "hi", "start_s": -1}, "start_s is -1, expected seconds, 0 or more"),
    ({"key": "a", "text": "hi", "start_s": True}, "start_s is True, expected seconds"),
    ({"key": "a", "text": "hi", "start_s": "soon"}, "start_s is 'soon', expected seconds"),
    ({"key": "a", "text": "hi", "end_s": float("nan")}, "end_s is nan, expected seconds"),
    ({"key": "a", "text": "hi", "end_s": float("inf")}, "end_s is inf, expected seconds"),
    ({"key": "a", "text": "hi", "end_s": [1]}, r"end_s is \[1\], expected seconds"),
    ({"key": "a", "text": "hi", "end_s": 10**400}, "end_s is 1000.*, expected seconds"),
    ({"key": "a", "text": "hi", "start_s": 2, "end_s": 2}, "end_s 2 is not after start_s 2"),
    ({"key": "a", "text": "hi", "end_s": 0}, "end_s 0 is not after start_s 0"),
    ("[1, 2]", "list, expected an object with key, clip, text"),
    ('"words"', "str, expected an object"),
    ("{bad", "no JSON .Expecting property name"),
    ('{"key": "a", "key": "b", "text": "hi"}', "key is given twice"),
    ("[" * 100_000, "no row: nested too deep|no JSON"),
]


@pytest.mark.parametrize(("row", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_lines_are_named_by_number(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(RowsError, match=rf"rows.jsonl: 1 problem: line 2: {message}"):
        read_clip_rows(jsonl(tmp_path, {"key": "good", "text": "hi"}, row))


def test_all_bad_lines_come_together(tmp_path: Path) -> None:
    with pytest.raises(RowsError) as caught:
        read_clip_rows(jsonl(tmp_path, *(row for row, _ in BAD)))
    assert [line for line, _ in caught.value.problems] == [f"line {number}" for number in range(1, len(BAD) + 1)]
    assert f"{len(BAD)} problems: line 1: no key" in str(caught.value)
    assert f"and {len(BAD) - 20} more" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("key,text\na,hi,there\n", "line 2: 3 fields, the head has 2"),
        ("key,text\na\n", "line 2: 1 fields, the head has 2"),
        ("key,key,text\na,b,hi\n", "line 2: key is given twice"),
        ('key,text\na,"never closed\n', r"no CSV \(unexpected end of data\)"),
        ('key,text\na,"hi" there\n', r"line 2: no CSV \("),
        ("key,words\na,hi\n", "line 2: unknown field 'words'"),
        ("key,text\n\n", "file: it holds no rows"),
        ("", "file: it holds no rows"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "rows.csv").write_text(text, "utf-8")
    with pytest.raises(RowsError, match=message):
        read_clip_rows(tmp_path / "rows.csv")


@pytest.mark.parametrize("kind", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_files_with_a_mark_are_read(tmp_path: Path, kind: str, end: str) -> None:
    table = end.join(["key,text,group", 'a,"déjà, vu",Zoë', ""])
    (tmp_path / "rows.csv").write_bytes(table.encode(kind))
    lines = end.join(['{"key": "a", "text": "déjà, vu", "session": "Zoë"}', ""])
    (tmp_path / "rows.jsonl").write_bytes(lines.encode(kind))
    for name in ("rows.csv", "rows.jsonl"):
        (row,) = read_clip_rows(tmp_path / name)
        assert (row.text, row.group) == ("déjà, vu", "Zoë")


@pytest.mark.parametrize("name", ["group", "person", "speaker", "session"])
def test_who_speaks_has_four_names(tmp_path: Path, name: str) -> None:
    (row,) = read_clip_rows(jsonl(tmp_path, {"key": "a", "text": "hi", name: "p1"}))
    assert row.group == "p1"
    with pytest.raises(RowsError, match="group and session both name the group of the row; give one of them"):
        read_clip_rows(jsonl(tmp_path, {"key": "a", "text": "hi", "group": "p1", "session": "s1"}))


def test_half_a_character_is_named(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match=r"line 1: text holds half a character \(letter 4, '.ud83d'\); write it again"):
        read_clip_rows(jsonl(tmp_path, {"key": "a", "text": "hi \ud83d"}))


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(RowsError, match="line 3: key 'a' is also the key of line 1"):
        read_clip_rows(jsonl(tmp_path, *({"key": key, "text": "hi"} for key in "aba")))
    with pytest.raises(FileNotFoundError, match=r"no rows file at .*give a .jsonl or .csv with key, clip, text"):
        read_clip_rows(tmp_path / "none.jsonl")
    with pytest.raises(FileNotFoundError, match="no rows file at"):
        read_clip_rows(tmp_path)
    with pytest.raises(RowsError, match=r"ends in '.json'; rows are read from .jsonl or .csv"):
        read_clip_rows(jsonl(tmp_path, FULL, name="rows.json"))
    (tmp_path / "latin.csv").write_bytes("key,text\na,déjà\n".encode("latin1"))
    with pytest.raises(RowsError, match="byte 12: is not UTF-8; save the file as UTF-8"):
        read_clip_rows(tmp_path / "latin.csv")


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.text(max_size=30) | st.recursive(st.none() | st.floats() | st.text(max_size=5), st.lists), max_size=4)
)
def test_no_line_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, lines: list[Any]) -> None:
    """Whatever stands there: rows, or one error that names lines of this file."""
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(RowsError, match=r"any.jsonl: "):
        read_clip_rows(path)


def test_long_lists_are_cut() -> None:
    assert listed([(str(number), "bad") for number in range(25)]).endswith("19: bad; and 5 more")
