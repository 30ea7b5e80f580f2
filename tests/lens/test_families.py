"""Attention, averaged pictures and rivals without pictures on decoders and towers of several families."""

from __future__ import annotations

import pytest
import torch
from transformers import LogitsProcessorList

from moiety.evaluate.decoding import decoding_with
from moiety.lens.ground.forced import Forced, read
from moiety.recipe.evaluate import DecodingSettings
from moiety.recipe.recipe import MoESettings
from moiety.vlm.upcycle import upcycle
from tests.tiny import FAMILIES, IMAGE


@pytest.mark.parametrize("name", ["llava-phi3", "llava-onevision", "idefics3", "paligemma", "gemma3", "qwen2_5_vl"])
def test_a_family_shows_its_attention_and_decodes_with_a_contrast(name: str) -> None:
    family = FAMILIES[name]
    model = upcycle(family.build(), MoESettings(layers="all", router_init_std=1.0))
    batch = family.batch("tIt")
    is_image = (batch["input_ids"][0] == IMAGE).long()
    seq = len(is_image)
    forced = Forced(batch, is_image, is_image.bool(), seq - 2, is_image.bool(), [""] * seq)
    reading = read(model, forced, attention=True)
    assert reading.attention is not None
    assert reading.attention.shape == (2, seq, seq)
    torch.testing.assert_close(reading.attention.sum(-1), torch.ones(2, seq))
    for layer, routing in read(model, forced).routing.items():  # float32; found 2e-5 on weights four times as large
        torch.testing.assert_close(routing.logits, reading.routing[layer].logits, rtol=1e-3, atol=1e-3)
    blank = read(model, forced, mean_patch=True)
    assert torch.isfinite(blank.routing[0].weights).all()

    both, alone = family.batch("tIt", "ttt", side="left"), family.batch("tIt", side="left")
    with decoding_with(model, DecodingSettings(method="context_aware", weight=0.0)) as processors:
        found = model.generate(
            **both, max_new_tokens=3, do_sample=False, logits_processor=LogitsProcessorList(processors)
        )
    plain = model.generate(**alone, max_new_tokens=3, do_sample=False)
    assert torch.equal(found[0, both["input_ids"].shape[1] :], plain[0, alone["input_ids"].shape[1] :])
    assert torch.equal(found[0, both["input_ids"].shape[1] :], found[1, both["input_ids"].shape[1] :])
