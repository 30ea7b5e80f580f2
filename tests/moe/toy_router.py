"""A router as a user would add one: a class here, a line in a dict, and every law applies to it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from moiety.groups import ExpertGroup, ExpertGroups
from moiety.moe.routers import GatedRouter
from moiety.moe.trace import Routing

TOY = "toy"


class SigmoidRouter(GatedRouter):
    """Scores by a logistic function instead of a softmax, over pools that overlap: text also sees the first expert."""

    @classmethod
    def layout(cls, experts: Mapping[str, int] | None, modality_groups: Mapping[int, str]) -> ExpertGroups:
        names = tuple(dict.fromkeys(modality_groups.values()))
        counts = dict(experts or {"first": 1, "others": 2, "last": 2})
        groups = (
            ExpertGroup("first", counts["first"], ("text",)),
            ExpertGroup("others", counts["others"], tuple(name for name in names if name != "text")),
            ExpertGroup("last", counts["last"], names),
        )
        return ExpertGroups(groups, modality_groups, tuple((name,) for name in names))

    def forward(self, x: Tensor, modality_ids: Tensor, context: object = None) -> Routing:
        softmax = super().forward(x, modality_ids, context)
        closed = softmax.index == self.groups.num_experts
        chosen = softmax.logits.gather(1, softmax.index.masked_fill(closed, 0)).masked_fill(closed, 0)
        scores = torch.sigmoid(chosen).masked_fill(closed, 0)
        weights = scores / scores.sum(-1, keepdim=True).clamp(min=1e-20) if self.settings.norm_topk else scores
        return Routing(softmax.logits, softmax.index, weights, softmax.modality_group)
