"""The two ways in which a routing scheme decides: gates that score the experts and choose, or no gate at all."""

from __future__ import annotations

import abc
import itertools
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from moiety.groups import ExpertGroups, Modality
from moiety.moe.asymoe.context import Context
from moiety.moe.balance import SelectionBias
from moiety.moe.trace import Routing
from moiety.recipe.recipe import MoESettings


class Gate(NonDynamicallyQuantizableLinear):
    """The scores that one gate gives to the experts it may choose.

    A router calls its gates and never reads their weights. So adapters on a gate take effect, and another module may
    stand in its place. Quantisers leave a gate alone unless they are told to take it: torch, torchao and bitsandbytes
    convert plain ``nn.Linear`` and skip this subclass. A gate is some millionths of the layer, but its numbers decide
    which experts run.

    Args:
        hidden: Width of the decoder.
        place: Its rows among the rows of all gates of the router.
        total: Rows of all gates.
        wide: Compute in float32 at least, whatever the type of the model.
    """

    def __init__(self, hidden: int, place: slice, total: int, *, wide: bool = False) -> None:
        super().__init__(hidden, place.stop - place.start, bias=False)
        self.place, self.total, self.wide = place, total, wide

    def forward(self, x: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens rows"]:
        """Scores, ``(tokens, hidden)`` -> ``(tokens, rows)``."""
        dtype = torch.promote_types(x.dtype, self.weight.dtype)
        if self.wide:
            dtype = torch.promote_types(dtype, torch.float32)
        # as large as the product of all gates: a smaller one rounds otherwise, and stored results come from the large
        weight = F.pad(self.weight.to(dtype), (0, 0, self.place.start, self.total - self.place.stop))
        return F.linear(x.to(dtype), weight)[:, self.place]


class Router(nn.Module, abc.ABC):
    """Decides which experts each token uses and how much each counts.

    Args:
        groups: Who may use which expert; from :meth:`layout`.
        hidden: Width of the decoder.
        settings: Recipe section ``moe``.
    """

    has_gate: ClassVar[bool]
    default_top_k: ClassVar[int]
    text_reads_images: ClassVar[bool] = False
    """Whether the routing of text may depend on picture tokens, through `context`; a scheme has to declare it."""

    def __init__(self, groups: ExpertGroups, hidden: int, settings: MoESettings) -> None:
        super().__init__()
        self.groups, self.hidden, self.settings = groups, hidden, settings
        self.top_k = settings.top_k or self.default_top_k
        # the table, read once: a forward looks nothing up
        self.num_experts = groups.num_experts
        self.group_of_modality = tuple(
            (modality, groups.index_of_modality(modality)) for modality in groups.modality_groups
        )

    @classmethod
    @abc.abstractmethod
    def layout(cls, experts: Mapping[str, int] | None, modality_groups: Mapping[int, str]) -> ExpertGroups:
        """The table of the scheme.

        Args:
            experts: Expert group -> count, every group named; None: the counts of the scheme. The order of the bank
                does not depend on the order of this mapping.
            modality_groups: Modality id -> modality group.

        Raises:
            ValueError: a group is unknown or missing, or the counts do not make a usable table.
        """

    @classmethod
    def table(cls, settings: MoESettings) -> ExpertGroups:
        """:meth:`layout` for `settings`; a scheme with several kinds of experts writes them in.

        Raises:
            ValueError: as :meth:`layout`.
        """
        return cls.layout(settings.experts, settings.modality_groups)

    def initialise(self, init: Any = nn.init) -> None:
        """Draw new weights with the functions of `init`; see ``ExpertBank.initialise``."""
        for parameter in self.parameters():
            init.normal_(parameter, std=self.settings.router_init_std)

    def activated_parameters(self, modality_group: str) -> int:
        """Parameters of the router that a token of `modality_group` passes through: all, unless a scheme says less."""
        return sum(parameter.numel() for parameter in self.parameters())

    @abc.abstractmethod
    def forward(
        self, x: Float[Tensor, "tokens hidden"], modality_ids: Int[Tensor, " tokens"], context: Context | None = None
    ) -> Routing:
        """Decide for every token.

        Args:
            x: Input of the sparse layer, ``(tokens, hidden)``.
            modality_ids: What each token is, ``(tokens,)``; -1 on padding.
            context: What in the prompt supports each token, where the layer has looked it up; most schemes do not
                read it.
        """

    def logits(
        self, x: Float[Tensor, "tokens hidden"], modality_ids: Int[Tensor, " tokens"]
    ) -> Float[Tensor, "tokens experts"]:
        """The scores of all experts for every token, -inf where an expert is closed to it.

        For programs that choose and compute with code of their own. A softmax over the `top_k` largest is the weight of
        each chosen expert, with ``norm_topk``.

        Args:
            x: Input of the sparse layer, ``(tokens, hidden)``.
            modality_ids: What each token is, ``(tokens,)``; -1 on padding.
        """
        return self(x, modality_ids).logits

    def modality_group_of(self, modality_ids: Int[Tensor, " tokens"]) -> Int[Tensor, " tokens"]:
        """Position of each token's modality group in ``groups.names``; -1 on padding.

        Raises:
            RuntimeError: an id has no modality group (on CUDA as a device-side assertion, so that nothing waits).
        """
        group = torch.full_like(modality_ids, -1, dtype=torch.int64)
        for modality, number in self.group_of_modality:
            group = group.masked_fill(modality_ids == modality, number)
        known = (group >= 0) | (modality_ids == int(Modality.PADDING))
        torch._assert_async(
            known.all(),
            f"modality_ids hold an id without a modality group; known ids: {sorted(self.groups.modality_groups)} and "
            "-1 for padding. Add it to moe.modality_groups",
        )
        return group

    def without_padding(self, index: Tensor, weights: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
        """Index ``num_experts`` and weight 0 on padding."""
        padding = (group < 0).unsqueeze(-1)
        return index.masked_fill(padding, self.num_experts), weights.masked_fill(padding, 0)


class GatedRouter(Router):
    r"""Softmax, top-k, renormalise, with one linear gate for each set of modality groups that share one.

    For token *t* of modality group *g*: :math:`z_t = W_g x_t` over the experts visible to *g*, :math:`p_t =
    softmax(z_t)` in float32, the `top_k` largest are chosen and, with ``norm_topk``, rescaled to sum to 1. Scores of
    closed experts are -inf. The choice is made on the scores, not on the probabilities: the order is the same, and
    probabilities that underflow to 0 cannot tie with closed experts.

    Source:
        Mixtral (Jiang et al. 2024, eq. 1-2) for the order of operations; MoIIE (2508.09779), released code, for one
        gate per modality. Bit-level difference: the released softmax runs in the dtype of the logits, ours in float32.
    """

    has_gate = True
    default_top_k = 2

    def __init__(self, groups: ExpertGroups, hidden: int, settings: MoESettings) -> None:
        super().__init__(groups, hidden, settings)
        ends, wide = [0, *itertools.accumulate(groups.gate_sizes)], settings.router_dtype == "float32"
        places = [slice(start, end) for start, end in itertools.pairwise(ends)]
        self.gates = nn.ModuleDict(
            {
                name: Gate(hidden, place, ends[-1], wide=wide)
                for name, place in zip(groups.gate_names, places, strict=True)
            }
        )
        self.layouts = tuple(_layout(groups, gate, first) for gate, first in enumerate(ends[:-1]))
        self.selection = None if settings.balance == "loss" else SelectionBias(groups, settings.bias_rate)
        GatedRouter.initialise(self)

    def initialise(self, init: Any = nn.init) -> None:
        """Draw the gates from normal(0, ``router_init_std``) with the functions of `init`."""
        for gate in self.gates.values():
            init.normal_(cast(nn.Linear, gate).weight, std=self.settings.router_init_std)

    def activated_parameters(self, modality_group: str) -> int:
        """All parameters but those of the gates of other modality groups."""
        own = self.groups.gate_of(modality_group)
        others = [gate for number, gate in enumerate(self.gates.values()) if number != own]
        unused = sum(parameter.numel() for gate in others for parameter in gate.parameters())
        return super().activated_parameters(modality_group) - unused

    def forward(
        self, x: Float[Tensor, "tokens hidden"], modality_ids: Int[Tensor, " tokens"], context: Context | None = None
    ) -> Routing:
        """Score, choose, weigh."""
        group = self.modality_group_of(modality_ids)
        return self.decide(self._visible_scores(self._scores(x), group), group, x.dtype)

    def logits(
        self, x: Float[Tensor, "tokens hidden"], modality_ids: Int[Tensor, " tokens"]
    ) -> Float[Tensor, "tokens experts"]:
        """The scores of each token's own gate at the places of its experts."""
        return self._visible_scores(self._scores(x), self.modality_group_of(modality_ids))

    def decide(
        self, logits: Float[Tensor, "tokens experts"], group: Int[Tensor, " tokens"], dtype: torch.dtype
    ) -> Routing:
        """Choose by `logits`, and a selection bias if there is one; weigh by `logits`; weights have type `dtype`."""
        scores = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.selection is None:
            chosen, index = scores.topk(self.top_k, dim=-1)
        else:
            found = self.selection(scores, group).topk(self.top_k, dim=-1).indices
            chosen, order = scores.gather(-1, found).sort(dim=-1, descending=True)  # largest weight first
            index = found.gather(-1, order)
        # a softmax over the chosen scores is the softmax over all visible ones, renormalised
        weights = chosen.softmax(dim=-1) if self.settings.norm_topk else scores.softmax(dim=-1).gather(-1, index)
        index, weights = self.without_padding(index, weights.to(dtype), group)
        return Routing(logits, index, weights, group)

    def _scores(self, x: Tensor) -> Tensor:
        """The answers of all gates side by side: ``(tokens, hidden)`` -> ``(tokens, rows)``, rows of all gates.

        A module that stands in the place of a gate (an adapter, a quantised layer) gets `x` in the type of the model.
        """
        wide = self.settings.router_dtype == "float32"
        lifted = x.to(torch.promote_types(x.dtype, torch.float32)) if wide else x  # one copy for all gates
        with torch.autocast(x.device.type, enabled=False) if wide else nullcontext():
            return torch.cat([gate(lifted if isinstance(gate, Gate) else x) for gate in self.gates.values()], dim=-1)

    def _visible_scores(self, scores: Tensor, group: Tensor) -> Tensor:
        """Lay the rows of each token's own gate over the bank: ``(tokens, rows)`` -> ``(tokens, experts)``.

        The rows of every gate are spread over the bank by slices, with -inf between them; one ``where`` for each
        further gate picks the scores of the token's own gate. Padding keeps the finite scores of the first gate, so
        that no row holds -inf alone.
        """
        union = None
        for layout in self.layouts:
            wide = self._spread(scores, layout)
            if union is None:
                union = wide
                continue
            own = torch.zeros_like(group, dtype=torch.bool)
            for number in layout.members:
                own = own | (group == number)
            union = torch.where(own.unsqueeze(-1), wide, union)
        assert union is not None
        return union

    def _spread(self, scores: Tensor, layout: GateLayout) -> Tensor:
        """Scores of one gate at the places of its experts in the bank, -inf elsewhere."""
        pieces = [
            scores.new_full((scores.shape[0], count), float("-inf")) if row is None else scores[:, row : row + count]
            for row, count in layout.pieces
        ]
        return torch.cat(pieces, dim=-1) if len(pieces) > 1 else pieces[0]


@dataclass(frozen=True)
class GateLayout:
    """Where the rows of one gate lie in the bank.

    Args:
        members: Positions in ``ExpertGroups.names`` of the modality groups that it scores.
        pieces: For each expert group in bank order, its first row among the rows of all gates and its number of
            experts; the row is None where the group is closed to this gate.
    """

    members: tuple[int, ...]
    pieces: tuple[tuple[int | None, int], ...]


def _layout(groups: ExpertGroups, gate: int, first_row: int) -> GateLayout:
    """The layout of gate number `gate`, whose rows begin at `first_row`."""
    visible, pieces, row = groups.gate_rows(gate), [], first_row
    for expert_group in groups.groups:
        if not expert_group.count:
            continue
        is_open = groups.slice_of(expert_group.name).start in visible
        pieces.append((row if is_open else None, expert_group.count))
        row += expert_group.count if is_open else 0
    return GateLayout(groups.gate_members[gate], tuple(pieces))


class GatelessRouter(Router):
    """Every token uses all experts that it may use, with equal weights; the router has no parameters.

    Raises:
        ValueError: modality groups see different numbers of experts, or `top_k` is not that number.
    """

    has_gate = False
    default_top_k = 1

    def __init__(self, groups: ExpertGroups, hidden: int, settings: MoESettings) -> None:
        super().__init__(groups, hidden, settings)
        self.top_k = gateless_top_k(groups, settings)
        self.visible = tuple(groups.visible(name) for name in groups.names)

    def forward(
        self, x: Float[Tensor, "tokens hidden"], modality_ids: Int[Tensor, " tokens"], context: Context | None = None
    ) -> Routing:
        """The visible experts of each token, in bank order."""
        group = self.modality_group_of(modality_ids)
        logits = x.new_full((x.shape[0], self.num_experts), float("-inf"))
        index = torch.full((x.shape[0], self.top_k), self.num_experts, device=x.device)
        choice = torch.arange(self.top_k, device=x.device)
        expert = torch.arange(self.num_experts, device=x.device)
        for number, experts in enumerate(self.visible):
            own = (group == number).unsqueeze(-1)
            for place, visible in enumerate(experts):
                index = index.masked_fill(own & (choice == place), visible)
                logits = logits.masked_fill((own | (group < 0).unsqueeze(-1)) & (expert == visible), 0)
        weights = x.new_full(index.shape, 1 / self.top_k)
        index, weights = self.without_padding(index, weights, group)
        return Routing(logits, index, weights, group)


def gateless_top_k(groups: ExpertGroups, settings: MoESettings) -> int:
    """How many experts every token uses in a scheme without a gate."""
    seen = {name: len(groups.visible(name)) for name in groups.names}
    if len(set(seen.values())) != 1:
        raise ValueError(
            f"scheme {settings.scheme!r} uses every visible expert, so each modality group must see equally many; "
            f"in {groups.describe()} they see {seen}"
        )
    top_k = next(iter(seen.values()))
    if settings.top_k not in (None, top_k):
        raise ValueError(
            f"scheme {settings.scheme!r} uses all {top_k} visible experts; moe.top_k={settings.top_k} cannot be met, "
            "leave it out"
        )
    return top_k
