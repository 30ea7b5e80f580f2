"""Which settings make each scheme activate as many parameters as the reference, and by how much it misses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from moiety.compare.summary import SchemeRow
from moiety.config import MoESettings, Recipe
from moiety.groups import nearest_name
from moiety.moe.routers import ROUTERS, resolve
from moiety.vlm.loading import read_config
from moiety.vlm.parameters import count_parameters, expert_ffn_for

EQUAL = "equal"
FEWER = "fewer activated parameters"
MORE = "more activated parameters"
# Published-style rows: the dense width is kept, so that they activate fewer parameters, and they are labelled so.
UNWIDENED = {"dense": "dense", "modality": "modality"}
# The same routers at the width that makes them equal. Every other router goes by its own name and is widened.
WIDENED = {"dense_wide": "dense_wide", "modality_wide": "modality"}


@dataclass(frozen=True)
class PlannedScheme:
    """One scheme as it will be trained.

    Args:
        row: Its line in the table.
        settings: Settings of the sparse layers; None: the dense model goes through the same stages unchanged.
    """

    row: SchemeRow
    settings: MoESettings | None

    @property
    def name(self) -> str:
        """Name as compared."""
        return self.row.scheme


def compared_names() -> list[str]:
    """Every name that a comparison knows."""
    return sorted({*UNWIDENED, *WIDENED, *ROUTERS})


def settings_for(name: str, reference: MoESettings, ffn: int) -> MoESettings | None:
    """Settings of the compared scheme `name`, as near to `reference` as the scheme allows.

    The reference itself is taken as it stands. Others get its layers, rules and loss weights, its `top_k` where they
    choose, a bank of as many experts where their own proportions allow it, and the width that makes them equal.

    Args:
        name: One of :func:`compared_names`.
        reference: Recipe section ``moe``.
        ffn: Inner width of the dense FFN.

    Returns:
        None for ``dense``.

    Raises:
        ValueError: unknown name, or the scheme cannot be built with the reference's `top_k`.
    """
    if name not in compared_names():
        raise ValueError(f"cannot compare scheme {name!r}; {nearest_name(name, compared_names())}")
    if name == reference.scheme:
        return reference
    scheme = UNWIDENED.get(name) or WIDENED.get(name) or name
    if scheme == "dense":
        return None
    _, bank, top_k = resolve(reference)
    gated = ROUTERS[scheme].has_gate
    own = ROUTERS[scheme].layout(None, reference.modality_groups)
    counts = {group.name: group.count for group in own.groups}
    scaled = {group: count * bank.num_experts / own.num_experts for group, count in counts.items()}
    if gated and all(count == int(count) for count in scaled.values()):
        counts = {group: int(count) for group, count in scaled.items()}
    coefficient = reference.aux_coef
    if isinstance(coefficient, dict):
        kept = {gate: coefficient[gate] for gate in own.gate_names if gate in coefficient}
        mean = sum(coefficient.values()) / len(coefficient) if coefficient else 0.0
        coefficient = kept if len(kept) == len(own.gate_names) and kept else mean
    settings = reference.model_copy(
        update={
            "scheme": scheme,
            "experts": counts,
            "top_k": top_k if gated else None,
            "aux_coef": coefficient,
            "expert_ffn": None,
        }
    )
    if name in UNWIDENED:
        return settings
    return settings.model_copy(update={"expert_ffn": expert_ffn_for(settings, reference, ffn)})


def plan_schemes(recipe: Recipe, config: Any, schemes: Sequence[str]) -> list[PlannedScheme]:
    """Settings and parameter counts of every scheme to compare.

    Args:
        recipe: Its section ``moe`` is the reference.
        config: Config of the dense base, or its folder.
        schemes: Names as compared, in the order of the table.

    Raises:
        ValueError: a name is unknown or stands twice, the recipe has no sparse reference, or a scheme cannot be brought
            to within ``compare.tolerance`` of the reference's activated parameters.
    """
    if len(set(schemes)) != len(schemes) or not schemes:
        raise ValueError(f"compare.schemes must be distinct and at least one, got {list(schemes)}")
    if recipe.moe.scheme == "dense":
        raise ValueError("moe.scheme is 'dense': a comparison needs a sparse reference, for instance moe.scheme=moiie")
    dense = count_parameters(config)
    ffn = _dense_ffn(config)
    reference = count_parameters(config, recipe.moe)
    planned = []
    for name in schemes:
        settings = settings_for(name, recipe.moe, ffn)
        count = dense if settings is None else count_parameters(config, settings)
        difference = count.activated / reference.activated - 1
        label = _label(name, difference, recipe.compare.tolerance, count.activated, reference.activated)
        width = ffn if settings is None else settings.expert_ffn or ffn
        planned.append(PlannedScheme(SchemeRow(name, label, width, count.activated, count.total, difference), settings))
    return planned


def _label(name: str, difference: float, tolerance: float, activated: int, wanted: int) -> str:
    if abs(difference) <= tolerance:
        return EQUAL
    if name in UNWIDENED:
        return FEWER if difference < 0 else MORE
    raise ValueError(
        f"scheme {name!r} activates {activated:,} parameters, the reference {wanted:,}: {100 * difference:+.1f} %, "
        f"more than compare.tolerance allows ({100 * tolerance:g} %). Leave it out of compare.schemes, change "
        "moe.expert_ffn so that the widths can be equal, or raise the tolerance"
    )


def _dense_ffn(config: Any) -> int:
    found = config if hasattr(config, "get_text_config") else read_config(config)
    return int(found.get_text_config().intermediate_size)
