"""Parameters that stay in float32 when the rest of a model is cast to a narrower type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn


class StaysPrecise(nn.Module):
    """Base of modules whose own parameters hold gates or scales. In bfloat16 their small updates would be lost.

    ``model.to(torch.bfloat16)`` and ``model.half()`` move these parameters and keep their type; a wider type is taken.
    Create them as float32, so that they stay float32 in a model that is built in a narrow type.

    Example:
        >>> import torch
        >>> class Gate(StaysPrecise):
        ...     precise = ("bias",)
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight, self.bias = (nn.Parameter(torch.zeros(2)) for _ in range(2))
        >>> gate = Gate().bfloat16()
        >>> gate.weight.dtype, gate.bias.dtype, gate.double().bias.dtype
        (torch.bfloat16, torch.float32, torch.float64)
    """

    precise: ClassVar[tuple[str, ...] | None] = None
    """Names of the parameters or buffers that stay in float32. None: all own parameters of the module."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        names = self._parameters if self.precise is None else self.precise
        tensors = {**self._buffers, **self._parameters}
        own = [tensor for name in names if (tensor := tensors.get(name)) is not None]
        kept = {id(tensor) for found in own for tensor in (found, found.grad) if tensor is not None}

        def wide(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            narrows = moved.is_floating_point() and moved.dtype.itemsize < 4 <= tensor.dtype.itemsize
            return tensor.to(moved.device) if narrows and id(tensor) in kept else moved

        return super()._apply(wide, recurse)
