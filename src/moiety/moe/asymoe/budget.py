"""Finds widths of scheme ``asymoe`` for a given number of activated parameters.

A width is a whole number, so a design takes the largest widths that stay within the target, in multiples that suit the
hardware. The inter-modality experts come first: one of them may use an equal share of the budget of a set. The text
experts then get what the largest set leaves. The private experts of the other modalities come last. If such multiples
leave much of the target unused, as in small models, finer multiples are tried.
"""

from __future__ import annotations

from collections.abc import Callable

from moiety.groups import TEXT_GROUP
from moiety.moe.asymoe.activated import (
    DecoderShape,
    activated_parameters,
    asymoe_of,
    evaluated,
    expert_parameters,
    expert_table,
    largest_layer,
    layer_kinds,
    reachable_sets,
    shared_parameters,
)
from moiety.moe.tables import INTER_GROUP
from moiety.recipe.asymoe import AsyMoESettings
from moiety.recipe.recipe import MoESettings

__all__ = ["SAVING", "DecoderShape", "activated_parameters", "design", "design_for", "reference_parameters"]

SAVING = 0.2545
"""Share of the activated parameters of the reference (the dense decoder or MoIIE) that a size plan saves."""
UNUSED = 0.0075
"""Share of the reference that a design may leave unused before finer widths are tried."""
TYPICAL_SHARE = {"dense_budget": 0.56, "moiie_budget": 0.84}
"""Size plan -> budget of one sparse layer, in units of one dense FFN, for a layer without a decoder around it."""
LARGE_HIDDEN = 2048
"""Decoders of this width or more get expert widths in multiples of 64; others get multiples of 8."""


def design(settings: MoESettings, hidden: int, ffn: int, shape: DecoderShape | None = None) -> MoESettings:
    """`settings` with every width of ``moe.asymoe`` filled in; widths that are given stay.

    Args:
        settings: Settings of scheme asymoe.
        hidden: Width of the decoder.
        ffn: Inner width of its dense FFN.
        shape: The decoder around the layers. None: one layer alone, whose budget is a typical share of its dense FFN.

    Raises:
        ValueError: no widths meet the target.

    Example:
        >>> found = design(MoESettings(scheme="asymoe"), 3072, 8192, DecoderShape(3072, 8192, 32, 32064, 32, 32)).asymoe
        >>> found.hyp_dim, found.inter_ffn, found.context_dim, found.evidence_dim, found.vision_ffn
        (768, 3584, 512, 1280, 2496)
    """
    own = asymoe_of(settings)
    if own.sized:
        return settings
    if own.size_plan == "full":
        return _with(settings, _full(own, hidden, ffn))
    if shape is None:
        dense = 3 * hidden * ffn
        return _fit(
            settings, hidden, ffn, 1, int(TYPICAL_SHARE[own.size_plan or "dense_budget"] * dense), int(0.01 * dense)
        )
    beside = shape.beside if own.size_plan == "moiie_budget" else 0  # the saving in the paper is that of whole models
    reference = reference_parameters(settings, shape) + beside
    return _within(settings, shape, int((1 - SAVING) * reference) - beside, int(UNUSED * reference))


def design_for(settings: MoESettings, shape: DecoderShape, activated: int) -> MoESettings:
    """Settings with widths whose largest set activates at most `activated` parameters, and at most 0.2 % less.

    Where whole widths do not allow 0.2 %, the result is as close as they allow.

    Args:
        settings: Settings of scheme asymoe. Their ``size_plan`` is not read; widths that are given stay.
        shape: The decoder.
        activated: Activated parameters of the whole model that are wanted, including ``shape.beside``.

    Raises:
        ValueError: no widths fit.
    """
    return _within(settings, shape, activated - shape.beside, int(0.002 * activated))


def reference_parameters(settings: MoESettings, shape: DecoderShape) -> int:
    """The number against which ``size_plan`` saves.

    It is the size of the dense decoder, or for ``moiie_budget`` the activated parameters of MoIIE with the same table
    and layers.
    """
    if asymoe_of(settings).size_plan != "moiie_budget":
        return shape.dense
    groups, top_k = expert_table(settings), settings.top_k or 2
    gate = max(len(groups.visible(name)) for name in groups.names) * shape.hidden
    return shape.dense + len(settings.resolved_layers(shape.layers)) * ((top_k - 1) * shape.dense_ffn + gate)


# -- the search ------------------------------------------------------------------------------------------------------
def _within(settings: MoESettings, shape: DecoderShape, target: int, unused: int) -> MoESettings:
    num_sparse = len(settings.resolved_layers(shape.layers))
    room = target - shape.trunk - (shape.layers - num_sparse) * shape.dense_ffn
    return _fit(settings, shape.hidden, shape.ffn, num_sparse, room, unused)


def _fit(settings: MoESettings, hidden: int, ffn: int, num_sparse: int, room: int, unused: int) -> MoESettings:
    """Widths for `num_sparse` layers that share `room` parameters and, if possible, leave at most `unused` of them."""
    names = expert_table(settings).names
    best = None
    for unit in (64, 8, 4, 2, 1) if hidden >= LARGE_HIDDEN else (8, 4, 2, 1):
        found = _at_unit(settings, hidden, ffn, num_sparse, room, unit)
        best = found or best
        if found is not None and all(_spare(found, hidden, num_sparse, room, name) <= unused for name in names):
            break
    if best is None:
        given = {name: width for name, width in _widths(asymoe_of(settings)).items() if width is not None}
        raise ValueError(
            f"no widths of scheme asymoe fit: {num_sparse} sparse layers of hidden {hidden} may activate "
            f"{max(0, room):,} parameters in all (the dense FFNs there have {num_sparse * 3 * hidden * ffn:,})"
            + (f", with {given} given" if given else "")
            + ". Make all layers sparse (moe.layers: all), set moe.asymoe.size_plan: full, or give every width"
        )
    return best


def _at_unit(settings: MoESettings, hidden: int, ffn: int, num_sparse: int, room: int, unit: int) -> MoESettings | None:
    """Widths in multiples of `unit`; None where even the smallest do not fit."""
    groups = expert_table(settings)
    own, counts = asymoe_of(settings), {group.name: group.count for group in groups.groups}
    others = [name for name in groups.names if name != TEXT_GROUP]
    inter = ("inter_ffn", "residual_ffn") if own.has_residual else ("inter_ffn",)
    steps: list[tuple[tuple[str, ...], int, int, Fits]] = [
        (inter, 4 * unit, counts.get(INTER_GROUP, 0), lambda s: _takes_a_share(s, hidden, room // num_sparse)),
        (
            ("evidence_dim",),
            unit,
            counts.get(TEXT_GROUP, 0),
            lambda s: _spare(s, hidden, num_sparse, room, TEXT_GROUP) >= 0,
        ),
        (
            ("vision_ffn",),
            unit,
            sum(counts.get(name, 0) for name in others),
            lambda s: min(_spare(s, hidden, num_sparse, room, name) for name in others) >= 0,
        ),
    ]
    found = _with(settings, _fixed(own, hidden))
    for fields, step, experts, fits in steps:
        free = [name for name in fields if getattr(own, name) is None]
        # a group without experts needs no width, but the settings must hold one
        width = _largest(step, 16 * ffn, fits, found, free) if experts and free else ffn
        if not width:
            return None
        found = _with(found, dict.fromkeys(free, width))
    return found


Fits = Callable[[MoESettings], bool]


def _largest(step: int, limit: int, fits: Fits, settings: MoESettings, fields: list[str]) -> int:
    """Largest multiple of `step` up to `limit` that fits when all `fields` of `settings` have it; 0 where none does."""
    low, high = 0, limit // step + 1  # low fits, high does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(_with(settings, dict.fromkeys(fields, middle * step))) else (low, middle)
    return low * step


def _takes_a_share(settings: MoESettings, hidden: int, room: int) -> bool:
    """Whether every set would fit one layer's `room` if all its experts were inter-modality experts."""
    expert = expert_parameters(settings, hidden, INTER_GROUP)
    for name in expert_table(settings).names:
        run = max(len(evaluated(settings, name, chosen)) for chosen in reachable_sets(settings, name))
        if shared_parameters(settings, hidden, name) + run * expert > room:
            return False
    return True


def _spare(settings: MoESettings, hidden: int, num_sparse: int, room: int, modality_group: str) -> int:
    """Parameters of `room` that the largest set of `modality_group` leaves; negative where it does not fit."""
    kinds = layer_kinds(settings, num_sparse)
    return room - sum(count * largest_layer(layer, hidden, modality_group) for layer, count in kinds)


# -- widths that no budget decides -----------------------------------------------------------------------------------
def _fixed(own: AsyMoESettings, hidden: int) -> dict[str, int]:
    """Number of hyperbolic coordinates and width of the context attention, from the width of the decoder."""
    context = hidden if not own.context_output else 1 << max(0, (hidden // 6).bit_length() - 1)
    fixed = {"hyp_dim": max(1, hidden // 4), "context_dim": context}
    return {name: width for name, width in fixed.items() if getattr(own, name) is None}


def _full(own: AsyMoESettings, hidden: int, ffn: int) -> dict[str, int]:
    """Widths of plan ``full``: those of the dense FFN, and a hyperbolic branch of about a quarter of its parameters."""
    inner = max(1, ffn * 7 // 16) if own.hyperbolic else ffn
    full = {"vision_ffn": ffn, "evidence_dim": ffn, "residual_ffn": ffn, "inter_ffn": inner}
    return _fixed(own, hidden) | {name: width for name, width in full.items() if getattr(own, name) is None}


WIDTHS = ("hyp_dim", "inter_ffn", "residual_ffn", "vision_ffn", "evidence_dim", "context_dim")


def _widths(own: AsyMoESettings) -> dict[str, int | None]:
    return {name: getattr(own, name) for name in WIDTHS}


def _with(settings: MoESettings, widths: dict[str, int]) -> MoESettings:
    return settings.model_copy(update={"asymoe": asymoe_of(settings).model_copy(update=widths)})
