import json
from pathlib import Path
from typing import Any

import pytest

from moiety.vlm.rows import BadRows, Problem, Turn, load_rows, merge_rows, parse_row, read_rows
from tests.conversations import entry, row, write_lines


def test_llava_row_keeps_everything() -> None:
    found = row("<image>\nWhich?", "B", image="p.jpg", type="mcq", answers=["B"], choices=["x", "y"], split="train")
    assert found.turns == (Turn("user", "<image>\nWhich?"), Turn("assistant", "B"))
    assert (found.images, found.type, found.answers, found.choices) == (("p.jpg",), "mcq", ("B",), ("x", "y"))
    assert found.extra == {"split": "train"}
    assert found.place == "rows.jsonl:3: row 'a'"
    assert parse_row(entry("q", "a")).place == "row 'a'"


def test_messages_with_parts_say_the_same() -> None:
    parts = [{"type": "image", "image": "p.jpg"}, {"type": "text", "text": "Which?"}]
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": [{"type": "text", "text": "B"}]},
    ]
    found = parse_row({"messages": messages}, "deep/some.jsonl", 7)
    assert found.id == "some-7"
    assert found.images == ("p.jpg",)
    assert found.turns[0] == Turn("system", "Be brief.")
    assert found.turns[1:] == row("<image>\nWhich?", "B", image="p.jpg").turns


def test_a_question_may_say_whether_it_belongs_to_the_picture(tmp_path: Path) -> None:
    def asked(mark: Any) -> dict[str, Any]:
        question = {"from": "human", "value": "<image>q"} | ({} if mark is None else {"order": mark})
        return {"image": "p", "conversations": [question, {"from": "gpt", "value": "a"}]}

    rows = [parse_row(asked(mark)) for mark in (None, 1, 0)]
    assert [found.turns[0].order for found in rows] == [None, True, False]
    assert [turn.order for turn in merge_rows(rows)[0].turns] == [None, None, True, None, False, None]
    bad = write_lines(tmp_path / "rows.jsonl", [asked(1), asked(2)])
    with pytest.raises(BadRows, match=r"rows\.jsonl:2: .*turn 1: 'order' must be 1 .* or 0 .*, got 2"):
        load_rows([bad])


def test_null_and_nothing_are_no_id() -> None:
    for given in (None, "", " ", float("nan")):
        found = row("q", "a", id=given)
        assert (found.id, found.is_named) == ("rows-3", False)
    assert (row("q", "a", id=0).id, row("q", "a", id=0).is_named) == ("0", True)
    later = parse_row(entry("q", "a", id=None), "rows.json", 1, 90)
    assert (later.id, later.place) == ("rows-1-90", "rows.json:1:90: row 'rows-1-90'")


def test_text_only_and_several_pictures() -> None:
    assert row("q", "a").images == ()
    assert row("q", "a", image=None, images=None).images == ()
    assert row("<image><image> q", "a", image=["p", "q"]).num_marks == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([1], "expected an object with 'conversations' or 'messages', got list"),
        ({"id": "a"}, r"expected one of 'conversations' and 'messages', got the keys \['id'\]"),
        ({"conversations": [], "messages": []}, "expected one of"),
        ({"conversations": []}, "'conversations' must be a list of at least one turn"),
        ({"conversations": [{"from": "human"}]}, "turn 1 must have 'from' and 'value'"),
        ({"messages": [{"role": "user", "value": "q"}]}, "turn 1 must have 'role' and 'content'"),
        ({"conversations": [{"from": "humam", "value": "q"}]}, "turn 1: role 'humam'; .*did you mean 'human'"),
        ({"messages": [{"role": "user", "content": 3}]}, "turn 1: content must be text or a list of parts, got 3"),
        ({"messages": [{"role": "user", "content": [{"type": "sound"}]}]}, "a content part must be of type text or im"),
        ({**entry("q", "a"), "image": ["", "p"]}, r"'image' must be a text or a list of texts, got \['', 'p'\]"),
        ({**entry("q", "a"), "image": 3}, "'image' must be a text or a list of texts, got 3"),
        ({**entry("q", "a"), "answers": [1]}, r"'answers' must be a text or a list of texts, got \[1\]"),
        ({**entry("q", "a"), "type": 3}, "'type' must be a text, got 3"),
        ({**entry("q", "a"), "image": "p", "images": ["p"]}, "pictures are named in more than one place"),
        ({"conversations": [{"from": "human", "value": "q", "order": "x"}]}, "turn 1: 'order' must be 1 .* or 0 .*'x'"),
        ({"conversations": [{"from": "human", "value": "q", "order": True}]}, "'order' must be .*got True"),
        ({"messages": [{"role": "system", "content": "q", "order": 1}]}, "'order' is set on a turn of the system; set"),
    ],
)
def test_structure_is_checked(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_row(given)


def test_all_structural_problems_are_named_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"id": "a"}\n\n{broken\n' + json.dumps(entry("q", "a")) + "\n[]\n")
    rows, problems = read_rows([path])
    assert [(problem.line, problem.id) for problem in problems] == [(1, "a"), (3, ""), (5, "")]
    assert [found.line for found in rows] == [4]
    with pytest.raises(BadRows, match="3 rows cannot be read:") as caught:
        load_rows([path])
    assert f"{path}:1: row 'a': expected one of" in str(caught.value)
    assert f"{path}:3: not JSON: Expecting property name" in str(caught.value)
    assert caught.value.problems == tuple(problems)


def test_a_long_report_is_cut() -> None:
    text = str(BadRows([Problem("f", line, "", "x") for line in range(25)]))
    assert text.count("\n") == 21
    assert text.endswith("... and 5 more")


def test_json_arrays_know_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps([entry("q", "a", id="1"), entry("q", "a", id="2"), {"id": "3"}], indent=1))
    rows, problems = read_rows([path])
    lines = path.read_text().split("\n")
    assert [found.id for found in rows] == ["1", "2"]
    assert all(lines[found.line - 1] == " {" and f'"{found.id}"' in lines[found.line] for found in rows)
    assert f'"{problems[0].id}"' in lines[problems[0].line]
    path.write_text(json.dumps([entry("q", "a", id=None)] * 3))  # one line, as LLaVA's own files are
    rows = read_rows([path])[0]
    assert [found.line for found in rows] == [1, 1, 1]
    assert [path.read_text()[found.column - 1] if found.column else "" for found in rows] == ["", "{", "{"]
    assert len({found.id for found in rows}) == 3
    path.write_text("[\n{},\n{broken\n]")
    assert [problem.line for problem in read_rows([path])[1]] == [3]
    path.write_text("[]")
    assert read_rows([path]) == ([], [])


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no conversation file at .*rows\.jsonl"):
        load_rows([tmp_path / "rows.jsonl"])


def test_merging_joins_the_rows_of_a_picture(tmp_path: Path) -> None:
    entries = [
        entry("<image>\nq1", "a1", image="p", id="1", type="x", answers=["a1"]),
        entry("<image>\nq2", "a2", image="r", id="2"),
        entry("text", "a3", id="3"),
        entry("q4 <image>", "a4", "more", "a5", image="p", id="4"),
        entry("text", "a6", id="5"),
    ]
    rows = load_rows([write_lines(tmp_path / "rows.jsonl", entries)], merge_turns=True)
    assert [found.id for found in rows] == ["1", "2", "3", "5"]
    assert [turn.text for turn in rows[0].turns] == ["<image>\nq1", "a1", "q4 ", "a4", "more", "a5"]
    assert (rows[0].type, rows[0].answers, rows[0].line, rows[0].num_marks) == (None, (), 1, 1)
    assert rows[0].extra["merged"] == [{"id": "1", "type": "x"}, {"id": "4", "type": None}]


def test_merging_keeps_apart_what_differs_in_system_or_marks() -> None:
    def asked(system: str, text: str) -> Any:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": text}]
        return parse_row({"messages": messages, "image": "p"})

    same = merge_rows([asked("s", "<image>q"), asked("s", "<image>r")])
    assert [[turn.text for turn in found.turns] for found in same] == [["s", "<image>q", "r"]]
    assert len(merge_rows([asked("s", "<image>q"), asked("t", "<image>r")])) == 2
    assert len(merge_rows([asked("s", "<image>q"), asked("s", "no mark")])) == 2


def test_merging_shuffles_by_seed() -> None:
    rows = [row(f"<image>\nq{number}", "a", image="p", id=str(number)) for number in range(6)]
    orders = [[part["id"] for part in merge_rows(rows, seed)[0].extra["merged"]] for seed in (None, 0, 0, 1)]
    assert orders[0] == list("012345")
    assert orders[1] == orders[2] != orders[3]
    assert merge_rows(rows, 0)[0].num_marks == 1
    assert merge_rows(rows, 0)[0].turns[0].text.startswith("<image>")


def test_reads_the_real_sets(shared: Path) -> None:
    rows = load_rows([shared / "data/grocery/conversations-val.jsonl", shared / "data/nlvr/conversations-dev.jsonl"])
    assert len(rows) == 1668 + 5934
    merged = merge_rows(rows)
    assert len(merged) == 296 + 5934
    assert sum(len(found.turns) for found in merged) == 2 * len(rows)


@pytest.mark.parametrize("given", [["a"], {"a": 1}, True, False, 1.5])
def test_an_id_is_a_text_or_a_whole_number(given: object, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(entry("q", "a", id=one)) + "\n" for one in ("x", 7, 8.0, None, given)))
    rows, problems = read_rows([path])
    assert [row.id for row in rows] == ["x", "7", "8.0", "rows-4"]
    assert [problem.line for problem in problems] == [5]
    assert "'id' must be a text or a whole number, got " in str(problems[0])
    assert "; mend it, or leave the key out" in str(problems[0])
