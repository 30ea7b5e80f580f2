"""Configs of sparse models: two more fields, a model type of their own, and what they say about a model."""

from __future__ import annotations

import functools
import sys
from typing import Any

from torch import nn

from moiety.config import MoESettings
from moiety.groups import ExpertGroups
from moiety.moe.routers import resolve

DENSE = MoESettings(scheme="dense")
MODEL_TYPE = "moiety_"
"""Start of every model type of ours; the rest is the type of the dense family."""


def settings_of(model: nn.Module) -> MoESettings | None:
    """How `model` was made sparse; None for a dense model."""
    tree = getattr(getattr(model, "config", None), "moe", None)
    if tree is None:
        return None
    settings = MoESettings.model_validate(tree)
    return None if settings.scheme == "dense" else settings


def groups_of(model: nn.Module) -> ExpertGroups | None:
    """The expert table of `model`; None for a dense model."""
    settings = settings_of(model)
    return None if settings is None else resolve(settings)[1]


def resolved(settings: MoESettings, num_layers: int, ffn: int) -> MoESettings:
    """`settings` with every default of scheme and decoder written out, so that they rebuild the model alone."""
    if settings.scheme == "dense":
        return settings
    _, groups, top_k = resolve(settings)
    return settings.model_copy(
        update={
            "experts": {group.name: group.count for group in groups.groups},
            "top_k": top_k,
            "layers": settings.resolved_layers(num_layers),
            "expert_ffn": settings.expert_ffn or ffn,
        }
    )


@functools.cache
def config_with_moe(base: type) -> type:
    """The config class of `base`'s sparse models: two more fields, and a model type of its own."""
    name = "Moiety" + base.__name__
    namespace = {
        "__module__": __name__,
        "__doc__": f"{base.__name__} with `moe` (rebuilds the sparse layers) and `provenance` (what happened so far).",
        "__annotations__": {"moe": dict | None, "provenance": dict | None},
        "model_type": MODEL_TYPE + base.model_type,  # type: ignore[attr-defined]
        "moe": None,
        "provenance": None,
        "__post_init__": _checks_moe(base),
    }
    cls = type(name, (base,), namespace)
    setattr(sys.modules[__name__], name, cls)
    return cls


def _checks_moe(base: type) -> Any:
    def __post_init__(self: Any, **kwargs: Any) -> None:
        base.__post_init__(self, **kwargs)  # type: ignore[attr-defined]
        settings = DENSE if self.moe is None else MoESettings.model_validate(self.moe)
        self.moe = settings.model_dump()

    return __post_init__


_REPLACED = ("model_type", "architectures", "moe", "provenance")


def sparse_config(config: Any, settings: MoESettings, provenance: dict[str, Any] | None = None) -> Any:
    """The config of a sparse model over a dense `config`, with everything that depends on the decoder resolved."""
    ours = type(config).model_type.startswith(MODEL_TYPE)
    base: Any = type(config)
    cls: Any = base if ours else config_with_moe(base)
    text = config.get_text_config()
    tree = {key: value for key, value in config.to_dict().items() if key not in _REPLACED}
    moe = resolved(settings, text.num_hidden_layers, text.intermediate_size)
    return cls(**tree, moe=moe.model_dump(), provenance=provenance)
