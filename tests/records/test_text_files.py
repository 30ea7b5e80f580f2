"""Text that people bring: marks are obeyed, nothing is guessed, and what cannot be read is named with its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from moiety.recipe.reader import RecipeError, read_tree
from moiety.records.text_files import TextFileError, read_text

WORDS = "un café, naïve ☕ 日本\r\nline 2\n"


@pytest.mark.parametrize("kind", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_marks_say_the_encoding(tmp_path: Path, kind: str) -> None:
    mark = "\ufeff" if kind.endswith(("-le", "-be")) else ""
    (tmp_path / "a.txt").write_bytes((mark + WORDS).encode(kind))
    assert read_text(tmp_path / "a.txt") == WORDS


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("a\tb\nun café".encode("cp1252"), r"byte 10 is not UTF-8; .* 0xe9, in line 2; .*iconv -f WINDOWS-1252 -t UTF"),
        (b"\x93quoted\x94", r"byte 0 is not UTF-8; save the file as UTF-8. It is 0x93, in line 1;"),
        ("さくら".encode("shift-jis"), r"byte 0 is not UTF-8"),
        ("hello".encode("utf-16-le"), r"byte 1 is 0: is this UTF-16LE without a mark.*iconv -f UTF-16LE"),
        (b"\xff\xfea\x00b", r"byte 4 does not fit UTF-16, which the file starts as; save it as UTF-8"),
        (b"\xef\xbb\xbfa\xff", r"byte 4 does not fit UTF-8, which the file starts as"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_named_with_its_place(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes(data)
    with pytest.raises(TextFileError, match=f"^{re.escape(str(path))}: {message}"):
        read_text(path)


def test_recipes_are_read_so_too(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_bytes("name: Köln\n".encode("utf-16"))
    assert read_tree(tmp_path / "r.yaml", ()) == {"name": "Köln"}
    (tmp_path / "r.yaml").write_bytes("name: Köln\n".encode("cp1252"))
    with pytest.raises(RecipeError, match=r"r.yaml: byte 7 is not UTF-8"):
        read_tree(tmp_path / "r.yaml", ())
