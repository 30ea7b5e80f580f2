"""Activations of the gate and their derivatives, under the names that Hugging Face configs use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from moiety.groups import nearest_name


class Activation(NamedTuple):
    """An activation and its derivative.

    ``backward(grad, x)`` returns the derivative at `x` times `grad`, or writes it to the tensor ``grad_input=``.
    """

    forward: Callable[[Tensor], Tensor]
    backward: Callable[..., Tensor]


_SILU = Activation(F.silu, torch.ops.aten.silu_backward)
_GELU = Activation(F.gelu, torch.ops.aten.gelu_backward)
_GELU_TANH = Activation(partial(F.gelu, approximate="tanh"), partial(torch.ops.aten.gelu_backward, approximate="tanh"))

ACTIVATIONS: dict[str, Activation] = {
    "silu": _SILU,
    "swish": _SILU,
    "gelu": _GELU,
    "gelu_pytorch_tanh": _GELU_TANH,
    "gelu_new": _GELU_TANH,
}


def activation_of(act: str | Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """The activation with this name; a callable is returned as it is.

    Raises:
        ValueError: the name is unknown.
    """
    if not isinstance(act, str):
        return act
    if act not in ACTIVATIONS:
        raise ValueError(f"activation {act!r} is unknown; {nearest_name(act, ACTIVATIONS)}; or give a callable")
    return ACTIVATIONS[act].forward
