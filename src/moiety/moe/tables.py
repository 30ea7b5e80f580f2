"""Builds the expert table of a scheme from the counts in a recipe."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from moiety.groups import TEXT_GROUP, ExpertGroup, ExpertGroups, nearest_name
from moiety.recipe.asymoe import AsyMoESettings

INTER_GROUP = "inter"
PLAIN_GROUP = "plain"
"""Name of the group of plain text experts, which scheme ``asymoe`` may have in addition."""


def scheme_table(
    experts: Mapping[str, int] | None,
    modality_groups: Mapping[int, str],
    private: int | None,
    inter: int | None,
    gates: Literal["each", "one", "none"],
) -> ExpertGroups:
    """Lay out the bank ``[private of each modality group | inter | private of text]``.

    Args:
        experts: Expert group -> count; it must name every group of the scheme. None: `private` and `inter`.
        modality_groups: Modality id -> modality group.
        private: Default number of experts of each modality group. None: the scheme has no private experts.
        inter: Default number of inter-modality experts. None: the scheme has none.
        gates: ``each``: every modality group has its own gate; ``one``: all share one gate; ``none``: no gate.

    Raises:
        ValueError: a group is unknown or has no count, or the counts leave a modality group without an expert.
    """
    # by modality id, not in the order given: a mapping that went through JSON may come back sorted
    modality_groups = dict(sorted(modality_groups.items()))
    found = dict.fromkeys(modality_groups.values())
    names = [name for name in found if name != TEXT_GROUP] + ([TEXT_GROUP] if TEXT_GROUP in found else [])
    if INTER_GROUP in names:
        raise ValueError(f"a modality group cannot be called {INTER_GROUP!r}: that names the inter-modality experts")
    place = names.index(TEXT_GROUP) if TEXT_GROUP in names else len(names)
    order = [*names[:place], INTER_GROUP, *names[place:]]
    counts = {name: inter if name == INTER_GROUP else private for name in order}
    defaults = {name: count for name, count in counts.items() if count is not None}
    given = dict(defaults if experts is None else experts)
    for name in given:
        if name not in defaults:
            raise ValueError(f"this scheme has no expert group {name!r}; {nearest_name(name, defaults)}")
    missing = [name for name in defaults if name not in given]
    if missing:
        raise ValueError(
            f"moe.experts gives {given}, but no count for {', '.join(map(repr, missing))}; "
            "name every group, 0 is allowed"
        )
    groups = tuple(
        ExpertGroup(name, given[name], tuple(names) if name == INTER_GROUP else (name,)) for name in defaults
    )
    shared = {"each": tuple((name,) for name in names), "one": (tuple(names),), "none": ()}[gates]
    return ExpertGroups(groups, modality_groups, shared)


def asymmetric_table(
    experts: Mapping[str, int] | None, modality_groups: Mapping[int, str], own: AsyMoESettings
) -> ExpertGroups:
    """The table of scheme ``asymoe``: that of MoIIE with kinds, then plain text experts where the settings want them.

    Args:
        experts: As for :func:`scheme_table`; it may also name the group ``plain``.
        modality_groups: As for :func:`scheme_table`.
        own: Section ``moe.asymoe``: the kinds of inter-modality and text experts, and the number of plain ones.

    Raises:
        ValueError: see :func:`scheme_table`; or `experts` and `plain_text` give different numbers of plain experts.

    Example:
        >>> table = asymmetric_table(None, {0: "text", 1: "vision"}, AsyMoESettings(plain_text=1))
        >>> table.describe(), [group.kind for group in table.groups]
        ('vision×1 + inter×2 + text×1 + plain×1', ['ffn', 'lorentz', 'evidence', 'ffn'])
    """
    counts = None if experts is None else {name: count for name, count in experts.items() if name != PLAIN_GROUP}
    plain = (experts or {}).get(PLAIN_GROUP, own.plain_text)
    if plain != own.plain_text:
        raise ValueError(
            f"moe.experts gives {plain} {PLAIN_GROUP} experts, moe.asymoe.plain_text {own.plain_text}; "
            "give the number in one place"
        )
    table = scheme_table(counts, modality_groups, private=1, inter=2, gates="each")
    kinds = {INTER_GROUP: own.inter_kind, TEXT_GROUP: own.text_kind}
    groups = [dataclasses.replace(group, kind=kinds.get(group.name, "ffn")) for group in table.groups]
    if plain:
        groups.append(ExpertGroup(PLAIN_GROUP, plain, (TEXT_GROUP,)))
    return dataclasses.replace(table, groups=tuple(groups))
