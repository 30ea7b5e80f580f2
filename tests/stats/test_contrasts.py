"""What a recipe asks of a comparison, and answers that never say more than the test shows."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moiety.stats.contrasts import Contrast, as_families, contrast_over
from moiety.stats.permutation import sign_flip_test

INTERACTION = {"full": 1.0, "evidence-only": -1.0, "hyperbolic-only": -1.0, "neither": 1.0}


def over(weights: Mapping[str, float], values: Mapping[str, list[float]]) -> Contrast:
    found = contrast_over("asked", weights, "conflict", {name: dict(enumerate(row)) for name, row in values.items()})
    assert found is not None
    return as_families([found])[0]


def test_a_pair_in_words() -> None:
    steady = [0.5 + 0.01 * seed for seed in range(8)]
    better = [value + 0.03 + 0.001 * seed for seed, value in enumerate(steady)]
    contrast = over({"asymoe": 1.0, "plain": -1.0}, {"asymoe": better, "plain": steady})
    assert contrast.sentence == (
        "asked on 'conflict': asymoe beats plain by 3.4 points "
        "(+3.4 points, 95 % interval +3.1 to +3.6, 8 seeds, p = 0.00781, 0.00781 over all contrasts)"
    )
    turned = over({"asymoe": 1.0, "plain": -1.0}, {"asymoe": steady, "plain": better})
    assert turned.verdict == "plain beats asymoe by 3.4 points"
    assert turned.numbers.startswith("−3.4 points, 95 % interval −3.6 to −3.1")


def test_few_seeds_are_told_what_they_cannot_show() -> None:
    contrast = over({"a": 1.0, "b": -1.0}, {"a": [0.9] * 5, "b": [0.1] * 5})
    assert contrast.verdict == "a and b are not distinguishable"
    assert contrast.numbers.endswith("p = 0.0625, 0.0625 over all contrasts, 5 seeds cannot give p below 0.0625")
    assert over({"a": 1.0, "b": -1.0}, {"a": [0.9], "b": [0.1]}).sentence == (
        "asked on 'conflict': one seed: no verdict (+80.0 points)"
    )


def test_an_outlier_makes_no_verdict() -> None:
    contrast = over({"a": 1.0, "b": -1.0}, {"a": [0.01] * 7 + [0.9], "b": [0.0] * 8})
    assert contrast.corrected < 0.05  # every seed says the same; how much, only one does
    assert contrast.estimate.low < 0 < contrast.estimate.mean
    assert contrast.verdict == "a and b are not distinguishable"


def test_an_interaction_is_what_the_parts_do_not_add_up_to() -> None:
    seeds = [0.01 * seed for seed in range(6)]
    values = {
        "neither": [0.50 + seed for seed in seeds],
        "evidence-only": [0.52 + seed for seed in seeds],
        "hyperbolic-only": [0.53 + seed for seed in seeds],
        "full": [0.60 + seed for seed in seeds],
    }
    contrast = over(INTERACTION, values)
    assert contrast.estimate.mean == pytest.approx(0.05)
    assert contrast.verdict == "above 0"
    main = over({"full": 0.5, "evidence-only": 0.5, "hyperbolic-only": -0.5, "neither": -0.5}, values)
    assert main.estimate.mean == pytest.approx(0.045)
    assert over({**INTERACTION}, values | {"full": values["neither"]}).verdict == "below 0"
    assert over(INTERACTION, values | {"full": [0.55, 0.6, 0.5, 0.6, 0.5, 0.6]}).verdict == "not distinguishable from 0"


@given(st.lists(st.lists(st.integers(-20, 20).map(lambda step: step / 100), min_size=8, max_size=8), max_size=6))
def test_a_family_is_clear_only_where_the_correction_leaves_it(rows: list[list[float]]) -> None:
    zero = dict.fromkeys(range(8), 0.0)
    found = [contrast_over("c", {"a": 1.0, "b": -1.0}, "t", {"a": dict(enumerate(row)), "b": zero}) for row in rows]
    family = as_families([contrast for contrast in found if contrast is not None])
    apart = as_families([replace(contrast, name=str(number)) for number, contrast in enumerate(family)])
    assert [contrast.corrected_over_all for contrast in apart] == [contrast.corrected for contrast in family]
    assert [contrast.corrected for contrast in apart] == [contrast.test.p for contrast in family]
    for contrast, row in zip(family, rows, strict=True):
        assert contrast.corrected >= contrast.test.p == sign_flip_test(row).p
        apart_from_0 = contrast.estimate.low > 0 or contrast.estimate.high < 0
        assert ("beats" in contrast.verdict) == (contrast.corrected < 0.05 and apart_from_0)
        assert bool(contrast.limit) == (len(rows) / 128 >= 0.05)


def test_only_seeds_that_all_have_count() -> None:
    values = {"a": {0: 0.5, 1: 0.6, 2: 0.7}, "b": {1: 0.5, 2: 0.5, 3: 0.1}}
    contrast = contrast_over("c", {"a": 1.0, "b": -1.0}, "t", values)
    assert contrast is not None
    assert contrast.test.num_values == 2
    assert contrast_over("c", {"a": 1.0, "b": -1.0}, "t", values | {"b": {7: 0.1}}) is None
