"""Which tensors of an encoded row belong to its positions, and which to its pictures."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor


def positions_in(row: Mapping[str, Tensor]) -> set[str]:
    """Names of the tensors of one row that hold one value for each token.

    A flat tensor of another length belongs to the pictures: LLaVA-OneVision counts them in ``batch_num_images``.

    Args:
        row: Of :meth:`moiety.vlm.data.Encoder.encode` or ``encode_prompt``, with ``input_ids (seq,)``.

    Example:
        >>> import torch
        >>> row = {"input_ids": torch.zeros(5), "labels": torch.zeros(5), "batch_num_images": torch.tensor([1])}
        >>> sorted(positions_in(row))
        ['input_ids', 'labels']
    """
    shape = row["input_ids"].shape
    return {name for name, value in row.items() if value.shape == shape}
