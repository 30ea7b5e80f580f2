"""Attention that keeps one row of its weights equals attention that writes all of them out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from moiety.intent.network.anchors import Attention, masked_softmax


def written_out(attention: Attention, x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """All weights as a matrix, ``softmax(q k / sqrt(width))``, and the first row of them."""
    q, k, v = (attention._split(part(x)) for part in (attention.query, attention.key, attention.value))
    weights = masked_softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, mask[:, None, None, :].expand(-1, 1, 1, -1))
    return attention.output((weights @ v).transpose(1, 2).flatten(2)), weights[:, :, 0]


@pytest.mark.parametrize("n", [1, 2, 17, 130])
def test_one_row_written_out_equals_all_rows_written_out(n: int) -> None:
    """Results and every gradient, in float64 (worst seen 2e-15)."""
    attention = Attention(12, 3, 0.0).double()
    x = torch.randn(4, n, 12, dtype=torch.float64, requires_grad=True)
    mask = torch.rand(4, n) < 0.7
    mask[:, 0] = True
    leaves = [x, *attention.parameters()]
    found, wanted = attention.with_first_row(x, mask), written_out(attention, x, mask)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
    pull = [torch.randn_like(part) for part in wanted]
    for ours, theirs in zip(
        torch.autograd.grad(found, leaves, pull), torch.autograd.grad(wanted, leaves, pull), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-11)


def test_a_sample_without_frames_gives_zeros() -> None:
    attention = Attention(8, 2, 0.0)
    mixed, row = attention.with_first_row(torch.randn(2, 3, 8), torch.tensor([[True] * 3, [False] * 3]))
    assert mixed[1].abs().max() == 0
    assert row[1].abs().max() == 0
    assert row[0].sum(-1).tolist() == pytest.approx([1, 1])


def test_dropout_leaves_the_returned_row_alone() -> None:
    attention = Attention(8, 2, 0.5).train()
    x, mask = torch.randn(2, 5, 8), torch.ones(2, 5, dtype=torch.bool)
    first, again = attention.with_first_row(x, mask), attention.with_first_row(x, mask)
    assert not torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])


def test_no_square_matrix_is_kept_for_backward() -> None:
    attention, n = Attention(8, 2, 0.0), 600
    kept = 0

    def count(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept = max(kept, tensor.untyped_storage().nbytes() // 4)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        attention.with_first_row(torch.randn(1, n, 8, requires_grad=True), torch.ones(1, n, dtype=torch.bool))
    assert kept < n * n
