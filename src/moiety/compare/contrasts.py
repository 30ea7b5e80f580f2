"""Questions that a recipe asks of its comparison: weighted sums of schemes, tested over paired seeds.

``[a, b]`` asks whether *a* beats *b*. Weights ask for main effects and interactions, such as ``{full: 1,
evidence-only: -1, hyperbolic-only: -1, neither: 1}``: is the whole more than the sum of its parts?
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from moiety.evaluate.intervals import Estimate, seed_interval
from moiety.evaluate.permutation import SignFlip, holm, shown_p, sign_flip_test

LEVEL = 0.05


@dataclass(frozen=True)
class Contrast:
    """One contrast on one type of question.

    Args:
        name: Name in the recipe.
        weights: Scheme -> weight; they sum to 0.
        question_type: Type of question, or ``mean of types``.
        estimate: Mean over seeds of the weighted sum of accuracies, in 0..1, with Student's interval.
        test: Sign-flip test over the same seeds.
        corrected: The test's p after Holm's correction over the `family`.
        family: How many tests stand together.
        remarks: What keeps the schemes from activating equally many parameters.
    """

    name: str
    weights: Mapping[str, float]
    question_type: str
    estimate: Estimate
    test: SignFlip
    corrected: float = 1.0
    family: int = 1
    remarks: Sequence[str] = ()

    @property
    def is_clear(self) -> bool:
        """Whether the corrected test excludes chance."""
        return self.corrected < LEVEL

    @property
    def verdict(self) -> str:
        """In words, never more than the corrected test shows."""
        pair, mean = self._pair(), self.estimate.mean
        if not self.estimate.has_interval:
            return "one seed: no verdict"
        if not self.is_clear:
            return f"{pair[0]} and {pair[1]} are not distinguishable" if pair else "not distinguishable from 0"
        if pair is None:
            return "above 0" if mean > 0 else "below 0"
        better, worse = pair if mean > 0 else pair[::-1]
        return f"{better} beats {worse} by {100 * abs(mean):.1f} points"

    @property
    def numbers(self) -> str:
        """Estimate, interval, seeds and p; where as many seeds can show nothing, that too."""
        low, high = (f"{100 * end:+.1f}".replace("-", "−") for end in (self.estimate.low, self.estimate.high))
        seeds = f"{self.test.num_values} seed{'s' * (self.test.num_values != 1)}"
        parts = [f"{100 * self.estimate.mean:+.1f} points".replace("-", "−")]
        if self.estimate.has_interval:
            parts += [f"95 % interval {low} to {high}", seeds, f"p = {shown_p(self.test.p)}"]
            parts += [f"Holm {shown_p(self.corrected)} of {self.family}"] if self.family > 1 else []
            parts += [self.limit] if self.limit else []
        return ", ".join([*parts, *self.remarks])

    @property
    def limit(self) -> str:
        """What the number of seeds cannot show, whatever they say; empty when they can."""
        if self.test.smallest * self.family < LEVEL:
            return ""
        among = f" among {self.family} tests" if self.family > 1 else ""
        least = min(1.0, self.test.smallest * self.family)
        return f"{self.test.num_values} seeds{among} cannot give p below {shown_p(least)}"

    @property
    def sentence(self) -> str:
        """For instance ``evidence on 'conflict': a beats b by 3.2 points (+3.2 points, 95 % interval ...)``."""
        return f"{self.name} on {self.question_type!r}: {self.verdict} ({self.numbers})"

    def _pair(self) -> tuple[str, str] | None:
        """First and second of a plain comparison."""
        if sorted(self.weights.values()) != [-1, 1]:
            return None
        first, second = sorted(self.weights, key=lambda scheme: -self.weights[scheme])
        return first, second


def contrast_over(
    name: str, weights: Mapping[str, float], question_type: str, values: Mapping[str, Mapping[int, float]]
) -> Contrast | None:
    """One contrast over the seeds that all of its schemes have; None when there is no such seed.

    Args:
        name: Name in the recipe.
        weights: Scheme -> weight.
        question_type: Type of question.
        values: Scheme -> seed -> accuracy.
    """
    seeds = sorted(set.intersection(*(set(values[scheme]) for scheme in weights)))
    if not seeds:
        return None
    sums = [math.fsum(weight * values[scheme][seed] for scheme, weight in weights.items()) for seed in seeds]
    return Contrast(name, weights, question_type, seed_interval(sums), sign_flip_test(sums))


def as_family(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """The same contrasts with Holm's correction over all that rest on more than one seed."""
    tested = [contrast for contrast in contrasts if contrast.estimate.has_interval]
    corrected = iter(holm([contrast.test.p for contrast in tested]))
    return [
        replace(contrast, corrected=next(corrected), family=len(tested)) if contrast in tested else contrast
        for contrast in contrasts
    ]
