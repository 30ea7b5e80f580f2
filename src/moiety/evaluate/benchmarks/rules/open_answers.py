"""Free answers of MMMU and CMMMU: the end of each sentence after a phrase, every number in it, and how they compare.

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
    """For each piece, the text after the last copy of a marker. Pieces without a marker are left out.

    If a piece has several markers, the shortest text counts. A text that is only a punctuation mark is left out, and an
    empty text counts only if there is no other.

    Args:
        pieces: Sentences or lines.
        markers: Phrases that come before an answer.
        last_markers: Further phrases for the last piece.

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
    """The first of the shortest texts. An empty text replaces the texts before it, and the next text replaces it."""
    chosen = ""
    for tail in tails:
        if not chosen or len(tail) < len(chosen):
            chosen = tail
    return chosen


def numbers_in(text: str, comma: str, bounded: bool) -> list[str]:
    """All numbers of a text as written: numbers with `comma` between thousands, in scientific form, and plain ones.

    The forms overlap: in 3.0e5 the released patterns also find 3 and 5, and in 1,000 also 000.

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
    """The value of a text without its commas, to two decimals; None if the text is not a number.

    Example:
        >>> as_number("1,234.567"), as_number("12 m")
        (1234.57, None)
    """
    try:
        return round(float(text.replace(",", "")), 2)
    except ValueError:
        return None


def any_agrees(candidates: Sequence[float | str], wanted: Sequence[float | str]) -> bool:
    """Whether a number among the candidates equals a wanted number, or a text among them contains a wanted text.

    Example:
        >>> any_agrees([3.0, "a red fox"], ["fox"]), any_agrees([3.0, "30"], [30.0])
        (True, False)
    """
    for candidate in candidates:
        if isinstance(candidate, str):
            if any(isinstance(value, str) and value in candidate for value in wanted):
                return True
        elif candidate in wanted:
            return True
    return False


def between_blanks(text: str) -> str:
    """The text without punctuation at its ends, and with a blank on either side, so that words can be found in it.

    Example:
        >>> between_blanks("B.")
        ' B '
    """
    for sign in ",.!?;:'":
        text = text.strip(sign)
    return f" {text} "
