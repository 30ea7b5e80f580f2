"""Products of sorted rows with a stack of matrices, one matrix for each run of rows, and the choice of their form.

Every bank of experts consists of such products, in plain schemes and in scheme ``asymoe``. There are two forms:

- ``loop``: one ordinary product for each run, written straight into preallocated rows. It takes every dtype and every
  width, and needs the ends of the runs on the host, which makes a GPU wait.
- ``grouped``: one ``grouped_mm`` for all runs. It never waits, but takes some dtypes and widths only.

:func:`choose_form` is the only place that decides which form can run, and which of the two is faster.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

logger = logging.getLogger(__name__)

# On CPU the loop wins once the saved pre-activations leave the size that malloc recycles and each product is large.
LARGE_BYTES = 16 * 2**20
LARGE_ROWS_PER_RUN = 256


# -- which form --------------------------------------------------------------------------------------------------------
def choose_form(
    wanted: str,
    dtype: torch.dtype,
    device: torch.device,
    widths: Sequence[int],
    *,
    num_rows: int = 0,
    num_runs: int = 1,
    row_bytes: int | None = None,
) -> str:
    """``loop`` or ``grouped``: the form that was asked for, or for ``auto`` the faster one of those that can run.

    Args:
        wanted: ``loop``, ``grouped``, or ``auto`` for the choice by measurement.
        dtype: Type of the products, see :func:`compute_dtype`.
        device: Device of the products.
        widths: Every width of the matrices.
        num_rows: Number of rows that are computed.
        num_runs: Number of matrices.
        row_bytes: Bytes that a row keeps for the backward pass. None: the ends of the runs are on the host already;
            then the loop is faster on CPU at every size.

    Raises:
        ValueError: ``grouped`` was asked for by name where ``grouped_mm`` cannot run.
    """
    on_cpu = device.type == "cpu"
    if dtype == torch.float16 and on_cpu:
        say_half_is_slow()
    if wanted == "loop":
        return "loop"
    refusal = grouped_refusal(dtype, device, widths)
    if wanted == "grouped" and refusal:
        raise ValueError(f"kernel 'grouped' cannot run: {refusal}; use 'auto' or 'loop'")
    if refusal or (wanted == "auto" and on_cpu and _loop_is_faster(num_rows, num_runs, row_bytes)):
        return "loop"
    return "grouped"


def _loop_is_faster(num_rows: int, num_runs: int, row_bytes: int | None) -> bool:
    """Whether the loop was measured to be faster on CPU at these sizes."""
    if row_bytes is None:
        return True
    return num_rows * row_bytes >= LARGE_BYTES and num_rows >= LARGE_ROWS_PER_RUN * num_runs


def grouped_refusal(dtype: torch.dtype, device: torch.device, widths: Sequence[int]) -> str | None:
    """Why ``grouped_mm`` cannot run, or None where it can."""
    if dtype == torch.float64:
        return "grouped_mm has no float64"
    if device.type == "cuda" and dtype != torch.bfloat16:
        return f"grouped_mm on CUDA is only known to work in bfloat16, not {dtype}"
    step = 16 // dtype.itemsize
    if any(width % step for width in widths):
        return f"the widths {', '.join(map(str, widths))} must be multiples of {step} in {dtype} (strides of 16 bytes)"
    return None


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype of the products: that of autocast where it is on and would cast `x`, otherwise that of `x`."""
    if x.dtype != torch.float64 and torch.is_autocast_enabled(x.device.type):
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def is_packed(weights: Tensor) -> bool:
    """Whether weights are quantised by torchao, whose tensors can multiply one matrix but not a stack of matrices."""
    return type(weights).__module__.startswith("torchao")


@functools.cache
def say_half_is_slow() -> None:
    """Log once that float16 is slow on CPU, which does not multiply it natively."""
    logger.warning("float16 experts run about ten times slower on CPU than bfloat16; use bfloat16")


# -- both forms --------------------------------------------------------------------------------------------------------
class Run(NamedTuple):
    """Some rows, and the matrix that multiplies them.

    Args:
        rows: The range of sorted rows.
        number: Number of the matrix. None: all matrices at once, each on its own rows.
    """

    rows: slice
    number: int | None


@dataclass(frozen=True, eq=False)
class Runs:
    """Sorted rows, cut into one run for each matrix. Iteration gives one :class:`Run` for each product of the form.

    Args:
        num_rows: Number of rows. Rows after the last run are not computed, and their content is undefined.
        offsets: End row of each run, ``(runs,)`` int32 of stride 1.
        form: ``loop`` or ``grouped``.
        ends: The offsets as numbers on the host. None: the loop reads them from the device.
    """

    num_rows: int
    offsets: Tensor
    form: str
    ends: Sequence[int] | None = None

    @staticmethod
    def covering(ends: Sequence[int], offsets: Tensor, form: str) -> Runs:
        """Runs that cover every row: the spare row, which is the last one, becomes part of the last run."""
        ends = (*ends[:-1], ends[-1] + 1)
        return Runs(ends[-1], torch.cat([offsets[:-1], offsets[-1:] + 1]), form, ends)

    def __iter__(self) -> Iterator[Run]:
        if self.form == "grouped":
            yield Run(slice(None), None)
            return
        start = 0
        for number, end in enumerate(self.offsets.tolist() if self.ends is None else self.ends):
            yield Run(slice(start, end), number)
            start = end

    # one product; `out` collects the results of all runs and is made with the first
    def apply(self, run: Run, left: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
        """``left @ weight.T``: ``(rows of the run, width)``, ``(runs, out, width)`` -> ``(all rows, out)``."""
        if run.number is None:
            return grouped_product(left, weight.transpose(-2, -1), self.offsets)
        out = left.new_empty(self.num_rows, weight.shape[1]) if out is None else out
        torch.mm(left, weight[run.number].T, out=out[run.rows])
        return out

    def apply_back(self, run: Run, grad: Tensor, weight: Tensor, out: Tensor | None = None) -> Tensor:
        """``grad @ weight``: ``(rows of the run, out)``, ``(runs, out, width)`` -> ``(all rows, width)``."""
        if run.number is None:
            return self.back(run, grad, weight)
        out = grad.new_empty(self.num_rows, weight.shape[2]) if out is None else out
        torch.mm(grad, weight[run.number], out=out[run.rows])
        return out

    def back(self, run: Run, grad: Tensor, weight: Tensor) -> Tensor:
        """:meth:`apply_back` with a result for the rows of the run alone: ``(rows of the run, width)``."""
        if run.number is not None:
            return torch.mm(grad, weight[run.number])
        width = weight.shape[2]
        padded = F.pad(weight, (0, -width % 8)) if width % 8 else weight
        product = grouped_product(grad, padded, self.offsets)
        return product[:, :width] if width % 8 else product

    def apply_outer(self, run: Run, left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
        """``left.T @ right``: rows ``(…, m)`` and ``(…, n)`` -> ``(runs, m, n)``; 0 for a run without rows."""
        if run.number is None:
            width = right.shape[1]
            padded = F.pad(right, (0, -width % 8)) if width % 8 else right
            product = grouped_product(left.transpose(0, 1), padded, self.offsets)
            return product[:, :, :width] if width % 8 else product
        out = left.new_empty(len(self.offsets), left.shape[1], right.shape[1]) if out is None else out
        torch.mm(left.T, right, out=out[run.number])
        return out

    # the same products of all rows
    def multiply(self, rows: Tensor, weight: Tensor) -> Tensor:
        """``rows @ weight.T``: ``(rows, width)``, ``(runs, out, width)`` -> ``(rows, out)``."""
        out = None
        for run in self:
            out = self.apply(run, rows[run.rows], weight, out)
        assert out is not None
        return out

    def multiply_back(self, grad: Tensor, weight: Tensor) -> Tensor:
        """``grad @ weight``: ``(rows, out)``, ``(runs, out, width)`` -> ``(rows, width)``."""
        out = None
        for run in self:
            out = self.apply_back(run, grad[run.rows], weight, out)
        assert out is not None
        return out

    def outer(self, left: Tensor, right: Tensor) -> Tensor:
        """``left.T @ right`` of each run: ``(rows, m)``, ``(rows, n)`` -> ``(runs, m, n)``."""
        out = None
        for run in self:
            out = self.apply_outer(run, left[run.rows], right[run.rows], out)
        assert out is not None
        return out

    def add(self, out: Tensor, rows: Tensor, weight: Tensor) -> None:
        """Add ``rows @ weight.T`` to `out` in place; every width is accepted."""
        for run in self:
            if run.number is None:
                rows, weight = (F.pad(part, (0, -part.shape[-1] % 8)).contiguous() for part in (rows, weight))
                out.add_(grouped_product(rows, weight.transpose(-2, -1), self.offsets))
            else:
                out[run.rows].addmm_(rows[run.rows], weight[run.number].T)

    def spread(self, values: Tensor) -> Tensor:
        """Repeat the value of each run for its rows: ``(runs, …)`` -> ``(rows, …)``; `ends` must be set."""
        assert self.ends is not None
        sizes = [end - start for start, end in zip((0, *self.ends), self.ends, strict=False)]
        return torch.cat([values[number].expand(size, *values.shape[1:]) for number, size in enumerate(sizes)])


# -- the operator ------------------------------------------------------------------------------------------------------
def grouped_product(left: Tensor, right: Tensor, offsets: Tensor) -> Tensor:
    """One product for each run of rows, all in one call, in eager and in compiled code.

    A compiler asks an operator for the shape of its answer. The shape rule of ``grouped_mm`` refuses float32 and
    float16 in some releases of torch, though the operator itself runs them. Compiled code therefore calls the same
    operator through one of our own, whose shape rule knows every dtype. The numbers are the same.

    Args:
        left: Sorted rows ``(rows, inner)``; or ``(m, rows)`` for the outer products of each run.
        right: One matrix for each run, ``(runs, inner, out)``; or rows ``(rows, n)``.
        offsets: End row of each run, ``(runs,)`` int32 of stride 1, which torch asks for from 2.14 on.

    Returns:
        ``(rows, out)``, where the content of rows after the last run is undefined; or ``(runs, m, n)``.
    """
    if not torch.compiler.is_compiling():
        return F.grouped_mm(_aligned(left), _aligned(right), offs=offsets)
    return F.grouped_mm(left, right, offs=offsets) if left.dtype == torch.bfloat16 else _opaque(left, right, offsets)


def _aligned(matrix: Tensor) -> Tensor:
    """Copy `matrix` if its address is not a multiple of 16 bytes, which torch 2.10 refuses; otherwise return it.

    Weights that are read in place from a safetensors file may begin anywhere.
    """
    plain = type(matrix) in (Tensor, torch.nn.Parameter)
    return matrix.clone() if plain and matrix.data_ptr() % 16 else matrix


@torch.library.custom_op(
    "moiety::grouped_product", mutates_args=(), schema="(Tensor left, Tensor right, Tensor offsets) -> Tensor"
)
def _opaque(left: Tensor, right: Tensor, offsets: Tensor) -> Tensor:
    return F.grouped_mm(_aligned(left), _aligned(right), offs=offsets).contiguous()


@_opaque.register_fake
def _(left: Tensor, right: Tensor, offsets: Tensor) -> Tensor:
    runs = (len(offsets),) if right.dim() == 2 else ()
    return left.new_empty(*runs, left.shape[0], right.shape[-1])
