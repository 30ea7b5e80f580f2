"""Whole small models against numbers of the released MoIIE code: logits, hidden states, losses, gradients, decoding.

The models are LLaVA over Phi-3 or Llama, spliced by us, fed with the recorded embeddings and weights. The released rule
for which token is an image token is ``last_token_as_text``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from torch import Tensor
from transformers import DynamicCache

from moiety.recipe.recipe import MoESettings
from moiety.vlm.model import adopt, with_moe
from moiety.vlm.upcycle import upcycle
from tests.goldens import cases
from tests.tiny import CACHE, TOWER

EXPERTS = {"modality_routed": {"vision": 4, "text": 4}}
Case = tuple[dict[str, Any], dict[str, Tensor]]


def read(shared: Path, name: str) -> Case:
    folder = shared / "golden" / "moiie"
    meta = json.loads((folder / f"{name}.meta.json").read_text())
    arrays = np.load(folder / f"{name}.npz")
    return meta, {key: torch.from_numpy(np.array(arrays[key])) for key in arrays.files}


def close(ours: Tensor, theirs: Tensor, what: str) -> None:
    """The bound of the goldens' README."""
    torch.testing.assert_close(ours.float(), theirs, rtol=1e-5, atol=1e-5, msg=lambda text: f"{what}: {text}")


def dense_model(meta: dict[str, Any]) -> Any:
    text = (hf.Phi3Config if meta["backbone"] == "phi3" else hf.LlamaConfig)(
        vocab_size=meta["vocab"],
        hidden_size=meta["hidden"],
        intermediate_size=meta["ffn"],
        num_hidden_layers=meta["layers"],
        num_attention_heads=meta["heads"],
        num_key_value_heads=meta["key_value_heads"],
        rms_norm_eps=meta["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": meta["rope_theta"]},
        max_position_embeddings=64,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    config = hf.LlavaConfig(vision_config=hf.CLIPVisionConfig(**TOWER), text_config=text, image_token_index=1)
    return hf.LlavaForConditionalGeneration(config)


def settings_of_case(meta: dict[str, Any], scheme: str) -> MoESettings:
    vision, text = meta.get("aux_loss_coef_vision"), meta.get("aux_loss_coef_text")
    coef = meta.get("aux_loss_coef", 0.0) if vision is None else {"vision": vision, "text": text}
    return MoESettings(
        scheme=scheme,
        experts=EXPERTS.get(scheme),
        layers=meta["moe_layers"],
        mask_rule="last_token_as_text",
        aux_coef=coef,
        aux_scope="joint_layers",  # as released; for a model from outside ours is per_layer
    )


def golden_names(model: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Parameters (or their gradients) of our model under the names of the goldens; separate matrices are joined."""
    found = {
        "embed_tokens": tensors["model.language_model.embed_tokens.weight"],
        "norm": tensors["model.language_model.norm.weight"],
        "lm_head": tensors["lm_head.weight"],
    }
    for index in range(len(model.model.language_model.layers)):
        start, ours = f"layers.{index}.", {}
        prefix = f"model.language_model.{start}"
        for name, tensor in tensors.items():
            if name.startswith(prefix):
                ours[name.removeprefix(prefix).removesuffix(".weight")] = tensor
        found[start + "input_norm"] = ours["input_layernorm"]
        found[start + "post_attention_norm"] = ours["post_attention_layernorm"]
        found[start + "o_proj"] = ours["self_attn.o_proj"]
        found[start + "qkv_proj"] = _joined(ours, "self_attn.", "qkv_proj", ("q_proj", "k_proj", "v_proj"))
        bank = "mlp.experts." if "mlp.experts.down_proj" in ours else "mlp."
        found[start + "gate_up_proj"] = _joined(ours, bank, "gate_up_proj", ("gate_proj", "up_proj"))
        found[start + "down_proj"] = ours[bank + "down_proj"]
        for name, tensor in ours.items():
            if name.startswith("mlp.router.gates."):
                gate = name.removeprefix("mlp.router.gates.")
                found[start + {"all": "router_weight"}.get(gate, f"router_{gate}_weight")] = tensor
    return found


def _joined(ours: dict[str, Tensor], prefix: str, fused: str, apart: tuple[str, ...]) -> Tensor:
    return ours[prefix + fused] if prefix + fused in ours else torch.cat([ours[prefix + name] for name in apart])


def load_golden(model: Any, arrays: dict[str, Tensor]) -> None:
    """Write golden weights into our model by what `golden_names` calls its parameters."""
    parameters = {name: parameter.data for name, parameter in model.named_parameters()}
    # Number every element, rename, and see which golden element each of ours is: renaming and joining undo themselves.
    sizes, start, numbers = {n: p.numel() for n, p in parameters.items()}, 0, {}
    for name, parameter in parameters.items():
        numbers[name] = torch.arange(start, start + sizes[name]).view(parameter.shape)
        start += sizes[name]
    flat = torch.cat([parameter.flatten() for parameter in parameters.values()])
    for name, number in golden_names(model, numbers).items():
        flat[number] = arrays["w." + name]
    for parameter, part in zip(parameters.values(), flat.split(list(sizes.values())), strict=True):
        parameter.copy_(part.view_as(parameter))


def spliced(case: Case, scheme: str | None = None) -> Any:
    meta, arrays = case
    settings = settings_of_case(meta, scheme or meta["scheme"])
    model = adopt(dense_model(meta), settings, copy=False)
    load_golden(model, arrays)
    return model.eval()


@pytest.mark.parametrize("name", cases("moiie/full_*.npz"))
def test_whole_model_equals_the_released_code(shared: Path, name: str) -> None:
    case = meta, arrays = read(shared, name)
    model = spliced(case).train()
    real = arrays["attention_mask"].bool()
    embeds = arrays["inputs_embeds"].clone().requires_grad_()
    ids = arrays.get("modality_ids", torch.zeros_like(arrays["input_ids"]))
    output = model(
        inputs_embeds=embeds,
        attention_mask=arrays["attention_mask"],
        modality_ids=ids,
        labels=arrays["labels"],
        output_hidden_states=True,
        output_router_logits=meta["scheme"] != "dense",
    )
    close(output.logits[real], arrays["logits"][real], "logits")
    for layer, states in enumerate(output.hidden_states):
        close(states[real], arrays["hidden_states"][layer][real], f"hidden states {layer}")
    close(output.loss.detach(), arrays["loss"], "loss")
    aux = sum(
        meta.get("aux_loss_coef" + suffix, 0.0) * arrays["aux_loss" + suffix]
        for suffix in ("", "_vision", "_text")
        if "aux_loss" + suffix in arrays
    )
    if meta["scheme"] != "dense":
        close(output.aux_loss.detach(), torch.as_tensor(aux, dtype=torch.float32), "auxiliary loss")
    close(output.loss.detach() - aux, arrays["cross_entropy"], "cross-entropy")

    output.loss.backward()
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    ours = golden_names(model, grads)
    theirs = {key.removeprefix("grad."): value for key, value in arrays.items() if key.startswith("grad.")}
    close(embeds.grad[real], theirs.pop("inputs_embeds")[real], "gradient of inputs_embeds")
    assert set(theirs) <= set(ours)
    assert len(theirs) >= 2 + 6 * meta["layers"]
    for key, value in theirs.items():
        close(ours[key], value, f"gradient of {key}")


@pytest.mark.parametrize("scheme", ["moiie", "vanilla", "modality"])
@pytest.mark.parametrize("name", cases("moiie/upcycle_*.npz"))
def test_upcycling_equals_the_released_code(shared: Path, name: str, scheme: str) -> None:
    meta, arrays = read(shared, name)
    dense = adopt(dense_model(meta), MoESettings(scheme="dense"), copy=False)
    load_golden(dense, arrays)
    model = upcycle(dense, settings_of_case(meta, scheme))
    for name, gate in ((n, g) for layer in model.modules() if hasattr(layer, "gates") for n, g in layer.gates.items()):
        recorded = arrays["w.layers.1." + {"all": "router_weight"}.get(name, f"router_{name}_weight")]
        gate.weight.data.copy_(recorded)
    real = arrays["attention_mask"].bool()
    batch = {key: arrays[key] for key in ("inputs_embeds", "attention_mask", "modality_ids")}
    with torch.no_grad():
        logits = model(**batch).logits[real]
    close(logits, arrays[f"{scheme}_logits"][real], "logits")
    close(logits, arrays["dense_logits"][real], "logits of the dense model")


@pytest.mark.parametrize("name", cases("moiie/decode_*.npz"))
def test_cached_decoding_equals_the_released_code(shared: Path, name: str) -> None:
    case = _, arrays = read(shared, name)
    model = spliced(case)
    steps = arrays["generated_ids"].shape[1]
    cache = DynamicCache(config=model.config.get_text_config())
    with torch.no_grad():
        prompt = {"inputs_embeds": arrays["inputs_embeds"], "modality_ids": arrays["modality_ids"]}
        output = model(**prompt, **{CACHE: cache})
        close(output.logits, arrays["prefill_logits"], "prefill")
        for step in range(steps):
            token = output.logits[:, -1:].argmax(dim=-1)
            assert torch.equal(token, arrays["generated_ids"][:, step : step + 1])
            output = model(input_ids=token, **{CACHE: cache})
            close(output.logits[:, 0], arrays["step_logits"][:, step], f"step {step}")
        new = model.get_input_embeddings()(arrays["generated_ids"])
        whole = torch.cat([arrays["inputs_embeds"], new], dim=1)
        ids = torch.nn.functional.pad(arrays["modality_ids"], (0, steps))
        full = model(inputs_embeds=whole, modality_ids=ids, output_router_logits=True)
    close(full.logits, arrays["full_sequence_logits"], "one pass")
    close(full.router_logits[0][_vision(ids)][:, :3], arrays["layers.1.router_logits_vision"], "vision router")
    close(full.router_logits[0][~_vision(ids)][:, 1:], arrays["layers.1.router_logits_text"], "text router")


def _vision(ids: Tensor) -> Tensor:
    """Image tokens whose successor is an image token, flat."""
    successor = torch.nn.functional.pad(ids[:, 1:], (0, 1))
    return ((ids == 1) & (successor == 1)).flatten()


def test_class_of_the_goldens_is_the_registered_one() -> None:
    assert with_moe(hf.LlavaForConditionalGeneration).config_class.model_type == "moiety_llava"
