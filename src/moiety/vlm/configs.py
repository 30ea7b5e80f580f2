"""Configs of sparse models: they have two more fields and a model type of their own. And facts read from any config."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from moiety.groups import ExpertGroups
from moiety.moe.asymoe.activated import factors_of
from moiety.moe.asymoe.budget import design
from moiety.moe.routers import resolve
from moiety.recipe.asymoe import AsyMoESettings
from moiety.recipe.recipe import MoESettings
from moiety.vlm.damage import SCRATCH
from moiety.vlm.own_module import AUTO_MAP, SavesItsModule
from moiety.vlm.shapes import decoder_shape

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


def refuse_sparse(config: Any, what: str | Path) -> None:
    """Refuse a model that is sparse where a dense one is needed, and say what can be done with it.

    Args:
        config: Of a model.
        what: Folder or name of the model.

    Raises:
        ValueError: it is sparse.
    """
    tree = getattr(config, "moe", None) or {"scheme": "dense"}
    if tree["scheme"] == "dense":
        return
    source = ((getattr(config, "provenance", None) or {}).get("upcycled") or {}).get("source")
    made_from = f"the dense model that it was made from ({source})" if source else "a dense model"
    folder = what if Path(what).is_dir() else "FOLDER"
    raise ValueError(
        f"{what} is sparse already (scheme {tree['scheme']!r}), expected a dense model. It can be trained further "
        f"(`moiety train RECIPE model.source={folder}` with the same section moe), evaluated, inspected and served as "
        f"it is; for another scheme, start from {made_from}"
    )


def name_of(model: Any) -> str:
    """The folder or Hub id that a model was loaded from; of a model built in memory, the name of its class."""
    return str(getattr(model.config, "_name_or_path", "") or type(model).__name__)


def context_length(config: Any) -> int | None:
    """Most tokens that the decoder has positions for; None where its config does not say."""
    length: int | None = getattr(config.get_text_config(), "max_position_embeddings", None)
    return length


def dense_ffn(config: Any) -> int:
    """Inner width of the dense FFN of the decoder."""
    return int(config.get_text_config().intermediate_size)


def from_outside(config: Any) -> bool:
    """Whether somebody else trained the model of a config; false for one that moiety built from nothing."""
    return (getattr(config, "provenance", None) or {}).get("origin") != SCRATCH


def resolved(settings: MoESettings, config: Any) -> MoESettings:
    """`settings` with every default of scheme and decoder written out, so that they rebuild the model alone.

    Args:
        settings: Recipe section ``moe``.
        config: Config of the vision-language model, dense or sparse.

    Raises:
        ValueError: scheme and settings do not fit, or no widths meet the plan of scheme asymoe.
    """
    if settings.scheme == "dense":
        return settings
    _, groups, top_k = resolve(settings)
    text, outside = config.get_text_config(), from_outside(config)
    settings = settings.model_copy(
        update={
            "aux_scope": settings.aux_scope or ("per_layer" if outside else "joint_layers"),
            "gate_start": settings.gate_start or ("centred" if outside else "random"),
            "experts": {group.name: group.count for group in groups.groups},
            "top_k": top_k,
            "layers": settings.resolved_layers(text.num_hidden_layers),
            "expert_ffn": settings.expert_ffn or text.intermediate_size,
        }
    )
    if settings.asymoe is None:
        return settings
    if settings.asymoe.size_plan is None:
        plan = "full" if outside and settings.asymoe.unsized else "dense_budget"
        settings = settings.model_copy(update={"asymoe": settings.asymoe.model_copy(update={"size_plan": plan})})
    assert settings.asymoe is not None
    if not settings.asymoe.sized:
        settings = design(settings, text.hidden_size, text.intermediate_size, decoder_shape(config))
    return settings.model_copy(update={"asymoe": _written_out(settings.asymoe)})


def _written_out(own: AsyMoESettings | None) -> AsyMoESettings:
    """Choices that follow from others, as values: a later change of a default must not change a stored model."""
    assert own is not None
    update: dict[str, Any] = {"evidence_form": own.form, "inter_residual": own.has_residual}
    if own.inter_kind == "product":
        update["product_factors"] = factors_of(own)
    return own.model_copy(update=update)


@functools.cache
def config_with_moe(base: type) -> type:
    """The config class of `base`'s sparse models: two more fields, and a model type of its own."""
    name = "Moiety" + base.__name__
    namespace = {
        "__module__": __name__,
        "__doc__": f"{base.__name__} with `moe` (rebuilds the sparse layers) and `provenance` (what happened so far).",
        "__annotations__": {"moe": dict | None, "provenance": dict | None},
        "model_type": MODEL_TYPE + base.model_type,  # type: ignore[attr-defined]
        "dense_class": base,
        "moe": None,
        "provenance": None,
        "__post_init__": _checks_moe(base),
    }
    cls = type(name, (SavesItsModule, base), namespace)
    setattr(sys.modules[__name__], name, cls)
    return cls


def _checks_moe(base: type) -> Any:
    def __post_init__(self: Any, **kwargs: Any) -> None:
        base.__post_init__(self, **kwargs)  # type: ignore[attr-defined]
        settings = DENSE if self.moe is None else MoESettings.model_validate(self.moe)
        self.moe = settings.model_dump()
        tell_engines(self, settings)
        self.auto_map = dict(AUTO_MAP)

    return __post_init__


def tell_engines(config: Any, settings: MoESettings) -> None:
    """Write how many experts there are where engines look for it, in the config of the decoder.

    vLLM, SGLang and the expert parallelism of transformers read these names. Folders of earlier versions get them when
    they are read. moiety itself reads the section ``moe``.
    """
    if settings.scheme == "dense" or not settings.experts:
        return
    text = config.get_text_config()
    text.num_experts = sum(settings.experts.values())
    text.num_experts_per_tok = settings.top_k
    text.moe_intermediate_size = settings.expert_ffn


def register_configs(families: Iterable[str]) -> None:
    """Let transformers read the configs of sparse models of some families, without importing a model.

    Args:
        families: Model types of dense families, such as ``llava``. A type that this transformers lacks is passed over.
    """
    for name in families:
        if name in CONFIG_MAPPING:
            config = config_with_moe(CONFIG_MAPPING[name])  # type: ignore[arg-type]
            AutoConfig.register(config.model_type, config, exist_ok=True)  # type: ignore[attr-defined]


_REPLACED = ("model_type", "architectures", "auto_map", "moe", "provenance")


def sparse_config(config: Any, settings: MoESettings, provenance: dict[str, Any] | None = None) -> Any:
    """The config of a sparse model over a dense `config`, with everything that depends on the decoder resolved."""
    ours = type(config).model_type.startswith(MODEL_TYPE)
    base: Any = type(config)
    cls: Any = base if ours else config_with_moe(base)
    tree = {key: value for key, value in config.to_dict().items() if key not in _REPLACED}
    return cls(**tree, moe=resolved(settings, config).model_dump(), provenance=provenance)
