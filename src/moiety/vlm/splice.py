"""Sparse layers in the decoder of a Hugging Face model: read its FFNs, put sparse layers in their place, pass the ids.

Where a decoder stands is known to ``decoders.py``, how it is called to ``decoder_calls.py``; vision towers are known to
``towers.py``, and what configs say about tokens to ``placeholders.py``.

A decoder layer calls ``self.mlp(hidden_states)`` and nothing else about its FFN, so a sparse layer can stand in its
place. What it needs to know, which token is what, comes down the stack as the keyword ``modality_ids`` (and
``evidence_mask``, where a scheme looks up evidence): the multimodal base model finds them, every decoder layer lends
them to its sparse layer and keeps them from its attention. What is lent lies in a context variable of the calling
thread, never on a module, so two forwards may be in flight before a backward (gradient checkpointing).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers import initialization as hf_init

from moiety.moe.asymoe.context import ContextAttention, Evidence
from moiety.moe.experts.bank import ExpertBank, known_activity
from moiety.moe.layer import ModalityMoE
from moiety.moe.routers import Router
from moiety.recipe.recipe import MoESettings
from moiety.vlm.asymoe.context_cache import seat_of
from moiety.vlm.asymoe.evidence import EvidenceRule
from moiety.vlm.backends import Backend, bank_for
from moiety.vlm.contracts import brings_pictures, by_name, cache_keyword, cache_of, cache_of_layer
from moiety.vlm.decoders import activation_of, text_decoder
from moiety.vlm.placeholders import ModalityRule
from moiety.vlm.positions import KeepsOffsets, has_offsets
from moiety.vlm.retype import original_class, reduce, retype
from moiety.vlm.towers import touch_tower

FAMILIES: tuple[str, ...] = (
    "LlavaForConditionalGeneration",
    "LlavaOnevisionForConditionalGeneration",
    "Idefics3ForConditionalGeneration",
    "SmolVLMForConditionalGeneration",
    "PaliGemmaForConditionalGeneration",
    "Gemma3ForConditionalGeneration",
    "Qwen2_5_VLForConditionalGeneration",
    "Qwen3VLForConditionalGeneration",
    "InternVLForConditionalGeneration",
)
"""Outermost classes that pass the law suite; others may work and are refused only where their decoder does not fit."""

UNSUPPORTED: dict[str, str] = {
    "Llama4ForConditionalGeneration": "its FFNs are routed already, modality-blind",
    "Qwen3VLMoeForConditionalGeneration": "its FFNs are routed already, modality-blind",
    "AriaForConditionalGeneration": "its FFNs are routed already, modality-blind",
    "Ernie4_5_VLMoeForConditionalGeneration": "its FFNs are routed already, in isolated pools",
    "Blip2ForConditionalGeneration": "its decoder has an FFN without a gate",
    "Kosmos2ForConditionalGeneration": "its decoder has an FFN without a gate",
    "Florence2ForConditionalGeneration": "it has an encoder and a decoder",
}
"""Outermost class -> why it cannot be made sparse here."""


class TakesModalityIds:
    """Mixin in front of a decoder layer's class: ids and evidence go to the sparse layer and never to the attention."""

    def forward(
        self,
        hidden_states: Tensor,
        *args: Any,
        modality_ids: Tensor | None = None,
        evidence_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the layer's own forward; a dense layer ignores ids and evidence."""
        mlp = self.mlp  # type: ignore[attr-defined]
        if not hasattr(mlp, "bound"):  # asked so, since a wrapper of an adapter library may stand around the layer
            return super().forward(hidden_states, *args, **kwargs)  # type: ignore[misc]
        evidence = None
        if mlp.context is not None:
            evidence = Evidence(evidence_mask, seat_of(cache_of_layer(kwargs), mlp.layer_index))
        with mlp.bound(modality_ids, evidence):
            return super().forward(hidden_states, *args, **kwargs)  # type: ignore[misc]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return reduce(self)


class TouchesTower:
    """Mixin in front of the multimodal base model's class: vision tower and projector stay in the graph of every step.

    A batch without pictures gives them a gradient of zeros. So no rank waits for the gradient of a tower that another
    rank did not use, and ``backward`` also works on texts alone when nothing but tower and projector is trained.
    """

    def forward(self, input_ids: Tensor | None = None, *args: Any, **kwargs: Any) -> Any:
        """As the base model's own forward, plus a zero made from a blank picture where that has to be in the graph."""
        if args:
            kwargs = by_name(original_class(self).forward, args, kwargs)
        learns = self.training and torch.is_grad_enabled()  # type: ignore[attr-defined]
        misses_pictures = learns and not brings_pictures(kwargs)
        outputs = super().forward(input_ids, **kwargs)  # type: ignore[misc]
        if misses_pictures and (_has_ranks() or not outputs[0].requires_grad):
            touch = touch_tower(self)
            if isinstance(outputs, tuple):
                return (outputs[0] + touch, *outputs[1:])
            outputs.last_hidden_state = outputs.last_hidden_state + touch
        return outputs

    def __reduce_ex__(self, protocol: Any) -> Any:
        return reduce(self)


def _has_ranks() -> bool:
    """Whether other ranks may wait for gradients of a tower that this one does not use."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return distributed and torch.distributed.get_world_size() > 1


class FindsModalityIds(TouchesTower):
    """Mixin in front of the multimodal base model's class, which every caller passes through, TRL's losses as well."""

    modality_rule: ModalityRule
    evidence_rule: EvidenceRule | None

    @staticmethod
    def over(original: Any) -> dict[str, Any]:
        """Methods of `original` that compute features of pictures, without the keywords that are for the decoder."""
        names = [name for name in dir(original) if name.startswith("get_") and name.endswith("_features")]
        return {name: _without_ids(getattr(original, name)) for name in names}

    def forward(
        self,
        input_ids: Tensor | None = None,
        *args: Any,
        modality_ids: Tensor | None = None,
        evidence_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """As the base model's own forward, with ids found where none are given, and evidence where it is looked up.

        Raises:
            ValueError: embeddings came without ids, or ids or evidence do not fit the tokens; see
                ``ModalityRule.ids_of_call`` and ``EvidenceRule.mask_of_call``.
        """
        if args:
            kwargs = by_name(original_class(self).forward, args, kwargs)
        ids = self.modality_rule.ids_of_call(input_ids, modality_ids, kwargs)
        if self.evidence_rule is not None:
            kwargs["evidence_mask"] = self.evidence_rule.mask_of_call(evidence_mask, input_ids, ids, cache_of(kwargs))
        return super().forward(input_ids, modality_ids=ids, **kwargs)


class TouchesTowerWithOffsets(TouchesTower, KeepsOffsets):
    """:class:`TouchesTower` for families whose pictures shift the positions of the text behind them."""


class FindsModalityIdsWithOffsets(FindsModalityIds, KeepsOffsets):
    """:class:`FindsModalityIds` for the same families."""


def _without_ids(get_features: Callable[..., Any]) -> Callable[..., Any]:
    """The same method with the same signature; it drops the keywords that are meant for sparse layers."""

    @functools.wraps(get_features)
    def get(self: Any, *args: Any, modality_ids: Any = None, evidence_mask: Any = None, **kwargs: Any) -> Any:
        return get_features(self, *args, **kwargs)

    return get


class InitialisesExperts:
    """Mixin in front of a text decoder's class: gates and experts that a checkpoint lacks are drawn by their rule."""

    def _init_weights(self, module: nn.Module) -> None:
        if not initialise_sparse(module):
            super()._init_weights(module)  # type: ignore[misc]

    def __reduce_ex__(self, protocol: Any) -> Any:
        return reduce(self)


def initialise_sparse(module: nn.Module) -> bool:
    """Draw the weights of a router, bank or context attention through transformers, which leaves loaded ones alone."""
    if not isinstance(module, Router | ExpertBank | ContextAttention):
        return False
    module.initialise(hf_init)
    return True


@dataclass(frozen=True)
class DenseFFN:
    """A gated FFN of a decoder, in the layout of the banks.

    Args:
        gate_up: Gate rows, then up rows, ``(2*ffn, hidden)``.
        down: ``(hidden, ffn)``.
        act: Name of the activation, or the module itself where transformers knows it under another name.
    """

    gate_up: Tensor
    down: Tensor
    act: Any

    @property
    def hidden(self) -> int:
        """Width of the decoder."""
        return self.down.shape[0]

    @property
    def ffn(self) -> int:
        """Inner width."""
        return self.down.shape[1]


def read_ffn(mlp: nn.Module, config: Any, where: str) -> DenseFFN:
    """The weights of a dense FFN: separate ``gate_proj``, ``up_proj``, or fused ``gate_up_proj`` (gate rows first).

    Raises:
        TypeError: the module is no gated FFN without biases; names the class.
    """
    names = ("down_proj", "gate_up_proj") if hasattr(mlp, "gate_up_proj") else ("down_proj", "gate_proj", "up_proj")
    linears: Any = [getattr(mlp, name, None) for name in names]
    if not all(isinstance(linear, nn.Linear) for linear in linears):
        raise TypeError(
            f"{where} is {type(mlp).__name__} with {[name for name, _ in mlp.named_children()]}; expected linear "
            "gate_proj, up_proj, down_proj or gate_up_proj, down_proj. Teach vlm/splice.py to read this class"
        )
    if any(linear.bias is not None for linear in linears):
        raise TypeError(f"{where} ({type(mlp).__name__}) has biases; expert banks have none")
    down, *gate_and_up = (linear.weight.detach() for linear in linears)
    return DenseFFN(torch.cat(gate_and_up), down, activation_of(config))


def sparse_layers(model: nn.Module) -> list[ModalityMoE]:
    """The sparse layers of a model in order."""
    return [module for module in model.modules() if isinstance(module, ModalityMoE)]


def splice(
    model: PreTrainedModel,
    settings: MoESettings,
    backend: Backend,
    *,
    copy: bool = False,
    activity: Mapping[int, Tensor] | None = None,
) -> None:
    """Put sparse layers in place of dense FFNs and re-type what must pass the ids.

    Args:
        model: The outermost model, dense; changed in place.
        settings: ``scheme: dense`` computes the same; only ranks without pictures keep in step.
        backend: Route of all new banks.
        copy: Copy each dense FFN into all experts that replace it (upcycling), into narrower ones the units that say
            most; otherwise they start at random.
        activity: Decoder layer -> activity of the units of its FFN, see :mod:`moiety.vlm.activity`; None: not known.

    Raises:
        TypeError: a decoder layer has no gated FFN under ``.mlp``.
        ValueError: settings do not fit the model.
        ContractBroken: this release of transformers hands the cache over in an unknown way.
    """
    base = model.base_model
    shifts = has_offsets(base)
    if settings.scheme == "dense":
        retype(base, TouchesTowerWithOffsets if shifts else TouchesTower)
        return
    decoder: Any = text_decoder(base)
    for module in (base, *decoder.layers):  # under a new name the cache would pass for none, and answers be wrong
        cache_keyword(original_class(module).forward)
    rule = ModalityRule.of(model.config, settings)
    chosen = set(settings.resolved_layers(len(decoder.layers)))
    for index, layer in enumerate(decoder.layers):
        if not hasattr(layer, "mlp"):
            raise TypeError(f"decoder layer {type(layer).__name__} has no .mlp; teach vlm/splice.py where its FFN is")
        if index in chosen:
            where = f"the FFN of decoder layer {index}"
            dense = read_ffn(layer.mlp, decoder.config, where)
            with known_activity((activity or {}).get(index)):
                layer.mlp = _sparse(dense, settings, index, backend, copy=copy)
        retype(layer, TakesModalityIds)
    retype(decoder, InitialisesExperts)
    retype(base, FindsModalityIdsWithOffsets if shifts else FindsModalityIds)
    base.modality_rule = rule  # type: ignore[assignment]
    base.evidence_rule = EvidenceRule.of(model.config, settings)  # type: ignore[assignment]


def _sparse(dense: DenseFFN, settings: MoESettings, index: int, backend: Backend, *, copy: bool) -> ModalityMoE:
    """A sparse layer on the device and in the dtype of the dense FFN that it replaces."""
    sparse = ModalityMoE(
        dense.hidden,
        settings.expert_ffn or dense.ffn,
        settings,
        layer_index=index,
        act=dense.act,
        bank=bank_for(backend),
    )
    sparse = sparse.to(device=dense.down.device, dtype=dense.down.dtype)
    if copy:
        sparse.experts.load_from_dense(dense.gate_up, dense.down)
    return sparse
