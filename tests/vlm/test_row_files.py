"""Every form that conversation files come in is read, or refused in one line with the remedy."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from moiety.vlm.check import check_files
from moiety.vlm.data import Encoder
from moiety.vlm.images import Images
from moiety.vlm.inline_pictures import InlinePicture
from moiety.vlm.rows import BadRows, load_rows, merge_rows, read_rows
from tests.conversations import entry, shared_processor

PICTURE = Image.new("RGB", (20, 12), "red")


def png() -> bytes:
    out = io.BytesIO()
    PICTURE.save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("ends", [".json", ".jsonl"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_an_encoding_that_the_file_says_itself_is_read(tmp_path: Path, encoding: str, ends: str) -> None:
    path, said = tmp_path / f"rows{ends}", ["café", "さくら 🌸"]
    entries = [json.dumps(entry("q", text), ensure_ascii=False) for text in said]
    text = f"[{', '.join(entries)}]" if ends == ".json" else "\r\n".join(entries)
    path.write_bytes(text.encode(encoding))
    assert path.read_bytes()[:2] in (b"\xef\xbb", b"\xff\xfe")
    assert [row.turns[1].text for row in load_rows([path])] == said


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16-le", r"byte 1 is 0: is this UTF-16LE without a mark, .* iconv -f UTF-16LE -t UTF-8 rows.json > new"),
        ("utf-16-be", r"byte 0 is 0: is this UTF-16BE without a mark, .* iconv -f UTF-16BE -t UTF-8 rows.json > new"),
        ("utf-32-le", r"byte 1 is 0: is this UTF-32LE without a mark"),
        ("latin-1", r"byte \d+ is not UTF-8; save the file as UTF-8. It is 0xe9, in line 1; .*iconv -f WINDOWS-1252"),
        ("cp1252", r"byte \d+ is not UTF-8; save the file as UTF-8. It is 0x80, in line 1; .*iconv -f WINDOWS-1252"),
    ],
)
def test_other_encodings_are_told_with_byte_and_remedy(tmp_path: Path, encoding: str, message: str) -> None:
    path = tmp_path / "rows.json"
    said = "€ 3" if encoding == "cp1252" else "café"
    path.write_bytes(json.dumps([entry("q", said)], ensure_ascii=False).encode(encoding))
    rows, problems = read_rows([path])
    assert (rows, len(problems), problems[0].whole) == ([], 1, True)
    assert str(problems[0]).startswith(f"{path}:1: byte ")
    assert re.search(message, str(problems[0]))
    with pytest.raises(BadRows, match=message):
        load_rows([path])


def test_a_torn_file_in_utf16_is_refused_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(json.dumps(entry("q", "a")).encode("utf-16") + b"x")
    rows, problems = read_rows([path])
    assert (rows, problems[0].whole) == ([], True)
    assert re.search(r"byte \d+ does not fit UTF-16, which the file starts as; save it as UTF-8", str(problems[0]))


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_one_bad_line_leaves_the_others(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [json.dumps(entry("q", said), ensure_ascii=False).encode() for said in ("a", "é", "c")]
    path.write_bytes(mark + b"\r\n".join([lines[0], lines[1].decode().encode("latin-1"), lines[2]]))
    rows, problems = read_rows([path])
    assert [found.line for found in rows] == [1, 3]
    assert (problems[0].line, problems[0].whole) == (2, False)
    place = int(str(problems[0]).split("byte ")[1].split()[0])
    assert path.read_bytes()[place : place + 1] == b"\xe9"


def test_other_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(entry("q", "a"), indent=2))
    assert len(load_rows([path])) == 1
    path.write_text('{"id": ' + "1" * 5000 + "}\n" + json.dumps(entry("q", "a")))
    rows, problems = read_rows([path])
    assert len(rows) == 1
    assert "not JSON that can be read: Exceeds the limit" in problems[0].text
    path.write_text('[{"id": ' + "1" * 5000 + "}]")
    assert "not JSON that can be read: Exceeds the limit" in read_rows([path])[1][0].text


@pytest.fixture
def write(tmp_path: Path) -> Any:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    def written(entries: list[dict[str, Any]], **options: Any) -> Path:
        parquet.write_table(pyarrow.Table.from_pylist(entries), tmp_path / "rows.parquet", **options)
        return tmp_path / "rows.parquet"

    return written


def test_tables_as_the_hub_has_them(write: Any) -> None:
    turns = [{"from": "human", "value": "<image>\nq"}, {"from": "gpt", "value": "a"}]
    two = [{"from": "human", "value": "<image><image>\nq"}, {"from": "gpt", "value": "a"}]
    inside, outside = {"bytes": png(), "path": "p.png"}, {"bytes": None, "path": "p.png"}
    parts = [{"type": "image", "text": None, "index": 0}, {"type": "text", "text": "q", "index": None}]
    answer = [{"type": "text", "text": "a", "index": None}]
    spoken = [{"role": "user", "content": parts}, {"role": "assistant", "content": answer}]
    forms: list[list[dict[str, Any]]] = [
        [{"id": number, "image": inside, "conversations": turns} for number in range(5)],
        [{"id": None, "images": [inside, inside], "messages": [{"role": "user", "content": "<image><image>q"}]}],
        [{"images": [inside], "messages": spoken}],
        [{"image": png(), "conversations": turns}],
        [{"image": inside, "conversations": json.dumps(turns)}],
        [{"images": [inside, outside], "conversations": two}],
    ]
    for entries in forms:
        rows, problems = read_rows([write(entries, row_group_size=2)])
        assert (problems, len(rows)) == ([], len(entries))
        assert all(found.num_marks == len(found.images) for found in rows)
        for name in rows[-1].images:
            assert not isinstance(name, InlinePicture) or name.content == png()
        assert isinstance(rows[0].images[0], InlinePicture)
    rows = load_rows([write(forms[0], row_group_size=2)])
    assert [found.place.split(": ")[0].rpartition(":")[2] for found in rows] == ["1", "2", "3", "4", "5"]
    assert len(merge_rows(rows)) == 1
    report = check_files([write(forms[0])], Encoder(shared_processor(), Images([]), 60))
    assert (len(report.good), report.problems) == (5, ())


def test_every_picture_of_a_table_is_its_own(write: Any) -> None:
    entries = []
    for number in range(5):
        out = io.BytesIO()
        Image.new("RGB", (8 + number, 8), "blue").save(out, "PNG")
        turns = [{"from": "human", "value": "<image>q"}, {"from": "gpt", "value": "a"}]
        entries.append({"image": {"bytes": out.getvalue(), "path": "same.png"}, "conversations": turns})
    rows = load_rows([write(entries, row_group_size=2)])
    assert [Images([])[found.images[0]].width for found in reversed(rows)] == [12, 11, 10, 9, 8]
    assert len({found.images[0] for found in rows}) == 5


def test_a_torn_table(write: Any) -> None:
    path = write([{"id": 1}])
    path.write_bytes(path.read_bytes()[:-20])
    problem = read_rows([path])[1][0]
    assert problem.text.startswith("not a whole parquet file (")
    assert problem.whole


def test_a_table_that_was_written_anew(write: Any) -> None:
    turns = [{"from": "human", "value": "<image>q"}, {"from": "gpt", "value": "a"}]
    (row,) = load_rows([write([{"image": png(), "conversations": turns}])])
    write([{"image": png(), "conversations": turns}] * 3)
    with pytest.raises(ValueError, match=r"rows\.parquet was changed after its rows were read; start again"):
        Images([])[row.images[0]]
