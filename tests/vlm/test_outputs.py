"""What a forward of a sparse model puts on its output, and where its settings come from."""

from __future__ import annotations

import pytest
import torch

from moiety.moe.trace import RoutingTrace, recording
from moiety.recipe.recipe import MoESettings
from moiety.vlm.outputs import auxiliary_losses_of, routing_table
from tests.tiny import FAMILIES, asymmetric, sparse

LLAVA = FAMILIES["llava-qwen2"]


def test_settings_are_read_once_and_again_where_the_config_was_changed() -> None:
    model, batch = sparse("llava-qwen2").train(), LLAVA.batch("tIt", labels=True)
    first = model(**batch).aux_loss
    assert routing_table(model)[0] is routing_table(model)[0]
    model.config.moe["aux_coef"] *= 2
    torch.testing.assert_close(model(**batch).aux_loss, 2 * first)


def test_a_dense_model_has_no_table() -> None:
    with pytest.raises(TypeError, match="LlavaForConditionalGeneration is dense and has no auxiliary losses"):
        auxiliary_losses_of(LLAVA.build(), RoutingTrace())


def test_a_trace_around_a_training_forward_gets_the_same_decisions() -> None:
    model, batch = sparse("llava-qwen2").train(), LLAVA.batch("tIt", labels=True)
    with recording() as trace:
        output = model(**batch, output_router_logits=True)
    assert [index for index, _ in trace.entries] == [0, 1]
    for (_, routing), logits in zip(trace.entries, output.router_logits, strict=True):
        assert routing.logits is logits


def test_a_saved_model_with_the_old_name_of_a_kind_loads() -> None:
    model = sparse("llava-qwen2", asymmetric(text_kind="context", inter_kind="ffn"))
    tree = {**model.config.to_dict()["moe"]}
    tree["asymoe"] = {**tree["asymoe"], "text_kind": "parallel"}
    again = type(model)(type(model.config)(**{**model.config.to_dict(), "moe": tree}))
    again.load_state_dict(model.state_dict())
    batch = LLAVA.batch("tIt")
    with torch.no_grad():
        assert torch.equal(again.eval()(**batch).logits, model.eval()(**batch).logits)
    assert MoESettings.model_validate(again.config.moe).asymoe.text_kind == "context"
