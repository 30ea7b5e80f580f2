r"""Activated parameters of scheme ``asymoe``: those that one token passes through, as formulas of the widths.

:math:`A_m(S)` counts the parameters of the decoder whose value can change the output of one token of modality group *m*
that chose the experts *S* in every sparse layer. Comparisons use the largest value over the sets that routing can
reach, because an average could promise a saving that half of the tokens do not get.

Source:
    AsyMoE (2606.00275) prints counts without the rule behind them; ``docs/decisions/0006`` derives the rule.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

from moiety.groups import TEXT_GROUP, ExpertGroup, ExpertGroups
from moiety.moe.experts.bank import Place
from moiety.moe.experts.kinds import bank_class
from moiety.moe.tables import INTER_GROUP, asymmetric_table
from moiety.recipe.asymoe import AsyMoESettings
from moiety.recipe.recipe import MoESettings

ExpertSet = tuple[str, ...]
"""Names of the expert groups of the experts that a token chose, in bank order, one entry for each expert."""


@dataclass(frozen=True)
class DecoderShape:
    """Sizes of a dense decoder.

    Args:
        hidden: Width of the decoder.
        ffn: Inner width of its gated FFN.
        layers: Number of layers.
        vocab: Rows of the embedding.
        heads: Query heads.
        kv_heads: Key and value heads.
        tied: Whether head and embedding are one tensor.
        extra: Parameters that the formula of a Llama decoder leaves out: biases, norms of heads, heads of another size.
        beside: Parameters of vision tower and projector. ``moiie_budget`` counts them in both models.

    Example:
        >>> DecoderShape(3072, 8192, 32, 32064, 32, 32).dense
        3821079552
    """

    hidden: int
    ffn: int
    layers: int
    vocab: int
    heads: int
    kv_heads: int
    tied: bool = False
    extra: int = 0
    beside: int = 0

    def counted_as(self, dense: int) -> DecoderShape:
        """The same shape, with `extra` chosen so that the dense decoder has `dense` parameters."""
        return replace(self, extra=self.extra + dense - self.dense)

    @property
    def trunk(self) -> int:
        """Number of parameters outside the FFNs: embedding, head, attention and norms."""
        attention = 2 * self.hidden**2 + 2 * self.hidden**2 * self.kv_heads // self.heads
        tables = self.vocab * self.hidden * (1 if self.tied else 2)
        return tables + self.layers * (attention + 2 * self.hidden) + self.hidden + self.extra

    @property
    def dense_ffn(self) -> int:
        """Number of parameters of one FFN."""
        return 3 * self.hidden * self.ffn

    @property
    def dense(self) -> int:
        """Number of parameters of the whole dense decoder."""
        return self.trunk + self.layers * self.dense_ffn


# -- what a token passes through -------------------------------------------------------------------------------------
def expert_table(settings: MoESettings) -> ExpertGroups:
    """The expert table of `settings`, with the kinds of scheme asymoe.

    Raises:
        ValueError: see :func:`moiety.moe.tables.asymmetric_table`.
    """
    table = asymmetric_table(settings.experts, settings.modality_groups, asymoe_of(settings))
    return table.with_kinds(settings.kinds)


def expert_parameters(settings: MoESettings, hidden: int, group: str) -> int:
    """Parameters that one token passes through in one expert of `group`.

    In a hyperbolic expert only the projection of the token's own side counts. The bank of the group is built on the
    meta device and asked, so that every kind counts itself.

    Args:
        settings: Settings with every width that the group reads.
        hidden: Width of the decoder.
        group: Name of an expert group.
    """
    table = expert_table(settings)
    (found,) = (one for one in table.groups if one.name == group)
    read = settings.model_copy(update={"asymoe": asymoe_of(settings).model_copy(update={"special_ids": None})})
    return _parameters_of(replace(found, count=1), hidden, len(table.names), read.model_dump_json())


@functools.lru_cache(maxsize=4096)
def _parameters_of(group: ExpertGroup, hidden: int, num_sides: int, settings: str) -> int:
    """Parameters that one slot passes through in a bank of one expert; `settings` is JSON, which the cache can hash."""
    read = MoESettings.model_validate_json(settings)
    residual = None if read.asymoe is None else read.asymoe.residual_ffn
    place = Place(group, hidden, residual or 1, num_sides, read)
    with torch.device("meta"):
        return bank_class(group).at(place).activated_of(0, 0)


def factors_of(own: AsyMoESettings) -> int:
    """Number of factors of inter kind ``product``; the default is one for every 32 coordinates."""
    return own.product_factors or max(1, _width(own, "hyp_dim") // 32)


def shared_parameters(settings: MoESettings, hidden: int, modality_group: str) -> int:
    """Parameters of context attention and router in one sparse layer that a token of `modality_group` passes through.

    Only text tokens query the context attention. The others give it keys and values.
    """
    own = asymoe_of(settings)
    gate = len(expert_table(settings).visible(modality_group)) * hidden
    if not own.needs_context:
        return gate
    width = _width(own, "context_dim")
    if modality_group != TEXT_GROUP:
        return gate + 2 * hidden * width
    context = (4 if own.context_output else 3) * hidden * width + (width if own.null_key else 0)
    if own.text_kind == "evidence" and own.score != "off":
        gate += hidden + own.score_bias + (own.evidence_gain == "learned")
    return gate + context


def reachable_sets(settings: MoESettings, modality_group: str) -> list[ExpertSet]:
    """Every choice of ``top_k`` visible experts, as names of their groups.

    Example:
        >>> reachable_sets(MoESettings(scheme="asymoe"), "text")
        [('inter', 'text'), ('inter', 'inter')]
    """
    sets: list[ExpertSet] = [()]
    for group in expert_table(settings).groups:
        if modality_group in group.admits:
            sets = [(*before, *[group.name] * taken) for before in sets for taken in range(group.count + 1)]
    return [chosen for chosen in sets if len(chosen) == (settings.top_k or 2)]


def evaluated(settings: MoESettings, modality_group: str, chosen: ExpertSet) -> ExpertSet:
    """The experts that run for a token that chose `chosen`.

    In a cascade the inter-modality experts read the output of a text expert, which then runs as well.
    """
    cascades = asymoe_of(settings).inter_text_input != "x" and modality_group == TEXT_GROUP
    num_text = sum(group.count for group in expert_table(settings).groups if group.name == TEXT_GROUP)
    # the first text expert feeds the cascade; a set is sure to contain it only where it contains all text experts
    if cascades and INTER_GROUP in chosen and chosen.count(TEXT_GROUP) < num_text:
        return (*chosen, TEXT_GROUP)
    return chosen


def layer_parameters(settings: MoESettings, hidden: int, modality_group: str, chosen: ExpertSet) -> int:
    """Parameters of one sparse layer that a token of `modality_group` passes through if it chose `chosen`."""
    run = evaluated(settings, modality_group, chosen)
    shared = shared_parameters(settings, hidden, modality_group)
    return shared + sum(expert_parameters(settings, hidden, group) for group in run)


def largest_layer(settings: MoESettings, hidden: int, modality_group: str) -> int:
    """:func:`layer_parameters` for the largest set that routing can reach."""
    sets = reachable_sets(settings, modality_group)
    return max(layer_parameters(settings, hidden, modality_group, chosen) for chosen in sets)


def activated_parameters(
    settings: MoESettings, shape: DecoderShape, modality_group: str, chosen: ExpertSet | None = None
) -> int:
    r"""Activated parameters :math:`A_m(S)` of the decoder, without vision tower and projector.

    Args:
        settings: Settings with every width.
        shape: The dense decoder.
        modality_group: Modality group *m* of the token.
        chosen: The set *S*. None: the largest set that routing can reach.

    Example:
        >>> widths = {"hyp_dim": 768, "inter_ffn": 3584, "context_dim": 512, "evidence_dim": 1280, "vision_ffn": 2496}
        >>> settings = MoESettings(scheme="asymoe", asymoe=widths)
        >>> activated_parameters(settings, DecoderShape(3072, 8192, 32, 32064, 32, 32), "text", ("inter", "text"))
        2840644800
    """
    num_sparse = len(settings.resolved_layers(shape.layers))
    total = shape.trunk + (shape.layers - num_sparse) * shape.dense_ffn
    for layer, count in layer_kinds(settings, num_sparse):
        if chosen is None:
            total += count * largest_layer(layer, shape.hidden, modality_group)
        else:
            total += count * layer_parameters(layer, shape.hidden, modality_group, chosen)
    return total


def layer_kinds(settings: MoESettings, num_sparse: int) -> list[tuple[MoESettings, int]]:
    """The settings of each kind of sparse layer, with the number of such layers.

    There are two kinds where ``evidence_layers`` is ``deepest_half``: the lower layers have plain text experts.
    """
    own = asymoe_of(settings)
    if own.evidence_layers == "all":
        return [(settings, num_sparse)]
    plain = settings.model_copy(update={"asymoe": own.model_copy(update={"text_kind": "ffn"})})
    return [(plain, num_sparse // 2), (settings, num_sparse - num_sparse // 2)]


def asymoe_of(settings: MoESettings) -> AsyMoESettings:
    """Section ``moe.asymoe`` of `settings`.

    Raises:
        ValueError: the settings belong to another scheme.
    """
    if settings.asymoe is None:
        raise ValueError(
            f"moe.scheme is {settings.scheme!r}; widths and sets of experts are counted for scheme 'asymoe'"
        )
    return settings.asymoe


def _width(own: AsyMoESettings, name: str) -> int:
    value = getattr(own, name)
    if value is None:
        raise ValueError(
            f"moe.asymoe.{name} is not known yet; design the widths first (moiety.moe.asymoe.budget.design)"
        )
    return int(value)
