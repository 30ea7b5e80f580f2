"""A training run beside its batches: weights of classes, and learning rates of transformers' linear schedule."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from moiety.intent.training import class_weights, schedule_for


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


def rates(steps: int, warmup_share: float) -> list[float]:
    """Factor on the learning rate at each step of a run, and after the last."""
    optimizer = torch.optim.AdamW(
        [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (1.0, 0.25)], weight_decay=0.0
    )
    schedule = schedule_for(optimizer, steps, warmup_share)
    found = []
    for _ in range(steps):
        first, second = (group["lr"] for group in optimizer.param_groups)
        assert second == first / 4
        found.append(first)
        optimizer.step()
        schedule.step()
    return [*found, optimizer.param_groups[0]["lr"]]


def test_rates_rise_and_fall() -> None:
    assert rates(10, 0.2) == [0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125, 0.0, 0.0]


@pytest.mark.parametrize(("steps", "warmup_share"), [(1, 0.1), (7, 0.0), (7, 0.1), (37, 0.13), (30, 0.5), (5, 1.0)])
def test_rates_are_those_of_runs_before_the_library_was_used(steps: int, warmup_share: float) -> None:
    rise = warmup_share * steps

    def before(step: int) -> float:
        return step / rise if step < rise else max(0.0, (steps - step) / max(1.0, steps - rise))

    assert rates(steps, warmup_share) == [before(step + 1) for step in range(steps + 1)]
