"""A sparse model under ``torch.compile``: the route that everybody gets, in the dtype that everybody starts with."""

from __future__ import annotations

import pytest
import torch

from moiety.recipe.recipe import MoESettings
from tests.tiny import FAMILIES, asymmetric, sparse

SETTINGS = {"moiie": MoESettings(layers=[1]), "asymoe": asymmetric().model_copy(update={"layers": [1]})}
WHOLE = pytest.param(True, marks=pytest.mark.slow)  # half a minute, nearly all of it on the code of transformers


@pytest.mark.parametrize("whole", [False, WHOLE], ids=["layer", "model"])
@pytest.mark.parametrize("scheme", SETTINGS)
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, while it traces
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools")  # what is said once is said by eager code
def test_compiled_in_float32_it_answers_the_same(scheme: str, whole: bool) -> None:
    model = sparse("llava-qwen2", SETTINGS[scheme])
    batch = FAMILIES["llava-qwen2"].batch("tIt", "tI")
    torch._dynamo.reset()
    with torch.no_grad():
        eager = model(**batch).logits
        compiled = model if whole else model.model.language_model.layers[1].mlp
        compiled.compile(backend="aot_eager")
        found = model(**batch).logits
    torch.testing.assert_close(found, eager, rtol=0, atol=1e-6)
    counted = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert counted > 0
