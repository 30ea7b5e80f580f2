"""The splice: what it finds, what it refuses, and where it puts the experts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers as hf
from torch import nn

import moiety.vlm.splice as splice_module
from moiety.moe.layer import ModalityMoE
from moiety.recipe.recipe import MoESettings
from moiety.vlm.backends import Backend, bank_for
from moiety.vlm.decoders import text_decoder
from moiety.vlm.model import moe_layers, with_moe
from moiety.vlm.placeholders import ModalityRule
from moiety.vlm.splice import FAMILIES as CLASSES
from moiety.vlm.splice import UNSUPPORTED, TouchesTower, read_ffn, splice
from moiety.vlm.towers import vision_tower
from moiety.vlm.upcycle import upcycle
from tests.tiny import FAMILIES, sparse

LLAVA = FAMILIES["llava-qwen2"]


def test_every_registered_class_has_a_tiny_model() -> None:
    assert {family.model for family in FAMILIES.values()} == set(CLASSES)
    assert all(hasattr(hf, name) for name in (*CLASSES, *UNSUPPORTED))
    assert not set(CLASSES) & set(UNSUPPORTED)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_read_ffn_computes_what_the_module_computes(name: str) -> None:
    model = FAMILIES[name].build()
    mlp = text_decoder(model.model).layers[0].mlp
    ffn = read_ffn(mlp, text_decoder(model.model).config, "it")
    bank = bank_for(Backend())(1, ffn.hidden, ffn.ffn, ffn.act)
    bank.load_from_dense(ffn.gate_up, ffn.down)
    x = torch.randn(5, 32)
    one = torch.ones(5, 1)
    torch.testing.assert_close(bank(x, one.long() * 0, one), mlp(x), rtol=1e-5, atol=1e-5)
    bank.config.switch("eager")
    torch.testing.assert_close(bank(x, one.long() * 0, one), mlp(x), rtol=1e-5, atol=1e-5)


def test_other_ffns_are_refused_by_name() -> None:
    config = hf.LlamaConfig(hidden_size=8, intermediate_size=8, num_attention_heads=1, mlp_bias=True)
    biased = hf.models.llama.modeling_llama.LlamaMLP(config)
    with pytest.raises(TypeError, match=r"layer 3 \(LlamaMLP\) has biases; expert banks have none"):
        read_ffn(biased, config, "layer 3")
    plain = hf.models.gpt2.modeling_gpt2.GPT2MLP(8, hf.GPT2Config(n_embd=8))
    with pytest.raises(TypeError, match=r"layer 3 is GPT2MLP with \['c_fc', 'c_proj', .*; expected linear gate_proj"):
        read_ffn(plain, config, "layer 3")


def test_models_without_the_expected_rooms_are_refused() -> None:
    with pytest.raises(TypeError, match=r"Linear has no decoder with \.layers under .language_model or .text_model"):
        text_decoder(nn.Linear(2, 2))
    with pytest.raises(TypeError, match="Linear has no vision tower under vision_tower, vision_model, visual"):
        vision_tower(nn.Linear(2, 2))
    model = LLAVA.build()
    del model.model.language_model.layers[1].mlp
    with pytest.raises(TypeError, match=r"decoder layer Qwen2DecoderLayer has no \.mlp; teach vlm/splice.py"):
        splice(model, MoESettings(), Backend())
    with pytest.raises(ValueError, match="LlamaConfig names none of image_token_id, video_token_id, audio_token_id"):
        ModalityRule.of(hf.LlamaConfig(), MoESettings())


def test_dense_leaves_the_decoder_alone() -> None:
    model = LLAVA.build()
    before = {name: type(module) for name, module in model.named_modules() if name != "model"}
    splice(model, MoESettings(scheme="dense"), Backend())
    assert {name: type(module) for name, module in model.named_modules() if name != "model"} == before
    assert isinstance(model.model, TouchesTower)


def test_a_sparse_layer_without_ids_raises() -> None:
    # a missing id never means text
    model = sparse("llava-qwen2")
    layer = model.model.language_model.layers[0]
    states = torch.randn(1, 3, 32)
    angles = model.model.language_model.rotary_emb(states, torch.arange(3)[None])
    with pytest.raises(RuntimeError, match="sparse layer 0 was called without modality ids"):
        layer(states, position_embeddings=angles, attention_mask=None)


def test_experts_start_in_type_and_place_of_the_ffn() -> None:
    model = upcycle(LLAVA.build().bfloat16(), MoESettings())
    (layer,) = moe_layers(model)
    assert {parameter.dtype for parameter in layer.parameters()} == {torch.bfloat16}
    assert not isinstance(text_decoder(model.model).layers[0].mlp, ModalityMoE)


def test_gates_from_nothing_follow_router_init_std() -> None:
    from moiety.vlm.model import sparse_config

    cls = with_moe(hf.LlavaForConditionalGeneration)
    settings = MoESettings(router_init_std=0.0, layers="all")
    built = cls(sparse_config(LLAVA.config(), settings))
    assert all((p == 0).all() for layer in moe_layers(built) for p in layer.router.parameters())


def test_a_backend_names_its_routes() -> None:
    assert Backend().name == "moiety"
    with pytest.raises(
        ValueError, match=r"no experts_implementation 'sonic'; known: batched_mm, eager, grouped_mm, mo"
    ):
        Backend("sonic")


def test_the_splice_alone_knows_the_insides() -> None:
    # house.md: nobody else looks for decoder layers or FFN matrices
    from pathlib import Path

    folder = Path(splice_module.__file__).parent
    for path in folder.glob("*.py"):
        if path.name != "splice.py":
            text = path.read_text()
            assert ".layers[" not in text, path.name
            assert "gate_proj" not in text, path.name


def test_isolation_of_private_experts() -> None:
    # I02: a private vision expert changes no text token within its layer, and the reverse
    model: Any = sparse("llava-qwen2", MoESettings(layers="odd"))
    (layer,) = moe_layers(model)
    x, ids = torch.randn(1, 12, 32), torch.tensor([[0, 1] * 6])
    before = layer(x, ids)
    for group, modality in (("vision", 1), ("text", 0)):
        with torch.no_grad():
            layer.experts.down_proj[layer.groups.slice_of(group)] += 1.0
        after = layer(x, ids)
        assert torch.equal(after[ids != modality], before[ids != modality])
        assert not torch.equal(after[ids == modality], before[ids == modality])
        before = after
