"""Questions that a recipe asks of its comparison: weighted sums of schemes, tested over paired seeds.

``[a, b]`` asks whether *a* beats *b*. Weights ask for main effects and interactions, such as ``{full: 1,
evidence-only: -1, hyperbolic-only: -1, neither: 1}``: is the whole more than the sum of its parts?
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from moiety.stats.intervals import Estimate, seed_interval
from moiety.stats.permutation import SignFlip, holm, shown_p, sign_flip_test

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
        corrected: The test's p after Holm's correction over the types that the same contrast is tested on.
        family: How many those are.
        corrected_over_all: The same over every contrast and type of the comparison.
        remarks: What keeps the schemes from activating equally many parameters.
        unit: What the members of a family are called.
        pairs: What the test pairs: a seed, or a person.
        withheld: Why no verdict is given, whatever the numbers are; empty where one is.
    """

    name: str
    weights: Mapping[str, float]
    question_type: str
    estimate: Estimate
    test: SignFlip
    corrected: float = 1.0
    family: int = 1
    corrected_over_all: float = 1.0
    remarks: Sequence[str] = ()
    unit: str = "types"
    pairs: str = "seed"
    withheld: str = ""

    @property
    def is_clear(self) -> bool:
        """Whether the corrected test excludes chance and the interval excludes 0; an outlier parts the two."""
        return not self.withheld and self.corrected < LEVEL and (self.estimate.low > 0 or self.estimate.high < 0)

    @property
    def verdict(self) -> str:
        """In words, never more than the corrected test and the interval show."""
        if self.withheld:
            return f"no verdict: {self.withheld}"
        pair, mean = self._pair(), self.estimate.mean
        if not self.estimate.has_interval:
            return f"one {self.pairs}: no verdict"
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
        seeds = f"{self.test.num_values} {self.pairs}{'s' * (self.test.num_values != 1)}"
        parts = [f"{100 * self.estimate.mean:+.1f} points".replace("-", "−")]
        if self.estimate.has_interval:
            parts += [f"95 % interval {low} to {high}", seeds]
        if self.estimate.has_interval and not self.withheld:
            parts.append(f"p = {shown_p(self.test.p)}")
            if self.family > 1:
                parts.append(f"corrected {shown_p(self.corrected)} over {self.family} {self.unit}")
            parts.append(f"{shown_p(self.corrected_over_all)} over all contrasts")
            parts += [self.limit] if self.limit else []
        return ", ".join([*parts, *self.remarks])

    @property
    def limit(self) -> str:
        """What the number of seeds cannot show, whatever they say; empty when they can."""
        return limit_of(self.test.num_values, self.test.smallest, self.family, self.unit, self.pairs)

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


def limit_of(num_seeds: int, smallest: float, family: int, unit: str = "types", pairs: str = "seed") -> str:
    """What `num_seeds` cannot show in a family of tests, in words; empty when they can show something.

    Example:
        >>> limit_of(5, 0.0625, 1), limit_of(8, 2**-7, 10), limit_of(8, 2**-7, 4)
        ('5 seeds cannot give p below 0.0625', '8 seeds on 10 types cannot give p below 0.0781', '')
    """
    if smallest * family < LEVEL:
        return ""
    many = f" on {family} {unit}" if family > 1 else ""
    return f"{num_seeds} {pairs}s{many} cannot give p below {shown_p(min(1.0, smallest * family))}"


def as_families(contrasts: Sequence[Contrast]) -> list[Contrast]:
    """The same contrasts with their p corrected.

    Each contrast is a claim of its own, tested on several types of question: these are the family that its verdict
    answers for. The correction over everything that was asked is shown beside it.
    """
    found = list(contrasts)
    tested = [
        number for number, contrast in enumerate(found) if contrast.estimate.has_interval and not contrast.withheld
    ]
    for name in dict.fromkeys(found[number].name for number in tested):
        members = [number for number in tested if found[number].name == name]
        for number, p in zip(members, holm([found[number].test.p for number in members]), strict=True):
            found[number] = replace(found[number], corrected=p, family=len(members))
    for number, p in zip(tested, holm([found[number].test.p for number in tested]), strict=True):
        found[number] = replace(found[number], corrected_over_all=p)
    return found
