"""A list of bad rows holds those and no other, and notices when its files were changed."""

import json
from pathlib import Path

import pytest

from moiety.vlm.problems import Problem
from moiety.vlm.rows import read_rows
from moiety.vlm.skips import read_skips, write_skips
from tests.conversations import entry, write_lines


def bad(path: Path, *lines: int, column: int = 0) -> list[Problem]:
    return [Problem(str(path), line, "a", "bad", column) for line in lines]


def test_rows_are_named_by_place_and_not_by_id(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [entry("q", str(number)) for number in range(4)])
    path.write_text(path.read_text() + "\n{not json\n")
    listed = tmp_path / "lists" / "bad.txt"
    assert write_skips(listed, [*bad(path, 2, 5), *bad(path, 2)]) == 2
    rows, problems = read_rows([path], read_skips(listed))
    assert [found.turns[1].text for found in rows] == ["0", "2", "3"]
    assert problems == []
    (tmp_path / "elsewhere").mkdir()  # the list goes with its rows
    moved = path.rename(tmp_path / "elsewhere" / "rows.jsonl")
    again = listed.rename(tmp_path / "elsewhere" / "bad.txt")
    again.write_text(again.read_text().replace("../rows", "rows"))
    assert len(read_rows([moved], read_skips(again))[0]) == 3


def test_rows_of_one_line_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "rows: one.json"
    path.write_text(json.dumps([entry("q", "a")] * 3))
    second = read_rows([path])[0][1]
    write_skips(tmp_path / "bad.txt", bad(path, 1, column=second.column))
    assert [found.column == second.column for found in read_rows([path], read_skips(tmp_path / "bad.txt"))[0]] == [
        False,
        False,
    ]


def test_a_file_that_was_changed_since_is_noticed(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [entry("q", "1"), entry("q", "2")])
    write_skips(tmp_path / "bad.txt", bad(path, 2))
    path.write_text("\n".join(reversed(path.read_text().splitlines())))
    with pytest.raises(ValueError, match=r"bad\.txt passes over .*rows\.jsonl:2, but another row stands there now"):
        read_rows([path], read_skips(tmp_path / "bad.txt"))
    other = write_lines(tmp_path / "other.jsonl", [entry("q", "1"), entry("q", "2")])
    assert len(read_rows([other], read_skips(tmp_path / "bad.txt"))[0]) == 2


def test_what_spoils_a_whole_file_cannot_be_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text('[{"id": "a"}, {broken]')
    problems = read_rows([path])[1]
    assert write_skips(tmp_path / "bad.txt", problems) == 0
    assert read_rows([path], read_skips(tmp_path / "bad.txt"))[1] == problems


def test_ids_by_hand_count_where_they_name_one_row(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "rows.jsonl", [entry("q", "1", id="x"), entry("q", "2"), entry("q", "3")])
    listed = tmp_path / "ids.txt"
    listed.write_text("x\n")
    assert len(read_rows([path], read_skips(listed))[0]) == 2
    assert len(read_rows([path, path], read_skips(listed))[0]) == 4
    listed.write_text("x\na\n")
    with pytest.raises(ValueError, match=r"ids\.txt names 'a', the id of 2 rows \(.*:2, .*:3, …\); name rows by file"):
        read_rows([path], read_skips(listed))


def test_no_such_list(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no list of row ids at .*gone\.txt; write one with `moiety data check"
    ):
        read_skips(tmp_path / "gone.txt")
