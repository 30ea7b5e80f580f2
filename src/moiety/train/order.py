"""Which rows come when, and what the terminal shows meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import ProgressCallback, TrainingArguments
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.utils import logging as hf_logging

_WINDOW = 50


class SeededOrder(Sampler[int]):
    """A new order of the rows in every epoch that depends on the seed alone, so that all schemes see the same data.

    Args:
        num_rows: Rows in the data set.
        seed: Seed of the run.
        lengths: Tokens of each row: rows of like length come into one batch. None: any rows do.
        batch: Rows in one batch of all ranks.

    Example:
        >>> list(SeededOrder(4, seed=0)) == list(SeededOrder(4, seed=0))
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
        """Sort by length within windows of many batches, then shuffle the batches; one that is not full stays last."""
        window = _WINDOW * self.batch
        for start in range(0, len(order), window):
            order[start : start + window] = sorted(order[start : start + window], key=lengths.__getitem__)
        batches = [order[start : start + self.batch] for start in range(0, len(order), self.batch)]
        full = len(order) // self.batch
        for place in [*torch.randperm(full, generator=generator).tolist(), *range(full, len(batches))]:
            yield from batches[place]


class TellsEpoch(TrainerCallback):
    """Tells the order which epoch begins; accelerate's wrappers forget to when a resumed run skips batches."""

    def __init__(self, order: SeededOrder) -> None:
        self.order = order

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Epochs are counted by the state, which a checkpoint restores."""
        self.order.set_epoch(int((state.epoch or 0) + 1e-6))


class LossBar(ProgressCallback):
    """A progress bar with the loss behind it, and no lines of logs between."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the loss."""
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.4f}")


@contextmanager
def without_weight_bars() -> Iterator[None]:
    """Keep transformers from drawing a bar for each file it reads or writes; checkpoints would fill the screen."""
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()
