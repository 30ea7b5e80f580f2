"""From the counts of a recipe to the table of a scheme."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from moiety.groups import TEXT_GROUP, ExpertGroup, ExpertGroups, nearest_name

INTER_GROUP = "inter"


def scheme_table(
    experts: Mapping[str, int] | None,
    modality_groups: Mapping[int, str],
    private: int | None,
    inter: int | None,
    gates: Literal["each", "one", "none"],
) -> ExpertGroups:
    """Lay out the bank ``[private of each modality group | inter | private of text]``.

    Args:
        experts: Expert group -> count, every group of the scheme named; None: the defaults that follow.
        modality_groups: Modality id -> modality group.
        private: Default experts of each modality group; None: the scheme has no private experts.
        inter: Default inter-modality experts; None: the scheme has none.
        gates: ``each`` modality group has its own gate, ``one`` for all, or ``none``.

    Raises:
        ValueError: a group is unknown or has no count, or the counts leave somebody without an expert.
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
