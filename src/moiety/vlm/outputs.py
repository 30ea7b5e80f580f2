"""From what the routers decided in a forward to what it returns: auxiliary losses and raw gate scores."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from moiety.moe.losses import AuxiliaryLosses, auxiliary_losses
from moiety.moe.trace import RoutingTrace, active_trace, recording
from moiety.vlm.configs import groups_of, settings_of

_trainer_adds_losses: ContextVar[bool] = ContextVar("moiety_trainer_adds_losses", default=False)


@contextlib.contextmanager
def losses_added_by_trainer() -> Iterator[None]:
    """While open, models leave their auxiliary losses to the trainer, which knows accumulation steps and ranks."""
    token = _trainer_adds_losses.set(True)
    try:
        yield
    finally:
        _trainer_adds_losses.reset(token)


def model_adds_losses() -> bool:
    """Whether a model in training adds its auxiliary losses itself."""
    return not _trainer_adds_losses.get()


@contextlib.contextmanager
def tracing(wanted: bool) -> Iterator[RoutingTrace | None]:
    """The decisions of this forward alone; they reach a trace that is open around it as well."""
    if not wanted:
        yield None
        return
    outer = active_trace()
    if outer is None:
        with recording() as trace:
            yield trace
        return
    trace, start = RoutingTrace(), len(outer.entries)
    yield trace
    trace.entries.extend(outer.entries[start:])


def attach_losses(model: Any, output: Any, trace: RoutingTrace, *, trains: bool, wants_logits: bool) -> None:
    """Put the auxiliary losses, and the raw gate scores where asked for, on the output of a forward."""
    losses = auxiliary_losses_of(model, trace)
    output["aux_loss"] = losses.total
    if wants_logits:
        output["router_logits"] = tuple(routing.logits for _, routing in trace.entries)
    if trains:
        output["loss"] = output.loss + losses.total.to(output.loss.device)


def auxiliary_losses_of(model: Any, trace: RoutingTrace) -> AuxiliaryLosses:
    """The auxiliary losses of one forward of `model`, weighted as its settings say.

    Args:
        model: A sparse model.
        trace: What its routers decided.
    """
    settings, groups = settings_of(model), groups_of(model)
    if settings is None or groups is None:
        raise TypeError(f"{type(model).__name__} is dense and has no auxiliary losses")
    return auxiliary_losses(trace, groups, settings)
