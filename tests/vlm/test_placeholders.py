"""Which token is what: ids given, derived, padded, chunked and generated."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf

from moiety.moe.trace import recording
from moiety.recipe.recipe import MoESettings
from moiety.vlm.upcycle import upcycle
from tests.tiny import CACHE, FAMILIES, IMAGE, sparse, spread_experts

LLAVA = FAMILIES["llava-qwen2"]


@pytest.fixture(scope="module")
def model() -> Any:
    return sparse("llava-qwen2")


def embedded(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What the decoder gets: text embeddings with picture features at their places."""
    embeds = model.get_input_embeddings()(batch["input_ids"])
    features = torch.cat(list(model.model.get_image_features(batch["pixel_values"]).pooler_output))
    return embeds.masked_scatter((batch["input_ids"] == IMAGE)[..., None], features)


def test_embeddings_need_ids(model: Any) -> None:
    batch = LLAVA.batch("tIt")
    embeds = embedded(model, batch)
    with pytest.raises(ValueError, match="inputs_embeds came without modality_ids"):
        model(inputs_embeds=embeds)
    with pytest.raises(ValueError, match=r"have shape \(1, 2\), the tokens \(1, 11\); give one id a token"):
        model(inputs_embeds=embeds, modality_ids=torch.zeros(1, 2, dtype=torch.long))
    ids = (batch["input_ids"] == IMAGE).long()
    torch.testing.assert_close(model(inputs_embeds=embeds, modality_ids=ids).logits, model(**batch).logits)


def test_a_mask_that_hides_padding_needs_ids(model: Any) -> None:
    batch = LLAVA.batch("tIt", "t")
    full = model(**batch).logits
    real = batch.pop("attention_mask")
    seq = real.shape[1]
    causal = torch.ones(seq, seq, dtype=torch.bool).tril() & real[:, None, None, :].bool()
    with pytest.raises(ValueError, match=r"attention_mask is not \(batch, seq\), so padding cannot be read from it"):
        model(**batch, attention_mask=causal)
    ids = (batch["input_ids"] == IMAGE).long().masked_fill(real == 0, -1)
    keep = real.bool()
    torch.testing.assert_close(model(**batch, attention_mask=causal, modality_ids=ids).logits[keep], full[keep])


def test_no_mask_is_a_mask_of_ones(model: Any) -> None:
    # D14
    batch = LLAVA.batch("tIt")
    with_ones = model(**batch).logits
    del batch["attention_mask"]
    torch.testing.assert_close(model(**batch).logits, with_ones, rtol=0, atol=0)


@pytest.mark.parametrize("pad", [0, 1, IMAGE])
def test_the_pad_token_does_not_change_routing(model: Any, pad: int) -> None:
    # D17: dispatched rows = K times the real tokens, whatever the pad id is
    batch = LLAVA.batch("tIt", "t")
    real = batch["attention_mask"].bool()
    batch["input_ids"][~real] = pad
    if pad == IMAGE:
        batch["modality_ids"] = torch.zeros_like(batch["input_ids"]).masked_fill(batch["input_ids"] == IMAGE, 1)
        embeds = embedded(model, {**batch, "input_ids": batch["input_ids"].masked_fill(~real, 0)})
        batch = {k: batch[k] for k in ("attention_mask", "modality_ids")} | {"inputs_embeds": embeds}
    with recording() as trace:
        model(**batch)
    for _, routing in trace.entries:
        assert int((routing.index < 4).sum()) == 2 * int(real.sum())


def test_the_two_mask_rules_differ_at_run_ends_alone() -> None:
    # I13
    routed = {}
    for rule in ("exact", "last_token_as_text"):
        built = upcycle(LLAVA.build(), MoESettings(layers="all", mask_rule=rule))
        with recording() as trace:
            built(**LLAVA.batch("tItI"))
        routed[rule] = trace.entries[0][1].modality_group
    differing = (routed["exact"] != routed["last_token_as_text"]).nonzero().flatten().tolist()
    ids = LLAVA.batch("tItI")["input_ids"][0].tolist()
    ends = [i for i, token in enumerate(ids) if token == IMAGE and [*ids, 0][i + 1] != IMAGE]
    assert differing == ends == [7, 14]


def test_chunked_prefill_equals_one_piece(model: Any) -> None:
    # I05: any border, also inside a picture
    batch = LLAVA.batch("tIt")
    embeds, ids = embedded(model, batch), (batch["input_ids"] == IMAGE).long()
    whole = model(inputs_embeds=embeds, modality_ids=ids).logits
    for border in range(1, embeds.shape[1]):
        cache = hf.DynamicCache(config=model.config.get_text_config())
        first = model(inputs_embeds=embeds[:, :border], modality_ids=ids[:, :border], **{CACHE: cache}).logits
        second = model(inputs_embeds=embeds[:, border:], modality_ids=ids[:, border:], **{CACHE: cache}).logits
        torch.testing.assert_close(torch.cat([first, second], dim=1), whole, rtol=1e-5, atol=1e-5)


def test_last_token_as_text_refuses_a_chunk_with_pictures() -> None:
    built = spread_experts(upcycle(LLAVA.build(), MoESettings(layers="all", mask_rule="last_token_as_text")))
    batch = LLAVA.batch("tIt")
    embeds, ids = embedded(built, batch), (batch["input_ids"] == IMAGE).long()
    whole = built(inputs_embeds=embeds, modality_ids=ids).logits
    cache = hf.DynamicCache(config=built.config.get_text_config())
    built(inputs_embeds=embeds[:, :6], modality_ids=ids[:, :6], **{CACHE: cache})
    with pytest.raises(ValueError, match="mask_rule=last_token_as_text needs each prompt in one piece"):
        built(inputs_embeds=embeds[:, 6:], modality_ids=ids[:, 6:], **{CACHE: cache})
    cache = hf.DynamicCache(config=built.config.get_text_config())
    first = built(inputs_embeds=embeds[:, :8], modality_ids=ids[:, :8], **{CACHE: cache}).logits
    second = built(inputs_embeds=embeds[:, 8:], modality_ids=ids[:, 8:], **{CACHE: cache}).logits
    torch.testing.assert_close(torch.cat([first, second], dim=1), whole, rtol=1e-5, atol=1e-5)
    text = built.generate(**batch, max_new_tokens=4, min_new_tokens=4, do_sample=False)
    uncached = built.generate(**batch, max_new_tokens=4, min_new_tokens=4, do_sample=False, use_cache=False)
    assert torch.equal(text, uncached)


def test_chunked_prefill_of_generate(model: Any) -> None:
    # I05, through the option of transformers; pictures first become features
    batch = LLAVA.batch("tIttt")
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    stock = LLAVA.build()
    if not torch.equal(stock.generate(**batch, **options, prefill_chunk_size=5), stock.generate(**batch, **options)):
        pytest.skip(f"transformers {hf.__version__} cannot cut prompts with pictures into chunks itself")
    whole = model.generate(**batch, **options)
    for extra in ({}, {"modality_ids": (batch["input_ids"] == IMAGE).long()}):
        assert torch.equal(model.generate(**batch, **options, prefill_chunk_size=5, **extra), whole)


def test_generation_from_embeddings(model: Any) -> None:
    batch = LLAVA.batch("tItI")
    embeds, ids = embedded(model, batch), (batch["input_ids"] == IMAGE).long()
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}
    whole = model.generate(**batch, **options)[:, -4:]
    assert torch.equal(model.generate(inputs_embeds=embeds, modality_ids=ids, **options)[:, -4:], whole)
    with pytest.raises(ValueError, match="inputs_embeds came without modality_ids"):
        model.generate(inputs_embeds=embeds, **options)


def test_delimiters_as_vision() -> None:
    family = FAMILIES["qwen2_5_vl"]
    built = upcycle(family.build(), MoESettings(layers="all", delimiters_as_vision=True))
    batch = family.batch("tIt")
    with recording() as trace:
        built(**batch)
    assert int((trace.entries[0][1].modality_group == 0).sum()) == 6, "four picture tokens and two marks"
    with pytest.raises(ValueError, match=r"delimiters_as_vision is true, but .*LlavaConfig names none of vision_start"):
        upcycle(LLAVA.build(), MoESettings(delimiters_as_vision=True))


def test_video_tokens_are_routed_with_vision() -> None:
    family, video = FAMILIES["qwen2_5_vl"], 61
    dense = family.build()
    built = upcycle(dense, MoESettings(layers="all"))
    batch = family.batch("tIt")
    frames = batch["input_ids"] == IMAGE
    batch |= {
        "input_ids": batch["input_ids"].masked_fill(frames, video),
        "mm_token_type_ids": frames.int() * 2,
        "pixel_values_videos": batch.pop("pixel_values"),
        "video_grid_thw": batch.pop("image_grid_thw"),
        "second_per_grid_ts": torch.tensor([1.0]),
    }
    with recording() as trace:
        logits = built(**batch).logits
    torch.testing.assert_close(logits, dense(**batch).logits, rtol=1e-5, atol=1e-5)
    assert built.model.modality_rule.derive(batch["input_ids"])[frames].tolist() == [2] * 4
    assert torch.equal(trace.entries[0][1].modality_group == 0, frames.flatten())
