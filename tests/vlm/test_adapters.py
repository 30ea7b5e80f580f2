"""LoRA of peft on experts and gates, in every scheme: it learns, is saved, read again and merged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from moiety.moe.routers import ROUTERS
from moiety.moe.trace import recording
from moiety.recipe.recipe import MoESettings
from moiety.vlm.adapters import GATES, adapter_targets, base_of_adapters
from moiety.vlm.loading import read_config
from moiety.vlm.model import load
from moiety.vlm.parameters import count_parameters
from moiety.vlm.parts import freeze, part_of
from moiety.vlm.upcycle import upcycle_folder
from tests.tiny import FAMILIES, asymmetric, sparse

peft = pytest.importorskip("peft")
# peft asks transformers 5.24 under a name that it calls deprecated
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
LLAVA = FAMILIES["llava-qwen2"]
TOLERANCE = 1e-5  # of logits of size 5; worst case measured: 1.4e-6 (dense_wide)


def settings_for(scheme: str) -> MoESettings:
    return asymmetric() if scheme == "asymoe" else MoESettings(scheme=scheme, layers="all")


def logits_of(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(**batch).logits


def taught(model: Any, batch: dict[str, torch.Tensor], **options: Any) -> Any:
    """`model` with adapters of all experts and gates after three steps, each of which reached all of them."""
    gated = any(".gates." in name for name, _ in model.named_parameters())
    config = peft.LoraConfig(r=2, lora_alpha=8, **adapter_targets(model), **options)
    adapted = peft.get_peft_model(model, config).train()
    learns = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert {part for part in ("experts", "gates") if any(part in name for name in learns)} == (
        {"experts", "gates"} if gated else {"experts"}
    )
    optimiser = torch.optim.AdamW(learns.values(), lr=3e-2)
    for _ in range(3):
        optimiser.zero_grad()
        adapted(**batch).loss.backward()
        optimiser.step()
    assert not [name for name, weight in learns.items() if weight.grad is None or not weight.grad.any()]
    return adapted


@pytest.mark.parametrize("scheme", list(ROUTERS))
def test_adapters_of_experts_and_gates_learn_and_merge(scheme: str, tmp_path: Path) -> None:
    batch = LLAVA.batch("tIt", "tt", "ItttI", labels=True)
    sparse("llava-qwen2", settings_for(scheme)).save_pretrained(tmp_path / "base")
    model = load(tmp_path / "base")
    before, counted = logits_of(model, batch), count_parameters(model)
    adapted = taught(model, batch)
    after = logits_of(adapted, batch)
    assert (after - before).abs().max() > 0.1
    num_adapters = sum(weight.numel() for name, weight in adapted.named_parameters() if "lora_" in name)
    assert count_parameters(adapted).total == counted.total + num_adapters
    adapted.save_pretrained(tmp_path / "adapters")
    again = peft.PeftModel.from_pretrained(load(tmp_path / "base"), tmp_path / "adapters")
    assert torch.equal(logits_of(again, batch), after)
    merged = adapted.merge_and_unload()
    torch.testing.assert_close(logits_of(merged, batch), after, rtol=0, atol=TOLERANCE)
    assert count_parameters(merged) == counted
    torch.testing.assert_close(logits_of(load(tmp_path / "adapters"), batch), after, rtol=0, atol=TOLERANCE)


def test_targets_are_named_by_bank_where_groups_have_banks_of_their_own() -> None:
    assert adapter_targets(sparse("llava-qwen2")) == {
        "target_modules": GATES,
        "target_parameters": ["experts.down_proj", "experts.gate_up_proj"],
    }
    names = adapter_targets(sparse("llava-qwen2", asymmetric()))["target_parameters"]
    assert {"experts.banks.vision.gate_up_proj", "experts.banks.text.input_proj"} <= set(names)
    assert not [name for name in names if name.endswith("banks.inter.projection")]
    with pytest.raises(ValueError, match=r"LlavaForConditionalGeneration has no experts: it is dense\. Give a sparse"):
        adapter_targets(LLAVA.build())


@pytest.mark.parametrize("scheme", ["moiie", "asymoe"])
def test_freeze_lets_the_adapters_of_some_parts_learn(scheme: str) -> None:
    model = sparse("llava-qwen2", settings_for(scheme))
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, **adapter_targets(model)))
    before = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    for parts in (["experts"], ["router"], ["experts", "router", "projector"]):
        counts = freeze(adapted, parts)  # type: ignore[arg-type]
        learns = {name: weight for name, weight in adapted.named_parameters() if weight.requires_grad}
        assert set(learns) == {name for name in before if part_of(name) in parts}
        assert sum(counts.values()) == sum(weight.numel() for weight in learns.values()) > 0
        assert counts["projector"] == 0
    adapted(**LLAVA.batch("tIt", labels=True)).loss.backward()
    assert all(weight.grad is not None for weight in learns.values())
    with pytest.raises(
        ValueError, match=r"trains=\['decoder'\], but it has adapters of the parts \['experts', 'router'\]"
    ):
        freeze(adapted, ["decoder"])


def test_freeze_knows_saved_copies_and_the_active_adapter() -> None:
    config = peft.LoraConfig(r=2, target_modules=GATES, modules_to_save=["experts"])
    adapted = peft.get_peft_model(sparse("llava-qwen2"), config)
    adapted.add_adapter("other", peft.LoraConfig(r=2, target_modules=GATES))
    freeze(adapted, ["experts", "router"])
    learns = {name for name, weight in adapted.named_parameters() if weight.requires_grad}
    assert any(".modules_to_save.default." in name for name in learns)
    assert any("lora_A.default" in name for name in learns)
    assert not [name for name in learns if "other" in name or "base_layer" in name or "original_module" in name]


def test_adapters_that_belong_to_no_part_are_refused() -> None:
    config = peft.PromptTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=2, num_layers=2, token_dim=32, num_attention_heads=4
    )
    with pytest.raises(TypeError, match=r"the adapters of PeftModelForCausalLM belong to no part of the model; choose"):
        freeze(peft.get_peft_model(LLAVA.build(), config), ["decoder"])


def test_all_linear_reaches_the_gates() -> None:
    model, batch = sparse("llava-qwen2"), LLAVA.batch("tIt", "tt", labels=True)
    before = logits_of(model, batch)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    gates = [name for name, _ in adapted.named_parameters() if ".gates." in name and "lora_" in name]
    assert len(gates) == 8  # two layers, two gates, two matrices
    for name, module in adapted.named_modules():
        if hasattr(module, "lora_A") and ".gates." not in name:
            module.scaling["default"] = 0.0
    assert (logits_of(adapted, batch) - before).abs().max() > 1e-3, "adapters of the gates alone show"
    adapted.train()(**batch).loss.backward()
    assert all(adapted.get_parameter(name).grad.any() for name in gates)


def test_a_gate_of_evidence_experts_shows_in_loss_and_trace() -> None:
    model, batch = sparse("llava-qwen2", asymmetric()), LLAVA.batch("tIt", "tt", labels=True)
    config = peft.LoraConfig(r=2, target_parameters=["text.w_alpha", "text.down_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, config).eval()
    with recording() as seen:
        adapted(**batch)
    with adapted.disable_adapter(), recording() as plain:
        adapted(**batch)
    layer, routing = seen.entries[0]
    assert not torch.allclose(routing.extras["alpha"], plain.entries[0][1].extras["alpha"])
    assert routing.extras["alpha"].shape[-1] == 1
    routing.extras["alpha"].sum().backward()
    reached = {n for n, w in adapted.named_parameters() if f"layers.{layer}." in n and w.grad is not None}
    assert len({name for name in reached if "banks.text" in name and "lora_" in name}) == 2  # A and B of w_alpha


def test_saved_copies_of_experts_count(tmp_path: Path) -> None:
    model, batch = sparse("llava-qwen2"), LLAVA.batch("tIt", labels=True)
    config = peft.LoraConfig(r=2, target_modules=GATES, modules_to_save=["experts"])
    adapted = peft.get_peft_model(model, config).train()
    adapted(**batch).loss.backward()
    copies = [weight for name, weight in adapted.named_parameters() if ".modules_to_save." in name]
    assert len(copies) == 4
    assert all(weight.grad is not None and weight.grad.any() for weight in copies)


def test_a_dense_model_with_adapters_is_upcycled_merged(tmp_path: Path) -> None:
    LLAVA.build().save_pretrained(tmp_path / "dense")
    (tmp_path / "dense" / "tokenizer_config.json").write_text("{}")
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    peft.get_peft_model(load(tmp_path / "dense"), config).save_pretrained(tmp_path / "adapters")
    upcycle_folder(tmp_path / "adapters", tmp_path / "sparse", MoESettings(scheme="moiie"))
    batch = LLAVA.batch("tIt")
    expected = logits_of(load(tmp_path / "adapters"), batch)
    assert not torch.allclose(expected, logits_of(load(tmp_path / "dense"), batch))
    torch.testing.assert_close(logits_of(load(tmp_path / "sparse"), batch), expected, rtol=0, atol=TOLERANCE)
    history = read_config(tmp_path / "sparse").provenance["upcycled"]
    assert history["adapters_of"] == str(tmp_path / "dense")
    assert len({history["weights_sha256"], history["base_sha256"]}) == 2
    assert (tmp_path / "sparse" / "tokenizer_config.json").is_file()
    assert read_config(tmp_path / "adapters").model_type == "llava"


def written(folder: Path, **tree: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", **tree}))
    (folder / "adapter_model.safetensors").touch()
    return folder


def test_folders_of_adapters_that_cannot_be_used_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="holds adapters and does not say of which model; write the folder"):
        load(written(tmp_path / "nameless"))
    with pytest.raises(FileNotFoundError, match=r"holds adapters of \./runs/gone, and there is no such model"):
        load(written(tmp_path / "lost", base_model_name_or_path="./runs/gone"))
    assert base_of_adapters(written(tmp_path / "hub", base_model_name_or_path="llava-hf/llava")) == "llava-hf/llava"
    pickled = written(tmp_path / "pickled", base_model_name_or_path=".")
    (pickled / "adapter_model.safetensors").rename(pickled / "adapter_model.bin")
    with pytest.raises(ValueError, match="holds pickled adapters"):
        load(pickled)
    (pickled / "adapter_model.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"holds adapter_config.json and no adapter_model.safetensors"):
        load(pickled)
    (pickled / "adapter_config.json").write_text("[]")
    (pickled / "adapter_model.safetensors").touch()
    with pytest.raises(ValueError, match=r"adapter_config.json is no JSON object"):
        load(pickled)


def test_adapters_of_another_model_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sparse("llava-qwen2").save_pretrained(tmp_path / "moiie")
    sparse("llava-qwen2", MoESettings(scheme="vanilla")).save_pretrained(tmp_path / "vanilla")
    adapted = peft.get_peft_model(load(tmp_path / "moiie"), peft.LoraConfig(r=2, target_modules=GATES))
    adapted.save_pretrained(tmp_path / "adapters")
    place = tmp_path / "adapters" / "adapter_config.json"
    tree = json.loads(place.read_text())
    place.write_text(json.dumps({**tree, "base_model_name_or_path": "../vanilla"}))  # beside the adapters
    with pytest.raises(ValueError, match=r"do not fit their model: \d+ are missing and \d+ left over"):
        load(tmp_path / "adapters")
    place.write_text(json.dumps({**tree, "base_model_name_or_path": "../moiie", "target_modules": ["nothing"]}))
    with pytest.raises(ValueError, match="do not fit their model: "):
        load(tmp_path / "adapters")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'holds adapters: pip install "moiety\[lora\]"'):
        load(tmp_path / "adapters")
