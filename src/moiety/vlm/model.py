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
from transformers import AutoConfig, AutoModelForImageTextToText, AutoModelForMultimodalLM
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

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
from moiety.vlm.generation import GeneratesWithIds
from moiety.vlm.loading import dense_class, model_type_of, read_config, read_model, refuse_partial
from moiety.vlm.outputs import auxiliary_losses_of, forward_over, losses_added_by_trainer, routing_table
from moiety.vlm.placeholders import placeholder_ids
from moiety.vlm.quantised import say_full_width
from moiety.vlm.splice import FAMILIES, UNSUPPORTED, initialise_sparse, sparse_layers, splice
from moiety.vlm.towers import freeze_unread

__all__ = [
    "MoietyModel",
    "adopt",
    "auxiliary_losses_of",
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


class MoietyModel(GeneratesWithIds):
    """What every sparse vision-language model adds to its Hugging Face class; see :func:`with_moe`."""

    _can_set_experts_implementation_cached_value = False  # inner Hugging Face classes would refuse the switch
    _is_sparse = False
    experts_backend: Backend
    config: Any

    def __init__(self, config: Any):
        if not isinstance(config, self.config_class):  # type: ignore[attr-defined]
            raise TypeError(
                f"{type(self).__name__} takes a {self.config_class.__name__}, got {type(config).__name__}; "  # type: ignore[attr-defined]
                "make one with sparse_config(config, settings), or use moiety.vlm.upcycle for a trained model"
            )
        wish, config._experts_implementation = config._experts_implementation, None
        super().__init__(config)  # type: ignore[call-arg]
        self._become_sparse(Backend(wish), copy=False)

    def _become_sparse(
        self, backend: Backend, *, copy: bool, activity: Mapping[int, torch.Tensor] | None = None
    ) -> None:
        """Splice, and set what a sparse model needs around it; the decoder is dense before."""
        self.experts_backend = backend
        self.config._experts_implementation_internal = backend.name
        settings = MoESettings.model_validate(self.config.moe)
        splice(self, settings, backend, copy=copy, activity=activity)  # type: ignore[arg-type]
        self._is_sparse = self.config.moe["scheme"] != "dense"
        if self._is_sparse:
            routing_table(self)
        freeze_unread(self.base_model)
        suppressed = set(self.generation_config.suppress_tokens or ()) | set(placeholder_ids(self.config))  # type: ignore[attr-defined]
        self.generation_config.suppress_tokens = sorted(suppressed)  # type: ignore[attr-defined]

    def _init_weights(self, module: nn.Module) -> None:
        if not initialise_sparse(module):
            super()._init_weights(module)  # type: ignore[misc]

    @classmethod
    def from_pretrained(cls, *args: Any, output_loading_info: bool = False, **kwargs: Any) -> Any:
        """As in transformers, but a folder that lacks tensors of the model, or holds others, is refused.

        Raises:
            ValueError: tensors are missing, left over or of another shape.
        """
        # Other shapes are passed over here so that they are reported, and refused, with everything else.
        kwargs = {"use_safetensors": True, "ignore_mismatched_sizes": True, "trust_remote_code": False, **kwargs}
        model, report = super().from_pretrained(*args, output_loading_info=True, **kwargs)  # type: ignore[misc]
        refuse_partial(report, str(args[0]) if args else cls.__name__)
        say_full_width(model)
        return (model, report) if output_loading_info else model

    def save_pretrained(self, save_directory: Any, save_original_format: bool = False, **kwargs: Any) -> Any:
        """As in transformers, but names on disk are names in memory, so that trainers can resume from them."""
        return super().save_pretrained(save_directory, save_original_format=save_original_format, **kwargs)  # type: ignore[misc]

    def set_experts_implementation(self, experts_implementation: str | dict[str, str]) -> None:
        """Let all experts take another route: ``moiety``, ``eager``, ``grouped_mm`` or ``batched_mm``."""
        name = experts_implementation if isinstance(experts_implementation, str) else experts_implementation.get("")
        if name is not None:
            self.experts_backend.switch(name)
            self.config._experts_implementation_internal = name

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = None, **kw: Any
    ) -> None:
        options = getattr(gradient_checkpointing_func, "keywords", {})
        if enable and options.get("use_reentrant", False) and moe_layers(self):  # type: ignore[arg-type]
            raise ValueError(
                "use_reentrant=True gives wrong gradients of the auxiliary losses; "
                'pass gradient_checkpointing_kwargs={"use_reentrant": False}'
            )
        if gradient_checkpointing_func is not None:
            kw["gradient_checkpointing_func"] = gradient_checkpointing_func
        super()._set_gradient_checkpointing(enable, **kw)  # type: ignore[misc]


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
    for table in (
        modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
        modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
    ):
        table[config.model_type] = name


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
