"""What is read from a call of Hugging Face arrives under the names of this release; a strange name is an error."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

from moiety.moe.trace import recording
from moiety.recipe.recipe import MoESettings
from moiety.vlm.contracts import (
    CACHE as NAMES,
)
from moiety.vlm.contracts import (
    PICTURES,
    ContractBroken,
    brings_pictures,
    by_name,
    cache_in,
    cache_keyword,
    cache_of,
    cache_of_layer,
    parameters,
    without_cache,
)
from moiety.vlm.splice import splice
from moiety.vlm.upcycle import upcycle
from tests.tiny import CACHE, FAMILIES, IMAGE, asymmetric, sparse

LLAVA = FAMILIES["llava-llama"]
GREEDY = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False}


@pytest.mark.parametrize("name", NAMES)
def test_a_cache_is_found_under_every_known_name(name: str) -> None:
    cache = hf.DynamicCache()
    assert cache_of({name: cache, "use_cache": True}) is cache
    assert cache_of_layer({name: cache}) is cache
    assert cache_of({name: None}) is None
    assert without_cache({name: cache, "use_cache": True, "x": 1}) == {name: None, "use_cache": False, "x": 1}


def test_a_cache_under_a_strange_name_is_an_error() -> None:
    for read in (cache_of, cache_of_layer, without_cache):
        with pytest.raises(ContractBroken, match=r"arrives as 'key_values'; known names are cache, past_key_values"):
            read({"key_values": hf.DynamicCache()})


def test_a_missing_cache_is_an_error_where_one_is_in_use() -> None:
    assert cache_of_layer({"use_cache": False, "x": 1}) is None
    with pytest.raises(ContractBroken, match="gets use_cache=True, but no cache under cache or past_key_values"):
        cache_of_layer({"use_cache": True, "x": 1})


class Renamed(nn.Module):
    """A layer of a release that is to come."""

    def forward(self, hidden_states: Any, key_values: Any = None) -> Any:
        return hidden_states


def test_a_model_whose_layers_take_no_known_cache_is_not_spliced() -> None:
    model = LLAVA.build()
    model.model.language_model.layers[1] = Renamed()
    with pytest.raises(ContractBroken, match=r"Renamed.forward takes no cache under cache or past_key_values"):
        splice(model, MoESettings(layers="all"), backend=None)  # type: ignore[arg-type]
    with pytest.raises(ContractBroken, match="takes no cache"):
        cache_keyword(Renamed.forward)


def test_what_is_passed_by_position_is_read_by_name() -> None:
    forward = hf.LlavaModel.forward
    names = parameters(forward)
    assert by_name(forward, (), {"x": 1}) == {"x": 1}
    assert by_name(forward, (3, 4), {"x": 1}) == {names[2]: 3, names[3]: 4, "x": 1}
    with pytest.raises(TypeError, match="2 arguments by position, pixel_values by name as well"):
        by_name(forward, (3,), {"pixel_values": 4})
    with pytest.raises(TypeError, match="100 arguments by position; it takes"):
        by_name(forward, tuple(range(99)), {})
    model, batch = sparse("llava-llama"), LLAVA.batch("tIt", "tt", side="left")
    order = [batch.get(name) for name in names[2:4]]  # pixel_values and attention_mask
    whole = model.model(**batch).last_hidden_state
    torch.testing.assert_close(model.model(batch["input_ids"], *order).last_hidden_state, whole, rtol=0, atol=0)


def test_pictures_are_seen_raw_and_encoded() -> None:
    assert brings_pictures({"pixel_values": 1})
    assert brings_pictures({"mm_encoder_outputs": {}})
    assert not brings_pictures({"pixel_values": None, "input_ids": 1})


@pytest.mark.parametrize("name", ["llava-llama", "qwen2_5_vl", "gemma3", "idefics3"])
def test_every_name_that_is_read_still_arrives(name: str) -> None:
    """Recorded at the base model, the decoder and a layer while a family generates."""
    family = FAMILIES[name]
    model = sparse(name)
    base = model.base_model
    decoder = getattr(base, "language_model", None) or base.text_model
    seen: dict[str, set[str]] = {"base": set(), "decoder": set(), "layer": set()}
    for place, module in (("base", base), ("decoder", decoder), ("layer", decoder.layers[1])):
        module.register_forward_pre_hook(
            lambda _, args, kwargs, place=place: seen[place].update(k for k, v in kwargs.items() if v is not None),
            with_kwargs=True,
        )
    model.generate(**family.batch("tIt", "tItt", side="left"), **GREEDY)
    assert {"input_ids", "attention_mask", "modality_ids", CACHE} <= seen["base"]
    assert seen["base"] & set(PICTURES), "raw, or encoded before (since transformers 5.24)"
    assert {"inputs_embeds", "modality_ids", CACHE} <= seen["decoder"]
    assert {"modality_ids", CACHE} <= seen["layer"]
    assert cache_in(model(**family.batch("tIt"))) is not None


@pytest.mark.parametrize("scheme", ["moiie", "asymoe"])
@pytest.mark.parametrize("by", ["tokens", "embeddings"])
def test_decoded_words_never_reach_vision_experts(scheme: str, by: str) -> None:
    """Whoever gives the ids, and with the picture first, where a repeated prompt would show."""
    model = sparse("llava-llama", asymmetric() if scheme == "asymoe" else None)
    batch = LLAVA.batch("It")
    ids = (batch["input_ids"] == IMAGE).long()
    given: dict[str, Any] = dict(batch)
    if by == "embeddings":
        embeds = model.get_input_embeddings()(batch["input_ids"])
        embeds[batch["input_ids"] == IMAGE] = torch.randn(int(ids.sum()), embeds.shape[-1])
        given = {"inputs_embeds": embeds, "attention_mask": batch["attention_mask"]}
    with recording() as trace:
        model.generate(**given, modality_ids=ids, **GREEDY)
    sizes = {len(routing.modality_group) for _, routing in trace.entries}
    assert sizes == {ids.shape[1], 1}, "one prefill, then single words"
    for _, routing in trace.entries:
        if len(routing.modality_group) == 1:
            assert int(routing.modality_group) > 0, "a decoded word is text"


def test_a_chunk_of_a_prompt_is_no_decode_step_though_nobody_says_so() -> None:
    """The chunk loop of transformers 5.19 does not pass ``is_first_iteration``; that of 5.23 does."""
    model, batch = sparse("llava-llama"), LLAVA.batch("tIt")
    cache = hf.DynamicCache(config=model.config.get_text_config())
    chunk = {"attention_mask": batch["attention_mask"], "moiety_prompt_length": batch["input_ids"].shape[1]}
    ids = batch["input_ids"]
    step = model.prepare_inputs_for_generation(ids[:, :6], **chunk, **{CACHE: cache}, use_cache=True)
    assert step["modality_ids"].tolist() == (ids[:, :6] == IMAGE).long().tolist()
    model(**batch, **{CACHE: cache})
    step = model.prepare_inputs_for_generation(ids[:, -1:], **chunk, **{CACHE: cache}, use_cache=True)
    assert step["modality_ids"].tolist() == [[0]]


def test_tower_hears_nothing_of_the_decoder() -> None:
    """Since transformers 5.24 a base model hands every keyword on to its tower."""
    model = upcycle(LLAVA.build(), asymmetric())
    seen: set[str] = set()
    model.model.vision_tower.register_forward_pre_hook(lambda _, args, kwargs: seen.update(kwargs), with_kwargs=True)
    model(**LLAVA.batch("tIt"))
    assert seen
    assert not seen & {"modality_ids", "evidence_mask"}
