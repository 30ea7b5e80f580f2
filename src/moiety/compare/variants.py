"""Turns a name in ``compare.schemes`` into settings of sparse layers that are as close to the reference as possible."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from moiety.groups import nearest_name
from moiety.moe.routers import resolve, router_named, scheme_names
from moiety.recipe.compare import VariantSettings
from moiety.recipe.recipe import MoESettings, Recipe
from moiety.vlm.configs import dense_ffn, from_outside
from moiety.vlm.parameters import count_parameters, equal_settings, expert_ffn_for, of_one_width

# Schemes at the width of the dense FFN, as published. They activate fewer parameters, and the tables say so.
UNWIDENED = {"dense": "dense", "modality": "modality"}
# The same routers at the width that makes activated parameters equal. Every other router keeps its own name.
WIDENED = {"dense_wide": "dense_wide", "modality_wide": "modality"}


def compared_names() -> list[str]:
    """The names of all schemes that can be compared without a variant."""
    return sorted({*UNWIDENED, *WIDENED, *scheme_names()})


def check_names(recipe: Recipe, names: Sequence[str]) -> None:
    """Check that `names` and the recipe's contrasts name schemes or variants, and that every variant is valid.

    Raises:
        ValueError: a name is unknown, a variant has the name of a scheme, or its scheme does not allow its settings.
    """
    variants = recipe.compare.variants
    for name, variant in variants.items():
        if name in compared_names():
            raise ValueError(f"compare.variants names {name!r}, which is a scheme already; call the variant otherwise")
        if variant.scheme == "dense":
            _check_dense(name, variant)
        else:
            variant_settings(name, variant, recipe.moe)
    known = [*compared_names(), *variants]
    for name in names:
        if name not in known:
            raise ValueError(f"cannot compare scheme {name!r}; {nearest_name(name, known)}")
    for contrast in recipe.compare.contrasts:
        for name in recipe.compare.weights(contrast):
            if name not in known:
                raise ValueError(f"contrast {contrast!r} names {name!r}; {nearest_name(name, known)}")


def settings_for(name: str, recipe: Recipe, config: Any) -> MoESettings | None:
    """The settings of the sparse layers that `name` stands for.

    The reference is used unchanged. Another scheme takes the layers, rules and loss weights of the reference; its
    `top_k`, if the scheme has a gate; and as many experts, if the proportions of its groups allow it. Its width is
    chosen so that activated parameters are equal. A variant is made in the same way and its own settings replace the
    others. Scheme asymoe with ``size_plan: full`` keeps the widths of the dense FFN, whatever it then activates.

    Args:
        name: A scheme, one of :func:`compared_names`, or a variant of the recipe.
        recipe: Its section ``moe`` is the reference.
        config: Config of the dense base.

    Returns:
        The settings; None for ``dense`` and for a variant of it.

    Raises:
        ValueError: the scheme cannot be built with the reference's `top_k`, or no width makes its activated parameters
            equal.
    """
    reference = recipe.moe
    if name in recipe.compare.variants:
        variant = recipe.compare.variants[name]
        if variant.scheme == "dense":
            _check_dense(name, variant)
            return None
        settings = variant_settings(name, variant, reference)
        if variant.budget == "own" or settings == reference:
            return settings
        return as_wide_as_dense(settings, config) or equalised(settings, recipe, config)
    if name == reference.scheme:
        return reference
    scheme = UNWIDENED.get(name) or WIDENED.get(name) or name
    if scheme == "dense":
        return None
    settings = carried_over(scheme, reference)
    if name in UNWIDENED:
        return settings
    return as_wide_as_dense(settings, config) or equalised(settings, recipe, config)


def meaning_of(name: str, recipe: Recipe) -> str:
    """What `name` stands for, in one sentence: the summary of its router. For a variant, also its scheme."""
    variant = recipe.compare.variants.get(name)
    scheme = name if variant is None else variant.scheme or recipe.moe.scheme
    scheme = UNWIDENED.get(scheme) or WIDENED.get(scheme) or scheme
    if scheme == "dense":
        text = "The dense base, trained through the same stages; no experts."
    else:
        text = inspect.cleandoc(router_named(scheme).__doc__ or "").split("\n\n")[0].replace("\n", " ")
    if name in UNWIDENED and scheme != "dense":
        text += " At the dense width, so it activates fewer parameters than the reference."
    return text if variant is None else f"A variant of {scheme}: {text}"


def _check_dense(name: str, variant: VariantSettings) -> None:
    """Check a variant of the dense model: it may change how answers are made, but it has no experts to change."""
    if variant.moe or variant.clamp_alpha is not None:
        raise ValueError(f"compare.variants.{name} is dense: it has no experts; leave `moe` and `clamp_alpha` out")


def variant_settings(name: str, variant: VariantSettings, reference: MoESettings) -> MoESettings:
    """The reference's settings, with those of a variant in their place, before a width is chosen.

    Raises:
        ValueError: the variant names something that is no routing scheme.
    """
    scheme = variant.scheme or reference.scheme
    if scheme not in scheme_names():
        raise ValueError(
            f"compare.variants.{name}.scheme is {scheme!r}, no routing scheme; {nearest_name(scheme, scheme_names())}"
        )
    start = reference if scheme == reference.scheme else carried_over(scheme, reference)
    return MoESettings.model_validate(variant.over(start.model_dump()))


def carried_over(scheme: str, reference: MoESettings) -> MoESettings:
    """Settings of another scheme that take from `reference` all it can use. Experts have the width of the dense FFN."""
    _, bank, top_k = resolve(reference)
    router = router_named(scheme)
    gated = router.has_gate
    own = router.layout(None, reference.modality_groups)
    counts = {group.name: group.count for group in own.groups}
    scaled = {group: count * bank.num_experts / own.num_experts for group, count in counts.items()}
    if gated and all(count == int(count) for count in scaled.values()):
        counts = {group: int(count) for group, count in scaled.items()}
    changes = {
        "scheme": scheme,
        "experts": counts,
        "top_k": top_k if gated else None,
        "balance": reference.balance if gated else "loss",
        "aux_coef": _loss_weights(reference.aux_coef, own.gate_names),
        "kinds": {group: kind for group, kind in (reference.kinds or {}).items() if group in counts} or None,
        "expert_ffn": None,
        "asymoe": None,
    }
    return MoESettings.model_validate(reference.model_dump() | changes)


def equalised(settings: MoESettings, recipe: Recipe, config: Any) -> MoESettings:
    """`settings` with the width at which they activate as many parameters as the recipe's reference.

    If all experts have one width and stand in the same layers, K times the width has to agree (gates are not counted).
    If both the reference and `settings` are of scheme asymoe, the widths of the same plan are kept as long as the
    difference is within ``compare.tolerance``, so that controls share the widths of the design. In all other cases the
    width is solved from parameter counts of the whole model.
    """
    reference = recipe.moe
    if of_one_width(settings, reference) and settings.layers == reference.layers:
        width = expert_ffn_for(settings, reference, dense_ffn(config))
        return settings.model_copy(update={"expert_ffn": width})
    wanted = count_parameters(config, reference).activated
    if settings.asymoe is not None and reference.asymoe is not None:
        planned = count_parameters(config, settings).activated
        if abs(planned / wanted - 1) <= recipe.compare.tolerance:
            return settings
    return equal_settings(settings, config, wanted)


def as_wide_as_dense(settings: MoESettings, config: Any) -> MoESettings | None:
    """`settings` of scheme asymoe with ``size_plan: full``; None for every other scheme or plan.

    Experts of other widths would not start as the dense FFN. So if a recipe gives no plan and no width, the plan is
    ``full`` for a model that moiety did not build from nothing, as upcycling has it.
    """
    own = settings.asymoe
    if own is None or not own.unsized or (own.size_plan or ("full" if from_outside(config) else "")) != "full":
        return None
    return settings.model_copy(update={"asymoe": own.model_copy(update={"size_plan": "full"})})


def _loss_weights(coefficient: float | Mapping[str, float], gates: Sequence[str]) -> float | dict[str, float]:
    """Loss weights for the gates of another scheme: the weight of each gate if all have one, otherwise the mean."""
    if not isinstance(coefficient, Mapping):
        return coefficient
    kept = {gate: coefficient[gate] for gate in gates if gate in coefficient}
    if kept and len(kept) == len(gates):
        return kept
    return sum(coefficient.values()) / len(coefficient) if coefficient else 0.0
