"""Parameters of scheme ``asymoe`` at given widths, for each part of a layer and each set of chosen experts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from moiety.moe.asymoe.activated import (
    activated_parameters,
    asymoe_of,
    expert_parameters,
    expert_table,
    reachable_sets,
    shared_parameters,
)
from moiety.moe.asymoe.budget import WIDTHS, reference_parameters
from moiety.recipe.recipe import MoESettings
from moiety.vlm.configs import resolved
from moiety.vlm.shapes import decoder_shape


@dataclass(frozen=True)
class SetCount:
    """Activated parameters of one token that chose the same set of experts in every sparse layer.

    Args:
        token: Modality group of the token.
        experts: Groups of the chosen experts, joined by ``+``.
        decoder: Parameters of the decoder that the token passes through.
        whole: The same, with vision tower and projector.
        saving: Share of parameters that is saved, at most 1. The first key says what is counted (``decoder`` or
            ``whole``), the second what it is compared with (``dense``, or ``moiie``: the scheme MoIIE with the same
            table in the same layers).
    """

    token: str
    experts: str
    decoder: int
    whole: int
    saving: dict[str, dict[str, float]]


@dataclass(frozen=True)
class Design:
    """A design of scheme ``asymoe`` over one decoder.

    Args:
        plan: Its size plan.
        widths: Field of ``moe.asymoe`` -> width. Fields that this design does not use are left out.
        parts: Part of one sparse layer -> its parameters that one token passes through.
        dense: Parameters of the dense decoder.
        moiie: Activated parameters of the decoder with MoIIE in the same layers.
        sets: One line for each set that a token can reach.
    """

    plan: str
    widths: dict[str, int]
    parts: dict[str, int]
    dense: int
    moiie: int
    sets: list[SetCount]


def design_of(config: Any, settings: MoESettings) -> Design:
    """The design that `settings` of scheme asymoe give on the decoder of `config`.

    Raises:
        ValueError: the settings belong to another scheme, or no widths fit the size plan.
    """
    settings, shape = resolved(settings, config), decoder_shape(config)
    own, groups = asymoe_of(settings), expert_table(settings)
    parts = {f"one {group.name} expert": expert_parameters(settings, shape.hidden, group.name)
             for group in groups.groups if group.count}  # fmt: skip
    for name in groups.names:
        parts[f"router and context, {name} token"] = shared_parameters(settings, shape.hidden, name)
    against = {"dense": shape.dense, "moiie": _moiie(settings, shape)}
    sets = []
    for name in groups.names:
        for chosen in reachable_sets(settings, name):
            count = activated_parameters(settings, shape, name, chosen)
            saving = {
                counted: {other: 1 - (count + rest) / (number + rest) for other, number in against.items()}
                for counted, rest in (("decoder", 0), ("whole", shape.beside))
            }
            sets.append(SetCount(name, "+".join(chosen), count, count + shape.beside, saving))
    used = {"residual_ffn": own.has_residual, "hyp_dim": own.hyperbolic, "context_dim": own.needs_context}
    widths = {name: getattr(own, name) for name in WIDTHS if used.get(name, True)}
    return Design(str(own.size_plan), widths, parts, shape.dense, against["moiie"], sets)


def _moiie(settings: MoESettings, shape: Any) -> int:
    own = asymoe_of(settings).model_copy(update={"size_plan": "moiie_budget"})
    return reference_parameters(settings.model_copy(update={"asymoe": own}), shape)
