"""Compares the length of a media file with the length in its header, which shows whether the file was cut short."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

SLOPPY = 8
"""Bytes that may be missing, because some writers count the first words of the file and some do not."""
_BOXES = (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide")
_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


class MediaError(ValueError):
    """A media file cannot be used; the text names the file and why."""


def check_whole(path: Path) -> None:
    """Refuse an mp4, mov, wav, aiff, avi, mkv or webm that is shorter than its header says. Other kinds pass.

    Raises:
        MediaError: the file is cut short, or its parts do not follow each other.

    Source:
        ISO/IEC 14496-12 (boxes), RIFF and its elder AIFF, RFC 8794 (EBML), each as far as sizes go.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(12)
        file.seek(0)
        if head[4:8] in _BOXES:
            declared = _end_of_boxes(file, size)
        elif head[:4] in (b"RIFF", b"FORM"):
            length = int.from_bytes(head[4:8], "little" if head[:4] == b"RIFF" else "big")
            # writers of streams put 0 or all ones there
            declared = 0 if length in (0, 2**32 - 1) else length + 8 - SLOPPY
        else:
            declared = _end_of_segment(file) if head[:4] == _EBML else 0
    if declared > size:
        raise MediaError(f"it is cut short: {size} bytes of at least {declared}")


def _end_of_boxes(file: BinaryIO, size: int) -> int:
    """The end of the last box. A box starts with its length; 1 means that a long length follows, 0 the whole rest."""
    at = 0
    while at < size:
        file.seek(at)
        head = file.read(16)
        length = int.from_bytes(head[:4], "big")
        if length == 0 and at:
            return size
        if length == 1:
            length = int.from_bytes(head[8:16], "big")
        if len(head) < 8 or length < 8:
            raise MediaError(f"it is cut short or damaged: there is no whole part at byte {at} of {size}")
        at += length
    return at


def _end_of_segment(file: BinaryIO) -> int:
    """The end of the segment after the EBML head; 0 if its writer did not know it."""
    file.seek(4)
    file.seek(_number(file) or 0, 1)
    if file.read(4) != _SEGMENT:
        return 0
    length = _number(file)
    return 0 if length is None else file.tell() + length


def _number(file: BinaryIO) -> int | None:
    """An integer whose leading zero bits give its number of bytes; None if all bits are 1, which means not known."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    width = 9 - first[0].bit_length()
    value = int.from_bytes(first + file.read(width - 1), "big") & (1 << 7 * width) - 1
    return None if value == (1 << 7 * width) - 1 else value
