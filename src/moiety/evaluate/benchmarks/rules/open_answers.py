"""Free answers of MMMU and CMMMU: the tail of each piece behind a phrase, and every number in it.

Source:
    The evaluation files of MMMU (AlenjandroWang/MoIIE @ c614868, ``eval/mmmu``) and CMMMU (CMMMU-Benchmark/CMMMU @
    e1ba883, the same as MoIIE's), from a description of their rules.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

_TRIVIAL = frozenset(":,.!?;'")
# No match begins or ends inside a run of digits: without (?<!\d) and ++ a hundred thousand digits take minutes.
_SCIENTIFIC = r"-?(?<!\d)\d++(?:\.\d++)?[eE][+-]?\d+"
_PLAIN_BOUNDED = r"-?(?:(?<!\d)\d++\.\d++|\.\d++|(?<!\d)\d++)(?![eE][+-]?\d)(?![,\d])"


def kept_tails(pieces: Sequence[str], markers: Sequence[str], last_markers: Sequence[str] = ()) -> list[str]:
    """Of each piece the shortest text behind a marker's last copy; pieces without any are dropped.

    A tail that is a mere punctuation mark is dropped, too. An empty tail gives way to any other.

    Args:
        pieces: Sentences or lines.
        markers: Phrases that come before an answer.
        last_markers: Further ones for the last piece.

    Example:
        >>> kept_tails(["so it is blue", "thus x = 3"], ["so ", "is ", "thus "], ["="])
        ['blue', '3']
    """
    kept = []
    for index, piece in enumerate(pieces):
        known = (*markers, *last_markers) if index == len(pieces) - 1 else markers
        tails = [piece.rsplit(marker, 1)[1].strip() for marker in known if marker in piece]
        shortest = _shortest(tails)
        if shortest and shortest not in _TRIVIAL:
            kept.append(shortest)
    return kept


def _shortest(tails: Sequence[str]) -> str:
    """The first of the shortest; an empty one is kept only until the next comes, and an earlier text yields to it."""
    chosen = ""
    for tail in tails:
        if not chosen or len(tail) < len(chosen):
            chosen = tail
    return chosen


def numbers_in(text: str, comma: str, bounded: bool) -> list[str]:
    """All numbers of a text, as written: with thousands separated by `comma`, in scientific form, and plain ones.

    Forms overlap: the released patterns find 3 and 5 beside 3.0e5, and 000 beside 1,000.

    Args:
        text: Any text.
        comma: Separator of thousands.
        bounded: Whether digits grouped by `comma` must stand at word boundaries (MMMU) and a plain number may not end
            before a bare comma either.

    Example:
        >>> numbers_in("1,000 or -2.5", ",", True), numbers_in("3.0e5", ",", True)
        (['1,000', '000', '-2.5'], ['3.0e5', '3', '5'])
    """
    edge = r"\b" if bounded else ""
    grouped = rf"-?{edge}\d{{1,3}}(?:{comma}\d{{3}})+{edge}"
    plain = _PLAIN_BOUNDED if bounded else rf"-?(?:\d+\.\d+|\.\d+|\d+)(?![eE][+-]?\d+)(?!{comma}\d)"
    return [number for pattern in (grouped, _SCIENTIFIC, plain) for number in re.findall(pattern, text)]


def as_number(text: str) -> float | None:
    """Value to two decimals, commas taken out; None where the text is no number.

    Example:
        >>> as_number("1,234.567"), as_number("12 m")
        (1234.57, None)
    """
    try:
        return round(float(text.replace(",", "")), 2)
    except ValueError:
        return None
