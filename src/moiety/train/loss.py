"""Adds routing losses to the cross-entropy, scaled so that accumulation steps and ranks make no difference.

The Trainer divides the cross-entropy of a micro-batch by the trained tokens of *all* micro-batches and ranks of one
optimizer step, so the sum over micro-batches is a mean. A routing loss is already a mean over its micro-batch. Added
without a factor, it would count once for each micro-batch. So this mixin divides it by the number of micro-batches. It
does not multiply by the number of ranks, because data parallelism averages gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from moiety.groups import ExpertGroups
from moiety.moe.balance import LoadBalance
from moiety.moe.losses import AuxiliaryLosses, auxiliary_losses
from moiety.moe.trace import Routing, RoutingTrace, recording
from moiety.recipe.recipe import MoESettings
from moiety.train.asymoe.objectives import AsymmetricLosses, AsymmetricObjective, split_batch
from moiety.vlm.decoder_calls import DecoderCall
from moiety.vlm.model import groups_of, losses_added_by_trainer, settings_of
from moiety.vlm.splice import sparse_layers


class TrainedForwards(RoutingTrace):
    """A trace that leaves out forwards without gradient.

    TRL runs such a second forward for its metrics. If it were counted, the gradient of the routing losses would be
    halved.
    """

    def append(self, layer_index: int, routing: Routing) -> None:
        """Add a decision if it has a gradient."""
        if torch.is_grad_enabled():
            super().append(layer_index, routing)


class MovesBiases(TrainerCallback):
    """Moves the selection biases after each optimizer step."""

    def __init__(self, balance: LoadBalance) -> None:
        self.balance = balance

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Called between the optimizer step and the zeroing of gradients."""
        self.balance.step()


class RoutingLossMixin:
    r"""Stands before ``transformers.Trainer`` or ``trl.SFTTrainer`` and adds the routing losses of a sparse model.

    With *n* micro-batches in an optimizer step, micro-batch *i* contributes
    :math:`\mathrm{CE}_i / \mathrm{items} + \mathrm{aux}_i / n`: the same gradient as one pass over all of them when
    they are equal. Statistics are those of one micro-batch (``moe.aux_stats: local``) or of all ranks (``global``). In
    evaluation the loss is the cross-entropy alone.

    Example:
        ``class Trainer(RoutingLossMixin, SFTTrainer): ...``

    Source:
        MoIIE (arXiv 2508.09779), released code, for the loss; the scaling is ours (transformers issue 48690).
    """

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Loss of one micro-batch, a scalar; with `return_outputs` also the outputs of the model.

        Raises:
            RuntimeError: the model is sparse and trains, but no layer recorded a decision.
        """
        inputs, trainer_inputs = split_batch(inputs)
        own = self._asymmetric if model.training else None
        trace = TrainedForwards(keeps_inputs=own is not None and own.keeps_inputs)
        watching = nullcontext(DecoderCall()) if own is None else own.watching()
        with recording(trace), losses_added_by_trainer(), watching as kept:
            loss, outputs = super().compute_loss(  # type: ignore[misc]
                model, self.asked(model, inputs), return_outputs=True, num_items_in_batch=num_items_in_batch
            )
        if model.training:
            if self._balance is not None:
                self._balance.add(trace)
            share, scaled = 1 / self._micro_batches, self._is_scaled(num_items_in_batch)
            losses, more = self._routing_losses(trace), None
            if own is not None:
                state = self.state  # type: ignore[attr-defined]
                more = own.losses(trace, inputs, trainer_inputs, kept, state.global_step, state.max_steps)
            self.observe(inputs, loss.detach() * (1 if scaled else share), losses, trace, share, more)
            for extra in (losses, more):  # an unscaled loss is divided by the Trainer, these losses included
                if extra is not None:
                    loss = loss + extra.total.to(loss.device) * (share if scaled else 1)
        return (loss, outputs) if return_outputs else loss

    def asked(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords of the forward: the batch as it is. A trainer that needs less of the outputs overrides this."""
        return dict(inputs)

    def observe(
        self,
        inputs: Mapping[str, Any],
        cross_entropy: torch.Tensor,
        losses: AuxiliaryLosses | None,
        trace: RoutingTrace,
        share: float,
        asymmetric: AsymmetricLosses | None = None,
    ) -> None:
        """Called for each micro-batch in training, for logs. It does nothing here.

        Args:
            inputs: The batch.
            cross_entropy: Its part of the cross-entropy of the optimizer step; no gradient.
            losses: Routing losses, None for a dense model.
            trace: All routing decisions of this forward.
            share: Weight of `losses`: one divided by the number of micro-batches of the step.
            asymmetric: Further losses of scheme ``asymoe``; None in every other scheme.
        """

    @functools.cached_property
    def _asymmetric(self) -> AsymmetricObjective | None:
        """The losses that scheme asymoe adds to the task; None in every other scheme."""
        own = self._table[0].asymoe if self._table is not None else None
        if self._table is None or own is None:
            return None
        trainer: Any = self
        bare = trainer.accelerator.unwrap_model(trainer.model)
        return AsymmetricObjective(bare, self._table[1], own, trainer.args.seed, trainer.accelerator.autocast)

    @functools.cached_property
    def _balance(self) -> LoadBalance | None:
        """Selection biases that follow the load, moved after each optimizer step; None where there are none.

        A router that does not train decides as before, so its biases stay.
        """
        trainer: Any = self
        layers = sparse_layers(trainer.accelerator.unwrap_model(trainer.model))
        learning = [layer for layer in layers if any(weight.requires_grad for weight in layer.router.parameters())]
        biases = [(layer.layer_index, getattr(layer.router, "selection", None)) for layer in learning]
        found = [(index, bias) for index, bias in biases if bias is not None]
        if not found:
            return None
        balance = LoadBalance(found)
        trainer.add_callback(MovesBiases(balance))
        return balance

    @functools.cached_property
    def _table(self) -> tuple[MoESettings, ExpertGroups] | None:
        """Settings and expert table of the model, read once; None for a dense model."""
        bare = self.accelerator.unwrap_model(self.model)  # type: ignore[attr-defined]
        settings, groups = settings_of(bare), groups_of(bare)
        return None if settings is None or groups is None else (settings, groups)

    def _routing_losses(self, trace: RoutingTrace) -> AuxiliaryLosses | None:
        if self._table is None:
            return None
        if not trace.entries:
            raise RuntimeError(
                "the model is sparse, but none of its layers recorded a routing decision, so its load-balancing loss "
                "would be lost without a word. This happens under torch.nn.DataParallel: start one process per device "
                "instead (torchrun --nproc-per-node N), or show this one a single device (CUDA_VISIBLE_DEVICES=0)"
            )
        settings, groups = self._table
        return auxiliary_losses(trace, groups, settings)

    def _is_scaled(self, num_items_in_batch: torch.Tensor | int | None) -> bool:
        """Whether the loss is divided by all tokens of the step already. Otherwise the Trainer divides the sum later.

        Mirrors the rule in ``Trainer.training_step``.
        """
        said: bool | None = getattr(self, "loss_is_scaled_for_ga", None)
        if said is not None:
            return said
        by_model = self.model_accepts_loss_kwargs and num_items_in_batch is not None  # type: ignore[attr-defined]
        return by_model or self.compute_loss_func is not None  # type: ignore[attr-defined]

    @property
    def _micro_batches(self) -> int:
        """Micro-batches of the present optimizer step; the last step of an epoch may have fewer."""
        return int(getattr(self, "current_gradient_accumulation_steps", 1))
