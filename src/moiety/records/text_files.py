"""Reads text files of users. They are UTF-8, or start with a byte order mark; other files raise an error."""

from __future__ import annotations

import codecs
import json
import re
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
        place: Where the problem is, for instance ``byte 12``.
        reason: What is wrong, and what to do.
    """

    def __init__(self, path: Path, place: str, reason: str) -> None:
        self.place, self.reason = place, reason
        super().__init__(f"{path}: {place} {reason}")


def read_text(path: str | Path) -> str:
    """The text of a file without the byte order mark. Line endings are not changed.

    A file that starts with the mark of UTF-8, UTF-16 or UTF-32 is read as that, every other one as UTF-8. No other
    encoding is guessed, because a wrong guess would give wrong letters without an error.

    Raises:
        TextFileError: bytes do not fit; names the first, its line, and the command that helps.
    """
    path = Path(path)
    data = path.read_bytes()
    content = as_utf8(data, path)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise bad_byte(data, error.start + len(data) - len(content), path) from error
    if "\0" in text and content in data:  # in a file with a mark of UTF-16 or UTF-32, NUL is a valid letter
        raise _no_mark(data.index(b"\0"), "UTF-16LE", path)
    return text


def as_utf8(data: bytes, path: Path) -> bytes:
    """The bytes of a text file in UTF-8, without the mark at its start. Whether they are valid UTF-8 is not checked.

    Args:
        data: All bytes of the file. With the mark of UTF-16 or UTF-32 they are converted, otherwise they stay.
        path: The file, for the error.

    Raises:
        TextFileError: the bytes do not fit the mark, or they are UTF-16 or UTF-32 without a mark.
    """
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    if marked == "utf-8":
        return data.removeprefix(codecs.BOM_UTF8)
    if marked:
        try:
            return data.decode(marked).encode()
        except UnicodeDecodeError as error:
            raise bad_byte(data, error.start, path) from error
    guess = json.detect_encoding(data[:4])  # the positions of zero bytes tell the encoding
    if not guess.startswith("utf-8"):
        raise _no_mark(data.index(b"\0"), re.sub("-(?=[lb]e$)", "", guess).upper(), path)  # the name that iconv uses
    return data


def bad_byte(data: bytes, place: int, path: Path) -> TextFileError:
    """The error for a byte that does not fit the encoding of its file.

    Args:
        data: All bytes of the file.
        place: Number of the byte in it, from 0.
        path: The file.
    """
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    if marked:
        reason = f"does not fit {marked.upper()}, which the file starts as; save it as UTF-8"
    else:
        reason = (
            f"is not UTF-8; save the file as UTF-8. It is 0x{data[place]:02x}, in line "
            f"{data.count(bytes([10]), 0, place) + 1}; if a spreadsheet or editor on Windows wrote the file: "
            f"{_command('WINDOWS-1252', path)}"
        )
    return TextFileError(path, f"byte {place}", reason)


def _no_mark(place: int, guess: str, path: Path) -> TextFileError:
    told = f"is 0: is this {guess} without a mark, or no text? Save the file as UTF-8, for instance with: "
    return TextFileError(path, f"byte {place}", told + _command(guess, path))


def _command(encoding: str, path: Path) -> str:
    return f"iconv -f {encoding} -t UTF-8 {path.name} > new-{path.name}"
