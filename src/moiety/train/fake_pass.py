"""One training pass on tensors without content: how many bytes a stage holds at its peak, before it is trained.

The model is built with weights of the *fake* kind that PyTorch's compiler uses: they know shape, type and device, and
hold nothing. Forward and backward run on them through the real code of model, experts and losses, so every family and
scheme, gradient checkpointing and autocast are counted by what they do. What the processor made stays real, because
models look at token ids, masks and pictures. Only the choice of experts would need the content of hidden states. An
even choice takes its place, because the bytes of a bank depend on the number of choices alone.
"""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from moiety.groups import ExpertGroups
from moiety.moe.routers import Router
from moiety.moe.trace import Routing
from moiety.recipe.recipe import Part, TrainSettings
from moiety.train.labelled import only_labelled
from moiety.train.loss import RoutingLossMixin
from moiety.vlm.parts import freeze

MOMENTS = 2
"""Numbers that AdamW keeps for each trained parameter."""


@dataclasses.dataclass(frozen=True)
class PassBytes:
    """What one training process holds at the moment of its peak, in bytes.

    Args:
        parameters: Weights and buffers.
        gradients: Gradients that are there at that moment: none of the next step is, if the peak is in the forward.
        optimizer: Moments of AdamW for all trained parameters.
        activations: What the backward pass needs, and tensors on their way.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients + self.optimizer + self.activations


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, and keeps the peak.

    Args:
        known: Tensors that exist already.
    """

    def __init__(self, known: Sequence[Tensor] = ()) -> None:
        super().__init__()
        self.live = self.peak = self.gradients = self.gradients_at_peak = 0
        self._storages: dict[int, weakref.ref[Any]] = {}
        for tensor in known:
            self._add(tensor)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = _run(func, args, kwargs or {})
        for tensor in tree_leaves(found):
            if isinstance(tensor, Tensor):
                self._add(tensor)
        return found

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        address, size = storage._cdata, storage.nbytes()
        known = self._storages.get(address)
        if size == 0 or (known is not None and known() is storage):
            return

        def forget(gone: Any) -> None:
            self.live -= size
            if self._storages.get(address) is gone:
                del self._storages[address]

        self._storages[address] = weakref.ref(storage, forget)
        self._grow(size)

    def hold_gradients(self, size: int) -> None:
        """Count `size` bytes of gradients that are there before the pass and stay."""
        self.gradients += size
        self._grow(size)

    def sees_gradient(self, parameter: Tensor) -> None:
        """Note that the gradient of `parameter` is there; its storage was counted when it was made."""
        self.gradients += parameter.nbytes

    def _grow(self, size: int) -> None:
        self.live += size
        if self.live > self.peak:
            self.peak, self.gradients_at_peak = self.live, self.gradients


def _run(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    """Run an operator; two of them refuse fake tensors, although the shape of their answer is known here."""
    if not any(isinstance(value, FakeTensor) for value in tree_leaves((args, kwargs))):
        return func(*args, **kwargs)
    if func is torch.ops.aten.index.Tensor:  # a real mask says how many rows come out; a fake one would not
        places: list[Any] = []
        for index in args[1]:
            masks = isinstance(index, Tensor) and not isinstance(index, FakeTensor) and index.dtype == torch.bool
            places += index.nonzero(as_tuple=True) if masks else [index]
        return func(args[0], places)
    if func is torch.ops.aten._grouped_mm.default:  # its shape rule knows bfloat16 alone in some releases
        left, right, offsets = args[0], args[1], args[2] if len(args) > 2 else kwargs["offs"]
        runs = (len(offsets),) if left.dim() == right.dim() == 2 else ()
        return left.new_empty(*runs, left.shape[-2], right.shape[-1])
    return func(*args, **kwargs)


# -- the model ---------------------------------------------------------------------------------------------------------
def without_content(model: nn.Module, dtype: torch.dtype) -> None:
    """Give a model on the meta device fake weights of `dtype`. Ties between weights stay."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made: dict[int, Any] = {}

    def fake(tensor: Tensor) -> Tensor:
        kind = dtype if tensor.is_floating_point() else tensor.dtype
        with mode:
            return torch.empty(tensor.shape, dtype=kind, device="cpu")

    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in made:
                    made[id(parameter)] = nn.Parameter(fake(parameter), requires_grad=parameter.requires_grad)
                module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None and buffer.is_meta:
                module._buffers[name] = made.setdefault(id(buffer), fake(buffer))


def _chosen_evenly(router: nn.Module, args: Any, routing: Routing) -> Routing:
    """The same decision with real choices: the tokens of a modality take turns over the experts that they may use."""
    if not isinstance(routing.index, FakeTensor):
        return routing
    groups: ExpertGroups = router.groups  # type: ignore[assignment]
    tokens, top_k = routing.index.shape
    index = torch.full((tokens, top_k), groups.num_experts)
    for number, name in enumerate(groups.names):
        own = (routing.modality_group == number).nonzero().flatten()
        experts = torch.tensor(groups.visible(name))
        turns = torch.arange(len(own)).unsqueeze(1) + torch.arange(top_k)
        index[own] = experts[turns % len(experts)]
    return dataclasses.replace(routing, index=index)


# -- the pass ----------------------------------------------------------------------------------------------------------
class _TaskLoss:
    """What ``transformers.Trainer`` does in the place where the routing losses are added."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool, num_items_in_batch: Any) -> Any:
        outputs = model(**inputs, use_cache=False)
        return outputs.loss, outputs


class _Step(RoutingLossMixin, _TaskLoss):
    """Computes the loss of one micro-batch as the trainer does, without a trainer."""

    loss_is_scaled_for_ga = True
    _balance = None  # selection biases move after the step

    def __init__(self, model: Any, autocast: Any) -> None:
        self.model, self.args = model, SimpleNamespace(seed=0)
        self.state = SimpleNamespace(global_step=1, max_steps=1)  # all losses have risen
        self.accelerator = SimpleNamespace(unwrap_model=lambda wrapped: wrapped, autocast=autocast)

    def asked(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return only_labelled(model, dict(inputs))


def bytes_of_pass(
    model: Any, batch: Mapping[str, Tensor], trains: Sequence[Part], train: TrainSettings, dtype: torch.dtype
) -> PassBytes:
    """Bytes at the peak of an optimizer step, in one process on a CPU.

    Args:
        model: A model on the meta device, which gets fake weights. With real weights the pass is really computed, and
            the same is counted. The model is changed: it trains, and parts are frozen.
        batch: One micro-batch with labels, as the collator of the stage makes it.
        trains: Parts that learn.
        train: Says whether activations are checkpointed, products run in bfloat16 and gradients are added up.
        dtype: Type of the weights.

    Raises:
        RuntimeError: the forward of this family looks at the content of hidden states.
    """
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.items()}
    hooks: list[Any] = []
    if any(parameter.is_meta for parameter in model.parameters()):
        without_content(model, dtype)
        routers = [module for module in model.modules() if isinstance(module, Router)]
        hooks += [router.register_forward_hook(_chosen_evenly) for router in routers]
    freeze(model.train(), list(trains))
    if train.gradient_checkpointing:
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()
    weights = list({id(value): value for value in (*model.parameters(), *model.buffers())}.values())
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    live = LiveBytes([*weights, *inputs.values()])
    learning = sum(parameter.nbytes for parameter in trained)
    if train.gradient_accumulation_steps > 1:  # gradients of earlier micro-batches are there from the start
        live.hold_gradients(learning)
    else:
        hooks += [parameter.register_post_accumulate_grad_hook(live.sees_gradient) for parameter in trained]
    try:
        with live:
            _step(model, inputs, bf16=train.bf16)
    finally:
        for hook in hooks:
            hook.remove()
    parameters = sum(value.nbytes for value in weights)
    held = live.gradients_at_peak
    return PassBytes(parameters, held, MOMENTS * learning, max(0, live.peak - parameters - held))


def _step(model: Any, inputs: Mapping[str, Tensor], *, bf16: bool) -> None:
    """Forward and backward of one micro-batch."""

    def autocast() -> Any:
        return torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()

    with autocast():
        loss = _Step(model, autocast).compute_loss(model, dict(inputs))
    loss.backward()
