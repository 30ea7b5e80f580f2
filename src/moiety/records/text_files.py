"""Text files that people bring: UTF-8, or what their first bytes say; anything else is refused with its place."""

from __future__ import annotations

import codecs
from pathlib import Path

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Mark at the start of a file -> its encoding; the longer marks stand first, since one begins with a shorter one."""


class TextFileError(ValueError):
    """A text file cannot be read.

    Args:
        path: The file.
        place: Where it goes wrong, for instance ``byte 12``.
        reason: What is wrong there, and what to do.
    """

    def __init__(self, path: Path, place: str, reason: str) -> None:
        self.place, self.reason = place, reason
        super().__init__(f"{path}: {place} {reason}")


def read_text(path: str | Path) -> str:
    """The text of a file, without the mark at its start; ends of lines stay as they are.

    A file that starts with the mark of UTF-8, UTF-16 or UTF-32 is read as that, every other one as UTF-8. No other
    encoding is guessed: half of the guesses would be wrong letters that nobody sees.

    Raises:
        TextFileError: bytes do not fit; names the first, its line, and the command that helps.
    """
    path = Path(path)
    data = path.read_bytes()
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    kind = marked or "utf-8"
    try:
        text = data.decode(kind)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TextFileError(path, f"byte {error.start}", _remedy(path, marked, data[error.start], line)) from error
    if kind == "utf-8" and "\0" in text:
        place = text.index("\0")
        told = "is 0: is this UTF-16 without a mark, or no text? Save the file as UTF-8, for instance with: "
        raise TextFileError(path, f"byte {len(text[:place].encode())}", told + _command("UTF-16LE", path))
    return text.removeprefix("\ufeff")


def _remedy(path: Path, marked: str, byte: int, line: int) -> str:
    if marked:
        return f"does not fit {marked.upper()}, which the file starts as; save it as UTF-8"
    return (
        f"is not UTF-8; save the file as UTF-8. It is 0x{byte:02x}, in line {line}; if a spreadsheet or editor on "
        f"Windows wrote the file: {_command('WINDOWS-1252', path)}"
    )


def _command(encoding: str, path: Path) -> str:
    return f"iconv -f {encoding} -t UTF-8 {path.name} > new-{path.name}"
