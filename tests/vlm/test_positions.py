"""Positions of a conversation never come from another one, in families that keep offsets of pictures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from moiety.recipe.recipe import MoESettings
from moiety.vlm.contracts import cache_in
from moiety.vlm.model import adopt
from moiety.vlm.positions import OFFSETS, forget_offsets, has_offsets
from moiety.vlm.upcycle import upcycle
from tests.tiny import CACHE, FAMILIES, sparse

QWENS = ["qwen2_5_vl", "qwen3_vl"]
GREEDY = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True}


def made(name: str, kind: str) -> Any:
    if kind == "sparse":
        return sparse(name)
    return adopt(FAMILIES[name].build(), MoESettings(scheme="dense"), copy=False)


def steps(model: Any, batch: dict[str, Tensor], number: int = 3) -> Tensor:
    """Logits of a prefill and some decode steps, by plain forwards."""
    out = model(**batch)
    logits = [out.logits[:, -1]]
    for _ in range(number):
        out = model(input_ids=logits[-1].argmax(-1, keepdim=True), **{CACHE: cache_in(out)})
        logits.append(out.logits[:, -1])
    return torch.stack(logits)


@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pytest.mark.parametrize("name", QWENS)
def test_text_after_a_picture_is_read_at_its_own_positions(name: str, kind: str) -> None:
    family, model = FAMILIES[name], made(name, kind)
    text = family.batch("tt")
    alone = steps(model, text)
    steps(model, family.batch("tIt"))
    assert getattr(model.model, OFFSETS) is not None
    torch.testing.assert_close(steps(model, text), alone, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pytest.mark.parametrize("name", QWENS)
def test_two_conversations_in_turns_do_not_shift_each_other(name: str, kind: str) -> None:
    family, model = FAMILIES[name], made(name, kind)
    first = family.batch("tIt")

    def second_turn(between: bool) -> Tensor:
        out = model.generate(**first, **GREEDY)
        if between:
            model.generate(**family.batch("tt"), **GREEDY)
            model.generate(**family.batch("IIt"), **GREEDY)
        ids = torch.cat([out.sequences, torch.tensor([[11, 12, 13]])], dim=1)
        cache = cache_in(out)
        assert cache is not None
        return model.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), **{CACHE: cache}, **GREEDY, output_logits=True
        ).logits

    torch.testing.assert_close(second_turn(between=True), second_turn(between=False), rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pytest.mark.parametrize("name", QWENS)
def test_picture_positions_do_not_depend_on_who_names_the_pictures(name: str, kind: str) -> None:
    family, model = FAMILIES[name], made(name, kind)
    batch = family.batch("tIt")
    bare = {key: value for key, value in batch.items() if key != "mm_token_type_ids"}
    assert len(bare) == len(batch) - 1
    torch.testing.assert_close(model(**bare).logits, model(**batch).logits, rtol=0, atol=0)
    assert torch.equal(model.generate(**bare, **GREEDY).sequences, model.generate(**batch, **GREEDY).sequences)


@pytest.mark.parametrize("name", QWENS)
def test_a_model_that_generated_before_is_upcycled(name: str) -> None:
    dense = FAMILIES[name].build()
    dense.generate(**FAMILIES[name].batch("tIt", "tItIt", side="left"), **GREEDY)
    before = getattr(dense.model, OFFSETS)
    assert before is not None
    assert bool(before.any())
    receipt = upcycle(dense, MoESettings(layers="all")).config.provenance["upcycled"]["receipt"]
    assert receipt["relative_difference"] < 1e-6  # worst measured 3e-7


def test_families_without_offsets_are_left_alone() -> None:
    base = FAMILIES["llava-llama"].build().model
    forget_offsets(base)
    assert not has_offsets(base)
