"""Narrower experts of a trained model keep the units that say most on a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from moiety.moe.experts.bank import known_activity, largest_units
from moiety.recipe.recipe import MoESettings
from moiety.vlm.activity import random_batch, unit_activity, wants_activity
from moiety.vlm.damage import SCRATCH
from moiety.vlm.decoders import base_of, text_decoder
from moiety.vlm.model import moe_layers
from moiety.vlm.upcycle import upcycle
from tests.tiny import FAMILIES

LLAVA = FAMILIES["llava-qwen2"]
HALF = MoESettings(expert_ffn=24, layers="all")


def text_layers(model: Any) -> Any:
    decoder: Any = text_decoder(base_of(model))
    return decoder.layers


def inner(mlp: Any, x: torch.Tensor) -> torch.Tensor:
    """What the units of an FFN hand to the down projection."""
    return mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)


def test_activity_is_the_root_mean_square_of_each_unit_over_tokens_that_are_no_padding() -> None:
    model, batch = LLAVA.build(), LLAVA.batch("tItt", "tt")
    mlp, seen = text_layers(model)[0].mlp, []
    handle = mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    found = unit_activity(model, batch)
    handle.remove()
    rows = inner(mlp, seen[0])[batch["attention_mask"].bool()]
    assert set(found) == set(range(len(text_layers(model))))
    torch.testing.assert_close(found[0], rows.detach().square().mean(0).sqrt())
    assert not mlp.down_proj._forward_pre_hooks


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_family_tells_its_activity_without_data(family: str) -> None:
    model = FAMILIES[family].build()
    found = unit_activity(model, random_batch(model))
    assert len(found) == len(text_layers(model))
    assert all((value > 0).all() for value in found.values())


def test_units_that_say_most_are_kept() -> None:
    gate_up, down = torch.ones(8, 3), torch.ones(3, 4)
    gate_up[3] = 9  # the weights of unit 3 are large, but it is never active
    with known_activity(torch.tensor([1.0, 3.0, 2.0, 0.0])):
        kept_gate_up, kept_down = largest_units(gate_up, down * torch.tensor([1, 1, 2, 1]), 2)
    assert torch.equal(kept_down, torch.tensor([1, 2]).expand(3, 2).float())
    assert kept_gate_up.shape == (4, 3)
    assert (largest_units(gate_up, down, 1)[0][0] == 9).all(), "outside, the weights alone decide"


def test_a_trained_model_loses_less_than_by_the_size_of_weights() -> None:
    """Every second unit has large weights at its gate and adds nearly nothing."""
    model = LLAVA.build()
    for layer in text_layers(model):
        with torch.no_grad():
            layer.mlp.down_proj.weight[:, ::2] *= 1e-4
            layer.mlp.up_proj.weight[::2] *= 1e-4
            layer.mlp.gate_proj.weight[::2] *= 1e9
            layer.mlp.up_proj.weight[::2] *= 1e-6
    dense = LLAVA.build()
    dense.load_state_dict(model.state_dict())
    batch = LLAVA.batch("tItt", "ttI")
    there = batch["attention_mask"].bool()
    said = dense(**batch).logits[there]
    sparse = upcycle(model, HALF, calibration=batch)
    torch.testing.assert_close(sparse(**batch).logits[there], said, atol=1e-4, rtol=1e-4)
    mlp, bank = text_layers(dense)[0].mlp, moe_layers(sparse)[0].experts
    assert torch.equal(bank.down_proj[0], mlp.down_proj.weight[:, 1::2])
    assert torch.equal(bank.gate_up_proj[0], torch.cat([mlp.gate_proj.weight[1::2], mlp.up_proj.weight[1::2]]))


@pytest.mark.parametrize(
    ("own", "origin", "wanted"),
    [
        ({"expert_ffn": 16}, "outside", True),
        ({"expert_ffn": 16}, None, True),
        ({"expert_ffn": 16}, SCRATCH, False),
        ({}, "outside", False),
        ({"scheme": "dense"}, "outside", False),
        ({"scheme": "asymoe"}, "outside", False),
        ({"scheme": "asymoe", "asymoe": {"evidence_dim": 12}}, "outside", True),
    ],
)
def test_only_units_of_a_trained_model_that_are_left_out_are_measured(
    own: dict[str, Any], origin: str | None, wanted: bool
) -> None:
    config = LLAVA.config()
    config.provenance = None if origin is None else {"origin": origin}
    assert wants_activity(config, MoESettings(**own)) is wanted
