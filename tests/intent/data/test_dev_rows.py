"""Rows that choose the epoch: every label still teaches, enough rows choose, and only the seed decides which."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moiety.intent.data.dev_rows import dev_split


@given(st.lists(st.integers(2, 9), min_size=2, max_size=5), st.floats(0.05, 0.5), st.integers(0, 3))
def test_every_label_teaches_and_enough_rows_choose(counts: list[int], fraction: float, seed: int) -> None:
    labels = np.repeat([f"l{number}" for number in range(len(counts))], counts)
    teach, choose = dev_split(labels, fraction, seed)
    assert sorted([*teach, *choose]) == list(range(len(labels)))
    assert set(labels[teach]) == set(labels)
    assert len(choose) >= len(counts)
    assert (teach, choose) == dev_split(labels, fraction, seed)


def test_a_label_with_one_row_cannot_do_both() -> None:
    with pytest.raises(ValueError, match="label 'b' has 1 row, so no dev share can be split off; give X_dev and y_dev"):
        dev_split(np.array(["a", "a", "b"]), 0.1, 0)


@pytest.mark.parametrize(
    ("rows", "fraction", "left"),
    [
        ([3, 3], 0.9, "0 of 6 rows to learn 2 labels from"),
        ([2, 40], 0.9, "no row to learn label 'l0' from"),
    ],
)
def test_a_share_that_leaves_a_label_unlearned_is_refused(rows: list[int], fraction: float, left: str) -> None:
    said = f"validation_fraction=0.9 leaves {left}; set a smaller one (default 0.1), or give X_dev and y_dev"
    with pytest.raises(ValueError, match=re.escape(said)):
        dev_split(np.repeat(["l0", "l1"], rows), fraction, 0)
