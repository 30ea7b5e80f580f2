"""I10: numbers recorded from the released MoIIE code. Bound: |a - b| <= 1e-5 + 1e-5 |b| in float32, as they ask for.

The release routes padding as text and drops it only from the masked losses. So each block runs twice here: once with
padding given as text (outputs, logits, choices, every gradient), once with padding known (masked losses, real outputs).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from moiety.moe.kernels import KERNELS
from moiety.moe.layer import ModalityMoE
from moiety.moe.losses import auxiliary_losses, load_balancing_loss
from moiety.moe.trace import Routing, recording
from moiety.recipe.recipe import MoESettings
from moiety.vlm.placeholders import last_token_as_text, without_padding
from tests.goldens import SHARED, cases
from tests.reference import load_balancing

BLOCKS, LOSSES = cases("moiie/block_*.npz"), cases("moiie/aux_*.npz")
SCHEMES = {name: json.loads((SHARED / "golden/moiie" / f"{name}.meta.json").read_text())["scheme"] for name in BLOCKS}


def load(shared: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    folder = shared / "golden" / "moiie"
    arrays = {key: torch.from_numpy(value) for key, value in np.load(folder / f"{name}.npz").items()}
    return arrays, json.loads((folder / f"{name}.meta.json").read_text())


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def layer_from(data: dict[str, Tensor], meta: dict[str, Any]) -> ModalityMoE:
    experts = None
    if meta["scheme"] == "modality_routed":
        experts = {name: len(data[f"router_{name}_weight"]) for name in ("vision", "text")}
    gated, top_k = meta["scheme"] != "modality", meta["top_k"]
    settings = MoESettings(scheme=meta["scheme"], experts=experts, top_k=max(top_k, 2) if gated else None, aux_coef=1.0)
    layer = ModalityMoE(meta["hidden"], meta["ffn"], settings)
    layer.router.top_k = top_k  # one renormalised choice is refused in settings, for good reason; the release allows it
    with torch.no_grad():
        layer.experts.gate_up_proj.copy_(data["gate_up_proj"])
        layer.experts.down_proj.copy_(data["down_proj"])
        for name, gate in layer.router.gates.items() if gated else ():
            gate.weight.copy_(data["router_weight" if name == "all" else f"router_{name}_weight"])
    return layer


def gradient_names(data: dict[str, Tensor], prefix: str) -> dict[str, str]:
    """Recorded gradient -> our parameter; the input is called ``hidden_states`` on both sides."""
    ours = {
        "hidden_states": "hidden_states",
        "gate_up_proj": "experts.gate_up_proj",
        "down_proj": "experts.down_proj",
        "router_weight": "router.gates.all.weight",
        "router_vision_weight": "router.gates.vision.weight",
        "router_text_weight": "router.gates.text.weight",
    }
    return {f"{prefix}{theirs}": name for theirs, name in ours.items() if f"{prefix}{theirs}" in data}


def compare_gradients(data: dict[str, Tensor], prefix: str, scalar: Tensor, leaves: dict[str, Tensor]) -> None:
    names = gradient_names(data, prefix)
    found = torch.autograd.grad(scalar, [leaves[name] for name in names.values()], retain_graph=True, allow_unused=True)
    for recorded, gradient in zip(names, found, strict=True):
        close(torch.zeros_like(data[recorded]) if gradient is None else gradient, data[recorded])


@pytest.mark.parametrize("kernel", ["reference", "loop", "grouped"])
@pytest.mark.parametrize("name", BLOCKS)
def test_block(shared: Path, name: str, kernel: str) -> None:
    data, meta = load(shared, name)
    layer = layer_from(data, meta)
    layer.experts.kernel = kernel
    x = data["hidden_states"].requires_grad_()
    leaves = {"hidden_states": x, **dict(layer.named_parameters())}
    ids = last_token_as_text(data["modality_ids"])
    if "vision_mask" in data:
        assert (ids > 0).equal(data["vision_mask"])
    with recording() as trace:
        output = layer(x, ids)
    close(output, data["output"])
    compare_gradients(data, "grad_", (output * data["probe"]).sum(), leaves)
    if meta["scheme"] != "modality":
        compare_routing(data, meta, layer, trace.entries[0][1])
        losses = auxiliary_losses(trace, layer.groups, layer.router.settings).balance
        for gate, loss in losses.items():
            close(loss, data["aux_loss" if gate == "all" else f"aux_loss_{gate}"])


def compare_routing(data: dict[str, Tensor], meta: dict[str, Any], layer: ModalityMoE, routing: Routing) -> None:
    shape = *data["modality_ids"].shape, meta["top_k"]
    assert routing.index.view(shape).equal(data["topk_expert"].long())
    close(routing.weights.view(shape), data["topk_weight"])
    if meta["scheme"] == "vanilla":
        close(routing.logits, data["router_logits"])
        return
    for number, name in enumerate(layer.groups.names):
        mine = routing.logits[routing.modality_group == number][:, list(layer.groups.visible(name))]
        close(mine, data[f"router_logits_{name}"])


@pytest.mark.parametrize("name", [name for name in BLOCKS if SCHEMES[name] != "modality"])
def test_masked_losses(shared: Path, name: str) -> None:
    data, meta = load(shared, name)
    layer = layer_from(data, meta)
    x = data["hidden_states"].requires_grad_()
    ids = last_token_as_text(without_padding(data["modality_ids"], data["attention_mask"]))
    with recording() as trace:
        output = layer(x, ids)
    real = data["attention_mask"] == 1
    close(output[real], data["output"][real])
    losses = auxiliary_losses(trace, layer.groups, layer.router.settings)
    for gate, loss in losses.balance.items():
        close(loss, data["aux_loss_masked" if gate == "all" else f"aux_loss_{gate}_masked"])
    compare_gradients(data, "grad_aux_", losses.total, {"hidden_states": x, **dict(layer.named_parameters())})


@pytest.mark.parametrize(
    ("name", "masked"), [(n, m) for n in LOSSES for m in ("", "_masked") if (n, m) != ("aux_no_tokens", "_masked")]
)
def test_joint_loss(shared: Path, name: str, masked: str) -> None:
    data, _ = load(shared, name)
    logits = data["router_logits"].requires_grad_()
    layers, tokens, experts = logits.shape
    mask = data["token_mask"].bool() if masked else torch.ones(tokens, dtype=torch.bool)
    chosen = torch.zeros_like(logits).scatter_(-1, logits.topk(2).indices, 1)
    keep = mask[:, None].float()
    loss = load_balancing_loss(
        (chosen * keep).sum(1), (logits.softmax(-1) * keep).sum(1), mask.sum().float().expand(layers), experts
    )
    close(loss, data[f"loss{masked}"])
    if "uniform" not in name:
        gradient = torch.autograd.grad(loss, logits)[0]
        close(gradient, data.get(f"grad_router_logits{masked}", torch.zeros_like(gradient)))


def test_the_slow_loops_agree_with_the_record(shared: Path) -> None:
    data, _ = load(shared, "aux_two_layers")
    rows = [list(layer) for layer in data["router_logits"].double()]
    close(load_balancing(rows, 2, "joint_layers").float(), data["loss"])
    alone = [load_balancing([layer], 2, "joint_layers").float() for layer in rows]
    close(torch.stack(alone), data["loss_of_each_layer_alone"])
    close(load_balancing(rows, 2, "per_layer").float(), data["loss_of_each_layer_alone"].mean())


def test_kernels_are_all_compared() -> None:
    assert set(KERNELS) == {"auto", "reference", "loop", "grouped"}
