"""Recipe section ``compare``: which schemes and variants are compared, and which contrasts are tested."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from moiety.recipe.asymoe import AsyMoESettings
from moiety.recipe.section import Section, with_present_names

MEAN_OF_TYPES = "mean of types"
# Settings that each scheme chooses for itself. A variant of another scheme starts without them.
_OF_ONE_SCHEME = ("experts", "top_k", "expert_ffn", "asymoe")


Members = list[str] | dict[str, float]
"""What a contrast compares: [first, second], or name -> weight."""


def check_folder_names(variants: dict[str, Any]) -> dict[str, Any]:
    """Refuse names of variants that cannot name a folder.

    Raises:
        ValueError: a name holds other characters than letters, digits, ``_ . -``.
    """
    for name in variants:
        if not name or not all(letter.isalnum() or letter in "_.-" for letter in name):
            raise ValueError(f"variant {name!r} names a folder: use letters, digits, _ . and -")
    return variants


def check_contrasts(contrasts: dict[str, Any]) -> dict[str, Any]:
    """Check that each contrast measures a difference.

    Raises:
        ValueError: a contrast is neither two different names nor weights that sum to 0.
    """
    for name, members in contrasts.items():
        if isinstance(members, list) and (len(members) != 2 or len(set(members)) != 2):
            raise ValueError(f"contrast {name!r} must be two names, [first, second], or name: weight; got {members}")
        if isinstance(members, dict) and (not any(members.values()) or abs(math.fsum(members.values())) > 1e-9):
            raise ValueError(
                f"weights of contrast {name!r} must sum to 0 and not all be 0, got {members}; "
                "only then does it measure a difference"
            )
    return contrasts


def contrast_weights(members: Members) -> dict[str, float]:
    """Name -> weight of one contrast.

    Example:
        >>> contrast_weights(["moiie", "vanilla"])
        {'moiie': 1.0, 'vanilla': -1.0}
    """
    return dict(members) if isinstance(members, dict) else {members[0]: 1.0, members[1]: -1.0}


class VariantSettings(Section):
    """A further line of a comparison: the recipe's section ``moe`` with some settings changed."""

    scheme: str | None = Field(None, description="routing scheme, or dense; null: that of the recipe")
    moe: dict[str, Any] = Field(default_factory=dict, description="settings that replace those of section moe")
    budget: Literal["equal", "own"] = Field(
        "equal", description="equal: as many activated parameters as the reference; own: as many as its settings give"
    )
    evaluate: dict[str, Any] = Field(
        default_factory=dict,
        description="settings that replace those of section evaluate, such as decoding; a scheme that differs in "
        "nothing else lends its trained model",
    )
    clamp_alpha: float | None = Field(
        None, ge=0, le=1, description="force alpha of every evidence expert to this when asked; 1 is memory alone"
    )
    note: str = Field("", description="what it is there for, in the words of the report")

    @field_validator("moe")
    @classmethod
    def _present_names(cls, moe: dict[str, Any]) -> dict[str, Any]:
        """Keys under their present names, before they are merged with those of the recipe."""
        return moe | {"asymoe": with_present_names(AsyMoESettings, moe["asymoe"])} if "asymoe" in moe else moe

    @model_validator(mode="after")
    def _one_place(self) -> VariantSettings:
        if "scheme" in self.moe:
            raise ValueError("give the scheme of a variant as `scheme`, beside `moe` and not inside it")
        if self.budget == "equal" and self.moe.get("expert_ffn") is not None:
            raise ValueError("budget equal chooses the width; leave moe.expert_ffn out, or give `budget: own`")
        shared = sorted({"data", "limit", "texts"} & set(self.evaluate))
        if shared:
            raise ValueError(f"every scheme answers the same questions; leave {', '.join(shared)} out of its evaluate")
        return self

    def over(self, reference: Mapping[str, Any]) -> dict[str, Any]:
        """The variant's whole section ``moe`` as a tree.

        Sections are merged key by key. If the scheme is that of the recipe, all other settings stay. A variant of
        another scheme starts without the settings that only the reference's scheme has. A section that is given a
        preset replaces the old section.

        Args:
            reference: The recipe's section ``moe`` as a tree.

        Example:
            >>> VariantSettings(moe={"aux_coef": 0.0}).over({"scheme": "moiie", "aux_coef": 0.001, "top_k": 2})
            {'scheme': 'moiie', 'aux_coef': 0.0, 'top_k': 2}
        """
        tree = dict(reference)
        if self.scheme is not None and self.scheme != reference.get("scheme"):
            tree = {key: value for key, value in tree.items() if key not in _OF_ONE_SCHEME} | {"scheme": self.scheme}
        return merged(tree, self.moe)


class CompareSettings(Section):
    """Which schemes and variants are compared, and how."""

    schemes: list[str] = Field(
        default_factory=lambda: ["dense_wide", "vanilla", "modality_routed", "moiie"],
        description="schemes and names of variants, in the order of the table",
    )
    variants: dict[str, VariantSettings] = Field(
        default_factory=dict, description="name -> settings; the name can then stand in `schemes`"
    )
    contrasts: dict[str, Members] = Field(
        default_factory=dict,
        description="name -> [first, second], or scheme -> weight with weights that sum to 0",
    )
    contrast_types: list[str] = Field(
        default_factory=list,
        description="types of question that contrasts are about, `mean of types` among them; empty: all",
    )
    seeds: list[int] = Field(
        default_factory=lambda: [0, 1, 2], min_length=1, description="one run of each scheme for each"
    )
    tolerance: float = Field(0.02, ge=0, description="largest relative difference of activated parameters")
    keep_models: Literal["all", "first_seed", "none"] = Field(
        "first_seed", description="whose model folders stay on the disk once they are scored"
    )

    _folder_names = field_validator("variants")(check_folder_names)
    _weights = field_validator("contrasts")(check_contrasts)

    def weights(self, contrast: str) -> dict[str, float]:
        """Scheme -> weight of one contrast; see :func:`contrast_weights`."""
        return contrast_weights(self.contrasts[contrast])


def merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`tree` with `changes` applied key by key. A section that is given a preset replaces the old section."""
    result = dict(tree)
    for key, value in changes.items():
        below = result.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping) and "preset" not in value:
            result[key] = merged(below, value)
        else:
            result[key] = value
    return result
