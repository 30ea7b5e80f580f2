"""Evidence on its way through a whole model: derived or given, cached, generated, saved."""

from __future__ import annotations

import copy
import logging
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from moiety.moe.asymoe.context import ContextAttention
from moiety.moe.trace import recording
from moiety.recipe.recipe import MoESettings
from moiety.vlm.asymoe import evidence as evidence_module
from moiety.vlm.asymoe.context_cache import SeatsContext, has_begun, seat_of
from moiety.vlm.asymoe.evidence import EvidenceRule
from moiety.vlm.contracts import cache_in
from moiety.vlm.model import load, moe_layers
from tests.tiny import BOS, CACHE, END, EOS, FAMILIES, IMAGE, PAD, START, asymmetric, sparse

LLAVA = FAMILIES["llava-qwen2"]
GREEDY = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False, "pad_token_id": PAD}
CACHED = 1e-5
"""T17 for logits of whole models; worst case measured: 7.2e-7."""


@pytest.fixture(scope="module")
def model() -> Any:
    return sparse("llava-qwen2", asymmetric())


def masked(batch: dict[str, Tensor], memory: int = 2) -> dict[str, Tensor]:
    """The batch with an evidence mask whose last `memory` positions are what the assistant said."""
    real = (batch["attention_mask"] > 0) & (batch["input_ids"] != BOS)
    real[:, batch["input_ids"].shape[1] - memory :] = False
    return {**batch, "evidence_mask": real}


def embedded(model: Any, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch as embeddings and modality ids, so that a chunk may begin inside a picture."""
    embeds = model.get_input_embeddings()(batch["input_ids"])
    features = torch.cat(list(model.model.get_image_features(batch["pixel_values"]).pooler_output))
    image = batch["input_ids"] == IMAGE
    embeds = embeds.masked_scatter(image[..., None], features.to(embeds))
    kept = {name: batch[name] for name in ("attention_mask", "evidence_mask")}
    return {**kept, "inputs_embeds": embeds, "modality_ids": image.long()}


def step(model: Any, inputs: dict[str, Tensor], part: slice, cache: Any, *, prompt: bool) -> Tensor:
    """Logits of one chunk of embeddings on top of a cache."""
    names = ("inputs_embeds", "modality_ids", "evidence_mask") if prompt else ("inputs_embeds", "modality_ids")
    chunk = {name: inputs[name][:, part] for name in names}
    positions = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)[:, part]
    mask = inputs["attention_mask"][:, : part.stop]
    with torch.no_grad():
        return model(**chunk, attention_mask=mask, position_ids=positions, **{CACHE: cache}).logits


def whole(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    positions = (inputs["attention_mask"].cumsum(dim=1) - 1).clamp(min=0)
    with torch.no_grad():
        return model(**inputs, position_ids=positions, use_cache=False).logits


# -- which position is evidence --------------------------------------------------------------------------------------
def test_a_missing_mask_is_derived_and_the_log_says_so_once(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    batch = LLAVA.batch("tIt", "t", side="left")
    evidence_module._say_derived.cache_clear()
    with torch.no_grad(), caplog.at_level(logging.WARNING, evidence_module.__name__):
        derived = model(**batch).logits
        derived = model(**batch).logits
        real = (batch["attention_mask"] > 0) & (batch["input_ids"] != BOS)
        given = model(**batch, evidence_mask=real).logits
        nothing = model(**batch, evidence_mask=torch.zeros_like(real)).logits
    assert caplog.text.count("no evidence_mask was given; it is derived from the tokens") == 1
    assert given.equal(derived)
    assert not torch.allclose(nothing[0], derived[0], atol=1e-3)


def test_control_tokens_are_those_of_the_recipe_or_of_the_config() -> None:
    config = FAMILIES["qwen3_vl"].config()
    rule = EvidenceRule.of(config, asymmetric())
    assert set(rule.special_ids) == {PAD, BOS, EOS, START, END}
    ids, modality = torch.tensor([[BOS, START, IMAGE, END, 7, EOS, 7, 7]]), torch.tensor([[0, 0, 1, 0, 0, 0, 0, -1]])
    assert rule.derive(ids, modality).tolist() == [[False, False, True, False, True, False, True, False]]
    rule = EvidenceRule.of(config, asymmetric(special_ids=[7]))
    assert rule.derive(ids, modality).tolist() == [[True, True, True, True, False, True, False, False]]
    assert rule.derive(None, modality).tolist() == [[True] * 7 + [False]]
    assert EvidenceRule.of(config, MoESettings()) is None
    assert EvidenceRule.of(config, asymmetric(text_kind="ffn")) is None


def test_memory_says_nothing_to_later_tokens(model: Any) -> None:
    """T11: with self-attention silent, later tokens hear of evidence alone, and only of what was masked in.

    Worst case measured: 6e-8, where the changed token takes another expert and a product gets another number of rows.
    """
    silent = copy.deepcopy(model)
    for layer in silent.model.language_model.layers:
        torch.nn.init.zeros_(layer.self_attn.o_proj.weight)
    batch = masked(LLAVA.batch("tItt"), memory=6)
    with torch.no_grad():
        before = silent(**batch).logits
        for changed, heard in ((-5, False), (2, True)):
            other = {**batch, "input_ids": batch["input_ids"].clone()}
            other["input_ids"][:, changed] += 1
            after = silent(**other).logits
            assert not torch.allclose(after[:, changed], before[:, changed], atol=1e-3)
            same = torch.allclose(after[:, changed + 1 :], before[:, changed + 1 :], rtol=0, atol=1e-6)
            assert same != heard


@pytest.mark.parametrize("scheme", ["dense", "moiie"])
def test_schemes_without_evidence_ignore_the_mask(scheme: str) -> None:
    plain = sparse("llava-qwen2", MoESettings(scheme=scheme, layers="all"))
    batch = LLAVA.batch("tIt", "t", side="left")
    with torch.no_grad():
        assert plain(**masked(batch)).logits.equal(plain(**batch).logits)
    assert plain.generate(**masked(batch), **GREEDY).equal(plain.generate(**batch, **GREEDY))


def test_masks_that_do_not_fit_are_named(model: Any) -> None:
    batch = LLAVA.batch("tIt")
    with pytest.raises(
        ValueError, match=r"evidence_mask has shape \(1, 3\), the tokens \(1, 11\); give one entry for each tok"
    ):
        model(**batch, evidence_mask=torch.ones(1, 3, dtype=torch.bool))
    with pytest.raises(
        ValueError, match=r"has shape \(1, 3\), but 1 prompts have 11 tokens, 11 of them not yet in the"
    ):
        model.generate(**batch, **GREEDY, evidence_mask=torch.ones(1, 3, dtype=torch.bool))


# -- cached = uncached -----------------------------------------------------------------------------------------------
def test_chunks_with_a_border_anywhere_equal_one_piece(model: Any) -> None:
    """T17: two left-padded rows, prefill in two chunks, then generated tokens one at a time."""
    inputs = embedded(model, masked(LLAVA.batch("tItt", "tI", side="left"), memory=3))
    seq = inputs["modality_ids"].shape[1]
    real = inputs["attention_mask"].bool()
    expected = whole(model, inputs)
    for border in range(1, seq - 3):
        cache = DynamicCache()
        parts = [slice(0, border), slice(border, seq - 3)]
        found = [step(model, inputs, part, cache, prompt=True) for part in parts]
        found += [step(model, inputs, slice(i, i + 1), cache, prompt=False) for i in range(seq - 3, seq)]
        torch.testing.assert_close(torch.cat(found, dim=1)[real], expected[real], rtol=0, atol=CACHED)
    assert seat_of(cache, 0).keys.shape[2] == seq - 3, "generated tokens are not kept"
    assert not has_begun(DynamicCache())
    assert has_begun(cache)


def test_crop_continues_as_if_the_tokens_had_never_been(model: Any) -> None:
    """T17: a guess of three tokens is taken back, others follow."""
    inputs = embedded(model, masked(LLAVA.batch("tItt"), memory=3))
    seq, cache = inputs["modality_ids"].shape[1], DynamicCache()
    step(model, inputs, slice(0, seq - 3), cache, prompt=True)
    wrong = {**inputs, "inputs_embeds": inputs["inputs_embeds"] + 1}
    step(model, wrong, slice(seq - 3, seq), cache, prompt=True)
    cache.crop(-3)
    found = step(model, inputs, slice(seq - 3, seq), cache, prompt=False)
    torch.testing.assert_close(found, whole(model, inputs)[:, -3:], rtol=0, atol=CACHED)


def test_a_cache_is_copied_pickled_repeated_reordered_selected_and_reset(model: Any) -> None:
    inputs = embedded(model, masked(LLAVA.batch("tItt", "tI", side="left"), memory=3))
    seq, cache = inputs["modality_ids"].shape[1], DynamicCache()
    step(model, inputs, slice(0, seq - 3), cache, prompt=True)

    def following(cache: Any, rows: list[int]) -> None:
        chosen = {name: value[rows] for name, value in inputs.items()}
        found = step(model, chosen, slice(seq - 3, seq), copy.deepcopy(cache), prompt=False)
        torch.testing.assert_close(found, whole(model, chosen)[:, -3:], rtol=0, atol=CACHED)

    following(cache, [0, 1])
    following(pickle.loads(pickle.dumps(cache)), [0, 1])
    cache.reorder_cache(torch.tensor([1, 0]))
    following(cache, [1, 0])
    cache.batch_repeat_interleave(2)
    following(cache, [1, 1, 0, 0])
    cache.batch_select_indices(torch.tensor([1, 2]))
    following(cache, [1, 0])
    assert all(isinstance(layer, SeatsContext) for layer in cache.layers)
    cache.reset()
    assert not has_begun(cache)
    step(model, inputs, slice(0, seq - 3), cache, prompt=True)
    following(cache, [0, 1])


# -- generate --------------------------------------------------------------------------------------------------------
MODES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "uncached": {"use_cache": False},
    "static cache": {"cache_implementation": "static", "disable_compile": True},
    "guesses taken back": {"prompt_lookup_num_tokens": 2},
}


@pytest.mark.parametrize("mode", MODES)
def test_generated_logits_equal_one_forward_over_all(model: Any, mode: str) -> None:
    """T17 through generate: the whole answer in one uncached forward with the mask of the prompt."""
    batch = masked(LLAVA.batch("tIttt"), memory=4)
    out = model.generate(**batch, **GREEDY, **MODES[mode], return_dict_in_generate=True, output_logits=True)
    mask = torch.nn.functional.pad(batch["evidence_mask"], (0, 5))
    pictures = {name: value for name, value in batch.items() if name == "pixel_values"}
    with torch.no_grad():
        once = model(input_ids=out.sequences, evidence_mask=mask, **pictures, use_cache=False).logits[:, -6:-1]
    torch.testing.assert_close(torch.stack(out.logits, dim=1), once, rtol=0, atol=CACHED)


@pytest.mark.parametrize("beams", [1, 3])
def test_beams_and_padded_batches_equal_the_uncached_ones(model: Any, beams: int) -> None:
    batch = masked(LLAVA.batch("tItI", "tt", "tI", side="left"), memory=2)
    options = {**GREEDY, "num_beams": beams}
    text = model.generate(**batch, **options)
    assert text.equal(model.generate(**batch, **options, use_cache=False))
    alone = model.generate(**masked(LLAVA.batch("tItI"), memory=2), **options)
    assert alone[0, -5:].equal(text[0, -5:])


@pytest.mark.parametrize("size", [1, 3])
def test_a_prompt_in_chunks_generates_the_same(model: Any, size: int) -> None:
    batch = masked(LLAVA.batch("ttt", "t", side="left"), memory=1)
    expected = model.generate(**batch, **GREEDY)
    assert model.generate(**batch, **GREEDY, prefill_chunk_size=size).equal(expected)
    derived = {name: value for name, value in batch.items() if name != "evidence_mask"}
    expected = model.generate(**derived, **GREEDY)
    assert model.generate(**derived, **GREEDY, prefill_chunk_size=size).equal(expected)


@pytest.mark.parametrize("given", ["whole", "turn"])
def test_two_turns_on_one_cache(model: Any, given: str) -> None:
    """T17: the answer of the first turn is memory in the second, the new question is evidence."""
    first = masked(LLAVA.batch("tIt"), memory=0)
    out = model.generate(**first, **GREEDY, return_dict_in_generate=True)
    question = torch.tensor([[11, 12, 13]])
    ids = torch.cat([out.sequences, question], dim=1)
    mask = torch.cat([first["evidence_mask"], torch.zeros(1, 5).bool(), torch.ones(1, 3).bool()], dim=1)
    held = cache_in(out).get_seq_length()
    turn = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    options = {**GREEDY, "return_dict_in_generate": True, "output_logits": True}
    cached = model.generate(
        **turn, **options, **{CACHE: cache_in(out)},
        evidence_mask=mask if given == "whole" else mask[:, held:],
    )  # fmt: skip
    uncached = model.generate(
        **turn, **options, use_cache=False, evidence_mask=mask, pixel_values=first["pixel_values"]
    )
    assert cached.sequences.equal(uncached.sequences)
    torch.testing.assert_close(torch.stack(cached.logits), torch.stack(uncached.logits), rtol=0, atol=CACHED)
    kept = seat_of(cache_in(cached), 1).positions
    assert kept == [*range(first["input_ids"].shape[1]), *range(held, ids.shape[1])]


def test_two_generations_at_once_do_not_meet(model: Any) -> None:
    """Nothing of a generation lives on a module."""
    inputs = [embedded(model, masked(LLAVA.batch("tItt", seed=seed), memory=3)) for seed in (0, 1)]
    seq, caches = inputs[0]["modality_ids"].shape[1], (DynamicCache(), DynamicCache())
    for part, prompt in ((slice(0, seq - 3), True), (slice(seq - 3, seq), False)):
        found = [step(model, own, part, cache, prompt=prompt) for own, cache in zip(inputs, caches, strict=True)]
    for own, logits in zip(inputs, found, strict=True):
        torch.testing.assert_close(logits, whole(model, own)[:, -3:], rtol=0, atol=CACHED)
    assert not [name for layer in moe_layers(model) for name, _ in layer.named_buffers()]


# -- families and settings -------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted({*FAMILIES} - {"llava-llama", "gemma3", "qwen3_vl"}))
def test_every_other_family_looks_up_saves_and_loads(name: str, tmp_path: Path) -> None:
    """The three of ``test_families.py`` pass the whole suite."""
    model, batch = sparse(name, asymmetric()), FAMILIES[name].batch("tIt", "tt", side="left")
    with recording() as trace, torch.no_grad():
        found = model(**masked(batch)).logits
        other = model(**batch, evidence_mask=torch.zeros_like(batch["input_ids"])).logits
    assert not torch.allclose(found, other, atol=1e-4)
    assert trace.entries[0][1].extras["mass"].max() > 0
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path)
    assert all(value.equal(model.state_dict()[key]) for key, value in loaded.state_dict().items())
    with torch.no_grad():  # products of unaligned memory round differently; measured: 3.6e-7
        torch.testing.assert_close(loaded(**masked(batch)).logits, found, rtol=0, atol=1e-5)


def test_a_folder_saved_under_former_names_of_keys_loads(tmp_path: Path) -> None:
    model, batch = sparse("llava-qwen2", asymmetric(cone_margin=0.2)), LLAVA.batch("tIt")
    model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    text = re.sub(r'"cone_(weight|layers|margin|detach)"', r'"order_\1"', config.read_text())
    assert text.count('"order_') == 4
    config.write_text(text)
    loaded = load(tmp_path)
    assert loaded.config.moe == model.config.moe
    with torch.no_grad():  # as above
        torch.testing.assert_close(loaded(**masked(batch)).logits, model(**masked(batch)).logits, rtol=0, atol=1e-5)


VARIANTS: dict[str, dict[str, Any]] = {
    "faithful": {"preset": "faithful", "context_dim": 32},
    "lean": {"preset": "lean"},
    "context control": {"text_kind": "context"},
    "no context": {"text_kind": "ffn", "inter_kind": "euclidean"},
    "deepest half": {"evidence_layers": "deepest_half", "plain_text": 1, "inter_kind": "product"},
    "pull on alpha": {"alpha_mode": "target", "alpha_weight": 1.0, "evidence_gain": "learned", "score": "mass"},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_train_and_generate_as_uncached(variant: str) -> None:
    own = VARIANTS[variant]
    settings = asymmetric(**{"context_heads": 1, **own})
    model, batch = sparse("llava-qwen2", settings).train(), LLAVA.batch("tIt", "tt", side="left", labels=True)
    model(**masked(batch)).loss.backward()
    silent = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not silent
    assert sum(isinstance(m, ContextAttention) for m in model.modules()) == {"no context": 0, "deepest half": 1}.get(
        variant, 2
    )
    model.eval()
    prompt = {name: value for name, value in masked(batch).items() if name != "labels"}
    assert model.generate(**prompt, **GREEDY).equal(model.generate(**prompt, **GREEDY, use_cache=False))
