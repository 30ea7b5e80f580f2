"""Quantised models: refused where full weights are needed, told about where they are read."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from moiety.moe.gates import Gate
from moiety.recipe.recipe import MoESettings
from moiety.vlm.model import load, moe_layers
from moiety.vlm.parameters import count_parameters
from moiety.vlm.quantised import quantised_by
from moiety.vlm.upcycle import upcycle, upcycle_folder
from tests.tiny import FAMILIES, sparse

LLAVA = FAMILIES["llava-qwen2"]
METHODS: dict[str, dict[str, Any]] = {
    "bitsandbytes, 4 bit": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "bitsandbytes, 8 bit": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "gptq, 4 bit": {"quant_method": "gptq", "bits": 4},
    "torchao": {"quant_method": "torchao"},
    "a method without a name, 3 bit": {"bits": 3},
}


@pytest.mark.parametrize("method", METHODS)
def test_upcycling_needs_the_full_weights(method: str, tmp_path: Path) -> None:
    model = LLAVA.build()
    model.config.quantization_config = METHODS[method]
    assert quantised_by(model.config) == method
    with pytest.raises(
        ValueError, match=rf"holds quantised weights \({method}\): upcycling needs weights at full width"
    ):
        upcycle(model, MoESettings())
    del model.config.quantization_config
    model.save_pretrained(tmp_path)
    place = tmp_path / "config.json"
    place.write_text(json.dumps({**json.loads(place.read_text()), "quantization_config": METHODS[method]}))
    with pytest.raises(ValueError, match="upcycling needs weights at full width"):
        upcycle_folder(tmp_path, tmp_path / "sparse", MoESettings())
    assert count_parameters(tmp_path).total == count_parameters(model).total


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bits", [4, 8])
def test_bitsandbytes_keeps_gates_and_says_what_stays_full(
    bits: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("bitsandbytes")
    from transformers import BitsAndBytesConfig

    full = sparse("llava-qwen2")
    full.save_pretrained(tmp_path / "full")
    options = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    with caplog.at_level(logging.WARNING, "moiety"):
        model = type(full).from_pretrained(tmp_path / "full", quantization_config=options, device_map="cpu").eval()
    assert "parameters stay at full width, and 100 % of its experts" in caplog.text
    assert {type(gate) for layer in moe_layers(model) for gate in layer.router.gates.values()} == {Gate}
    batch = LLAVA.batch("tIt", "tt")
    assert torch.isfinite(model(**batch).logits).all()
    model.save_pretrained(tmp_path / "packed")
    assert torch.equal(load(tmp_path / "packed")(**batch).logits, model(**batch).logits)
    assert count_parameters(model).total == count_parameters(full).total


@pytest.mark.filterwarnings("ignore")
def test_torchao_takes_stacked_experts_where_it_is_told_to() -> None:
    quantization = pytest.importorskip("torchao.quantization")
    model, batch = sparse("llava-qwen2"), LLAVA.batch("tIt", "tt")
    before = model(**batch).logits
    int8 = quantization.Int8WeightOnlyConfig()
    rule = quantization.FqnToConfig({r"re:.*experts\.(gate_up|down)_proj": int8})
    quantization.quantize_(model, rule, filter_fn=None)
    assert type(moe_layers(model)[0].experts.gate_up_proj).__name__ == "Int8Tensor"
    after = model(**batch).logits
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, before, rtol=0, atol=0.2)  # 0.05 measured
    with pytest.raises(ValueError, match="packed tensors"):
        upcycle(model, MoESettings())
