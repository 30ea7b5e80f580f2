"""Meeting Hugging Face: importing this package registers every sparse family with the Auto classes."""

from __future__ import annotations

from moiety.vlm.model import (
    groups_of,
    load,
    losses_added_by_trainer,
    moe_layers,
    register_families,
    settings_of,
    with_moe,
)

register_families()

__all__ = ["groups_of", "load", "losses_added_by_trainer", "moe_layers", "settings_of", "with_moe"]
