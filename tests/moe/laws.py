"""What the law suites draw: tables of every scheme and tokens; sizes include 1, primes and absent modalities."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from torch import Tensor

from moiety.groups import ExpertGroups
from moiety.moe.asymoe.context import Context
from moiety.moe.gates import GatedRouter, Router
from moiety.moe.routers import ROUTERS, resolve
from moiety.recipe.recipe import MoESettings
from tests.moe.toy_router import TOY

law = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

SCHEMES = [*ROUTERS, TOY]
DECISION = ("forward", "decide", "_scores", "_visible_scores")


def decides_by_gates(router: type[Router]) -> bool:
    """Whether a scheme scores and chooses exactly as :class:`GatedRouter` does, so that its gates explain it."""
    return all(getattr(router, name, None) is getattr(GatedRouter, name) for name in DECISION)


BY_GATES = [scheme for scheme, router in ROUTERS.items() if decides_by_gates(router)]
GATES_SCORE = [*BY_GATES, "asymoe"]
"""Schemes whose raw scores are those of their gates; asymoe adds to them before it chooses."""
OWN: dict[str, Any] = {"asymoe": {"asymoe": {"size_plan": "full", "balance_logits": "boosted"}}}
"""What a scheme needs here: sized plans have no widths for a decoder of width 5, and laws read the boosted scores."""
TWO = {0: "text", 1: "vision", 2: "vision"}
THREE = {**TWO, 3: "audio"}


@dataclass
class Problem:
    """A table, tokens, what they are, and what the prompt says to them where the scheme asks."""

    settings: MoESettings
    groups: ExpertGroups
    top_k: int
    x: Tensor
    modality_ids: Tensor
    context: Context | None = None

    @property
    def names(self) -> list[str | None]:
        """Modality group of each token, None on padding."""
        table = {-1: None, **self.settings.modality_groups}
        return [table[int(i)] for i in self.modality_ids]


@st.composite
def problems(draw: Any, scheme: str, hidden: int = 5, dtype: torch.dtype = torch.float64) -> Problem:
    modality_groups = draw(st.sampled_from([TWO, THREE]))
    router = ROUTERS[scheme]
    table = router.layout(None, modality_groups)
    experts = None
    if router.has_gate and draw(st.booleans()):
        experts = {group.name: draw(st.sampled_from([2, 3, 5])) for group in table.groups}
    norm_topk = draw(st.booleans())
    known = {
        **OWN.get(scheme, {}),
        "scheme": scheme,
        "experts": experts,
        "modality_groups": modality_groups,
        "norm_topk": norm_topk,
    }
    if router.has_gate:
        table = router.layout(experts, modality_groups)
        most = min(len(table.visible(name)) for name in table.names)
        known["top_k"] = draw(st.integers(1 if not norm_topk or most == 1 else 2, most))
    settings_ = MoESettings(**known)
    _, groups, top_k = resolve(settings_)
    present = draw(st.lists(st.sampled_from([-1, *modality_groups]), min_size=1, unique=True))
    ids = draw(st.lists(st.sampled_from(present), min_size=1, max_size=13))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    x = torch.randn(len(ids), hidden, generator=generator, dtype=torch.float64).to(dtype)
    context = None
    if router.text_reads_images:
        said = torch.randn(len(ids), hidden, generator=generator, dtype=torch.float64).to(dtype)
        context = Context(said, torch.rand(len(ids), generator=generator, dtype=torch.float64))
    return Problem(settings_, groups, top_k, x, torch.tensor(ids), context)
