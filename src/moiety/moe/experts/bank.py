"""What every kind of expert bank promises, and what it is built from."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moiety.groups import TEXT_GROUP, ExpertGroup
from moiety.moe.asymoe.context import Context
from moiety.moe.dispatch import Slots
from moiety.recipe.asymoe import AsyMoESettings
from moiety.recipe.recipe import MoESettings


@dataclass(frozen=True)
class Place:
    """Where a bank stands: what :meth:`ExpertBank.at` builds it from.

    Args:
        group: The expert group that the bank serves: its name, its count, who may use it.
        hidden: Width of the decoder.
        ffn: Inner width of one expert, where no section of the recipe gives the group a width of its own.
        num_sides: Modality groups of the model.
        settings: Recipe section ``moe``.
        act: Activation of the decoder's FFN, a name or a callable.
    """

    group: ExpertGroup
    hidden: int
    ffn: int
    num_sides: int
    settings: MoESettings
    act: Any = "silu"

    @property
    def width(self) -> int:
        """Inner width of one expert of this group.

        Raises:
            ValueError: scheme asymoe has not designed it yet.
        """
        own = self.settings.asymoe
        if own is None:
            return self.ffn
        admits = self.group.admits
        name = "inter_ffn" if len(admits) > 1 else "evidence_dim" if TEXT_GROUP in admits else "vision_ffn"
        width: int | None = getattr(own, name)
        if width is None:
            raise ValueError(f"experts of group {self.group.name!r} need a width; give moe.asymoe.{name}, or design it")
        return width

    @property
    def asymoe(self) -> AsyMoESettings:
        """Section ``moe.asymoe``, for the kinds of experts that it describes.

        Raises:
            ValueError: the scheme has no such section.
        """
        if self.settings.asymoe is None:
            raise ValueError(
                f"experts of kind {self.group.kind!r} (expert group {self.group.name!r}) get their widths from "
                f"moe.asymoe, which scheme {self.settings.scheme!r} does not have; use scheme asymoe or another kind"
            )
        return self.settings.asymoe


class ExpertBank(nn.Module, abc.ABC):
    """All experts of one layer, or of one expert group, in one module.

    A bank knows nothing of gates. It is told which expert each slot wants and how much the answer weighs.

    Adapters and packers put a module of their own in the place of a bank, and change its weights while they call it.
    So everything that reads weights is a call of the module; :func:`bank_in` finds the bank where only sizes are asked.
    """

    num_experts: int
    num_sides = 1
    """How many modality groups its experts tell apart; 1: none. Its slots must be sorted by as many sides."""
    reads_context = False
    """Whether ``forward`` takes what the evidence says to each token as its fourth argument."""

    @classmethod
    def at(cls, place: Place) -> ExpertBank:
        """The bank of one expert group. A kind whose constructor takes other arguments overrides this."""
        return cls(place.group.count, place.hidden, place.width, place.act)

    @abc.abstractmethod
    def forward(
        self, hidden_states: Tensor, slots: Slots, top_k_weights: Tensor, context: Context | None = None
    ) -> Tensor:
        """Weighted sum of the chosen experts; exactly 0 where no expert is chosen.

        Args:
            hidden_states: ``(tokens, hidden)``.
            slots: Where each choice goes. A bank that sorts for itself reads ``slots.index`` alone.
            top_k_weights: Weight of each choice, ``(tokens, top_k)``.
            context: What the evidence says to each token; given where the bank `reads_context`.

        Returns:
            ``(tokens, hidden)``.
        """

    def initialise(self, init: Any = torch.nn.init) -> None:
        """Draw new weights with the functions of `init`: ``torch.nn.init``, or those of transformers, which leave
        tensors alone that were loaded."""
        for parameter in self.parameters():
            init.normal_(parameter, std=0.02)

    @abc.abstractmethod
    def load_from_dense(self, gate_up: Tensor, down: Tensor) -> None:
        """Start every expert from a dense FFN, as far as its kind and its width allow.

        Where it is narrower, :func:`largest_units` says which inner units to keep. Whether the expert then computes
        what the dense FFN computes, :meth:`starts_as_dense` tells.

        Args:
            gate_up: Gate rows, then up rows, ``(2*ffn, hidden)``.
            down: Down projection, ``(hidden, ffn)``.
        """

    def starts_as_dense(self, ffn: int) -> bool:
        """Whether every expert equals a dense FFN of inner width `ffn` after :meth:`load_from_dense`.

        Upcycling enforces what is promised here and only measures the rest. A kind that copies exactly overrides this.
        """
        return False

    def activated_parameters(self) -> int:
        """Parameters that one slot passes through: those of one expert.

        A kind of which a slot does not use every parameter overrides this.
        """
        return sum(parameter.numel() for parameter in self.parameters()) // self.num_experts

    def activated_of(self, expert: int, modality_group: int) -> int:
        """Parameters that a slot of expert number `expert` passes through.

        Args:
            expert: Number of the expert in this bank.
            modality_group: Position of the token's modality group; no plain expert looks at it.
        """
        return self.activated_parameters()

    def activated_by(self, experts: Sequence[int], modality_group: int) -> int:
        """Parameters of all experts that run for a token of this modality group that chose `experts`."""
        return sum(self.activated_of(expert, modality_group) for expert in experts)

    def nothing(self, hidden_states: Tensor) -> Tensor:
        """The answer to a batch without tokens: empty, and every parameter gets gradient 0."""
        return hidden_states * sum(parameter.sum() * 0 for parameter in self.parameters())


def bank_in(module: nn.Module) -> Any:
    """The bank at this place, or inside the adapters that took its place; ask it for sizes, but never call it."""
    while not isinstance(module, ExpertBank) and "base_layer" in module._modules:
        module = cast(nn.Module, module.base_layer)
    return module  # other wrappers (FSDP, torch.compile, a saved copy of peft) hand every question on


_activity: ContextVar[Tensor | None] = ContextVar("activity", default=None)


@contextmanager
def known_activity(activity: Float[Tensor, " dense"] | None) -> Iterator[None]:
    """Context in which :func:`largest_units` knows how active each inner unit of the dense FFN is.

    Args:
        activity: Root mean square of what each unit hands to the down projection, ``(ffn,)``; None: not known.
    """
    token = _activity.set(activity)
    try:
        yield
    finally:
        _activity.reset(token)


@torch.no_grad()
def largest_units(
    gate_up: Float[Tensor, "twice_dense hidden"], down: Float[Tensor, "hidden dense"], width: int
) -> tuple[Float[Tensor, "twice_kept hidden"], Float[Tensor, "hidden kept"]]:
    """The `width` inner units of a dense FFN that say most.

    Inside :func:`known_activity` these are the units with the largest activity * ||down column||: the root mean square
    of what a unit adds to the output. Without it they are those with the largest product of
    ||gate row||, ||up row|| and ||down column||.

    Returns:
        Their gate and up rows and down columns, in the order of the dense FFN; all of them if it has no more.
    """
    dense = down.shape[1]
    if width >= dense:
        return gate_up, down
    activity = _activity.get()
    if activity is None:
        gate, up = gate_up.float().norm(dim=1).chunk(2)
        activity = gate * up
    kept = (activity.to(down.device) * down.float().norm(dim=0)).topk(width).indices.sort().values
    return gate_up[torch.cat([kept, kept + dense])], down[:, kept]


def check_dense(gate_up: Tensor, down: Tensor, hidden: int) -> None:
    """Refuse weights that are not those of a gated FFN of width `hidden`.

    Raises:
        ValueError: the shapes do not fit.
    """
    dense = down.shape[1]
    if gate_up.shape != (2 * dense, hidden) or down.shape[0] != hidden:
        raise ValueError(
            f"a dense FFN for experts of hidden {hidden} has gate_up (2*ffn, {hidden}) and down "
            f"({hidden}, ffn), got {tuple(gate_up.shape)} and {tuple(down.shape)}"
        )
