"""Products of sorted rows with a stack of matrices, one matrix for each run of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from moiety.moe.grouped_product import grouped_product


@dataclass(frozen=True, eq=False)
class Runs:
    """Where one matrix ends and the next begins. Every row belongs to a run.

    Args:
        ends: End row of each run, read by the host; the last is the number of rows.
        offsets: The same on the device, int32.
        grouped: One ``grouped_mm`` for all runs, instead of one product for each.
    """

    ends: Sequence[int]
    offsets: Tensor
    grouped: bool

    def __iter__(self) -> Iterator[tuple[int, slice]]:
        """Each matrix with its rows."""
        start = 0
        for number, end in enumerate(self.ends):
            yield number, slice(start, end)
            start = end

    def spread(self, values: Tensor) -> Tensor:
        """Each row's own value: ``(runs, …)`` -> ``(rows, …)``."""
        parts = [values[number].expand(run.stop - run.start, *values.shape[1:]) for number, run in self]
        return torch.cat(parts)

    def multiply(self, rows: Tensor, weight: Tensor) -> Tensor:
        """``rows @ weight.T``: ``(rows, width)``, ``(runs, out, width)`` -> ``(rows, out)``."""
        if self.grouped:
            return grouped_product(rows, weight.transpose(-2, -1), self.offsets)
        out = rows.new_empty(len(rows), weight.shape[1])
        for number, run in self:
            torch.mm(rows[run], weight[number].T, out=out[run])
        return out

    def add(self, out: Tensor, rows: Tensor, weight: Tensor) -> None:
        """Add ``rows @ weight.T`` to `out`; the width may be anything."""
        if self.grouped:
            rows, weight = (F.pad(part, (0, -part.shape[-1] % 8)).contiguous() for part in (rows, weight))
            out.add_(grouped_product(rows, weight.transpose(-2, -1), self.offsets))
            return
        for number, run in self:
            out[run].addmm_(rows[run], weight[number].T)

    def multiply_back(self, grad: Tensor, weight: Tensor) -> Tensor:
        """``grad @ weight``: ``(rows, out)``, ``(runs, out, width)`` -> ``(rows, width)``."""
        width = weight.shape[2]
        if self.grouped:
            return grouped_product(grad, F.pad(weight, (0, -width % 8)), self.offsets)[:, :width]
        out = grad.new_empty(len(grad), width)
        for number, run in self:
            torch.mm(grad[run], weight[number], out=out[run])
        return out

    def outer(self, left: Tensor, right: Tensor) -> Tensor:
        """``left.T @ right`` of each run: ``(rows, m)``, ``(rows, n)`` -> ``(runs, m, n)``; 0 where it has no rows."""
        width = right.shape[1]
        if self.grouped:
            right = F.pad(right, (0, -width % 8))
            return grouped_product(left.transpose(0, 1), right, self.offsets)[:, :, :width]
        out = left.new_empty(len(self.ends), left.shape[1], width)
        for number, run in self:
            torch.mm(left[run].T, right[run], out=out[number])
        return out


def runs_of(ends: Sequence[int], offsets: Tensor, grouped: bool) -> Runs:
    """The runs of a plan; nobody's row joins the last, so that no row is left uncomputed."""
    return Runs((*ends[:-1], ends[-1] + 1), torch.cat([offsets[:-1], offsets[-1:] + 1]), grouped)


def can_group(dtype: torch.dtype, device: torch.device, widths: Sequence[int]) -> bool:
    """Whether ``grouped_mm`` runs on matrices of these widths; on CPU a product for each run is faster."""
    return device.type == "cuda" and dtype == torch.bfloat16 and not any(width % 8 for width in widths)
