"""Kinds of experts. A new kind is one file here and one line in :data:`EXPERTS`."""

from __future__ import annotations

from moiety.moe.asymoe.experts.context_ffn import ContextFFNExperts
from moiety.moe.asymoe.experts.evidence import EvidenceExperts, clamped_alpha
from moiety.moe.asymoe.experts.lorentz import LorentzExperts
from moiety.moe.experts.bank import ExpertBank
from moiety.moe.experts.ffn import FFNExperts
from moiety.moe.experts.mixed import MixedExperts

EXPERTS: dict[str, type[ExpertBank]] = {
    "ffn": FFNExperts,
    "lorentz": LorentzExperts,
    "euclidean": LorentzExperts,
    "product": LorentzExperts,
    "evidence": EvidenceExperts,
    "context": ContextFFNExperts,
}
"""Kind of an expert group -> class of its bank; the three hyperbolic kinds are one class."""

__all__ = [
    "EXPERTS",
    "ContextFFNExperts",
    "EvidenceExperts",
    "ExpertBank",
    "FFNExperts",
    "LorentzExperts",
    "MixedExperts",
    "clamped_alpha",
]
