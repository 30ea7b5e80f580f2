"""One bank for each expert group, which together are called like a single bank."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from moiety.groups import TEXT_GROUP, ExpertGroup, ExpertGroups
from moiety.moe.asymoe.context import Context
from moiety.moe.dispatch import Slots, deal, dispatch
from moiety.moe.experts.bank import ExpertBank, Place, bank_in
from moiety.moe.experts.ffn import FFNExperts
from moiety.moe.experts.kinds import bank_class
from moiety.recipe.recipe import MoESettings


class MixedExperts(ExpertBank):
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
        self.reading = tuple(name for name in self.banks if getattr(self.banks[name], "reads_context", False))
        self.text_group = groups.names.index(TEXT_GROUP) if TEXT_GROUP in groups.names else -2  # -1 is padding
        self.text_input = "x" if settings.asymoe is None else settings.asymoe.inter_text_input
        self.cascades = self.text_input != "x" and bool(groups.inter) and TEXT_GROUP in self.banks

    def _bank(self, group: ExpertGroup, act: Any, plain: Callable[..., ExpertBank]) -> ExpertBank:
        place = Place(group, self.hidden, self.ffn, self.num_sides, self.settings, act)
        kind = bank_class(group)
        return plain(group.count, self.hidden, place.width, act) if kind is FFNExperts else kind.at(place)

    def bank(self, name: str) -> Any:
        """The bank of the expert group called `name`, to ask it for sizes; to run it, call ``banks[name]``."""
        return bank_in(self.banks[name])

    def _all(self) -> list[ExpertBank]:
        return [self.bank(group.name) for group in self.members]

    def forward(  # type: ignore[override]
        self,
        hidden_states: Float[Tensor, "tokens hidden"],
        slots: Slots | None = None,
        top_k_weights: Float[Tensor, "tokens top_k"] | None = None,
        context: Context | None = None,
    ) -> Tensor | tuple[Tensor, ...]:
        """What each bank answers, ``(tokens, hidden)`` each; :func:`moiety.moe.dispatch.combine` adds it up.

        Without slots and weights: alpha of every evidence expert for every token, ``(tokens, evidence experts)``,
        float32 at least.

        Raises:
            RuntimeError: a bank reads the context, and there is none; or the slots are not sorted by side.
        """
        if slots is None or top_k_weights is None:
            return torch.cat([self.banks[name](hidden_states, context=context) for name in self.weighing], dim=-1)
        if slots.num_sides != self.num_sides or slots.modality_group is None:
            raise RuntimeError(
                f"mixed experts need slots sorted by {self.num_sides} sides, got {slots.num_sides}; call "
                "dispatch(index, num_experts, modality_group, num_sides)"
            )
        contexts = self._contexts(context)
        named = dict(zip(self.banks, deal(slots, [group.count for group in self.members]), strict=True))
        inputs, answers = dict.fromkeys(self.banks, hidden_states), []
        if self.cascades:
            text = slots.modality_group == self.text_group
            answer, weight = self._cascade(hidden_states, text, named, top_k_weights, contexts)
            given = answer + hidden_states if self.text_input == "cascade_residual" else answer
            for group in self.members:
                if len(group.admits) > 1:
                    inputs[group.name] = torch.where(text.unsqueeze(-1), given, hidden_states)
            answers.append(answer * weight)
        for name, own in named.items():
            answers.append(self.banks[name](inputs[name], own, top_k_weights, *contexts[name]))
        return tuple(answers)

    def _contexts(self, context: Context | None) -> dict[str, tuple[Context | None, ...]]:
        """The further argument of each bank: the context, with its own columns of alpha, where it reads one."""
        found: dict[str, tuple[Context | None, ...]] = dict.fromkeys(self.banks, ())
        first = 0
        for group in self.members:
            if group.name not in self.reading:
                continue
            found[group.name] = (context,)
            if context is not None and context.alpha is not None and group.name in self.weighing:
                found[group.name] = (context._replace(alpha=context.alpha[:, first : first + group.count]),)
                first += group.count
        return found

    def _cascade(
        self,
        x: Tensor,
        text: Tensor,
        named: dict[str, Slots],
        weights: Tensor,
        contexts: dict[str, tuple[Context | None, ...]],
    ) -> tuple[Float[Tensor, "tokens hidden"], Float[Tensor, "tokens 1"]]:
        """What the first text expert says to every text token, and how much its own slots weigh.

        Its slots leave `named`: they are answered here, so that nothing is computed twice.
        """
        bank, index, group = self.banks[TEXT_GROUP], named[TEXT_GROUP].index, named[TEXT_GROUP].modality_group
        (count,) = (member.count for member in self.members if member.name == TEXT_GROUP)

        def sort(index: Tensor) -> Slots:
            (own,) = deal(dispatch(index, count, group, self.num_sides), [count])
            return own

        every = sort(torch.where(text, 0, count).unsqueeze(-1).to(index.dtype))
        answer = bank(x, every, torch.ones_like(weights[:, :1]), *contexts[TEXT_GROUP])
        first = index == 0
        if count == 1:
            del named[TEXT_GROUP]
        else:
            named[TEXT_GROUP] = sort(index.masked_fill(first, count))
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
        """Parameters of the largest expert."""
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
