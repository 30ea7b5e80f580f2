"""``with_moe(HFClass)``: a Hugging Face vision-language model whose decoder is sparse, and the way to load one.

The journey of a batch: ids are found in the multimodal base model (``splice.py``), the Hugging Face forward runs as it
is, and what the routers decided meanwhile becomes the auxiliary losses here.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoModelForMultimodalLM
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, MODEL_MAPPING

from moiety.moe.layer import ModalityMoE
from moiety.recipe.recipe import MoESettings
from moiety.vlm.adapters import base_of_adapters, merge_adapters
from moiety.vlm.backends import Backend
from moiety.vlm.configs import (
    DENSE,
    MODEL_TYPE,
    config_with_moe,
    groups_of,
    settings_of,
    sparse_config,
    tell_engines,
)
from moiety.vlm.decoders import HEAD
from moiety.vlm.generation import GeneratesWithIds
from moiety.vlm.loading import dense_class, model_type_of, read_config, read_model
from moiety.vlm.outputs import auxiliary_losses_of, forward_over, losses_added_by_trainer
from moiety.vlm.own_module import AUTO_MAP
from moiety.vlm.placeholders import placeholder_ids
from moiety.vlm.quantised import say_full_width
from moiety.vlm.splice import FAMILIES, UNSUPPORTED, sparse_layers
from moiety.vlm.spliced import SplicedModel

__all__ = [
    "MoietyModel",
    "adopt",
    "auxiliary_losses_of",
    "classes_of",
    "groups_of",
    "load",
    "losses_added_by_trainer",
    "moe_layers",
    "settings_of",
    "sparse_config",
    "with_moe",
]


def moe_layers(model: nn.Module) -> list[ModalityMoE]:
    """The sparse layers of `model`, first to last; empty for a dense one."""
    return sparse_layers(model)


class MoietyModel(GeneratesWithIds, SplicedModel):
    """What every sparse vision-language model adds to its Hugging Face class; see :func:`with_moe`."""

    def _become_sparse(
        self, backend: Backend, *, copy: bool, activity: Mapping[int, torch.Tensor] | None = None
    ) -> None:
        super()._become_sparse(backend, copy=copy, activity=activity)
        suppressed = set(self.generation_config.suppress_tokens or ()) | set(placeholder_ids(self.config))  # type: ignore[attr-defined]
        self.generation_config.suppress_tokens = sorted(suppressed)  # type: ignore[attr-defined]


@functools.cache
def with_moe(base: Any) -> Any:
    """The sparse class over an outermost Hugging Face class, registered with the Auto classes.

    Args:
        base: For instance ``transformers.LlavaForConditionalGeneration``. Its decoder layers must call ``self.mlp`` on
            one argument.

    Returns:
        A class ``Moiety<base>`` whose instances are also instances of `base`.

    Raises:
        TypeError: this family cannot be made sparse; the text says why.

    Example:
        >>> from transformers import LlavaForConditionalGeneration
        >>> with_moe(LlavaForConditionalGeneration).__name__
        'MoietyLlavaForConditionalGeneration'
    """
    if base.__name__ in UNSUPPORTED:
        raise TypeError(f"{base.__name__} cannot be made sparse: {UNSUPPORTED[base.__name__]}")
    if issubclass(base, MoietyModel):
        raise TypeError(f"{base.__name__} is a sparse class already")
    name = "Moiety" + base.__name__
    cls: Any = type(
        name,
        (MoietyModel, base),
        {
            "__module__": __name__,
            "__doc__": f"{base.__name__} with modality-aware sparse layers in its decoder.",
            "forward": forward_over(base),
            "config_class": config_with_moe(base.config_class),
        },
    )
    cls._moiety_class = cls
    setattr(sys.modules[__name__], name, cls)
    _register(cls)
    return cls


def _register(cls: Any) -> None:
    """Make the Auto classes, and the static tables that `transformers serve` reads, know the class."""
    config, name = cls.config_class, cls.__name__
    AutoConfig.register(config.model_type, config, exist_ok=True)
    for auto in (AutoModelForImageTextToText, AutoModelForMultimodalLM):
        auto.register(config, cls, exist_ok=True)
    if config.dense_class in MODEL_MAPPING:
        AutoModel.register(config, _without_head(config), exist_ok=True)
    for table in (
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    ):
        table[config.model_type] = name


@functools.cache
def _without_head(config: Any) -> Any:
    """The class for ``AutoModel``: Hugging Face's base model of a family, sparse as it is built; it gives states.

    A folder with a head loads into it, and the head is left out.
    """
    base: Any = MODEL_MAPPING[config.dense_class]
    name = "Moiety" + base.__name__
    namespace = {
        "__module__": __name__,
        "__doc__": f"{base.__name__} with modality-aware sparse layers in its decoder.",
        "config_class": config,
        "_keys_to_ignore_on_load_unexpected": [rf"^{HEAD}\."],
    }
    cls = type(name, (SplicedModel, base), namespace)
    setattr(sys.modules[__name__], name, cls)
    return cls


def classes_of(model_type: str) -> tuple[Any, Any, Any]:
    """Config, base model and model with a head of a model type of ours; what the module in a folder asks for.

    Args:
        model_type: For instance ``moiety_llava``.

    Raises:
        ValueError: this transformers has no such family.

    Example:
        >>> [cls.__name__ for cls in classes_of("moiety_llava")]
        ['MoietyLlavaConfig', 'MoietyLlavaModel', 'MoietyLlavaForConditionalGeneration']
    """
    register_type(model_type)
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"transformers {transformers.__version__} has no image-text-to-text class for model type {model_type!r}; "
            "install a newer transformers"
        )
    config: Any = CONFIG_MAPPING[model_type]
    return config, AutoModel._model_mapping[config], AutoModelForImageTextToText._model_mapping[config]


def sparse_class(config: Any) -> Any:
    """The class of a config of ours, registered with the Auto classes if it was not.

    Raises:
        ValueError: its family is unknown to this transformers.
    """
    register_type(type(config).model_type)
    mapping = AutoModelForImageTextToText._model_mapping
    if type(config) not in mapping:
        raise ValueError(
            f"{type(config).__name__} is a config without a model: transformers {transformers.__version__} has no "
            f"image-text-to-text class of type {type(config).model_type.removeprefix(MODEL_TYPE)!r}"
        )
    return mapping[type(config)]


def register_type(model_type: str | None) -> None:
    """Register the family behind a model type of ours, which :func:`register_families` may not have named."""
    dense = (model_type or "").removeprefix(MODEL_TYPE)
    if dense == model_type or model_type in CONFIG_MAPPING or dense not in CONFIG_MAPPING:
        return
    config = CONFIG_MAPPING[dense]
    if config in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        _register(with_moe(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[config]))


def config_of(path: str | Path) -> Any:
    """The config of a vision-language model, dense or sparse, from a folder or id; of adapters, that of their model.

    Raises:
        FileNotFoundError: there is no model.
        ValueError: its config is damaged, or it is no vision-language model.
    """
    register_type(model_type_of(path))
    config = read_config(path)
    if not config.model_type.startswith(MODEL_TYPE):
        dense_class(config, path)
    return config


def register_families() -> None:
    """Register every family of :data:`moiety.vlm.splice.FAMILIES` that this transformers has."""
    for name in FAMILIES:
        with_moe(getattr(transformers, name))


def adopt(
    model: Any,
    settings: MoESettings,
    provenance: dict[str, Any] | None = None,
    *,
    copy: bool,
    activity: Mapping[int, torch.Tensor] | None = None,
) -> Any:
    """Turn a dense model into a sparse one in place; its tensors stay where they are.

    Args:
        model: A dense model, of a Hugging Face class or of ours.
        settings: What it becomes; ``scheme: dense`` changes its class and config only.
        provenance: Written to its config.
        copy: Copy the dense FFNs into the experts; otherwise experts start at random.
        activity: Decoder layer -> activity of the units of its FFN; narrower experts keep the units that say most.

    Returns:
        `model` itself.
    """
    base: Any = type(model)
    cls = base if issubclass(base, MoietyModel) else with_moe(base)
    if settings_of(model) is not None:
        raise ValueError(f"{type(model).__name__} is sparse already ({settings_of(model).scheme}); give a dense model")  # type: ignore[union-attr]
    new = sparse_config(model.config, settings, provenance)
    model.config.__class__ = type(new)
    vars(model.config).pop("model_type", None)  # a config that was read keeps its old type beside the class's
    model.config.moe, model.config.provenance = new.moe, provenance
    tell_engines(model.config, MoESettings.model_validate(new.moe))
    model.config.auto_map = dict(AUTO_MAP)
    model.config.architectures = [cls.__name__]
    model.__class__ = cls
    model._become_sparse(getattr(model, "experts_backend", None) or Backend(), copy=copy, activity=activity)
    return model


def load(
    path: str | Path,
    dtype: torch.dtype | str | None = None,
    experts_implementation: str | None = None,
    device: str | torch.device | None = None,
) -> Any:
    """Read a model from a folder of ours, or a dense one from a Hugging Face folder or id.

    A dense Hugging Face model gets our class with ``scheme: dense``, which computes the same and saves under the names
    it has in memory. Adapters of peft are merged into the model that they name.

    Args:
        path: The folder or id, or a folder of adapters.
        dtype: Weights' type; None: the one they were saved in.
        experts_implementation: Route of the experts; None: ours.
        device: Where the model goes; None: CPU.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: the folder holds pickled or damaged weights, lacks tensors or has others, or its type is unknown.

    Returns:
        The model in eval mode.
    """
    route = Backend(experts_implementation).name
    config, base = config_of(path), base_of_adapters(path)
    if base is not None:
        return merge_adapters(load(base, dtype, experts_implementation, device), path)
    if config.model_type.startswith(MODEL_TYPE):
        model = read_model(sparse_class(config), path, config=config, dtype=dtype or "auto")
    else:
        model = read_model(dense_class(config, path), path, dtype=dtype or "auto")
        model = adopt(model, DENSE, getattr(config, "provenance", None), copy=False)
        say_full_width(model)
    model.set_experts_implementation(route)
    model.eval()
    return model if device is None else model.to(device)
