"""Relaxed accuracy (ChartQA): numbers may differ by five per cent, and other text must be equal.

Each published rule is one function. Python's ``float`` accepts more than a chart shows: ``1e3``, ``1_000``, digits of
any script, ``nan`` and ``inf``. The published rules accept all of it; :func:`relaxed` accepts plain decimal numbers
only.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from moiety.evaluate.statements import stated_answer

TOLERANCE = 0.05
_DECIMAL = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)%?", re.ASCII)


def relaxed(text: str, answer: str) -> bool:
    """The sound rule. A number may differ from the label by five per cent of the label.

    ``%`` divides a number by 100. 0 is equal to 0 in any spelling. Blanks at the ends and case do not matter. An answer
    that is equal to the label as text is always right.

    Example:
        >>> [relaxed(text, "100") for text in ("95", "105.0", " 100 ", "105.2", "")]
        [True, True, True, False, False]
        >>> relaxed("0.0", "0"), relaxed("12%", "0.12"), relaxed("12%", "12"), relaxed("nan", "3")
        (True, True, False, False)
        >>> relaxed("The answer is 12.", "12"), relaxed("\\boxed{0.5}", "0.5"), relaxed("<think>3</think>Yes", "yes")
        (True, True, True)
    """
    label = answer.strip().lower()
    if text.strip().lower() == label:
        return True
    given = stated_answer(text).rstrip(".").lower()
    if given == label:
        return True
    if not (_DECIMAL.fullmatch(given) and _DECIMAL.fullmatch(label)):
        return False
    value, wanted = _hundredths(given), _hundredths(label)
    return value is not None and wanted is not None and abs(value - wanted) <= TOLERANCE * abs(wanted)


def relaxed_moiie(text: str, answer: str) -> bool:
    """The rule of the released MoIIE code. Per cent signs are read as text, and blanks at the ends of text matter.

    Source:
        AlenjandroWang/MoIIE @ c614868, ``chartqa_test.py``. Years are numbers: 2016 is right for 2015.

    Example:
        >>> relaxed_moiie("12%", "12"), relaxed_moiie("0.0", "0"), relaxed_moiie("Yes ", "yes")
        (False, True, False)
    """
    value, wanted = _number(text), _number(answer)
    if value is not None and wanted is not None:
        return abs(value - wanted) <= TOLERANCE * abs(wanted)
    return text.lower() == answer.lower()


def relaxed_lmms(text: str, answer: str) -> bool:
    """The rule of lmms-eval. A ``%`` at the end divides by 100, and a label of value 0 is compared as text.

    Source:
        EvolvingLMMs-Lab/lmms-eval @ 75571cf, ``tasks/chartqa/utils.py``.

    Example:
        >>> relaxed_lmms("12%", "0.12"), relaxed_lmms("0.0", "0"), relaxed_lmms("95", "100")
        (True, False, True)
    """
    value, wanted = _hundredths(text), _hundredths(answer)
    if value is not None and wanted:
        return abs(value - wanted) / abs(wanted) <= TOLERANCE
    return text.lower() == answer.lower()


def relaxed_swapped(text: str, answer: str) -> bool:
    """The rule that is widely used: :func:`relaxed_lmms` with answer and label exchanged.

    So the tolerance is five per cent of the answer: for a label of 100, 95 is wrong and 105.2 is right.

    Source:
        OpenGVLab/InternVL @ 2410d1d, ``evaluate_vqa.py``, after Qwen-VL; the exchange is a mistake in the call.

    Example:
        >>> relaxed_swapped("95", "100"), relaxed_swapped("105.2", "100"), relaxed_swapped("Yes ", "yes")
        (False, True, True)
    """
    return relaxed_lmms(answer, text.strip())


RELAXED_RULES: Mapping[str, Callable[[str, str], bool]] = {
    "sound": relaxed,
    "official": relaxed_swapped,
    "lmms_eval": relaxed_lmms,
    "moiie": relaxed_moiie,
}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _hundredths(text: str) -> float | None:
    """Value of a number; a percentage is divided by 100."""
    if not text.endswith("%"):
        return _number(text)
    value = _number(text.rstrip("%"))
    return None if value is None else value / 100
