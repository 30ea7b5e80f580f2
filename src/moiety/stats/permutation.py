"""Could chance alone have made this difference? A test over paired seeds that assumes no distribution.

The test is our own and not ``scipy.stats.permutation_test``, which misses ties of accuracies and is 30 times slower:
docs/decisions/0014.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

EXACT_UP_TO = 16
NUM_DRAWS = 100_000


@dataclass(frozen=True)
class SignFlip:
    """Outcome of a two-sided sign-flip test.

    Args:
        p: Share of the sign patterns whose sum is at least as far from 0 as the sum that was seen, in (0, 1].
        smallest: The smallest `p` that this number of seeds can give at all.
        num_values: Number of paired differences that were tested.
        exact: True: all patterns were counted. False: random patterns were drawn.
    """

    p: float
    smallest: float
    num_values: int
    exact: bool


def sign_flip_test(differences: Sequence[float], seed: int = 0) -> SignFlip:
    r"""Exact two-sided test of paired differences against chance.

    If nothing distinguishes the two sides of a pair, each difference could equally have had the other sign. There are
    :math:`2^n` sign patterns, and *p* is the share of them with :math:`|\sum_i \pm d_i| \ge |\sum_i d_i|`. The pattern
    that was seen and its mirror image always count, so *n* seeds cannot give less than :math:`2^{1-n}`: 0.0625 for
    five seeds, 0.0078 for eight. For more than 16 differences, random patterns are drawn; the pattern that was seen
    counts as one of them.

    Args:
        differences: One value for each seed.
        seed: Seed of the random patterns.

    Raises:
        ValueError: there is no difference.

    Example:
        >>> sign_flip_test([0.1, 0.2, 0.3]).p, sign_flip_test([0.1, -0.2, 0.3]).p
        (0.25, 0.75)

    Source:
        Fisher 1935, The Design of Experiments, section 21.
    """
    values = np.asarray(differences, dtype=np.float64)
    n = values.size
    if n == 0:
        raise ValueError("a sign-flip test needs at least one paired difference, got none")
    # Accuracies are ratios of whole numbers: sums that are equal on paper must stay equal in spite of rounding.
    seen = abs(values.sum()) - 1e-9 * np.abs(values).sum()
    if n <= EXACT_UP_TO:
        # A pattern and its mirror image lie equally far from 0, so the sign of the first difference can stay.
        flips = (np.arange(2 ** (n - 1))[:, None] >> np.arange(n)) & 1  # (patterns, differences)
        return SignFlip(float(np.mean(_distances(flips, values) >= seen)), 2.0 ** (1 - n), n, exact=True)
    flips = np.random.default_rng(seed).integers(0, 2, size=(NUM_DRAWS, n), dtype=np.int8)
    as_far = int(np.sum(_distances(flips, values) >= seen))
    return SignFlip((as_far + 1) / (NUM_DRAWS + 1), max(2.0 ** (1 - n), 1 / (NUM_DRAWS + 1)), n, exact=False)


def _distances(flips: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.abs((1 - 2 * flips) @ values)


def holm(p_values: Sequence[float]) -> list[float]:
    r"""Corrected p-values of a family of tests, in the order given.

    If nothing differs, the chance that any corrected value falls below `alpha` is at most `alpha`. In ascending order,
    the *j*-th value (from 0) of *m* is multiplied by *m - j*, and it never falls below the value before it.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]

    Source:
        Holm 1979.
    """
    corrected, so_far = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        so_far = max(so_far, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = so_far
    return corrected


def shown_p(p: float) -> str:
    """A p-value for a reader.

    Example:
        >>> shown_p(0.0625), shown_p(0.0078125), shown_p(1.0), shown_p(0.00001)
        ('0.0625', '0.00781', '1', '<0.0001')
    """
    return "<0.0001" if p < 1e-4 else f"{p:.3g}"
