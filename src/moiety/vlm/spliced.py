"""The base of every class of ours, with a head or without: a Hugging Face model that is sparse once it is built."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from moiety.recipe.recipe import MoESettings
from moiety.vlm.backends import Backend
from moiety.vlm.loading import refuse_partial
from moiety.vlm.outputs import routing_table
from moiety.vlm.quantised import say_full_width
from moiety.vlm.splice import initialise_sparse, sparse_layers, splice
from moiety.vlm.towers import freeze_unread


class SplicedModel:
    """What every class of ours adds to a Hugging Face class, with a head or without: sparse layers at the start."""

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
        freeze_unread(self.base_model)  # type: ignore[attr-defined]

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
        if enable and options.get("use_reentrant", False) and sparse_layers(self):  # type: ignore[arg-type]
            raise ValueError(
                "use_reentrant=True gives wrong gradients of the auxiliary losses; "
                'pass gradient_checkpointing_kwargs={"use_reentrant": False}'
            )
        if gradient_checkpointing_func is not None:
            kw["gradient_checkpointing_func"] = gradient_checkpointing_func
        super()._set_gradient_checkpointing(enable, **kw)  # type: ignore[misc]

    @classmethod
    def register_for_auto_class(cls, auto_class: str = "AutoModel") -> None:
        """Nothing, as for configs: the module that ``auto_map`` names stands in the folder already."""
