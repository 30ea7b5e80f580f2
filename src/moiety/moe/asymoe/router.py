"""Scheme ``asymoe``: the gates and the table of MoIIE, with a score that favours evidence experts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from moiety.groups import TEXT_GROUP, ExpertGroups
from moiety.moe.asymoe.context import Context
from moiety.moe.gates import GatedRouter
from moiety.moe.precise import StaysPrecise
from moiety.moe.tables import asymmetric_table
from moiety.moe.trace import Routing
from moiety.recipe.asymoe import AsyMoESettings
from moiety.recipe.recipe import MoESettings


class EvidenceScore(StaysPrecise):
    r"""How relevant the evidence is to a token, :math:`s = \sigma(w \cdot a + b)`, and the gain that multiplies it.

    Everything is computed in float32 or wider, whatever the type of the model.

    Args:
        hidden: Width of the decoder.
        settings: Section ``moe.asymoe``: `score_bias`, `score`, `evidence_gain`.

    Source:
        AsyMoE (2606.00275), eq. 20. The bias, the factor e of `score` ``mass`` and a gain other than 1 are ours.
    """

    def __init__(self, hidden: int, settings: AsyMoESettings) -> None:
        super().__init__()
        self.by_mass, self.fixed_gain = settings.score == "mass", settings.evidence_gain
        self.weight = nn.Parameter(torch.empty(hidden, dtype=torch.float32))
        self.bias = nn.Parameter(torch.empty(1, dtype=torch.float32)) if settings.score_bias else None
        learns = self.fixed_gain == "learned"
        self.log_gain = nn.Parameter(torch.empty(1, dtype=torch.float32)) if learns else None
        self.initialise()

    def initialise(self, init: Any = nn.init) -> None:
        """Start with score 1/2 for every token and gain 1; see ``ExpertBank.initialise``."""
        init.zeros_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)
        if self.log_gain is not None:
            init.constant_(self.log_gain, math.log(math.expm1(1.0)))

    def forward(self, context: Context) -> Float[Tensor, " tokens"]:
        """The score s of each token, ``(tokens,)``, 0..1."""
        with torch.autocast(context.output.device.type, enabled=False):
            found = context.output.to(self.weight.dtype) @ self.weight  # (tokens, hidden) -> (tokens,)
            score = torch.sigmoid(found if self.bias is None else found + self.bias)
            return score * context.mass.to(score.dtype) if self.by_mass else score

    @property
    def gain(self) -> Tensor | float:
        """The value that a score of 1 adds to logits of evidence experts; a learned gain is softplus of `log_gain`."""
        return F.softplus(self.log_gain) if self.log_gain is not None else float(self.fixed_gain)


class AsymmetricRouter(GatedRouter):
    r"""MoIIE's gates, with a score that favours the evidence experts for text tokens whose prompt holds evidence.

    For text tokens :math:`gain \cdot s_t` is added to the scores of evidence experts before the choice. The boosted
    scores decide index and weights. ``Routing.logits`` stay raw, so that load balancing does not work against the
    boost. With `balance_logits` ``boosted`` the boosted scores are in ``Routing.extras`` as well.

    Source:
        AsyMoE (2606.00275), eq. 18-19. With s in (0, 1) and gain 1, the odds of an evidence expert grow at most e-fold.
    """

    text_reads_images = True

    def __init__(self, groups: ExpertGroups, hidden: int, settings: MoESettings) -> None:
        super().__init__(groups, hidden, settings)
        own = own_settings(settings)
        boosts = own.text_kind == "evidence" and own.score != "off"
        self.score = EvidenceScore(hidden, own) if boosts else None
        self.evidence = groups.slice_of(TEXT_GROUP)
        self.balances_boosted = own.balance_logits == "boosted"

    @classmethod
    def layout(cls, experts: Mapping[str, int] | None, modality_groups: Mapping[int, str]) -> ExpertGroups:
        """``[vision (ffn) | inter (lorentz) | text (evidence)]``; default 1, 2, 1."""
        return asymmetric_table(experts, modality_groups, AsyMoESettings())

    @classmethod
    def table(cls, settings: MoESettings) -> ExpertGroups:
        """:meth:`layout` with the kinds of `settings`, and plain text experts at the end if the settings want them."""
        return asymmetric_table(settings.experts, settings.modality_groups, own_settings(settings))

    def initialise(self, init: Any = nn.init) -> None:
        """Initialise the gates as in every scheme; the score is 1/2 for every token."""
        super().initialise(init)
        if self.score is not None:
            self.score.initialise(init)

    def activated_parameters(self, modality_group: str) -> int:
        """Parameters of the gate of the group; for text also those of the score."""
        total = super().activated_parameters(modality_group)
        if self.score is None or modality_group == TEXT_GROUP:
            return total
        return total - sum(parameter.numel() for parameter in self.score.parameters())

    def forward(
        self,
        x: Float[Tensor, "tokens hidden"],
        modality_ids: Int[Tensor, " tokens"],
        context: Context | None = None,
    ) -> Routing:
        """Score the experts, boost, choose and weight them. Without a context nothing is boosted."""
        group = self.modality_group_of(modality_ids)
        logits = self._visible_scores(self._scores(x), group)
        if context is None:
            return self.decide(logits, group, x.dtype)
        extras = {"mass": context.mass}
        if self.score is None:
            return dataclasses.replace(self.decide(logits, group, x.dtype), extras=extras)
        extras["score"] = self.score(context)
        boosted = self._boosted(logits, extras["score"])
        if self.balances_boosted:
            extras["balance_logits"] = boosted
        decision = self.decide(boosted, group, x.dtype)
        return dataclasses.replace(decision, logits=logits, extras=extras)

    def _boosted(self, logits: Tensor, score: Tensor) -> Tensor:
        """Scores with ``gain * s`` on evidence experts, in float32 at least; closed experts stay at -inf."""
        assert self.score is not None
        logits, evidence = logits.to(torch.promote_types(logits.dtype, score.dtype)), self.evidence
        boost = (self.score.gain * score).unsqueeze(-1)
        return torch.cat([logits[:, : evidence.start], logits[:, evidence] + boost, logits[:, evidence.stop :]], dim=-1)


def own_settings(settings: MoESettings) -> AsyMoESettings:
    """Section ``moe.asymoe``.

    Raises:
        ValueError: the settings belong to another scheme.
    """
    if settings.asymoe is None:
        raise ValueError(f"moe.scheme is {settings.scheme!r}; scheme 'asymoe' alone has a section moe.asymoe")
    return settings.asymoe


def at_layer(settings: MoESettings, layer_index: int) -> MoESettings:
    """The settings of one sparse layer: outside the `evidence_layers` its text experts are plain.

    ``deepest_half`` means half of the sparse layers, rounded up.
    """
    own = settings.asymoe
    if own is None or own.evidence_layers == "all" or not isinstance(settings.layers, list):
        return settings
    if layer_index in settings.layers[len(settings.layers) // 2 :]:
        return settings
    return settings.model_copy(update={"asymoe": own.model_copy(update={"text_kind": "ffn"})})
