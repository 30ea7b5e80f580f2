"""The grouped product in compiled code: every dtype, the same numbers, one graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moiety.moe.kernels.products import _opaque, grouped_product

OFFSETS = torch.tensor([2, 2, 5], dtype=torch.int32)
FORWARD = ((6, 8), (3, 8, 16))
"""Rows times a matrix for each run."""
OUTER = ((6, 8), (6, 16))
"""The gradient of those matrices: the rows of both, the first transposed."""


def operands(sizes: tuple[tuple[int, ...], ...], dtype: torch.dtype = torch.float32) -> list[Tensor]:
    left, right = (torch.randn(size).to(dtype) for size in sizes)
    return [left.T if right.dim() == 2 else left, right]


@pytest.mark.parametrize("sizes", [FORWARD, OUTER], ids=["forward", "outer"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch's own, while it traces
def test_compiled_it_equals_itself(sizes: tuple[tuple[int, ...], ...], dtype: torch.dtype) -> None:
    left, right = operands(sizes, dtype)
    eager = grouped_product(left, right, OFFSETS)
    torch._dynamo.reset()
    found = torch.compile(grouped_product, backend="aot_eager", fullgraph=True)(left, right, OFFSETS)
    rows = slice(None) if right.dim() == 2 else slice(int(OFFSETS[-1]))  # the rest holds anything
    assert found.dtype == dtype
    assert found[rows].equal(eager[rows])
    parts = zip([0, *OFFSETS[:-1].tolist()], OFFSETS.tolist(), strict=True)
    for number, (start, end) in enumerate(parts):
        run = slice(start, end)
        product = left[:, run] @ right[run] if right.dim() == 2 else left[run] @ right[number]
        torch.testing.assert_close(eager[number] if right.dim() == 2 else eager[run], product)


@pytest.mark.parametrize("sizes", [FORWARD, OUTER], ids=["forward", "outer"])
def test_its_shape_rule_says_what_it_returns(sizes: tuple[tuple[int, ...], ...]) -> None:
    """Sizes, strides and dtype, as torch itself compares them."""
    torch.library.opcheck(_opaque, (*operands(sizes), OFFSETS), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.parametrize("sizes", [FORWARD, OUTER], ids=["forward", "outer"])
def test_matrices_may_begin_anywhere(sizes: tuple[tuple[int, ...], ...]) -> None:
    """Torch 2.10 refuses those that do not begin at a multiple of 16 bytes, as weights read from a file may."""
    left, right = operands(sizes)
    shifted = []
    for matrix in (left, right):
        room = torch.empty(matrix.numel() + 1)[1:]
        assert room.data_ptr() % 16
        shifted.append(room.as_strided(matrix.shape, matrix.stride()).copy_(matrix))
    rows = slice(None) if right.dim() == 2 else slice(int(OFFSETS[-1]))
    assert grouped_product(*shifted, OFFSETS)[rows].equal(grouped_product(left, right, OFFSETS)[rows])
