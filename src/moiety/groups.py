"""Which token may use which expert: every table and every index of the routing schemes.

This file is plain Python without tensors. No other module computes an expert index: layers, routers, losses and the
lens ask :class:`ExpertGroups`. The *modality* of a token is text, image, video or audio. A *modality group* is a set of
modalities that are routed alike (``text``, ``vision``, ``audio``). An *expert group* is a contiguous run of experts in
the bank with one admission rule.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property


class Modality(enum.IntEnum):
    """The modality of one position of a sequence: the values of ``modality_ids``."""

    PADDING = -1
    TEXT = 0
    IMAGE = 1
    VIDEO = 2
    AUDIO = 3


TEXT_GROUP = "text"
DEFAULT_MODALITY_GROUPS: Mapping[int, str] = {
    Modality.TEXT: TEXT_GROUP,
    Modality.IMAGE: "vision",
    Modality.VIDEO: "vision",
}


def nearest_name(given: str, known: Iterable[str]) -> str:
    """The end of an error message: the known names and, if one is similar, a suggestion.

    Example:
        >>> nearest_name("moie", ["dense", "moiie"])
        "known: dense, moiie; did you mean 'moiie'?"
    """
    names = sorted(known)
    close = difflib.get_close_matches(given, names, n=1)
    return f"known: {', '.join(names)}" + (f"; did you mean {close[0]!r}?" if close else "")


@dataclass(frozen=True)
class ExpertGroup:
    """A contiguous run of experts with one admission rule.

    Args:
        name: Name of the group, also the key of its count in a recipe.
        count: Number of experts, at least 0.
        admits: Names of the modality groups whose tokens may use these experts.
        kind: Kind of expert, a key of ``moe.experts.kinds.EXPERTS``.
    """

    name: str
    count: int
    admits: tuple[str, ...]
    kind: str = "ffn"


@dataclass(frozen=True)
class ExpertGroups:
    """The expert bank of one layer, in bank order, and who may use it.

    Args:
        groups: Expert groups in the order of the bank: private groups first, inter-modality, then private to text.
        modality_groups: Modality id -> name of its modality group. A modality without an entry cannot be routed.
        gates: For each gate, the modality groups that share it. Empty: the scheme has no gate.

    Raises:
        ValueError: a name occurs twice, a count is negative, a group admits an unknown modality group, an expert is
            open to no modality group, or a modality group sees no expert.

    Example:
        >>> table = ExpertGroups(
        ...     (ExpertGroup("vision", 1, ("vision",)), ExpertGroup("inter", 2, ("vision", "text")),
        ...      ExpertGroup("text", 1, ("text",))),
        ...     {0: "text", 1: "vision"}, (("vision",), ("text",)))
        >>> table.num_experts, table.visible("vision"), table.visible("text"), table.inter
        (4, (0, 1, 2), (1, 2, 3), (1, 2))
    """

    groups: tuple[ExpertGroup, ...]
    modality_groups: Mapping[int, str]
    gates: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        names = [group.name for group in self.groups]
        if len(set(names)) != len(names):
            raise ValueError(f"expert groups need distinct names, got {names}")
        for group in self.groups:
            if group.count < 0:
                raise ValueError(f"expert group {group.name!r} has {group.count} experts; give 0 or more")
            for name in group.admits:
                if name not in self.names:
                    raise ValueError(f"expert group {group.name!r} admits {name!r}; {nearest_name(name, self.names)}")
            if group.count and not group.admits:
                raise ValueError(
                    f"expert group {group.name!r} admits no modality: its {group.count} experts are unreachable"
                )
        for name in self.names:
            if not self.visible(name):
                raise ValueError(
                    f"tokens of modality group {name!r} see no expert in {self.describe()}; "
                    f"give {name!r} experts of its own or an inter-modality expert"
                )

    # -- sizes and names ------------------------------------------------------------------------------------------
    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the modality groups; text is the last, as in the bank."""
        found = dict.fromkeys(self.modality_groups.values())
        return (*(name for name in found if name != TEXT_GROUP), *((TEXT_GROUP,) if TEXT_GROUP in found else ()))

    @cached_property
    def num_experts(self) -> int:
        """Number of experts in the bank."""
        return sum(group.count for group in self.groups)

    def describe(self) -> str:
        """The bank in one readable line: ``vision×1 + inter×2 + text×1``."""
        return " + ".join(f"{group.name}×{group.count}" for group in self.groups if group.count)

    # -- kinds ----------------------------------------------------------------------------------------------------
    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of experts in the bank, each once, in bank order; groups without experts do not count."""
        return tuple(dict.fromkeys(group.kind for group in self.groups if group.count))

    def with_kinds(self, kinds: Mapping[str, str] | None) -> ExpertGroups:
        """The same table with other kinds of experts.

        Args:
            kinds: Expert group -> kind of its experts; groups that are not named keep their kind. None: no change.

        Raises:
            ValueError: a group is unknown.

        Example:
            >>> table = ExpertGroups((ExpertGroup("inter", 2, ("text",)),), {0: "text"})
            >>> table.with_kinds({"inter": "lorentz"}).kinds
            ('lorentz',)
        """
        for name in kinds or {}:
            if name not in [group.name for group in self.groups]:
                known = nearest_name(name, (group.name for group in self.groups))
                raise ValueError(f"moe.kinds names expert group {name!r}, which this scheme does not have; {known}")
        chosen = kinds or {}
        groups = (dataclasses.replace(group, kind=chosen.get(group.name, group.kind)) for group in self.groups)
        return dataclasses.replace(self, groups=tuple(groups))

    # -- expert indices -------------------------------------------------------------------------------------------
    def slice_of(self, name: str) -> slice:
        """The range of expert indices of the expert group called `name`.

        Raises:
            KeyError: there is no such expert group.
        """
        start = 0
        for group in self.groups:
            if group.name == name:
                return slice(start, start + group.count)
            start += group.count
        raise KeyError(f"no expert group {name!r}; {nearest_name(name, (group.name for group in self.groups))}")

    def visible(self, modality_group: str) -> tuple[int, ...]:
        """Ascending indices of the experts open to `modality_group`; row j of its gate scores entry j."""
        return tuple(
            index
            for group in self.groups
            if modality_group in group.admits
            for index in range(self.slice_of(group.name).start, self.slice_of(group.name).stop)
        )

    @cached_property
    def inter(self) -> tuple[int, ...]:
        """Indices of the inter-modality experts: those that more than one modality group may use."""
        return tuple(
            index
            for group in self.groups
            if len(group.admits) > 1
            for index in range(self.slice_of(group.name).start, self.slice_of(group.name).stop)
        )

    def group_of_expert(self, index: int) -> ExpertGroup:
        """The expert group that contains expert `index`.

        Raises:
            IndexError: the bank has no such expert.
        """
        for group in self.groups:
            if index in range(self.slice_of(group.name).start, self.slice_of(group.name).stop):
                return group
        raise IndexError(f"expert {index} of a bank of {self.num_experts}")

    # -- modalities -----------------------------------------------------------------------------------------------
    def index_of_modality(self, modality: int) -> int:
        """Position of the modality's group in :attr:`names`; -1 for padding.

        Raises:
            ValueError: the scheme has no group for this modality.
        """
        if modality == Modality.PADDING:
            return -1
        if modality not in self.modality_groups:
            raise ValueError(
                f"modality id {modality} has no modality group; known ids: {sorted(self.modality_groups)}. "
                f"Add it to moe.modality_groups, for instance {{{modality}: 'audio'}}"
            )
        return self.names.index(self.modality_groups[modality])

    @cached_property
    def allowed(self) -> tuple[tuple[bool, ...], ...]:
        """Boolean table (modality groups, experts): true where the group may use the expert."""
        return tuple(tuple(index in self.visible(name) for index in range(self.num_experts)) for name in self.names)

    # -- gates ----------------------------------------------------------------------------------------------------
    def gate_of(self, modality_group: str) -> int | None:
        """Number of the gate that scores tokens of `modality_group`; None in a scheme without gates."""
        for number, members in enumerate(self.gates):
            if modality_group in members:
                return number
        return None

    def gate_rows(self, gate: int) -> tuple[int, ...]:
        """Index of the expert that each row of gate number `gate` scores: the experts visible to its first member."""
        return self.visible(self.gates[gate][0])

    @cached_property
    def gate_members(self) -> tuple[tuple[int, ...], ...]:
        """For each gate, the modality groups that it scores, as positions in :attr:`names`."""
        return tuple(tuple(self.names.index(name) for name in members) for members in self.gates)

    @cached_property
    def gate_sizes(self) -> tuple[int, ...]:
        """For each gate, the number of experts that it scores."""
        return tuple(len(self.gate_rows(gate)) for gate in range(len(self.gates)))

    @cached_property
    def gate_names(self) -> tuple[str, ...]:
        """Name of each gate: its modality group, or several joined by ``_``, or ``all`` for all of them."""
        return tuple(
            members[0] if len(members) == 1 else "all" if set(members) == set(self.names) else "_".join(members)
            for members in self.gates
        )

    def check_top_k(self, top_k: int, norm_topk: bool) -> None:
        """Refuse a `top_k` that some modality group cannot satisfy.

        Raises:
            ValueError: `top_k` is larger than the number of visible experts, or it is 1 with renormalised weights; then
                every weight is 1 and the router gets no gradient.
        """
        smallest = min(self.names, key=lambda name: len(self.visible(name)))
        visible = len(self.visible(smallest))
        if not 1 <= top_k <= visible:
            raise ValueError(
                f"top_k={top_k}, but tokens of modality group {smallest!r} see {visible} experts in {self.describe()}; "
                f"choose 1 <= top_k <= {visible} or more experts"
            )
        if top_k == 1 and norm_topk and visible > 1:
            raise ValueError(
                "top_k=1 with norm_topk=true makes every weight 1, so the router gets no gradient from the task; "
                "set norm_topk: false or top_k: 2"
            )
