"""Chooses the order in which the rows of a data set are read in each epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import TrainingArguments
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState

_WINDOW = 50
"""Batches that are sorted by length together."""


class SeededSampler(Sampler[int]):
    """A new order of the rows in every epoch. It depends on the seed alone, so all schemes see the same data.

    Args:
        num_rows: Rows in the data set.
        seed: Seed of the run.
        lengths: Tokens of each row: rows of similar length come into one batch. None: rows are not grouped by length.
        batch: Rows in one batch of all ranks together.

    Example:
        >>> list(SeededSampler(4, seed=0)) == list(SeededSampler(4, seed=0))
        True
    """

    def __init__(self, num_rows: int, seed: int, lengths: Sequence[int] | None = None, batch: int = 1) -> None:
        self.num_rows, self.seed, self.lengths, self.batch, self.epoch = num_rows, seed, lengths, batch, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of `epoch`, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order = torch.randperm(self.num_rows, generator=generator).tolist()
        yield from order if self.lengths is None else self._grouped(order, self.lengths, generator)

    def _grouped(self, order: list[int], lengths: Sequence[int], generator: torch.Generator) -> Iterator[int]:
        """Sort by length within windows of many batches, then shuffle the batches. An incomplete batch stays last."""
        window = _WINDOW * self.batch
        for start in range(0, len(order), window):
            order[start : start + window] = sorted(order[start : start + window], key=lengths.__getitem__)
        batches = [order[start : start + self.batch] for start in range(0, len(order), self.batch)]
        full = len(order) // self.batch
        for place in [*torch.randperm(full, generator=generator).tolist(), *range(full, len(batches))]:
            yield from batches[place]


class SetsEpoch(TrainerCallback):
    """Tells the sampler which epoch begins. accelerate's wrappers do not, when a resumed run skips batches.

    Args:
        sampler: The sampler of the training rows.
    """

    def __init__(self, sampler: SeededSampler) -> None:
        self.sampler = sampler

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The number of the epoch comes from the trainer's state, which a checkpoint restores."""
        self.sampler.set_epoch(int((state.epoch or 0) + 1e-6))
