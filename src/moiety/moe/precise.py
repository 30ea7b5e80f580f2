"""Parameters that stay in float32 when the rest of a model is cast to a narrower type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


class StaysPrecise(nn.Module):
    """Base of modules whose own parameters are gates or scales: small steps of theirs would vanish in bfloat16.

    ``model.to(torch.bfloat16)`` and ``model.half()`` move them, but leave their type alone; wider types are followed.

    Example:
        >>> import torch
        >>> class Gate(StaysPrecise):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight = nn.Parameter(torch.zeros(2))
        >>> Gate().bfloat16().weight.dtype, Gate().double().weight.dtype
        (torch.float32, torch.float64)
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        def wide(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            narrows = moved.is_floating_point() and moved.dtype.itemsize < 4 <= tensor.dtype.itemsize
            return tensor.to(moved.device) if narrows else moved

        return super()._apply(wide, recurse)
