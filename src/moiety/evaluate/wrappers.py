r"""Removes what models put around an answer: thinking, tags, ``\boxed{...}``, formulas and emphasis.

Sound rules read the answer without these wrappers. Released rules read the text as the model wrote it.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

_THINKING = "think|thinking|thought|thoughts|reasoning|reason|analysis|reflection|scratchpad"
_OPENED = re.compile(rf"(?i)<(?:{_THINKING})>|\[think\]|◁think▷|<\|begin_of_thought\|>")
_CLOSED = re.compile(rf"(?i)</(?:{_THINKING})>|\[/think\]|◁/think▷|<\|end_of_thought\|>")
_TAG = re.compile(
    r"(?is)(?:<(?:final_?)?(?:answer|conclusion|solution)>|\[answer\]|<\|begin_of_(?:box|solution)\|>)"
    r"((?:(?!<(?:final_?)?(?:answer|conclusion|solution)>|\[answer\]|<\|begin_of_).)*?)"
    r"(?:</(?:final_?)?(?:answer|conclusion|solution)>|\[/answer\]|<\|end_of_(?:box|solution)\|>|$)"
)
_BOX = re.compile(r"(?:\\boxed|\\fbox|\bboxed|\x08oxed)\s*\{")  # \x08oxed: an escape read once too often
_STYLE = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|texttt|mathrm|mathbf|mathit|mathsf|mathbb|mathcal|operatorname|mbox|emph|"
    r"underline|bf|rm|hbox)\s*\{([^{}]*)\}"
)
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_FORMULA = re.compile(r"\\[()\[\]]|(?<!\\)\$+|\\(?:left|right|displaystyle|quad|qquad)\b|\\[,;!: ]")
_ESCAPED = re.compile(r"\\([%$#&_{}])")
_EMPHASIS = re.compile(r"\*\*+|[`\"“”„«»]|(?<!\w)[*_]+|[*_]+(?!\w)")
_DEPTH = 4


@dataclass(frozen=True)
class Part:
    """A piece of a text that may hold the answer.

    Args:
        text: The piece without wrappers.
        outright: Whether only an explicit statement counts in it, because it is thinking that nothing follows.
    """

    text: str
    outright: bool = False


def answer_parts(text: str) -> list[Part]:
    r"""The pieces in which an answer is looked for, the surest first: the last tag or box, then what follows thinking.

    If nothing follows the thinking, because it was cut off or because the reply ends with it, the thinking is kept for
    its explicit statements.

    Example:
        >>> [part.text for part in answer_parts("<think>A or B?</think>So \\boxed{\\text{B}}.")]
        ['B', 'So B.']
        >>> answer_parts("<think>It may be A")
        [Part(text='It may be A', outright=True)]
    """
    whole = unicodedata.normalize("NFKC", text)
    said, outright = _after_thinking(whole)
    parts = [Part(inner) for inner in _wrapped(whole if outright else said)]
    return [*parts, Part(without_style(said), outright)]


def without_style(text: str) -> str:
    r"""Text without formula marks, emphasis, quotes and text commands; a fraction as ``a/b``.

    Example:
        >>> without_style("**$\\mathbf{B}$**"), without_style("\\frac{1}{2} or 50\\%")
        ('B', '1/2 or 50%')
    """
    if "\\" in text:
        for _ in range(_DEPTH):
            text = _STYLE.sub(r"\1", text)
        text = _FRACTION.sub(r"\1/\2", text)
        text = re.sub(r"(?:\\boxed|\\fbox)\s*\{([^{}]*)\}", r"\1", text)
    text = _ESCAPED.sub(r"\1", _FORMULA.sub("", text))
    return _EMPHASIS.sub("", text).strip().strip("'’‘").strip()


def _after_thinking(text: str) -> tuple[str, bool]:
    """The text after the last closed thinking, and whether that text is itself thinking or empty."""
    closed = list(_CLOSED.finditer(text))
    rest = text[closed[-1].end() :] if closed else text
    opened = _OPENED.search(rest)
    if opened is not None and not rest[: opened.start()].strip():
        return rest[opened.end() :], True
    if opened is not None:
        return rest[: opened.start()], False
    if closed and not rest.strip():
        return _OPENED.sub(" ", text[: closed[-1].start()]), True
    return rest, False


def _wrapped(text: str) -> list[str]:
    """The content of the last tag, and the content of the last box in it or in the text."""
    tags = _TAG.findall(text) if "<" in text or "[" in text else []
    inner = tags[-1] if tags else text
    boxes = list(_BOX.finditer(inner)) or list(_BOX.finditer(text))
    found = [_to_closing_brace(boxes[-1].string, boxes[-1].end())] if boxes else []
    return [without_style(one) for one in (*found, *([inner] if tags else []))]


def _to_closing_brace(text: str, start: int) -> str:
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if depth == 0:
            return text[start:place]
    return text[start:]
