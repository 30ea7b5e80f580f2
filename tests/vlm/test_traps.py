"""Traps of the Hugging Face boundary, one test each, by their number in the design.

Elsewhere: 5 and 12 for every family in ``test_families.py``; 3, 13, 14 under ranks in ``tests/train``; 16, 17 in
``test_templates.py`` and ``test_data.py``; 20 and 24 in ``tests/train/test_sharding.py``; 21 in the tests of recipes.
"""

from __future__ import annotations

import copy
import inspect
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from torch.nn import functional as F

from moiety.moe.layer import ModalityMoE
from moiety.moe.trace import recording
from moiety.recipe.recipe import MoESettings
from moiety.vlm.model import moe_layers
from moiety.vlm.towers import freeze_unread, touch_tower, unread_parameters
from moiety.vlm.upcycle import upcycle
from tests.tiny import CACHE, FAMILIES, IMAGE, PAD, sparse, spread_experts, two_ranks

LLAVA = FAMILIES["llava-qwen2"]


@pytest.fixture(scope="module")
def model() -> Any:
    return sparse("llava-qwen2")


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process saw that opened a sparse folder before and after it imported moiety."""
    folder = tmp_path_factory.mktemp("model")
    sparse("llava-qwen2").save_pretrained(folder)
    script = Path(__file__).parent / "fresh_process.py"
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run([sys.executable, script, folder], capture_output=True, text=True, env=env, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_01_no_buffers_of_ours(model: Any) -> None:
    for module in model.modules():
        if type(module).__module__.startswith("moiety.moe"):
            assert not list(module.buffers()), f"{type(module).__name__} owns a buffer, which loading would lose"


def test_02_without_moiety_a_folder_asks_for_trust(fresh: dict[str, Any]) -> None:
    assert "pass the argument `trust_remote_code=True`" in fresh["without_moiety"]


def test_05_and_06_checkpointing_keeps_the_auxiliary_gradient(model: Any) -> None:
    grads = []
    heavy = upcycle(LLAVA.build(), MoESettings(layers="all", aux_coef=1000.0))
    for on in (False, True):
        trained = spread_experts(copy.deepcopy(heavy)).train()
        if on:
            trained._set_gradient_checkpointing(
                gradient_checkpointing_func=lambda f, *a: torch.utils.checkpoint.checkpoint(f, *a, use_reentrant=False)
            )
        losses = [trained(**LLAVA.batch("tIt", "tt", labels=True, seed=seed)).loss for seed in (0, 1)]
        sum(losses).backward()
        grads.append([p.grad for n, p in trained.named_parameters() if ".router." in n])
    assert all(grad.abs().sum() > 1 for grad in grads[0])
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    enable = getattr(heavy, "activation_checkpointing_enable", None) or heavy.gradient_checkpointing_enable
    with pytest.raises(ValueError, match="use_reentrant=True gives wrong gradients of the auxiliary losses"):
        enable({"use_reentrant": True})


def test_07_the_signature_is_kept(model: Any) -> None:
    ours, stock = inspect.signature(model.forward), inspect.signature(hf.LlavaForConditionalGeneration.forward)
    assert set(ours.parameters) == (set(stock.parameters) - {"self"}) | {
        "modality_ids", "evidence_mask", "output_router_logits",
    }  # fmt: skip
    prepare = inspect.signature(model.prepare_inputs_for_generation).parameters
    assert prepare["kwargs"].kind is inspect.Parameter.VAR_KEYWORD
    batch = LLAVA.batch("tIt")
    plain = model.generate(**batch, max_new_tokens=3, do_sample=False)
    ids = (batch["input_ids"] == IMAGE).long()
    assert torch.equal(model.generate(**batch, modality_ids=ids, max_new_tokens=3, do_sample=False), plain)
    with pytest.raises(ValueError, match=r"not used by the model.*picture_values"):
        model.generate(**batch, picture_values=1, max_new_tokens=3)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_08_class_names_are_kept(name: str) -> None:
    # D13: names listed for sharding exist in the model
    built = upcycle(FAMILIES[name].build(), MoESettings(layers="all"), in_place=True)
    decoder = getattr(built.model, "language_model", None) or built.model.text_model
    layer = decoder.layers[0]
    original = type(layer)._retyped_from[0]
    assert type(layer).__name__ == original.__name__
    assert getattr(sys.modules[type(layer).__module__], type(layer).__name__) is original
    present = {type(module).__name__ for module in built.modules()}
    assert original.__name__ in present
    assert {n for n in (built._no_split_modules or ()) if "Decoder" in n} <= present


def test_08_sharded_layers_carry_the_name() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    with two_ranks():
        layer = sparse("llava-qwen2").model.language_model.layers[0]
        fully_shard(layer, mesh=init_device_mesh("cpu", (2,)))
        assert type(layer).__name__ == "FSDPQwen2DecoderLayer"


def test_08_models_can_be_pickled_and_copied(model: Any) -> None:
    batch = LLAVA.batch("tIt", "t")
    unused = sparse("llava-qwen2")  # a forward leaves hooks of transformers behind that cannot be pickled
    for twin in (pickle.loads(pickle.dumps(unused)), copy.deepcopy(model)):
        torch.testing.assert_close(twin(**batch).logits, model(**batch).logits, rtol=0, atol=0)
        assert type(twin.model.language_model.layers[0]) is type(model.model.language_model.layers[0])
        twin.set_experts_implementation("eager")
        assert {layer.experts.config.name for layer in moe_layers(twin)} == {"eager"}, "one holder for all banks"
    assert model.experts_backend.name == "moiety"


def test_09_the_experts_switch_changes_what_runs(fresh: dict[str, Any], model: Any) -> None:
    expected = {"None": ["moiety"], "eager": [], "moiety": ["moiety"]}
    expected |= {"grouped_mm": ["grouped_mm"], "batched_mm": ["batched_mm"]}
    assert fresh["routes"] == expected
    assert fresh["switched"] == ["batched_mm"]
    assert fresh["largest_difference"] < 1e-6  # measured 2.4e-7
    assert fresh["static_table"] == "MoietyLlavaForConditionalGeneration"
    with pytest.raises(ValueError, match=r"no experts_implementation 'groupd_mm'; known: .*did you mean 'grouped_mm'"):
        model.set_experts_implementation("groupd_mm")


@pytest.mark.parametrize("route", ["eager", "grouped_mm", "batched_mm"])
def test_09_gradients_agree_on_every_route(model: Any, route: str) -> None:
    grads = []
    for name in ("moiety", route):
        twin = copy.deepcopy(model).train()
        twin.set_experts_implementation(name)
        twin(**LLAVA.batch("tIt", "t", labels=True)).loss.backward()
        grads.append({n: p.grad for n, p in twin.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    for name, grad in grads[0].items():
        torch.testing.assert_close(grads[1][name], grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("name", ["llava-qwen2", "gemma3", "qwen2_5_vl"])
def test_10_static_cache_equals_dynamic(name: str) -> None:
    built, batch = sparse(name), FAMILIES[name].batch("tItI", "tt", "tI", side="left")
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "pad_token_id": PAD}
    dynamic = built.generate(**batch, **options)
    static = built.generate(**batch, **options, cache_implementation="static", disable_compile=True)
    assert torch.equal(static, dynamic)


def test_10_prompt_lookup_equals_greedy(model: Any) -> None:
    batch = LLAVA.batch("tItt")
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    plain = model.generate(**batch, **options)
    assert torch.equal(model.generate(**batch, **options, prompt_lookup_num_tokens=3), plain)


def test_11_a_placeholder_in_a_decode_step_is_text(model: Any) -> None:
    assert model.generation_config.suppress_tokens == [IMAGE]
    assert sparse("qwen3_vl").generation_config.suppress_tokens == [IMAGE, IMAGE + 1]
    cache = hf.DynamicCache(config=model.config.get_text_config())
    model(**LLAVA.batch("tIt"), **{CACHE: cache})
    with recording() as trace:
        model(input_ids=torch.tensor([[IMAGE]]), **{CACHE: cache})
    assert {int(routing.modality_group) for _, routing in trace.entries} == {1}, "the text group"
    with torch.no_grad():
        model = copy.deepcopy(model)
        model.lm_head.weight[IMAGE] = model.lm_head.weight.sum(dim=0) * 100
    text = model.generate(**LLAVA.batch("tIt"), max_new_tokens=4, min_new_tokens=4, do_sample=False)
    assert IMAGE not in text[0, -4:]


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_14_exactly_what_gets_no_gradient_is_frozen(name: str) -> None:
    # I14: parts that the strict convention leaves out receive no gradient, and no others
    built = sparse(name).train()
    built.requires_grad_(True)
    built(**FAMILIES[name].batch("tIt", "tt", labels=True)).loss.backward()
    without = {parameter for parameter in built.parameters() if parameter.grad is None}
    assert without == unread_parameters(built.model)
    freeze_unread(built.model)
    assert {p for p in built.parameters() if not p.requires_grad} == without


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_15_a_rank_without_pictures_still_reaches_the_tower(name: str) -> None:
    # D23
    built, batch = sparse(name).train(), FAMILIES[name].batch("tt", "t", labels=True)
    with two_ranks():
        touched = built(**batch)
    touched.loss.backward()
    for key, parameter in built.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, key
            if "vision" in key or "visual" in key:
                assert (parameter.grad == 0).all(), key
    assert touch_tower(built.model).item() == 0
    torch.testing.assert_close(built(**batch).loss, touched.loss, rtol=0, atol=0)


def test_19_the_server_of_transformers_loads_our_folders_with_their_experts(tmp_path: Path) -> None:
    """It reads static tables, not the Auto registration: a folder unknown there is refused, or served blind."""
    serving = pytest.importorskip("transformers.cli.serving.model_manager")
    built = sparse("llava-qwen2")
    built.save_pretrained(tmp_path)
    manager = serving.ModelManager(device="cpu")
    loaded = manager._load_model(f"{tmp_path}@main")
    assert [type(layer) for layer in moe_layers(loaded)] == [ModalityMoE] * len(moe_layers(built))
    assert manager.get_model_modality(loaded) is serving.Modality.MULTIMODAL


def test_22_router_logits_are_raw_scores_of_sparse_layers_alone() -> None:
    built = sparse("llava-qwen2", MoESettings(layers="odd"))
    inputs: list[torch.Tensor] = []
    layer = moe_layers(built)[0]
    layer.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    batch = LLAVA.batch("tIt")
    (logits,) = built(**batch, output_router_logits=True).router_logits
    x, vision = inputs[0][0], (batch["input_ids"][0] == IMAGE)
    weights = {name: gate.weight for name, gate in layer.router.gates.items()}
    torch.testing.assert_close(logits[vision][:, :3], F.linear(x[vision], weights["vision"]))
    torch.testing.assert_close(logits[~vision][:, 1:], F.linear(x[~vision], weights["text"]))
    assert (logits[vision][:, 3] == -torch.inf).all()


def test_23_recomputation_with_jitter_chooses_the_same_experts() -> None:
    built = spread_experts(upcycle(LLAVA.build(), MoESettings(layers="all", router_jitter=0.3))).train()
    enable = getattr(built, "activation_checkpointing_enable", None) or built.gradient_checkpointing_enable
    enable()
    with recording() as trace:
        built(**LLAVA.batch("tIt", "tt", labels=True)).loss.backward()
    layers = trace.by_layer()
    assert {len(routings) for routings in layers.values()} == {2}, "one forward, one recomputation"
    for forward, again in layers.values():
        assert torch.equal(forward.index, again.index)
        assert torch.equal(forward.logits, again.logits)


def test_25_stock_models_are_left_alone(fresh: dict[str, Any], model: Any) -> None:
    assert fresh["stock_is_bit_equal"]
    stock = LLAVA.build()
    assert not any(isinstance(module, ModalityMoE) for module in stock.modules())
    assert not any(hasattr(type(module), "_retyped_from") for module in stock.modules())
