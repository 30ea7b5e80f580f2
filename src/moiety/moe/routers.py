"""Every routing scheme. A scheme is a table of expert groups (:class:`moiety.groups.ExpertGroups`) and one of the two
ways to decide that ``gates.py`` has. :data:`ROUTERS` at the end of this file names all schemes.

A new scheme is one class, here or in a file of its own, and one line in :data:`ROUTERS`. The laws in
``tests/moe/test_router_laws.py`` then test it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from moiety.groups import ExpertGroups, nearest_name
from moiety.moe.asymoe.router import AsymmetricRouter
from moiety.moe.experts.kinds import bank_class
from moiety.moe.gates import GatedRouter, GatelessRouter, Router, gateless_top_k
from moiety.moe.plugins import ROUTER_GROUP, find, known_names
from moiety.moe.tables import scheme_table
from moiety.recipe.recipe import MoESettings

__all__ = [
    "ROUTERS",
    "SCHEMES",
    "GatedRouter",
    "GatelessRouter",
    "Router",
    "resolve",
    "router_named",
    "scheme_names",
]


class MoIIE(GatedRouter):
    """Private experts for each modality group, and routed inter-modality experts open to all. Each group has a gate."""

    @classmethod
    def layout(cls, experts: Mapping[str, int] | None, modality_groups: Mapping[int, str]) -> ExpertGroups:
        """``[private of each group | inter | private of text]``; default 1 each and 2 inter-modality experts."""
        return scheme_table(experts, modality_groups, private=1, inter=2, gates="each")


class ModalityRouted(GatedRouter):
    """Isolated pools: each modality group has its own experts and a gate that chooses among them."""

    @classmethod
    def layout(cls, experts: Mapping[str, int] | None, modality_groups: Mapping[int, str]) -> ExpertGroups:
        """``[pool of each group | pool of text]``; default 2 each."""
        return scheme_table(experts, modality_groups, private=2, inter=None, gates="each")


class TwoRouter(GatedRouter):
    """One pool open to all, with a gate for each modality group: the control between vanilla and MoIIE."""

    @classmethod
    def layout(cls, experts: Mapping[str, int] | None, modality_groups: Mapping[int, str]) -> ExpertGroups:
        """``[inter]``; default 4."""
        return scheme_table(experts, modality_groups, private=None, inter=4, gates="each")


class Vanilla(GatedRouter):
    """One pool and one gate: a mixture of experts that ignores modalities."""

    @classmethod
    def layout(cls, experts: Mapping[str, int] | None, modality_groups: Mapping[int, str]) -> ExpertGroups:
        """``[inter]``; default 4."""
        return scheme_table(experts, modality_groups, private=None, inter=4, gates="one")


class HardSwitch(GatelessRouter):
    """Each modality group has its own feed-forward network."""

    @classmethod
    def layout(cls, experts: Mapping[str, int] | None, modality_groups: Mapping[int, str]) -> ExpertGroups:
        """``[one of each group | text]``."""
        return scheme_table(experts, modality_groups, private=1, inter=None, gates="none")


class AlwaysOn(GatelessRouter):
    """Each modality group has its own feed-forward network, and all share one more; the output is the mean of both."""

    @classmethod
    def layout(cls, experts: Mapping[str, int] | None, modality_groups: Mapping[int, str]) -> ExpertGroups:
        """``[one of each group | inter | text]``, weights 1/2."""
        return scheme_table(experts, modality_groups, private=1, inter=1, gates="none")


class DenseWide(GatelessRouter):
    """One wider feed-forward network for all tokens: the dense control at equal activated parameters."""

    @classmethod
    def layout(cls, experts: Mapping[str, int] | None, modality_groups: Mapping[int, str]) -> ExpertGroups:
        """``[inter]``, one expert with weight 1."""
        return scheme_table(experts, modality_groups, private=None, inter=1, gates="none")


ROUTERS: dict[str, type[Router]] = {
    "vanilla": Vanilla,
    "two_router": TwoRouter,
    "modality": HardSwitch,
    "modality_routed": ModalityRouted,
    "moiie": MoIIE,
    "asymoe": AsymmetricRouter,
    "always_on": AlwaysOn,
    "dense_wide": DenseWide,
}

SCHEMES: Sequence[str] = ("dense", *ROUTERS)
"""The schemes of this package; ``dense`` adds no sparse layer. :func:`scheme_names` also lists those of plug-ins."""


def scheme_names() -> list[str]:
    """Every scheme that a recipe may name with the plug-ins that are present; ``dense`` adds no sparse layer."""
    return ["dense", *known_names(ROUTERS, ROUTER_GROUP)]


def router_named(scheme: str) -> type[Router]:
    """The class of a scheme, of this package or of a plug-in.

    Raises:
        ValueError: the scheme is unknown, or its package cannot be imported.
        TypeError: the name of a plug-in leads to something that is not a router.
    """
    try:
        return find(scheme, ROUTERS, ROUTER_GROUP, Router)
    except ValueError as error:
        raise ValueError(f"unknown scheme {scheme!r}; {error}") from error


def resolve(settings: MoESettings) -> tuple[type[Router], ExpertGroups, int]:
    """Check the settings of a scheme, and return its router class, its expert table and top_k.

    Raises:
        ValueError: the scheme is unknown or ``dense``, or its experts, `top_k` or loss weights cannot be used.
        TypeError: the name of a plug-in leads to something that is not a router or not a bank.

    Example:
        >>> router, groups, top_k = resolve(MoESettings(scheme="moiie"))
        >>> router.__name__, groups.describe(), top_k
        ('MoIIE', 'vision×1 + inter×2 + text×1', 2)
    """
    if settings.scheme == "dense":
        raise ValueError("scheme 'dense' has no sparse layer to build; use the dense model as it is")
    router = router_named(settings.scheme)
    groups = router.table(settings).with_kinds(settings.kinds)
    for group in groups.groups:
        bank_class(group)
    if router.has_gate:
        top_k = settings.top_k or router.default_top_k
        groups.check_top_k(top_k, settings.norm_topk)
    else:
        top_k = gateless_top_k(groups, settings)
    if settings.balance != "loss" and not issubclass(router, GatedRouter):
        raise ValueError(
            f"moe.balance is {settings.balance!r}, but scheme {settings.scheme!r} has no gates that a selection bias "
            "could act on; use balance: loss, or a scheme with gates"
        )
    if isinstance(settings.aux_coef, dict):
        for name in settings.aux_coef:
            if name not in groups.gate_names:
                raise ValueError(f"moe.aux_coef names {name!r}; {nearest_name(name, groups.gate_names)}")
    return router, groups, top_k
