"""The kinds of experts. A new kind is one file and one line in :data:`EXPERTS`: ``docs/adding-an-expert-kind.md``."""

from __future__ import annotations

from moiety.groups import ExpertGroup
from moiety.moe.asymoe.experts.context_ffn import ContextFFNExperts
from moiety.moe.asymoe.experts.evidence import EvidenceExperts, clamped_alpha
from moiety.moe.asymoe.experts.lorentz import LorentzExperts
from moiety.moe.experts.bank import ExpertBank, Place
from moiety.moe.experts.ffn import FFNExperts
from moiety.moe.plugins import EXPERT_GROUP, find

EXPERTS: dict[str, type[ExpertBank]] = {
    "ffn": FFNExperts,
    "lorentz": LorentzExperts,
    "euclidean": LorentzExperts,
    "product": LorentzExperts,
    "evidence": EvidenceExperts,
    "context": ContextFFNExperts,
}
"""Kind of an expert group -> class of its bank; the three hyperbolic kinds share one class."""

__all__ = [
    "EXPERTS",
    "ContextFFNExperts",
    "EvidenceExperts",
    "ExpertBank",
    "FFNExperts",
    "LorentzExperts",
    "Place",
    "bank_class",
    "clamped_alpha",
]


def bank_class(group: ExpertGroup) -> type[ExpertBank]:
    """The class of the bank for an expert group, from this package or from a plug-in.

    Raises:
        ValueError: the kind is unknown, or the package that provides it cannot be imported.
        TypeError: the name of a plug-in leads to something that is not a bank.
    """
    try:
        return find(group.kind, EXPERTS, EXPERT_GROUP, ExpertBank)
    except ValueError as error:
        raise ValueError(f"expert group {group.name!r} is of kind {group.kind!r}; {error}") from error
