"""What the routers decided: one :class:`Routing` for each decision, one :class:`RoutingTrace` for each forward.

Losses, statistics and the lens read these records and nothing else. Open a trace around a forward with
:func:`recording`; every sparse layer that runs meanwhile adds its decision. Close the trace before ``backward``,
because gradient checkpointing runs layers again, and they would be recorded twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Routing:
    """One decision of one router.

    Args:
        logits: Scores as the gate gave them, ``(tokens, experts)``; ``-inf`` on experts closed to the token. A scheme
            without a gate gives 0 on every open expert. Carries the gradient of the auxiliary losses.
        index: Chosen experts, ``(tokens, top_k)``, largest weight first; the number of experts on padding.
        weights: Their weights, ``(tokens, top_k)``, at least 0; 0 on padding.
        modality_group: Position of each token's modality group in ``ExpertGroups.names``, ``(tokens,)``; -1 on padding.
        extras: What else a scheme decided or saw, by name, ``(tokens, …)``. Scheme ``asymoe``: ``score`` s and
            ``mass`` e of the evidence, ``alpha`` of the evidence experts, ``balance_logits`` where the load-balancing
            loss reads others than `logits`; ``x`` and ``context`` in a trace that keeps inputs.
    """

    logits: Float[Tensor, "tokens experts"]
    index: Int[Tensor, "tokens top_k"]
    weights: Float[Tensor, "tokens top_k"]
    modality_group: Int[Tensor, " tokens"]
    extras: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(eq=False)
class RoutingTrace:
    """All decisions of one forward, in the order they were made.

    Args:
        entries: Layer index and decision.
        keeps_inputs: Whether layers add what they read, ``(tokens, hidden)``, for losses that are made of it.
        around: A trace that was open before this one and gets every decision as well; None: there is none.
    """

    entries: list[tuple[int, Routing]] = field(default_factory=list)
    keeps_inputs: bool = False
    around: RoutingTrace | None = None

    def append(self, layer_index: int, routing: Routing) -> None:
        """Add the decision of decoder layer `layer_index`."""
        self.entries.append((layer_index, routing))
        if self.around is not None:
            self.around.append(layer_index, routing)

    def by_layer(self) -> dict[int, list[Routing]]:
        """Decisions of each layer, ascending by layer; one per forward that ran while the trace was open."""
        layers: dict[int, list[Routing]] = {}
        for layer_index, routing in sorted(self.entries, key=lambda entry: entry[0]):
            layers.setdefault(layer_index, []).append(routing)
        return layers


OPEN_TRACE: ContextVar[RoutingTrace | None] = ContextVar("moiety_routing_trace", default=None)
"""The innermost open trace; sparse layers write to it. :func:`recording` sets it."""


def active_trace() -> RoutingTrace | None:
    """The innermost trace that :func:`recording` opened here, whose ``entries`` sparse layers add to.

    Returns:
        None where no trace is open; layers then record nothing.
    """
    return OPEN_TRACE.get()


@contextmanager
def recording(trace: RoutingTrace | None = None) -> Iterator[RoutingTrace]:
    """Open a trace; sparse layers write to the innermost one that is open.

    Args:
        trace: Where to write; None: a new trace.

    Example:
        >>> with recording() as trace:
        ...     active_trace() is trace
        True
        >>> active_trace() is None
        True
    """
    trace = RoutingTrace() if trace is None else trace
    token = OPEN_TRACE.set(trace)
    try:
        yield trace
    finally:
        OPEN_TRACE.reset(token)
