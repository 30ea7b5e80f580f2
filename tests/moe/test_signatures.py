"""The shapes written in the signatures hold: floor 1 is imported again with jaxtyping's checks switched on."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType

import jaxtyping
import pytest
import torch

import moiety.moe
from moiety.recipe.asymoe import AsyMoESettings
from moiety.recipe.recipe import MoESettings

MODULES = ("layer", "routers", "losses", "statistics", "dispatch", "trace", "experts.kinds", "kernels")
MODULES += ("asymoe.geometry", "asymoe.cone_pairs", "asymoe.cone_loss")


@pytest.fixture(scope="module")
def checked() -> Iterator[dict[str, ModuleType]]:
    """Copies of the modules whose annotations raise; the ordinary ones come back afterwards."""
    ordinary = {name: module for name, module in sys.modules.items() if name.startswith("moiety.moe")}
    for name in ordinary:
        del sys.modules[name]
    with jaxtyping.install_import_hook("moiety.moe", "beartype.beartype"):
        yield {name: importlib.import_module(f"moiety.moe.{name}") for name in MODULES}
    for name in [name for name in sys.modules if name.startswith("moiety.moe")]:
        del sys.modules[name]
    sys.modules.update(ordinary)
    moiety.moe = ordinary["moiety.moe"]


@pytest.mark.parametrize("scheme", ["vanilla", "two_router", "modality", "modality_routed", "moiie", "always_on"])
@pytest.mark.parametrize("kernel", ["reference", "loop", "grouped"])
def test_a_forward_and_its_losses(checked: dict[str, ModuleType], scheme: str, kernel: str) -> None:
    settings = MoESettings(scheme=scheme, z_loss_coef=0.1)
    layer = checked["layer"].ModalityMoE(8, 16, settings)
    layer.experts.kernel = kernel
    with checked["trace"].recording() as trace:
        out = layer(torch.randn(1, 4, 8), torch.tensor([[-1, 1, 0, 0]]))
    losses = checked["losses"].auxiliary_losses(trace, layer.groups, settings)
    (out.sum() + losses.total).backward()
    count = checked["statistics"].tally(trace.entries[0][1], layer.groups)
    assert checked["statistics"].load_share(count).shape == (2, layer.groups.num_experts)
    assert checked["statistics"].inter_mix(count, layer.groups).shape[0] == 2


@pytest.mark.parametrize("space", ["lorentz", "euclidean", "product"])
def test_a_cone_loss(checked: dict[str, ModuleType], space: str) -> None:
    settings, loss = AsyMoESettings(inter_kind=space), checked["asymoe.cone_loss"]
    image, ids = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0]]).bool(), torch.tensor([[0, 1, 2, 2], [0, 0, 1, 0]])
    spans = checked["asymoe.cone_pairs"].cone_spans(image, ids)
    pairs = checked["asymoe.cone_pairs"].cone_pairs(spans, settings, torch.arange(2))
    pooled = torch.stack([loss.pool(torch.randn(8, 6), mask) for mask in (spans.vision_mask, spans.text_mask)])
    factors, kappa = (2, torch.ones(2)) if space == "product" else (None, None)
    found = loss.expert_cone_loss(pooled, pairs, torch.randn(2, 4, 6), torch.zeros(2), settings, kappa, factors)
    assert (found.num_pairs, found.num_negatives) == (3, 3)


def test_a_wrong_shape_is_caught(checked: dict[str, ModuleType]) -> None:
    router = checked["layer"].ModalityMoE(8, 16, MoESettings()).router
    with pytest.raises(jaxtyping.TypeCheckError):
        router(torch.zeros(3, 8), torch.zeros(4, dtype=torch.int64))
