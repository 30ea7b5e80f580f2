"""Logits of labelled positions alone give the same loss and the same gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from moiety.recipe.recipe import MoESettings
from moiety.train.labelled import only_labelled
from moiety.vlm.splice import FAMILIES as KNOWN
from moiety.vlm.upcycle import upcycle
from tests.tiny import FAMILIES


def batch_of(family: str) -> dict[str, torch.Tensor]:
    """Rows of different lengths; only the last words of the first and one word of the second have labels."""
    batch: dict[str, torch.Tensor] = FAMILIES[family].batch("tItttt", "ttIt")
    labels = torch.full_like(batch["input_ids"], -100)
    labels[0, -3:] = batch["input_ids"][0, -3:]
    labels[1, 2] = batch["input_ids"][1, 2]
    return {**batch, "labels": labels}


def loss_and_gradient(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, dict[str, torch.Tensor], int]:
    model.zero_grad()
    outputs = model(**batch)
    outputs.loss.backward()
    gradients = {name: value.grad.clone() for name, value in model.named_parameters() if value.grad is not None}
    return outputs.loss.detach(), gradients, outputs.logits.shape[1]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_learns_the_same_from_fewer_logits(family: str) -> None:
    model = upcycle(FAMILIES[family].build(), MoESettings()).train()
    batch = batch_of(family)
    wanted, gradients, every = loss_and_gradient(model, batch)
    less = only_labelled(model, batch)
    found, fewer, kept = loss_and_gradient(model, less)
    assert kept == 4 < every
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)  # measured: equal in every bit, gradients too
    assert set(fewer) == set(gradients)
    for name, value in fewer.items():
        torch.testing.assert_close(value, gradients[name], rtol=1e-5, atol=1e-6, msg=name)


def test_other_batches_stay_as_they_are() -> None:
    model = FAMILIES["llava-qwen2"].build()
    batch = batch_of("llava-qwen2")
    nothing = {**batch, "labels": torch.full_like(batch["labels"], -100)}
    given = {**batch, "logits_to_keep": 2}
    without = {name: value for name, value in batch.items() if name != "labels"}
    for same in (nothing, given, without):
        assert only_labelled(model, same) is same


def test_a_family_that_nobody_tried_stays_as_it_is() -> None:
    class Other(torch.nn.Module):
        pass

    assert Other.__name__ not in KNOWN
    batch = batch_of("llava-qwen2")
    assert only_labelled(Other(), batch) is batch
