"""Letters that a terminal cannot show: the nearest ones that it can, never an error."""

from __future__ import annotations

import codecs
import sys

NEAREST = {
    **dict.fromkeys("·•", "-"),
    **dict.fromkeys("–—−", "-"),
    **dict.fromkeys("“”„", '"'),
    **dict.fromkeys("‘’", "'"),
    **{"…": "...", "→": "->", "×": "x", "≥": ">=", "≤": "<=", "±": "+-", "\u00a0": " ", "√": "sqrt"},
}
HANDLER = "moiety-nearest"


def nearest(error: UnicodeError) -> tuple[str, int]:
    """Handler of codecs: the nearest letters of our own texts, any other letter by its number (``\\xe9``).

    Example:
        >>> "3 → 4 · é".encode("ascii", HANDLER)
        b'3 -> 4 - \\\\xe9'
    """
    if not isinstance(error, UnicodeEncodeError):
        raise error
    given = error.object[error.start : error.end]
    return "".join(NEAREST.get(letter) or _number(letter) for letter in given), error.end


def _number(letter: str) -> str:
    return letter.encode("ascii", "backslashreplace").decode("ascii")


codecs.register_error(HANDLER, nearest)


def write_what_can_be_shown() -> None:
    """Let both streams write every text; a stream that knows all letters writes them as they are."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)  # a test or a notebook may have put something else there
        if reconfigure is not None:
            reconfigure(errors=HANDLER)


def knows_all_letters(encoding: str | None) -> bool:
    """Whether a stream of this encoding writes every letter as it is."""
    return (encoding or "").lower().replace("-", "").startswith("utf")
