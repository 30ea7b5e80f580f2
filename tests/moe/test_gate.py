"""Gates as modules: the numbers of the one product that they once were, and others in their place."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from moiety.moe.gates import Gate
from moiety.moe.layer import ModalityMoE
from moiety.recipe.recipe import MoESettings


def gates_of(rows: list[int], hidden: int, wide: bool, dtype: torch.dtype) -> list[Gate]:
    starts = [sum(rows[:gate]) for gate in range(len(rows))]
    places = [slice(start, start + count) for start, count in zip(starts, rows, strict=True)]
    return [Gate(hidden, place, sum(rows), wide=wide).to(dtype) for place in places]


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("rows", [[4], [3, 3], [1, 3], [3, 2, 4]])
def test_gates_side_by_side_are_one_product_to_the_bit(rows: list[int], dtype: torch.dtype, wide: bool) -> None:
    for hidden, tokens in ((32, 1), (32, 24), (512, 191)):
        gates, x = gates_of(rows, hidden, wide, dtype), torch.randn(tokens, hidden, dtype=dtype)
        lift = torch.float32 if wide and dtype == torch.bfloat16 else dtype
        expected = F.linear(x.to(lift), torch.cat([gate.weight for gate in gates]).to(lift))
        assert torch.equal(torch.cat([gate(x) for gate in gates], dim=-1), expected)


class Packed(nn.Module):
    """Stands in the place of a gate, without a weight to be read, and takes the type of the model alone."""

    def __init__(self, gate: Any) -> None:
        super().__init__()
        self.rows = gate.weight.detach().T.clone()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.rows


@pytest.mark.parametrize("router_dtype", ["model", "float32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_stands_in_the_place_of_a_gate_decides(dtype: torch.dtype, router_dtype: Any) -> None:
    layer = ModalityMoE(8, 16, MoESettings(scheme="moiie", router_dtype=router_dtype, router_init_std=1.0)).to(dtype)
    x, ids = torch.randn(1, 12, 8).to(dtype), torch.tensor([[0, 1] * 6])
    before = layer.router(x[0], ids[0]).logits
    for name, gate in layer.router.gates.items():
        layer.router.gates[name] = Packed(gate)
    torch.testing.assert_close(layer.router(x[0], ids[0]).logits.float(), before.float(), rtol=2e-2, atol=2e-2)
    for gate in layer.router.gates.values():
        gate.rows.neg_()
    torch.testing.assert_close(layer.router(x[0], ids[0]).logits[0, 1:], -before[0, 1:], rtol=2e-2, atol=2e-2,
                               check_dtype=False)  # fmt: skip
    assert layer(x, ids).dtype == dtype


@pytest.mark.filterwarnings("ignore")  # torch calls its own quantisation deprecated
def test_dynamic_quantisation_of_torch_leaves_gates_alone() -> None:
    model = nn.ModuleDict({"moe": ModalityMoE(8, 16, MoESettings(scheme="moiie")), "other": nn.Linear(8, 8)})
    packed = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert {type(gate) for gate in packed["moe"].router.gates.values()} == {Gate}
    assert type(packed["other"]) is not nn.Linear
    x, ids = torch.randn(1, 3, 8), torch.tensor([[0, 1, -1]])
    assert torch.equal(packed["moe"](x, ids), model["moe"](x, ids))


def test_a_layer_asks_nothing_of_what_took_the_place_of_its_experts() -> None:
    class Wrapped(nn.Module):
        def __init__(self, base_layer: nn.Module) -> None:
            super().__init__()
            self.base_layer = base_layer

        def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            return self.base_layer(*args, **kwargs)

    widths = {"hyp_dim": 4, "inter_ffn": 8, "context_dim": 8, "evidence_dim": 8, "vision_ffn": 8}
    for settings in (MoESettings(scheme="moiie"), MoESettings(scheme="asymoe", asymoe=widths)):
        layer = ModalityMoE(8, 16, settings)
        x, ids = torch.randn(1, 6, 8), torch.tensor([[0, 1, 0, 1, 1, -1]])
        before, counts = layer(x, ids), [layer.activated_parameters(name) for name in layer.groups.names]
        for module in [layer.experts, *getattr(layer.experts, "banks", {}).values()]:
            parent, name = (layer, "experts") if module is layer.experts else (layer.experts.base_layer.banks, None)
            name = name or next(key for key, bank in parent.items() if bank is module)
            parent._modules[name] = Wrapped(module)
        assert torch.equal(layer(x, ids), before)
        assert [layer.activated_parameters(name) for name in layer.groups.names] == counts
