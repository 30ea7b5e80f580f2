"""Kinds of experts. A new kind is one file here and one line in :data:`EXPERTS`."""

from __future__ import annotations

from moiety.moe.experts.bank import ExpertBank
from moiety.moe.experts.ffn import FFNExperts

EXPERTS: dict[str, type[ExpertBank]] = {"ffn": FFNExperts}

__all__ = ["EXPERTS", "ExpertBank", "FFNExperts"]
