"""Numbers of a logging window equal those counted by hand; the alarm rings once."""

import logging

import pytest
import torch

from moiety.moe.losses import auxiliary_losses
from moiety.moe.routers import resolve
from moiety.moe.trace import Routing, RoutingTrace
from moiety.recipe.recipe import MoESettings
from moiety.train.meter import RoutingMeter

SETTINGS = MoESettings(scheme="moiie")
GROUPS = resolve(SETTINGS)[1]  # bank: vision 0, inter 1 and 2, text 3; names: vision, text
BATCH = {
    "input_ids": torch.zeros(1, 4, dtype=torch.long),
    "attention_mask": torch.tensor([[1, 1, 1, 0]]),
    "labels": torch.tensor([[-100, -100, 5, -100]]),
}


def decision(*experts: tuple[int, int], groups: tuple[int, ...]) -> Routing:
    """A routing with these choices; tokens of group -1 are padding."""
    allowed = torch.tensor(GROUPS.allowed)
    index = torch.tensor(experts)
    modality_group = torch.tensor(groups)
    logits = torch.zeros(len(groups), 4).masked_fill(~allowed[modality_group.clamp(min=0)], float("-inf"))
    weights = torch.full(index.shape, 0.5).masked_fill((modality_group < 0).unsqueeze(1), 0)
    return Routing(logits, index.masked_fill((modality_group < 0).unsqueeze(1), 4), weights, modality_group)


def add(meter: RoutingMeter, *decisions: Routing, cross_entropy: float = 2.0, share: float = 1.0) -> None:
    trace = RoutingTrace()
    for layer, routing in zip(meter.layers, decisions, strict=True):
        trace.append(layer, routing)
    losses = auxiliary_losses(trace, GROUPS, SETTINGS)
    meter.add(BATCH, torch.tensor(cross_entropy), losses, trace, share)


def meter_of(layers: tuple[int, ...] = (1,), starved_share: float = 0.5) -> RoutingMeter:
    return RoutingMeter(GROUPS, layers, torch.device("cpu"), starved_share)


def test_a_window_by_hand() -> None:
    meter = meter_of((1, 3))
    first = decision((0, 1), (1, 2), (3, 1), (0, 0), groups=(0, 1, 1, -1))
    second = decision((0, 2), (3, 2), (3, 1), (0, 0), groups=(0, 1, 1, -1))
    add(meter, first, second, cross_entropy=1.0, share=0.5)
    add(meter, first, second, cross_entropy=2.0, share=0.5)
    found = meter.window(7)
    assert found["cross_entropy"] == 3.0  # the two micro-batches of one step add up
    assert (found["tokens"], found["trained_tokens"]) == (6, 2)
    assert [found[f"load/vision/{name}"] for name in ("0_vision", "1_inter", "2_inter")] == [0.5, 0.25, 0.25]
    assert [found[f"load/text/{name}"] for name in ("1_inter", "2_inter", "3_text")] == [0.375, 0.25, 0.375]
    assert found["inter_share/vision"] == 0.5
    assert found["max_load/vision"] == pytest.approx(1.5)
    assert found["entropy/text"] == pytest.approx(1.0)
    assert found["load_balancing_loss/vision"] == pytest.approx(2.0)  # even probabilities cost top_k
    assert found["z_loss"] == pytest.approx(torch.tensor(3.0).log().item() ** 2)


def test_a_window_starts_empty_and_totals_go_on() -> None:
    meter = meter_of()
    routing = decision((0, 1), (1, 2), (3, 1), (0, 0), groups=(0, 1, 1, -1))
    add(meter, routing)
    meter.window(1)
    add(meter, routing, cross_entropy=4.0)
    assert meter.counters()["tokens"] == 6
    found = meter.window(2)
    assert found["cross_entropy"] == 4.0
    assert found["tokens"] == 6


def test_a_run_goes_on_counting_from_its_checkpoint() -> None:
    meter = meter_of()
    meter.start({"tokens": 100, "trained_tokens": 10, "seconds": 50.0})
    counters = meter.counters()
    assert (counters["tokens"], counters["trained_tokens"]) == (100, 10)
    assert 50 <= counters["seconds"] < 51


def test_a_modality_without_tokens_has_no_shares() -> None:
    meter = meter_of()
    add(meter, decision((1, 2), (3, 1), (3, 2), (0, 0), groups=(1, 1, 1, -1)))
    found = meter.window(1)
    assert not [key for key in found if key.endswith("/vision") and "load_bal" not in key]
    assert found["load_balancing_loss/vision"] == 0


def test_a_dense_model_has_loss_and_tokens() -> None:
    meter = RoutingMeter(None, (), torch.device("cpu"), 0.01)
    meter.add(BATCH, torch.tensor(2.0), None, RoutingTrace(), 1.0)
    assert set(meter.window(1)) == {"cross_entropy", "tokens", "trained_tokens", "tokens_per_second"}


def test_the_alarm_rings_once_until_the_expert_recovers(caplog: pytest.LogCaptureFixture) -> None:
    meter = meter_of()
    hungry = decision((1, 2), (1, 2), (1, 2), (1, 2), groups=(0, 0, 1, 1))  # nobody asks 0 or 3
    fed = decision((0, 1), (0, 2), (3, 1), (3, 2), groups=(0, 0, 1, 1))
    alarms = []
    with caplog.at_level(logging.WARNING, "moiety"):
        for routing in (hungry, hungry, fed, hungry):
            add(meter, routing)
            add(meter, routing)
            alarms.append(meter.window(len(alarms) + 1)["alarms"])
    assert [len(texts) for texts in alarms] == [1, 0, 0, 1]
    said = "step 1: expert 0 (vision) of layer 1 starves: 0.00% of an even load of vision tokens, alarm below 50.00%"
    assert alarms[0][0].startswith(f"{said}; 1 more began to starve. A larger moe.aux_coef, moe.aux_scope=per_layer")
    assert len(caplog.records) == 2


def test_a_collapse_of_one_modality_in_one_layer_is_seen() -> None:
    meter = meter_of((1, 3), starved_share=0.5)
    even = decision((0, 1), (1, 2), (0, 2), (3, 1), (3, 2), (1, 2), groups=(0, 0, 0, 1, 1, 1))
    collapsed = decision((0, 1), (0, 1), (0, 1), (3, 2), (3, 2), (3, 2), groups=(0, 0, 0, 1, 1, 1))
    for _ in range(3):  # text gives expert 2 in layer 3 what pictures do not
        add(meter, even, collapsed)
    found = meter.window(3)
    assert found["least_load/vision"] == 0
    assert found["least_load_at/vision"] == "layer 3, 2_inter"
    assert found["least_load_at/text"] == "layer 3, 1_inter"
    assert found["layer_loads/vision"] == [[1.0, 1.0, 1.0], [1.5, 1.5, 0.0]]
    assert found["layer_loads/text"] == [[1.0, 1.0, 1.0], [0.0, 1.5, 1.5]]
    assert "expert 2 (inter) of layer 3 starves: 0.00% of an even load of vision tokens" in found["alarms"][0]
    assert "; 1 more began to starve" in found["alarms"][0]


def test_too_few_tokens_prove_nothing() -> None:
    meter = meter_of(starved_share=0.01)
    add(meter, decision((1, 2), (1, 2), (1, 2), (1, 2), groups=(0, 0, 1, 1)))
    assert meter.window(1)["alarms"] == []
