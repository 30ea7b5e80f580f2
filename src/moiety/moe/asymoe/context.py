"""Evidence attention: what in the prompt supports this token, and how much of it there is.

The keys are *evidence* positions only (picture features and the user's text), strictly before the query, and one null
key with value zero. Attention on the null key is attention that found nothing. So the share of the rest, the *evidence
mass*, can say "nothing relevant", which a plain softmax cannot.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from moiety.groups import Modality
from moiety.recipe.asymoe import AsyMoESettings


@dataclass(eq=False)
class ContextCache:
    """Keys and values of the evidence seen so far in one layer; a member of the key-value cache of one generation.

    Each column remembers its position, so that :meth:`crop` removes exactly the columns of the dropped tokens. No value
    of a tensor is read here: every decision is made on the host.

    Args:
        length: Tokens seen, evidence or not.
        keys: ``(batch, heads, cached, head_dim)``; None before the first prompt.
        values: As `keys`.
        mask: Which columns are evidence, ``(batch, cached)``.
        positions: Position of each column in the sequence, ascending.
    """

    length: int = 0
    keys: Tensor | None = None
    values: Tensor | None = None
    mask: Tensor | None = None
    positions: list[int] = field(default_factory=list)

    def append(self, keys: Tensor, values: Tensor, mask: Tensor) -> None:
        """Add a chunk of a prompt; call it before :meth:`advance`."""
        if self.keys is None or self.values is None or self.mask is None:
            self.keys, self.values, self.mask = keys, values, mask
        else:
            self.keys = torch.cat([self.keys, keys], dim=2)
            self.values = torch.cat([self.values, values], dim=2)
            self.mask = torch.cat([self.mask, mask], dim=1)
        self.positions += range(self.length, self.length + keys.shape[2])

    def advance(self, tokens: int) -> None:
        """Count tokens that were seen."""
        self.length += tokens

    def select(self, rows: Tensor) -> None:
        """Keep, repeat or reorder rows of the batch, as beam search does."""
        self._rows(lambda tensor: tensor.index_select(0, rows.to(tensor.device)))

    def repeat(self, repeats: int) -> None:
        """Repeat every row `repeats` times, copies side by side."""
        self._rows(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def crop(self, tokens: int) -> None:
        """Forget the last `tokens` tokens."""
        self.length = max(0, self.length - tokens)
        kept = sum(position < self.length for position in self.positions)
        self.positions = self.positions[:kept]
        if self.keys is not None and self.values is not None and self.mask is not None:
            self.keys, self.values = self.keys[:, :, :kept], self.values[:, :, :kept]
            self.mask = self.mask[:, :kept]

    def reset(self) -> None:
        """Forget everything."""
        self.length, self.positions = 0, []
        self.keys = self.values = self.mask = None

    def _rows(self, change: Any) -> None:
        if self.keys is not None:
            self.keys, self.values, self.mask = change(self.keys), change(self.values), change(self.mask)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Which positions of one call may be looked up.

    Args:
        mask: True where a position is evidence, ``(batch, seq)``. None: all tokens of the call were generated, and none
            of them ever becomes evidence; what `cache` holds can still be looked up.
        cache: Evidence of earlier calls, to which that of this call is added. None: there was no earlier call.
        document_ids: Which document each position belongs to, ``(batch, seq)``, where rows pack several; None: one.
    """

    mask: Bool[Tensor, "batch seq"] | None = None
    cache: ContextCache | None = None
    document_ids: Int[Tensor, "batch seq"] | None = None


class Context(NamedTuple):
    """What the evidence says to each token.

    Args:
        output: a, ``(tokens, hidden)``; exactly 0 where no evidence can be seen, and on all that is not text.
        mass: e, the share of attention that found evidence, mean over heads, ``(tokens,)``, 0..1, float32 at least;
            exactly 0 in the same places.
        alpha: Share of memory that each evidence expert gives to each token, ``(tokens, evidence experts)``, computed
            once in each layer; None: not computed yet.
    """

    output: Float[Tensor, "tokens hidden"]
    mass: Float[Tensor, " tokens"]
    alpha: Float[Tensor, "tokens experts"] | None = None


class ContextAttention(nn.Module):
    r"""Attention from text to earlier evidence, by the projections of one sparse layer.

    Per head, with scores :math:`l_{ij} = q_i \cdot k_j / \sqrt{head\_dim}` over the evidence positions :math:`j < i` of
    the same document and :math:`n_i = q_i \cdot k_{null} / \sqrt{head\_dim}`:

    .. math:: e_i = \sigma(\log \sum_j e^{l_{ij}} - n_i), \quad a_i = W_O [e_i \sum_j softmax_j(l_{ij}) v_j]_{heads}

    which is one softmax over [null key with value zero, evidence]. It runs as one fused attention whose values carry
    two columns more, 1 on evidence and 1 on the null key: their averages are the two shares of e. No rotary position.

    Args:
        hidden: Width of the decoder.
        settings: Section ``moe.asymoe``; `context_dim` must be known. Without `null_key`, e is 1 wherever evidence can
            be seen, else 0.

    Raises:
        ValueError: `context_dim` is unknown or does not fit heads or decoder.

    Source:
        AsyMoE (2606.00275), eq. 8 and 20, writes softmax(h W_Q (c W_K)^T) c W_V for an "input context" c. The null key,
        the mass, W_O, heads and the strict order are ours.
    """

    def __init__(self, hidden: int, settings: AsyMoESettings) -> None:
        super().__init__()
        width = settings.context_dim
        if width is None:
            raise ValueError(
                "moe.asymoe.context_dim is not known; give it, or let moiety.moe.asymoe.budget.design set it"
            )
        self.heads = settings.context_heads or max(1, width // (64 if width >= 128 else 32))
        if width % self.heads:
            raise ValueError(f"moe.asymoe.context_dim={width} must be a multiple of {self.heads} context_heads")
        if not settings.context_output and width != hidden:
            raise ValueError(
                f"moe.asymoe.context_output is false, so context_dim={width} must be hidden={hidden}; "
                "give that width, or set context_output: true"
            )
        self.hidden, self.width = hidden, width
        self.scaled = settings.context_scale == "head_dim"
        self.scale = (width // self.heads) ** -0.5 if self.scaled else 1.0
        self.q_proj = nn.Linear(hidden, width, bias=False)
        self.k_proj = nn.Linear(hidden, width, bias=False)
        self.v_proj = nn.Linear(hidden, width, bias=False)
        self.o_proj = nn.Linear(width, hidden, bias=False) if settings.context_output else None
        self.k_null = nn.Parameter(torch.empty(self.heads, width // self.heads)) if settings.null_key else None
        self.initialise()

    def initialise(self, init: Any = nn.init) -> None:
        """Draw new weights with the functions of `init`; see ``ExpertBank.initialise``.

        W_O is not 0: with the context half of the evidence branches at 0 as well, neither would ever get a gradient.
        """
        init.normal_(self.q_proj.weight, std=self.hidden**-0.5 if self.scaled else 1 / self.hidden)
        init.normal_(self.k_proj.weight, std=self.hidden**-0.5)
        init.normal_(self.v_proj.weight, std=self.hidden**-0.5)
        if self.o_proj is not None:
            init.normal_(self.o_proj.weight, std=self.width**-0.5)
        if self.k_null is not None:
            init.zeros_(self.k_null)

    def forward(
        self,
        x: Float[Tensor, "batch seq hidden"],
        modality_ids: Int[Tensor, "batch seq"],
        evidence: Evidence,
    ) -> Context:
        """Look up the evidence, and let the cache take in that of this call.

        Args:
            x: Input of the sparse layer, ``(batch, seq, hidden)``.
            modality_ids: What each position is; only text asks, everything may answer.
            evidence: What may be looked up.

        Raises:
            ValueError: document ids came with a cache; a mask or document ids do not fit the positions.
        """
        _check(modality_ids, evidence)
        keys, values, open_keys = self._visible(x, evidence)
        asks = modality_ids == int(Modality.TEXT)
        open_keys = open_keys & asks.unsqueeze(-1)  # (batch, seq, keys)
        index = _askers(asks)
        if index is None:
            output, mass = self._ask(x, keys, values, open_keys)
            return Context(output.flatten(0, 1), mass.flatten())
        some, flat = (len(x), index.shape[1], -1), index.flatten()  # (batch, queries, ...), (batch * queries,)
        queries = x.flatten(0, 1).index_select(0, flat).view(some)
        output, mass = self._ask(queries, keys, values, open_keys.flatten(0, 1)[flat].view(some))
        everywhere = output.new_zeros(asks.numel(), self.hidden).index_copy(0, flat, output.flatten(0, 1))
        return Context(everywhere, mass.new_zeros(asks.numel()).index_copy(0, flat, mass.flatten()))

    def _ask(self, x: Tensor, keys: Tensor, values: Tensor, open_keys: Tensor) -> tuple[Tensor, Tensor]:
        """a ``(batch, queries, hidden)`` and e ``(batch, queries)`` of the positions in `x`."""
        attended, mass = self._attend(self._heads(self.q_proj(x)), keys, values, open_keys)
        return attended if self.o_proj is None else self.o_proj(attended), mass

    def _visible(self, x: Tensor, evidence: Evidence) -> tuple[Tensor, Tensor, Tensor]:
        """Keys, values ``(batch, heads, keys, head_dim)`` and who may see them ``(batch, seq, keys)``."""
        batch, seq = x.shape[:2]
        cache, mask = evidence.cache, evidence.mask
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        if cache is not None and cache.keys is not None and cache.values is not None and cache.mask is not None:
            parts.append((cache.keys, cache.values, cache.mask.unsqueeze(1).expand(batch, seq, -1)))
        if mask is not None:
            position = torch.arange(seq, device=x.device)
            seen = mask.bool().unsqueeze(1) & (position < position.unsqueeze(1))  # (batch, query, key), key < query
            if evidence.document_ids is not None:
                seen = seen & (evidence.document_ids.unsqueeze(1) == evidence.document_ids.unsqueeze(2))
            keys, values = self._heads(self.k_proj(x)), self._heads(self.v_proj(x))
            parts.append((keys, values, seen))
            if cache is not None:
                cache.append(keys, values, mask.bool())
        if cache is not None:
            cache.advance(seq)
        if not parts:
            empty = x.new_zeros(batch, self.heads, 0, self.width // self.heads)
            return empty, empty, torch.zeros(batch, seq, 0, dtype=torch.bool, device=x.device)
        if len(parts) == 1:
            return parts[0]
        return (
            torch.cat([part[0] for part in parts], dim=2),
            torch.cat([part[1] for part in parts], dim=2),
            torch.cat([part[2] for part in parts], dim=2),
        )

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor, open_keys: Tensor) -> tuple[Tensor, Tensor]:
        """One softmax over [null key, evidence]: ``(batch, seq, width)`` and the mass ``(batch, seq)``."""
        batch, heads, _, head_dim = query.shape
        null = query.new_zeros(heads, head_dim) if self.k_null is None else self.k_null.to(query.dtype)
        keys = torch.cat([null[None, :, None].expand(batch, -1, -1, -1), keys], dim=2)
        # a row that sees no evidence sees the null key, so that no softmax is empty: 0, not NaN, forward and backward
        sees_null = ~open_keys.any(dim=-1, keepdim=True)
        if self.k_null is not None:
            sees_null = torch.ones_like(sees_null)
        seen = torch.cat([sees_null, open_keys], dim=-1).unsqueeze(1)  # (batch, 1, seq, 1 + keys)
        # values get two columns more, [on the null key, on evidence]; eight, so that fused kernels stay aligned
        extra = values.new_zeros(batch, heads, keys.shape[2], 8)
        extra[:, :, 0, 0] = 1
        extra[:, :, 1:, 1] = 1
        values = torch.cat([F.pad(values, (0, 0, 1, 0)), extra], dim=-1)
        query, keys = F.pad(query, (0, 8)), F.pad(keys, (0, 8))
        mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=seen, scale=self.scale)
        attended, shares = mixed.split([head_dim, 8], dim=-1)
        shares = shares.to(torch.promote_types(shares.dtype, torch.float32))
        mass = (shares[..., 1] / (shares[..., 0] + shares[..., 1])).mean(dim=1)  # over heads
        return attended.transpose(1, 2).flatten(2), mass

    def _heads(self, projected: Tensor) -> Tensor:
        """``(batch, seq, width)`` -> ``(batch, heads, seq, head_dim)``."""
        batch, seq, width = projected.shape
        return projected.view(batch, seq, self.heads, width // self.heads).transpose(1, 2)

    def extra_repr(self) -> str:
        """Sizes, for ``print(model)``."""
        return f"hidden={self.hidden}, width={self.width}, heads={self.heads}"


def _askers(asks: Bool[Tensor, "batch seq"]) -> Int[Tensor, "batch queries"] | None:
    """Positions that ask, counted through the batch, as many for each row as the fullest row has; None: take all.

    Rows with fewer repeat no position: others fill them up, which see nothing and so get their zeros. Counting makes a
    GPU wait and a graph break, so it is done on CPU alone.
    """
    if asks.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    most = max(1, int(asks.sum(dim=1).max())) if asks.numel() else asks.shape[1]
    if most == asks.shape[1]:
        return None
    index = asks.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return index + asks.shape[1] * torch.arange(len(asks)).unsqueeze(1)


def _check(modality_ids: Tensor, evidence: Evidence) -> None:
    """Refuse an :class:`Evidence` that does not fit its call."""
    if evidence.cache is not None and evidence.document_ids is not None:
        raise ValueError("document_ids and a cache came together; packed rows cannot be continued, pass one of them")
    for name, given in (("evidence_mask", evidence.mask), ("document_ids", evidence.document_ids)):
        if given is not None and given.shape != modality_ids.shape:
            raise ValueError(
                f"{name} of shape {tuple(given.shape)} does not fit positions of shape {tuple(modality_ids.shape)}; "
                "give one entry per position"
            )
