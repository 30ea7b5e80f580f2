"""What others ask of a Hugging Face model is known in one place, and outside of ``vlm`` nobody knows it."""

from __future__ import annotations

import ast
import logging
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import moiety
from moiety.recipe.recipe import MoESettings
from moiety.vlm.decoder_calls import call_for_rows, embeddings_changed, has_embeddings, kept_call
from moiety.vlm.decoders import (
    attention_kept,
    base_of,
    decoder_layers,
    decoder_of,
    eager_attention,
    on_layer_input,
    output_layer,
    text_decoder,
    token_embeddings,
)
from tests.tiny import FAMILIES, sparse

SOURCE = Path(moiety.__file__).parent
ROOMS = {
    # the decoder
    "language_model": {"decoders", "assemble/join"},  # the assembly puts a decoder and its head in their place
    "text_model": {"decoders"},
    "lm_head": {"decoders", "assemble/join"},
    "embed_tokens": {"decoders"},
    "self_attn": {"decoders"},
    "_attn_implementation": {"decoders"},
    "set_attn_implementation": {"decoders"},
    "get_output_embeddings": {"decoders"},
    "get_input_embeddings": {"decoders"},
    "get_base_model": {"decoders", "adapters"},
    "hidden_act": {"decoders"},
    "hidden_activation": {"decoders"},
    "deepstack_visual_embeds": {"decoder_calls"},
    "visual_pos_masks": {"decoder_calls"},
    "position_ids": {"decoder_calls", "positions"},
    # its FFN
    "gate_proj": {"splice"},
    "up_proj": {"splice"},
    # tower and projector; `vision_tower` is also the name of a part in recipes
    "vision_model": {"towers"},
    "visual": {"towers"},
    "get_image_features": {"towers"},
    "pooler_output": {"towers"},
    "deepstack_features": {"towers"},
    "image_grid_thw": {"towers"},
    "image_sizes": {"towers"},
    "batch_num_images": {"towers"},
    "spatial_merge_size": {"towers"},
    # configs
    "_name_or_path": {"configs"},
}
"""Name inside a Hugging Face model -> the modules of ``vlm``, beside the contracts, that know it."""
OF_VLM = (
    *("inputs_embeds", "base_model", "get_text_config", "text_config", "vision_config", "multi_modal_projector"),
    *("intermediate_size", "num_hidden_layers", "hidden_size", "max_position_embeddings", "tie_word_embeddings"),
)
"""Names that no room outside of ``vlm`` knows."""
FACES = {"vlm/contracts", "intent", "vllm"}
"""The list of outside names itself; the other wing, which meets encoders of its own; and the plug-in for vLLM, which
meets vLLM's models."""


def names_in(path: Path) -> Iterator[str]:
    """Attributes, keywords and whole texts of a module."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        elif isinstance(node, ast.keyword | ast.arg) and node.arg:
            yield node.arg


@pytest.fixture(scope="module")
def knows() -> dict[str, set[str]]:
    """Name -> modules that use it, as paths without their ending."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in SOURCE.rglob("*.py"):
        room = path.relative_to(SOURCE).with_suffix("").as_posix()
        if not room.startswith(tuple(FACES)):
            for name in names_in(path):
                found[name].add(room)
    return found


@pytest.mark.parametrize("name", ROOMS)
def test_a_name_inside_a_model_is_known_where_it_belongs_and_nowhere_else(
    name: str, knows: dict[str, set[str]]
) -> None:
    assert knows[name] == {f"vlm/{room}" for room in ROOMS[name]}


@pytest.mark.parametrize("name", OF_VLM)
def test_outside_of_vlm_nobody_knows_it(name: str, knows: dict[str, set[str]]) -> None:
    assert knows[name]
    assert {room for room in knows[name] if not room.startswith("vlm/")} == set()


# -- what the accessors give ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_every_family_has_the_parts_that_others_ask_for(name: str) -> None:
    model, batch = FAMILIES[name].build().eval(), FAMILIES[name].batch("tIt")
    assert decoder_of(model) is text_decoder(base_of(model))
    seen: list[torch.Tensor] = []
    handles = [on_layer_input(layer, seen.append) for layer in decoder_layers(model)]
    with torch.no_grad(), attention_kept(model) as kept:
        model(**batch)
    for handle in handles:
        handle.remove()
    seq = batch["input_ids"].shape[1]
    hidden = token_embeddings(model).weight.shape[1]
    assert [tuple(states.shape) for states in seen] == [(1, seq, hidden)] * len(decoder_layers(model))
    assert output_layer(model)(seen[0]).shape == (1, seq, token_embeddings(model).weight.shape[0])
    assert [tuple(weights.shape) for weights in kept] == [(seq, seq)] * len(decoder_layers(model))
    torch.testing.assert_close(torch.stack(kept).sum(dim=-1), torch.ones(len(kept), seq))


def test_a_hook_that_was_taken_off_sees_nothing() -> None:
    model, seen = sparse("llava-llama"), []
    on_layer_input(decoder_layers(model)[0], seen.append).remove()
    with torch.no_grad():
        model(**FAMILIES["llava-llama"].batch("tIt"))
    assert seen == []


def test_eager_attention_is_told_and_taken_back(caplog: pytest.LogCaptureFixture) -> None:
    model = FAMILIES["llava-llama"].build()
    decoder = decoder_of(model)
    decoder.set_attn_implementation("sdpa")
    with caplog.at_level(logging.INFO, "moiety"):
        with eager_attention(model):
            assert decoder.config._attn_implementation == "eager"
            with eager_attention(model):
                pass
            assert decoder.config._attn_implementation == "eager"
        assert decoder.config._attn_implementation == "sdpa"
    assert caplog.text.count("the decoder runs with eager attention instead of sdpa") == 1


@pytest.mark.parametrize("name", ["llava-llama", "qwen3_vl"])
def test_a_call_for_some_rows_computes_what_those_rows_computed(name: str) -> None:
    model, batch = sparse(name, MoESettings(layers="all")), FAMILIES[name].batch("tIt", "ttI", "tt")
    decoder = decoder_of(model)
    with torch.no_grad(), kept_call(decoder) as kept:
        whole = model(**batch).logits
    assert kept.kwargs is not None
    assert has_embeddings(kept.kwargs)
    assert not has_embeddings({"input_ids": batch["input_ids"]})
    rows = torch.tensor([2, 0])
    with torch.no_grad():
        states = decoder(**call_for_rows(kept.kwargs, rows, lambda embeddings: embeddings[rows])).last_hidden_state
        found = output_layer(model)(states)
    real = batch["attention_mask"][rows].bool()
    torch.testing.assert_close(found[real], whole[rows][real], rtol=0, atol=1e-5)  # measured: 4e-7


def test_changed_embeddings_are_those_that_the_decoder_reads() -> None:
    model, batch = sparse("llava-llama"), FAMILIES["llava-llama"].batch("tIt")
    with torch.no_grad(), embeddings_changed(decoder_of(model), torch.zeros_like), kept_call(decoder_of(model)) as kept:
        model(**batch)
    assert kept.kwargs is not None
    assert not kept.kwargs["inputs_embeds"].any()


def test_a_model_without_a_decoder_is_named() -> None:
    with pytest.raises(TypeError, match=r"Linear has no decoder with \.layers under \.language_model or \.text_model"):
        text_decoder(nn.Linear(2, 2))
