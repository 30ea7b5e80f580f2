"""Expert banks under Hugging Face's switch ``experts_implementation``.

The bank of plain experts is decorated here, so that ``eager``, ``grouped_mm`` and ``batched_mm`` of transformers run on
our weights. ``moiety``, our own kernels, is the default on every device.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS, use_experts_implementation

from moiety.groups import nearest_name
from moiety.moe.experts.ffn import FFNExperts
from moiety.moe.kernels import reference_experts

DEFAULT_BACKEND = "moiety"
BACKENDS = ("moiety", "eager", "grouped_mm", "batched_mm")
ALL_EXPERTS_FUNCTIONS.register("moiety", FFNExperts.forward)


class Backend:
    """The route that all banks of one model take. All banks share one object, so one assignment switches all of them.

    Raises:
        ValueError: there is no such route.
    """

    def __init__(self, name: str | None = None):
        self.switch(name or DEFAULT_BACKEND)

    def switch(self, name: str) -> None:
        """Take another route from the next forward on."""
        if name not in BACKENDS:
            raise ValueError(f"no experts_implementation {name!r}; {nearest_name(name, BACKENDS)}")
        self._experts_implementation = name
        self.other: Callable[..., Any] | None = None if name == DEFAULT_BACKEND else _NamedRoute.forward

    @property
    def name(self) -> str:
        """The route in use."""
        return self._experts_implementation


@use_experts_implementation
class _NamedRoute(FFNExperts):
    """:class:`FFNExperts` whose forward is looked up by name; undecorated it is the plain loop over experts."""

    def __init__(self, backend: Backend, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)

    def forward(  # type: ignore[override]
        self, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
    ) -> torch.Tensor:
        """Reference route ``eager``: shapes ``(tokens, hidden)``, ``(tokens, top_k)``, ``(tokens, top_k)``."""
        return reference_experts(
            hidden_states, top_k_index, top_k_weights, self.gate_up_proj, self.down_proj, self.act_fn
        )


class SwitchableExperts(_NamedRoute):
    """:class:`FFNExperts` under the switch.

    Its forward is that of :class:`FFNExperts`, which asks ``config.other`` for another route. So a forward by our own
    route enters no file of this room.

    Args:
        backend: The route, shared by all banks of a model; it becomes ``config``.
        *args: As for :class:`FFNExperts`.
        **kwargs: As for :class:`FFNExperts`.
    """

    forward = FFNExperts.forward


def bank_for(backend: Backend) -> Callable[..., SwitchableExperts]:
    """A constructor of banks that follow `backend`."""

    def bank(*args: Any, **kwargs: Any) -> SwitchableExperts:
        experts = SwitchableExperts(backend, *args, **kwargs)
        # transformers masks the id "no expert" (its padding) only in this state.
        setattr(experts, "_is_expert_parallel", True)  # noqa: B010
        return experts

    return bank
