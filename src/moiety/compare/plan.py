"""Plans every scheme and variant: its settings, and how far its activated parameters are from the reference's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moiety.compare.summary import SchemeRow
from moiety.compare.variants import UNWIDENED, as_wide_as_dense, check_names, meaning_of, settings_for
from moiety.compare.verdicts import EQUAL
from moiety.recipe.recipe import MoESettings, Recipe
from moiety.vlm.configs import dense_ffn, sparse_config
from moiety.vlm.model import config_of
from moiety.vlm.parameters import ParameterCount, count_parameters, on_meta
from moiety.vlm.upcycle import starts_as_dense

FEWER = "fewer activated parameters"
MORE = "more activated parameters"
AS_WIDE = "its experts are as wide as the dense FFN and have more parts, so that it can start as the dense model"
# Field of moe.asymoe -> the expert group or the part of the layer whose width it gives.
_WIDTHS = {
    "vision_ffn": "vision",
    "hyp_dim": "space",
    "inter_ffn": "inter",
    "residual_ffn": "residual",
    "evidence_dim": "text",
    "context_dim": "context",
}


@dataclass(frozen=True)
class PlannedScheme:
    """One scheme as it will be trained.

    Args:
        row: Its line in the table.
        settings: Settings of the sparse layers. None: the dense model is trained in the same stages.
    """

    row: SchemeRow
    settings: MoESettings | None

    @property
    def name(self) -> str:
        """The name that the comparison uses."""
        return self.row.scheme


def plan_schemes(recipe: Recipe, config: Any, schemes: Sequence[str]) -> list[PlannedScheme]:
    """Settings and parameter counts of every scheme to compare.

    Args:
        recipe: Its section ``moe`` is the reference.
        config: Config of the dense base, or its folder.
        schemes: Names as compared, in the order of the table.

    Raises:
        ValueError: a name is unknown or given twice, the recipe has no sparse reference, or the activated parameters of
            a scheme differ from the reference's by more than ``compare.tolerance``.
    """
    if len(set(schemes)) != len(schemes) or not schemes:
        raise ValueError(f"compare.schemes must be distinct and at least one, got {list(schemes)}")
    if recipe.moe.scheme == "dense":
        raise ValueError("moe.scheme is 'dense': a comparison needs a sparse reference, for instance moe.scheme=moiie")
    check_names(recipe, schemes)
    found = config_of(config) if isinstance(config, str | Path) else config
    dense, reference = count_parameters(found), count_parameters(found, recipe.moe)
    return [_planned(name, recipe, found, dense, reference) for name in schemes]


def _planned(name: str, recipe: Recipe, config: Any, dense: ParameterCount, reference: ParameterCount) -> PlannedScheme:
    settings = settings_for(name, recipe, config)
    count = dense if settings is None else count_parameters(config, settings)
    difference = count.activated / reference.activated - 1
    full = settings is not None and as_wide_as_dense(settings, config) is not None
    variant = recipe.compare.variants.get(name)
    ffn = dense_ffn(config)
    row = SchemeRow(
        scheme=name,
        budget_remark=_budget_remark(name, difference, recipe, count.activated, reference.activated, full),
        expert_ffn=ffn if settings is None else settings.expert_ffn or ffn,
        activated=count.activated,
        total=count.total,
        relative_difference=difference,
        against_dense=_of_decoder(count) / _of_decoder(dense) - 1,
        widths=_widths(settings, config),
        note="" if variant is None else variant.note,
        meaning=meaning_of(name, recipe),
        why_unequal=AS_WIDE if full else "",
        starts_as_dense=settings is None or starts_as_dense(on_meta(config, settings)),
    )
    return PlannedScheme(row, settings)


def _of_decoder(count: ParameterCount) -> int:
    """Activated parameters of the language model alone. Tower and projector are the same in every scheme."""
    return count.activated - count.by_part.get("vision_tower", 0) - count.by_part.get("projector", 0)


def _widths(settings: MoESettings | None, config: Any) -> dict[str, int]:
    """The widths of a scheme whose experts have different widths."""
    if settings is None or settings.asymoe is None:
        return {}
    own = MoESettings.model_validate(sparse_config(config, settings).moe).asymoe
    assert own is not None
    unused = set() if own.hyperbolic else {"hyp_dim"}
    unused |= set() if own.needs_context else {"context_dim"}
    widths = {group: getattr(own, field) for field, group in _WIDTHS.items() if field not in unused}
    return {group: width for group, width in widths.items() if width is not None}


def _budget_remark(name: str, difference: float, recipe: Recipe, activated: int, wanted: int, full: bool) -> str:
    tolerance, variant = recipe.compare.tolerance, recipe.compare.variants.get(name)
    if abs(difference) <= tolerance:
        return EQUAL
    remark = FEWER if difference < 0 else MORE
    if name in UNWIDENED:
        return remark
    if full or (variant is not None and variant.budget == "own"):
        return f"{100 * abs(difference):.1f} % {remark}"
    way_out = "give the variant `budget: own`" if variant else "leave it out of compare.schemes"
    raise ValueError(
        f"scheme {name!r} activates {activated:,} parameters, the reference {wanted:,}: {100 * difference:+.1f} %, "
        f"more than compare.tolerance allows ({100 * tolerance:g} %). Change the widths so that they can be equal, "
        f"{way_out}, or raise the tolerance"
    )
