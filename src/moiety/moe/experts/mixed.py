"""One bank for each expert group, behind the face of a single bank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from moiety.groups import TEXT_GROUP, ExpertGroup, ExpertGroups
from moiety.moe.experts.bank import Beside, BesideBank, ExpertBank, Place, bank_in
from moiety.moe.experts.ffn import FFNExperts
from moiety.moe.experts.kinds import bank_class
from moiety.moe.experts.slots import Share, share_slots, side_of
from moiety.recipe.recipe import MoESettings


class MixedExperts(BesideBank):
    """Banks of several kinds, side by side, with experts numbered through all of them.

    All slots are sorted once, by expert and side; each bank runs on its own slots alone.

    Args:
        groups: The expert groups; ``kind`` of each is a key of ``moe.experts.kinds.EXPERTS``.
        hidden: Width of the decoder.
        ffn: Inner width of one expert, where the settings give its group no width of its own.
        settings: Recipe section ``moe``; in scheme asymoe with every width of ``moe.asymoe`` given.
        act: Activation of the decoder's FFN.
        bank: Class of the plain experts.

    Raises:
        ValueError: a kind is unknown, it needs ``moe.asymoe`` and there is none, or a width is missing.
    """

    def __init__(
        self,
        groups: ExpertGroups,
        hidden: int,
        ffn: int,
        settings: MoESettings,
        act: str | Callable[[Tensor], Tensor] = "silu",
        bank: Callable[..., ExpertBank] = FFNExperts,
    ) -> None:
        super().__init__()
        self.groups, self.hidden, self.ffn, self.settings = groups, hidden, ffn, settings
        self.num_experts, self.num_sides = groups.num_experts, len(groups.names)
        self.members = tuple(group for group in groups.groups if group.count)
        self.banks = nn.ModuleDict({group.name: self._bank(group, act, bank) for group in self.members})
        self.weighing = tuple(group.name for group in self.members if group.kind == "evidence")
        self.text_input = "x" if settings.asymoe is None else settings.asymoe.inter_text_input
        self.cascades = self.text_input != "x" and bool(groups.inter) and TEXT_GROUP in self.banks

    def _bank(self, group: ExpertGroup, act: Any, plain: Callable[..., ExpertBank]) -> ExpertBank:
        place = Place(group, self.hidden, self.ffn, self.num_sides, self.settings, act)
        kind = bank_class(group)
        return plain(group.count, self.hidden, place.width, act) if kind is FFNExperts else kind.at(place)

    def bank(self, name: str) -> Any:
        """The bank of the expert group called `name`, to be asked; what is called is ``banks[name]``."""
        return bank_in(self.banks[name])

    def _all(self) -> list[ExpertBank]:
        return [self.bank(group.name) for group in self.members]

    def run(self, hidden_states: Tensor, top_k_weights: Tensor, share: Share, beside: Beside | None = None) -> Tensor:
        """``forward`` on slots sorted by somebody else; they are sorted again."""
        return self.forward(hidden_states, share.index, top_k_weights, beside)

    def forward(
        self,
        hidden_states: Float[Tensor, "tokens hidden"],
        top_k_index: Int[Tensor, "tokens top_k"] | Share | None = None,
        top_k_weights: Float[Tensor, "tokens top_k"] | None = None,
        beside: Beside | None = None,
    ) -> Float[Tensor, "tokens hidden_or_experts"]:
        """Weighted sum of the chosen experts; exactly 0 where no expert is chosen.

        Without index and weights: alpha of every evidence expert for every token, float32.

        Raises:
            RuntimeError: what stands beside the hidden states is missing.
        """
        if beside is None:
            raise RuntimeError("mixed experts read more than hidden states; pass a Beside as the fourth argument")
        if top_k_index is None or top_k_weights is None:
            return torch.cat([self.banks[name](hidden_states, beside=beside) for name in self.weighing], dim=-1)
        if isinstance(top_k_index, Share):
            return self.run(hidden_states, top_k_weights, top_k_index, beside)
        side = side_of(beside.modality_group, self.num_sides)
        shares = share_slots(top_k_index, side, [group.count for group in self.members], self.num_sides)
        named = dict(zip(self.banks, shares, strict=True))
        inputs = dict.fromkeys(self.banks, hidden_states)
        out = None
        if self.cascades:
            answer, weight = self._cascade(hidden_states, named, top_k_weights, beside)
            text = (beside.modality_group == self.groups.names.index(TEXT_GROUP)).unsqueeze(-1)
            given = answer + hidden_states if self.text_input == "cascade_residual" else answer
            for group in self.members:
                if len(group.admits) > 1:
                    inputs[group.name] = torch.where(text, given, hidden_states)
            out = answer * weight
        for name, share in named.items():
            found = self.banks[name](inputs[name], share, top_k_weights, beside)
            out = found if out is None else out + found
        assert out is not None  # a table has at least one expert
        return out

    def _cascade(
        self, x: Tensor, named: dict[str, Share], weights: Tensor, beside: Beside
    ) -> tuple[Float[Tensor, "tokens hidden"], Float[Tensor, "tokens 1"]]:
        """What the first text expert says to every text token, and how much its own slots weigh.

        Its slots leave `named`: they are answered here, so that nothing is computed twice.
        """
        index = named[TEXT_GROUP].index
        (num_experts,) = (group.count for group in self.members if group.name == TEXT_GROUP)
        text = beside.modality_group == self.groups.names.index(TEXT_GROUP)
        first = index == 0
        every = torch.where(text, 0, num_experts).unsqueeze(-1).to(index.dtype)
        zero = torch.zeros_like(beside.modality_group)
        (share,) = share_slots(every, zero, [num_experts], self.num_sides)
        answer = self.banks[TEXT_GROUP](x, share, torch.ones_like(weights[:, :1]), beside)
        if num_experts == 1:
            del named[TEXT_GROUP]
        else:
            others = index.masked_fill(first, num_experts)
            (named[TEXT_GROUP],) = share_slots(others, zero, [num_experts], self.num_sides)
        return answer, (weights * first).sum(dim=-1, keepdim=True).to(answer.dtype)

    def initialise(self, init: Any = torch.nn.init) -> None:
        """Each bank in its own way."""
        for bank in self._all():
            bank.initialise(init)

    @torch.no_grad()
    def load_from_dense(self, gate_up: Tensor, down: Tensor) -> None:
        """Start every bank from a dense FFN, as far as its kind and width allow; see each bank's own."""
        for bank in self._all():
            bank.load_from_dense(gate_up, down)

    def starts_as_dense(self, ffn: int) -> bool:
        """Whether every bank does; in a cascade experts answer from another expert's output, so none does."""
        return not self.cascades and all(bank.starts_as_dense(ffn) for bank in self._all())

    def activated_parameters(self) -> int:
        """Parameters of the dearest expert."""
        return max(bank.activated_parameters() for bank in self._all())

    def activated_of(self, expert: int, modality_group: int) -> int:
        """Parameters that a slot of expert number `expert`, counted through all banks, passes through."""
        group = self.groups.group_of_expert(expert)
        first = self.groups.slice_of(group.name).start
        return self.bank(group.name).activated_of(expert - first, modality_group)

    def activated_by(self, experts: Sequence[int], modality_group: int) -> int:
        """Parameters of all experts that run for a token of this modality group that chose `experts`.

        In a cascade inter-modality experts read what the first text expert says: it runs for every text token that
        chose one of them.
        """
        run = set(experts)
        text = TEXT_GROUP in self.groups.names and modality_group == self.groups.names.index(TEXT_GROUP)
        if self.cascades and text and run & set(self.groups.inter):
            run.add(self.groups.slice_of(TEXT_GROUP).start)
        return super().activated_by(sorted(run), modality_group)
