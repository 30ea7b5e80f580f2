"""The header of the lens's numbers holds the selection biases of a model that has them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from moiety.lens.inspection import header_of
from moiety.recipe.recipe import MoESettings
from moiety.vlm.model import groups_of, moe_layers
from moiety.vlm.upcycle import upcycle
from tests.tiny import FAMILIES


@pytest.mark.parametrize("balance", ["loss", "bias"])
def test_the_header_holds_the_biases(balance: Any) -> None:
    model = upcycle(FAMILIES["llava-llama"].build(), MoESettings(layers="all", balance=balance))
    seen: Any = SimpleNamespace(scheme="moiie", groups=groups_of(model), question="", answer="", grid=None, note="")
    header = header_of(model, seen, 1)
    if balance == "loss":
        assert "selection_bias" not in header
        return
    moe_layers(model)[0].router.selection.bias[1, 2] = 0.5
    found = header_of(model, seen, 1)["selection_bias"]
    assert list(found) == [layer.layer_index for layer in moe_layers(model)]
    assert found[0] == [[0, 0, 0, 0], [0, 0, 0.5, 0]]
