"""The sparse class: its signature, its losses, how it takes ids, and how it is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from transformers import AutoConfig

from moiety.moe.experts.kinds import FFNExperts
from moiety.moe.routers import SCHEMES
from moiety.moe.trace import recording
from moiety.recipe.recipe import MoESettings
from moiety.vlm.model import (
    adopt,
    groups_of,
    losses_added_by_trainer,
    moe_layers,
    settings_of,
    sparse_config,
    with_moe,
)
from moiety.vlm.outputs import _warn_about_trainer
from moiety.vlm.upcycle import upcycle
from tests.tiny import DECODERS, FAMILIES, IMAGE, sparse

LLAVA = FAMILIES["llava-qwen2"]


@pytest.fixture(scope="module")
def model() -> Any:
    return sparse("llava-qwen2")


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", ["llava-phi3", "idefics3", "gemma3", "qwen3_vl"])
def test_every_scheme_is_built_from_its_defaults(name: str, scheme: str) -> None:
    # D01; a model from a config alone, without upcycling
    family = FAMILIES[name]
    cls = with_moe(getattr(hf, family.model))
    built = cls(sparse_config(family.config(), MoESettings(scheme=scheme))).eval()
    assert bool(moe_layers(built)) == (scheme != "dense")
    with torch.no_grad():
        assert torch.isfinite(built(**family.batch("tIt", "t")).logits).all()
    plain = [module for module in built.modules() if isinstance(module, FFNExperts)]
    assert bool(plain) == (scheme != "dense")
    for bank in plain:
        assert 0.01 < bank.down_proj.std() < 0.03, "experts of a model from nothing have a start of their own"


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_scheme_and_decoder_upcycles_and_trains(scheme: str, decoder: str) -> None:
    # D03 (13 image tokens, 2 rows), D04, D11
    family = FAMILIES[f"llava-{decoder}"]
    built = upcycle(family.build(), MoESettings(scheme=scheme, layers="all"), in_place=True).train()
    batch = family.batch("tIIt", "tI", labels=True)
    batch["modality_ids"] = (batch["input_ids"] == IMAGE).long()
    batch["modality_ids"][0, 4] = 0
    loss = built(**batch).loss
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in built.parameters() if p.requires_grad)


def test_a_plain_config_is_refused() -> None:
    cls = with_moe(hf.LlavaForConditionalGeneration)
    with pytest.raises(TypeError, match="takes a MoietyLlavaConfig, got LlavaConfig; make one with sparse_config"):
        cls(LLAVA.config())


def test_unsupported_families_say_why() -> None:
    with pytest.raises(TypeError, match="Blip2ForConditionalGeneration cannot be made sparse: its decoder has an FFN"):
        with_moe(hf.Blip2ForConditionalGeneration)
    with pytest.raises(TypeError, match="is a sparse class already"):
        with_moe(with_moe(hf.LlavaForConditionalGeneration))


def test_what_a_model_says_about_itself(model: Any) -> None:
    assert settings_of(model).layers == [0, 1], "the resolved list"
    assert settings_of(model).experts == {"vision": 1, "inter": 2, "text": 1}
    assert settings_of(model).top_k == 2
    assert groups_of(model).describe() == "vision×1 + inter×2 + text×1"
    assert settings_of(LLAVA.build()) is None
    assert groups_of(adopt(LLAVA.build(), MoESettings(scheme="dense"), copy=False)) is None
    with pytest.raises(ValueError, match=r"is sparse already \(moiie\); give a dense model"):
        adopt(model, MoESettings(), copy=False)
    for name in ("router_aux_loss_coef", "output_router_logits"):  # with either, TRL adds a blind loss
        assert not hasattr(model.config.get_text_config(), name), name


def test_auxiliary_losses_are_added_in_training_alone(model: Any) -> None:
    # D18
    batch = LLAVA.batch("tIt", "tt", labels=True)
    evaluated = model.eval()(**batch)
    assert "aux_loss" not in evaluated
    assert "router_logits" not in evaluated
    trained = model.train()(**batch)
    torch.testing.assert_close(trained.loss, evaluated.loss + trained.aux_loss)
    assert 0.002 < trained.aux_loss < 0.02, "two gates, about top_k each, times 0.001"
    with losses_added_by_trainer():
        torch.testing.assert_close(model(**batch).loss, evaluated.loss)
    unlabelled = model(**{k: v for k, v in batch.items() if k != "labels"})
    assert unlabelled.loss is None
    model.eval()


def test_router_logits_on_demand(model: Any) -> None:
    batch = LLAVA.batch("tIt", "tt", labels=True)
    plain, output = model(**batch), model(**batch, output_router_logits=True)
    assert len(output.router_logits) == 2
    assert output.router_logits[0].shape == (batch["input_ids"].numel(), 4)
    assert output.aux_loss > 0
    torch.testing.assert_close(output.loss, plain.loss, rtol=0, atol=0, msg="evaluation loss is cross-entropy")
    flat = model(**batch, output_router_logits=True, return_dict=False)
    assert isinstance(flat, tuple)
    torch.testing.assert_close(flat[1], output.logits, rtol=0, atol=0)


def test_an_outer_trace_sees_what_an_inner_one_sees(model: Any) -> None:
    batch = LLAVA.batch("tIt")
    with recording() as trace:
        model(**batch)
        output = model(**batch, output_router_logits=True)
    assert len(trace.entries) == 4
    assert len(output.router_logits) == 2, "the losses of a forward are those of this forward alone"


def test_generate_does_not_store_router_logits(model: Any) -> None:
    # D02, D18
    text = model.generate(**LLAVA.batch("tIt"), max_new_tokens=8, min_new_tokens=8, do_sample=False)
    again = model.generate(
        **LLAVA.batch("tIt"), max_new_tokens=8, min_new_tokens=8, do_sample=False, output_router_logits=True
    )
    assert text.shape[1] == LLAVA.batch("tIt")["input_ids"].shape[1] + 8
    assert torch.equal(text, again)


def test_a_stock_trainer_is_warned_once(model: Any, caplog: pytest.LogCaptureFixture) -> None:
    _warn_about_trainer.cache_clear()  # another test of this process may have been warned
    batch = LLAVA.batch("tIt", labels=True)
    model.train()
    with losses_added_by_trainer():
        model(**batch, num_items_in_batch=4)
    assert not caplog.records
    for _ in range(2):
        model(**batch, num_items_in_batch=4)
    model.eval()
    assert [record.getMessage() for record in caplog.records] == [caplog.messages[0]]
    assert "multiplies auxiliary losses by accumulation steps and ranks; use moiety.MoietyTrainer" in caplog.text


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_engines_find_the_number_of_experts_in_the_config_of_the_decoder(name: str, tmp_path: Path) -> None:
    """Old folders do not have these names; reading fills them in."""
    model = sparse(name)
    model.config.save_pretrained(tmp_path)
    tree = json.loads((tmp_path / "config.json").read_text())
    told = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
    assert {key: tree["text_config"].pop(key) for key in told} == told
    (tmp_path / "config.json").write_text(json.dumps(tree))
    text = AutoConfig.from_pretrained(tmp_path).get_text_config()
    assert {key: getattr(text, key) for key in told} == told
    dense = adopt(FAMILIES[name].build(), MoESettings(scheme="dense"), copy=True)
    assert not hasattr(dense.config.get_text_config(), "num_experts")
