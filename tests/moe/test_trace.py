"""A trace collects what runs while it is open, and only then."""

import pytest
import torch

from moiety.moe.trace import Routing, RoutingTrace, active_trace, recording


def routing() -> Routing:
    return Routing(torch.zeros(1, 2), torch.zeros(1, 1, dtype=torch.int64), torch.ones(1, 1), torch.zeros(1).long())


def test_layers_come_back_ascending_with_all_their_decisions() -> None:
    trace, decisions = RoutingTrace(), [routing() for _ in range(3)]
    for layer, decision in zip((3, 1, 3), decisions, strict=True):
        trace.append(layer, decision)
    by_layer = trace.by_layer()
    assert list(by_layer) == [1, 3]
    assert by_layer[3] == [decisions[0], decisions[2]]
    assert [layer for layer, _ in trace.entries] == [3, 1, 3]


def test_the_innermost_trace_records() -> None:
    with recording() as outer:
        with recording() as inner:
            assert active_trace() is inner
        assert active_trace() is outer
    assert active_trace() is None


def test_a_trace_closes_after_an_error() -> None:
    with pytest.raises(KeyError), recording():
        raise KeyError("inside")
    assert active_trace() is None
