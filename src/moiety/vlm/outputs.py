"""The forward of a sparse model: it is Hugging Face's, with the losses and scores of the routers added to its output.

The trace is opened here, the Hugging Face forward runs as it is, and the auxiliary losses are added at the end. The
settings and the expert table that they need were read when the model was built; they are read again only where somebody
has changed ``config.moe`` since.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

import torch

from moiety.groups import ExpertGroups
from moiety.moe.losses import AuxiliaryLosses, auxiliary_losses
from moiety.moe.trace import OPEN_TRACE, RoutingTrace
from moiety.recipe.recipe import MoESettings
from moiety.vlm.configs import groups_of, settings_of

logger = logging.getLogger(__name__)

_trainer_adds_losses: ContextVar[bool] = ContextVar("moiety_trainer_adds_losses", default=False)


@contextlib.contextmanager
def losses_added_by_trainer() -> Iterator[None]:
    """While open, models leave their auxiliary losses to the trainer, which knows accumulation steps and ranks."""
    token = _trainer_adds_losses.set(True)
    try:
        yield
    finally:
        _trainer_adds_losses.reset(token)


def forward_over(base: type) -> Any:
    """The forward of the sparse class over `base`: the same signature and three more keywords."""
    signature = inspect.signature(base.forward)  # type: ignore[attr-defined]

    @functools.wraps(base.forward)  # type: ignore[attr-defined]
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        wants_logits = bool(kwargs.pop("output_router_logits", False))
        return_dict = kwargs.pop("return_dict", None)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        if not self._is_sparse:
            kwargs.pop("modality_ids", None)
            kwargs.pop("evidence_mask", None)
        labels = signature.bind_partial(self, *args, **kwargs).arguments.get("labels")
        trains = self.training and labels is not None and not _trainer_adds_losses.get()
        if not self._is_sparse or not (trains or wants_logits):
            output = super(self._moiety_class, self).forward(*args, return_dict=True, **kwargs)
            return output if return_dict else output.to_tuple()

        if trains and kwargs.get("num_items_in_batch") is not None:
            _warn_about_trainer()
        settings, groups = routing_table(self)
        around = OPEN_TRACE.get()
        trace = RoutingTrace(keeps_inputs=around is not None and around.keeps_inputs, around=around)
        token = OPEN_TRACE.set(trace)
        try:
            output = super(self._moiety_class, self).forward(*args, return_dict=True, **kwargs)
        finally:
            OPEN_TRACE.reset(token)
        losses = auxiliary_losses(trace, groups, settings)
        output["aux_loss"] = losses.total
        if wants_logits:
            output["router_logits"] = tuple(routing.logits for _, routing in trace.entries)
        if trains:
            output["loss"] = output.loss + losses.total.to(output.loss.device)
        return output if return_dict else output.to_tuple()

    extra = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, default, annotation in (
            ("modality_ids", None, torch.Tensor | None),
            ("evidence_mask", None, torch.Tensor | None),
            ("output_router_logits", False, bool),
        )
    ]
    kept = list(signature.parameters.values())
    at = next((i for i, parameter in enumerate(kept) if parameter.kind is inspect.Parameter.VAR_KEYWORD), len(kept))
    forward.__signature__ = signature.replace(parameters=[*kept[:at], *extra, *kept[at:]])  # type: ignore[attr-defined]
    return forward


def routing_table(model: Any) -> tuple[MoESettings, ExpertGroups]:
    """Settings and expert table of a sparse model, as they were read when it was built.

    Where ``model.config.moe`` has been changed since, they are read again.

    Raises:
        TypeError: the model is dense.
    """
    known = getattr(model, "_routing_table", None)
    if known is not None and known[0] == model.config.moe:
        return known[1], known[2]
    settings, groups = settings_of(model), groups_of(model)
    if settings is None or groups is None:
        raise TypeError(f"{type(model).__name__} is dense and has no auxiliary losses")
    model._routing_table = (copy.deepcopy(model.config.moe), settings, groups)
    return settings, groups


def auxiliary_losses_of(model: Any, trace: RoutingTrace) -> AuxiliaryLosses:
    """The auxiliary losses of one forward of `model`, weighted as its settings say.

    Args:
        model: A sparse model.
        trace: What its routers decided.

    Raises:
        TypeError: the model is dense.
    """
    settings, groups = routing_table(model)
    return auxiliary_losses(trace, groups, settings)


@functools.cache
def _warn_about_trainer() -> None:
    logger.warning(
        "a trainer divides the loss by an item count, which multiplies auxiliary losses by accumulation steps and "
        "ranks; use moiety.MoietyTrainer, or put moiety.train.RoutingLossMixin in front of your trainer"
    )
