"""Products of sorted rows: both forms are equal, one rule admits them, and the operator compiles in every dtype."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moiety.moe.kernels.products import Runs, _opaque, choose_form, grouped_product

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


@pytest.mark.parametrize("width", [8, 5])
def test_both_forms_of_a_product_are_equal(width: int) -> None:
    """Also a run without rows; widths that ``grouped_mm`` refuses are padded where a stack may have them."""
    ends = (2, 2, 5)
    rows, weight = torch.randn(6, 8), torch.randn(3, 16, 8)
    narrow, narrow_weight = torch.randn(6, width), torch.randn(3, 16, width)
    found = []
    for form in ("loop", "grouped"):
        runs = Runs.covering(ends, OFFSETS, form)
        total = runs.multiply(rows, weight)
        runs.add(total, narrow, narrow_weight)
        back, outer = runs.multiply_back(total, narrow_weight), runs.outer(total, narrow)
        found.append([total, back, outer, runs.spread(torch.arange(3.0))])
    for loop, grouped in zip(*found, strict=True):
        torch.testing.assert_close(grouped, loop, rtol=1e-5, atol=1e-5)
    assert found[0][3].tolist() == [0, 0, 2, 2, 2, 2]
    assert not found[0][2][1].any()


CPU, CUDA = torch.device("cpu"), torch.device("cuda")
ADMITTED: list[tuple[torch.device, torch.dtype, tuple[int, ...], int | None, str]] = [
    (CPU, torch.float32, (8, 12), 64, "grouped"),
    (CPU, torch.float32, (8, 12), None, "loop"),  # the ends are on the host already
    (CPU, torch.float32, (8, 10), 64, "loop"),
    (CPU, torch.float64, (8, 8), 64, "loop"),
    (CUDA, torch.bfloat16, (8, 16), 64, "grouped"),
    (CUDA, torch.bfloat16, (8, 16), None, "grouped"),
    (CUDA, torch.bfloat16, (8, 12), None, "loop"),
    (CUDA, torch.float32, (8, 16), None, "loop"),
]


@pytest.mark.parametrize(("device", "dtype", "widths", "row_bytes", "form"), ADMITTED)
def test_one_rule_admits_the_forms(
    device: torch.device, dtype: torch.dtype, widths: tuple[int, ...], row_bytes: int | None, form: str
) -> None:
    assert choose_form("auto", dtype, device, widths, num_rows=8, num_runs=2, row_bytes=row_bytes) == form
    assert choose_form("loop", dtype, device, widths) == "loop"
