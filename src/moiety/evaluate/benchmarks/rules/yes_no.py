"""Reads yes or no from a text, and computes the numbers that follow from it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moiety.evaluate.scorers import official_verdict, whole_text_verdict
from moiety.evaluate.statements import stated_word

Verdict = Callable[[str, str], str | None]
"""(text, label) -> ``yes``, ``no`` or None: neither."""

SHORT_ANSWER = "Answer the question using a single word or phrase."
"""The sentence that the LLaVA line puts behind a question with a short answer."""


def contained_verdict(text: str, label: str) -> str:
    """The label if the text contains it anywhere (``know`` contains ``no``), else the other one.

    Source:
        DAMO-NLP-SG/VCD @ d6568ff, ``experiments/eval/eval_pope.py``.

    Example:
        >>> contained_verdict("I know: yes", "no"), contained_verdict("No", "yes")
        ('no', 'no')
    """
    if label in text.strip().lower():
        return label
    return "no" if label == "yes" else "yes"


POPE_RULES: Mapping[str, Verdict] = {
    "official": lambda text, label: official_verdict(text),
    "sound": lambda text, label: stated_word(text),
    "lmms_eval": lambda text, label: whole_text_verdict(text),
    "vcd": contained_verdict,
}


@dataclass(frozen=True)
class Confusion:
    """Weighted counts of verdicts; positive is yes.

    Args:
        tp: Yes that was said and true.
        fp: Yes that was said and false.
        tn: No that was said and true.
        fn: Yes that was true and not said.
        total: All questions, those without a verdict among them.
        said: Answers that are yes.
    """

    tp: float
    fp: float
    tn: float
    fn: float
    total: float
    said: float

    @property
    def accuracy(self) -> float:
        """Share of right verdicts."""
        return _ratio(self.tp + self.tn, self.total)

    @property
    def precision(self) -> float:
        """Of those that were said yes, the share that is; 0 where none was said."""
        return _ratio(self.tp, self.tp + self.fp)

    @property
    def recall(self) -> float:
        """Of those that are yes, the share that was said; 0 where none is."""
        return _ratio(self.tp, self.tp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall; 0 where either is."""
        return _ratio(2 * self.precision * self.recall, self.precision + self.recall)

    @property
    def yes_ratio(self) -> float:
        """Share of answers that are yes."""
        return _ratio(self.said, self.total)


class Verdicts:
    """What was said to each question, ready to be counted under many weights.

    Args:
        labels: ``yes`` or ``no``, one for each question.
        verdicts: What was said; None: neither, which is wrong.
        unreadable_misses: Whether a true yes without verdict counts as missed; lmms-eval leaves it out.

    Example:
        >>> Verdicts(["yes", "yes", "no"], ["yes", None, "yes"]).counted(np.ones(3)).f1
        0.5
    """

    def __init__(self, labels: Sequence[str], verdicts: Sequence[str | None], unreadable_misses: bool = True) -> None:
        is_yes = np.array([label == "yes" for label in labels], dtype=bool)
        said = np.array([verdict == "yes" for verdict in verdicts], dtype=bool)
        denied = np.array([verdict == "no" for verdict in verdicts], dtype=bool)
        missed = is_yes & ~said if unreadable_misses else is_yes & denied
        kinds = (is_yes & said, ~is_yes & said, ~is_yes & denied, missed, np.ones_like(said), said)
        self._kinds = np.stack(kinds).astype(np.float64)  # (kinds, questions)

    def counted(self, weights: NDArray[np.float64]) -> Confusion:
        """Counts when each question counts as often as its weight, ``(questions,)``, says."""
        return Confusion(*(self._kinds @ weights).tolist())


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else 0.0
