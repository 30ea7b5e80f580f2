"""What a training run does beside its batches: weights of classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from moiety.intent.training import class_weights


@pytest.mark.parametrize("counts", [(5, 5), (1, 3, 8), (7, 1, 1, 2)])
def test_balanced_weights_are_scikit_learns_and_have_mean_1_over_the_rows(counts: tuple[int, ...]) -> None:
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    weights = class_weights(y, len(counts), "balanced")
    assert weights is not None
    formula = [sum(counts) / (len(counts) * count) for count in counts]
    np.testing.assert_array_equal(weights.numpy(), np.array(formula, dtype=np.float32))
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=y.numpy())
    np.testing.assert_array_equal(weights.numpy(), expected.astype(np.float32))
    assert weights[y].mean().item() == pytest.approx(1)
    assert class_weights(y, len(counts), None) is None
    with_absent = class_weights(y, len(counts) + 1, "balanced")
    assert with_absent is not None
    assert with_absent[-1] == 0
    np.testing.assert_allclose(with_absent[:-1], weights * len(counts) / (len(counts) + 1), rtol=1e-6)
