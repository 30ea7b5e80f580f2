"""The sound rules. They read which option, which word or which number a text states, and never guess.

An answer alone on the last line counts first. Then comes an explicit statement (``the answer is B``, ``Answer: no``);
the last statement counts before earlier ones. Then comes the start of the text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from moiety.evaluate.scorers import LETTERS, normalise
from moiety.evaluate.wrappers import Part, answer_parts

YES_NO: Mapping[str, str] = {"yes": "yes", "no": "no"}
_IS = r"(?:\s*(?:is|was|are|would\s+be|should\s+be|must\s+be|will\s+be|has\s+to\s+be)\b)"
_SIGN = r"(?:\s*[:=→➔⇒~-]+>?)"
_NOUN = r"(?:(?:final_)?(?:answer|ans|conclusion|verdict|response|solution|result))"
_BEST = r"(?:correct|right|best|final|proper|most\s+likely|chosen|selected)"
_TO = (
    rf"(?:\s+(?:letter|option|choice))?(?:{_IS}?{_SIGN}?)\s*"
    r"(?:(?:simply|therefore|thus|option|choice|letter)\b\s*)?:?\s*"
)
_END = r"(?!['’]|-\w|[^\W\u3400-\u9fff])"  # Chinese signs may follow a letter; letters and digits may not
_LETTER = rf"(?:[(\[{{<]\s*([A-Za-z])\s*[)\]}}>]|([A-Z]){_END}|([a-z])(?=\s*(?:[.):,;!]|$)))"
_LONE = r"[(\[{<]?\s*([A-Za-z])\s*[)\]}>]?"
_CAPITAL = rf"(?:[(\[{{<]\s*([A-Z])\s*[)\]}}>]|([A-Z]){_END})"
_STRONG = tuple(
    re.compile(pattern, re.MULTILINE)
    for pattern in (
        rf"(?i:\b{_NOUN}{_TO}){_LETTER}",
        rf"(?i:\b(?:answer|option|choice)\b[^.!?\n:]{{1,60}}?\b(?:is|was)\s+){_LETTER}",
        rf"(?i:\b(?:it|this|that|i\s+(?:think|believe|say)|therefore|thus|hence|so)\b[,:]?(?:\s+it)?(?:'s|\s+is|\s+must\s+"
        rf"be)?\s+){_CAPITAL}[.!)]*\s*$",
        rf"(?i:\b{_BEST}\s+(?:option|choice|one|letter){_TO}){_LETTER}",
        rf"(?i:\b(?:option|choice|letter)(?:{_IS}{_SIGN}?|{_SIGN})\s*){_LETTER}",
        rf"(?i:\b(?:choose|chose|select|selected|pick|picked|go\s+with|going\s+with|opt\s+for)\s+(?:(?:option|choice|"
        rf"answer|letter)\s+)?){_CAPITAL}",
        rf"(?<!\w)(?i:(?:option|choice)\s+)?{_CAPITAL}\)?\s+(?i:is|would\s+be|must\s+be)\s+(?i:(?:the|most)\s+)*"
        r"(?i:correct|right|best|true|answer|likely|one)\b",
        rf"(?i:\b(?:wait|actually|rather|instead|sorry|correction|no|but)\b[\s,:;.!–—-]*(?:it'?s|it\s+is|i\s+mean)?\s*)"
        rf"{_CAPITAL}[.)!]*\s*\Z",
        rf"(?:答案|选项|选择|[应故该]选|选|答)(?:应该|应当|应)?(?:是|为|选)?\s*[:\s]*{_CAPITAL}",
    )
)
_WEAK = re.compile(rf"(?i:\b(?:option|choice)\s+){_CAPITAL}")
_BRACKETED = re.compile(r"\(([A-Z])\)")
_ALONE = re.compile(rf"[>#•*\s-]*(?i:option\s+|choice\s+)?{_LONE}\s*[.):,;!。]*")
_OPENING = re.compile(
    r"[(\[{<]?\s*(?:([A-Z])(?:[)\]}>]|[.:,;、](?!\w*\.\w)|\s*$|\s*\n|\s+[–—-]\s|(?<![AI])\s+(?:because|since|as|is|for)\b)"
    r"|([a-z])(?:[).:\]}]|\s*$))"
)
_LISTED = re.compile(r"^\W*\(?([A-Z])[.):]\s", re.MULTILINE)
_FURTHER = re.compile(
    r"\s*[)\]]?\s*(?:,|/|&|\+|、|\bor\b|\band\b|或者?|和|与)\s*(?:option\s+)?[(\[]?([A-Z])(?![\w'’])"
    r"(?!\s+(?:is|are|was|does|would|seems|can)\b)"
)
_DENIED_AFTER = re.compile(
    r"\s*[)\]]?\s*(?i:is|are|was|seems|would\s+be|looks)?\s*(?i:not\b|n[o'’]t\b|wrong\b|incorrect\b|false\b)"
    r"|\s*(?:错|不对|不正确|不是|排除)"
)
_DENIED_BEFORE = re.compile(r"(?i:\bnot|n['’]t|\bnever|\bwithout|不|非)\s*(?i:be\s+|the\s+)?\W*$")
_ARTICLE = re.compile(r"\s+(?!(?:because|since|as|is|and|or|for|with|which|that|due|from|in\s+the)\b)[a-z]")
_SAID = re.compile(rf"(?i)\b{_NOUN}(?:{_IS}{_SIGN}?|{_SIGN})\s*|(?:答案)(?:应该|应)?(?:是|为|:)\s*:?\s*")
_WORD = re.compile(r"[^\W_]+")
_NONE = ""
"""Something is stated, and it names no one option."""


# -- options -----------------------------------------------------------------------------------------------------------
def stated_letter(text: str, choices: Sequence[str]) -> str | None:
    r"""The option a text names, as a capital letter; None when it names none: the sound rule of all letter benchmarks.

    Thinking, tags, boxes, formulas, emphasis and quotes are taken off, full-width signs count as plain ones. Then, in
    this order: a letter alone in the last line; the last outright statement (``the answer is B``, ``option: B``,
    ``B is correct``, ``答案：B``); a letter that opens the text (``B``, ``(b).``, ``B: pear``); the one option that is
    mentioned; the only letter in brackets; the very words of one option. A letter beyond the options names none, as do
    two letters at once.

    Args:
        text: What the model wrote.
        choices: Options in the order A, B, C, ...

    Example:
        >>> said = ("**b**", "(A)", "The answer is A. No, the answer is B.", "Pear.", "a pear", "C", "A or B")
        >>> [stated_letter(text, ["apple", "pear"]) for text in said]
        ['B', 'A', 'B', 'B', None, None, None]
        >>> said = ("<think>A?</think><answer>B</answer>", "So \\boxed{\\text{(B)}}", "Answer: B) pear", "答案：Ｂ")
        >>> [stated_letter(text, ["apple", "pear"]) for text in said]
        ['B', 'B', 'B', 'B']
    """
    for part in answer_parts(text):
        found = _letter_in(part, choices)
        if found is not None:
            return found if found and found in LETTERS[: len(choices)] else None
    return None


def _letter_in(part: Part, choices: Sequence[str]) -> str | None:
    """A letter, :data:`_NONE`, or None if the text states nothing."""
    text = part.text
    lines = [line for line in text.split("\n") if line.strip()]
    last = _ALONE.fullmatch(lines[-1].strip()) if lines and not part.outright else None
    if last is not None:
        return last.group(1).upper()
    stated = _stated(text)
    if stated is not None:
        return stated
    words = _by_words(_tail(text), choices)
    if words is not None or part.outright:
        return words
    opening = _OPENING.match(text)
    if opening is not None:
        return _opened(text, opening)
    mentioned = {_letter_of(match) for match in _WEAK.finditer(text) if not _denied(text, match)}
    if mentioned:
        return mentioned.pop() if len(mentioned) == 1 else _NONE
    bracketed = set(_BRACKETED.findall(text)) & set(LETTERS[: len(choices)])
    if bracketed:
        return bracketed.pop() if len(bracketed) == 1 else _NONE
    return _by_words(text, choices)


def _stated(text: str) -> str | None:
    """The letter of the last explicit statement that is not negated and in which the letter is not an article."""
    found = [
        match
        for pattern in _STRONG
        for match in pattern.finditer(text)
        if not _denied(text, match) and not (_letter_of(match) in "AI" and _ARTICLE.match(text, match.end()))
    ]
    if not found:
        return None
    last = max(found, key=lambda match: match.end())
    further = _FURTHER.match(text, last.end())
    return _NONE if further is not None and further.group(1) != _letter_of(last) else _letter_of(last)


def _opened(text: str, opening: re.Match[str]) -> str:
    letter = _letter_of(opening)
    further = _FURTHER.match(text, opening.end(opening.lastindex or 0))
    alone = _ALONE.fullmatch(text.split("\n")[0].strip()) is not None
    listed = set(_LISTED.findall(text))
    if (further is not None and further.group(1) != letter) or (len(listed) > 1 and not alone):
        return _NONE
    return letter


def _denied(text: str, match: re.Match[str]) -> bool:
    place = match.start(match.lastindex or 0)
    return bool(_DENIED_AFTER.match(text, match.end()) or _DENIED_BEFORE.search(text[max(0, place - 12) : place]))


def _letter_of(match: re.Match[str]) -> str:
    return next(letter for letter in match.groups() if letter is not None).upper()


def _by_words(text: str, choices: Sequence[str]) -> str | None:
    """The letter of the only option whose exact words are the text, with or without its letter in front."""
    said = _words(text)
    same = [
        letter
        for letter, choice in zip(LETTERS, choices, strict=False)
        if said and said in (_words(choice), f"{letter.lower()} {_words(choice)}")
    ]
    return same[0] if len(same) == 1 else None


def _words(text: str) -> str:
    return normalise(text).rstrip(".。 ")


def _tail(text: str) -> str:
    """The text after the last ``answer is`` or ``answer:``; empty if there is none."""
    found = list(_SAID.finditer(text))
    return text[found[-1].end() :].strip() if found else ""


# -- one of a few words ------------------------------------------------------------------------------------------------
_IT_IS = re.compile(
    r"\W*(?:so\b\W*|then\b\W*)?(?:(?:it|this|that)(?:['’]s|\s+is|\s+would\s+be)|i(?:['’]d|\s+would)?\s+(?:say|think|believe))"
    r"(?:\s+(?:a|definitely|clearly|probably))?[\s:,\"'*(]+([^\W_]+)[)\"'*]*(?=\s*(?:[.,;!\n]|$))",
    re.IGNORECASE,
)
"""How a text opens that says its word after a pronoun: ``It's yes``, ``That is a no.``, but not ``It is no dog``."""


def stated_word(text: str, words: Mapping[str, str] = YES_NO) -> str | None:
    r"""Which of a few words a text states, for instance ``yes`` or ``no``; None if it states none or several.

    Wrappers are removed as in :func:`stated_letter`. The last ``answer is ...`` counts first, then a last line that is
    such a word alone, then the first word, then a word after ``it is`` at the start.

    Args:
        text: What the model wrote.
        words: Word in lower case -> its meaning.

    Example:
        >>> said = ("**No**, it is not.", "Yes at first. The answer is: No.", "\\boxed{yes}", "A dog.\nYes", "nothing")
        >>> [stated_word(text) for text in said]
        ['no', 'no', 'yes', 'yes', None]
        >>> stated_word("Yes or no?"), stated_word("<think>No dog, so</think> Yes.")
        (None, 'yes')
        >>> [stated_word(text) for text in ("It's yes", "(no)", "It is no.", "It is no dog", "It is yes, no, maybe")]
        ['yes', 'no', 'no', None, None]
    """
    for part in answer_parts(text):
        lines = [line for line in part.text.split("\n") if line.strip()]
        told = [_first(_tail(part.text), words)]
        if not part.outright:
            last = lines[-1] if len(lines) > 1 and len(_WORD.findall(lines[-1])) == 1 else ""
            told += [_first(last, words), _first(part.text, words), _after_pronoun(part.text, words)]
        found = next((one for one in told if one is not None), None)
        if found is not None:
            return found or None
    return None


def _first(text: str, words: Mapping[str, str]) -> str | None:
    """Meaning of the first word; ``""`` if another meaning is offered beside it; None if it is none of the words."""
    found = _WORD.search(text)
    if found is None or found.group(0).lower() not in words:
        return None
    meaning = words[found.group(0).lower()]
    other = re.match(r"\s*(?:/|\\|\bor\b|\band\b)\s*([^\W_]+)", text[found.end() :], re.IGNORECASE)
    return "" if other is not None and words.get(other.group(1).lower(), meaning) != meaning else meaning


def _after_pronoun(text: str, words: Mapping[str, str]) -> str | None:
    """Meaning of the word after ``it is``; ``""`` where a word of another meaning follows; None: no such word."""
    found = _IT_IS.match(text)
    if found is None or found.group(1).lower() not in words:
        return None
    meaning = words[found.group(1).lower()]
    later = (words.get(word.lower(), meaning) for word in _WORD.findall(text[found.end() :]))
    return meaning if all(other == meaning for other in later) else ""


# -- numbers and short texts -------------------------------------------------------------------------------------------
_REASON = re.compile(r"[;\n]|[.,](?=\s|$)|\b(?:because|since|as|given|which|where)\b", re.IGNORECASE)


def stated_answer(text: str) -> str:
    r"""The part of a text that states its answer, for rules that read a number or a short text; else the whole text.

    Example:
        >>> stated_answer("3 + 4 is 7.\n\\boxed{7}"), stated_answer("The answer is 1,024 cm, since 2^10.")
        ('7', '1,024 cm')
        >>> stated_answer("#### 12"), stated_answer("There are 12 of 15")
        ('12', 'There are 12 of 15')
    """
    part = answer_parts(text)[0]
    tail = _tail(part.text) or (part.text.rsplit("####", 1)[1] if "####" in part.text else "")
    if tail.startswith("[") and "]" in tail:
        return tail[: tail.index("]") + 1]
    if tail:
        reason = _REASON.search(tail)
        said = tail[: reason.start()] if reason is not None else tail
        return said.strip() or tail.strip()
    return part.text.lstrip("# ").strip()


def without_wrappers(text: str) -> tuple[str, ...]:
    """The text without thinking and wrappers, with and without final full stops; the most certain part comes first.

    Example:
        >>> without_wrappers("<think>Red?</think> **Granny Smith.**")
        ('Granny Smith.', 'Granny Smith')
    """
    pieces = [part.text for part in answer_parts(text) if not part.outright]
    return tuple(dict.fromkeys(said for piece in pieces for said in (piece, piece.rstrip(".。 "))))
