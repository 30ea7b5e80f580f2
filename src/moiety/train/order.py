"""Which rows come when, and what the terminal shows meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import ProgressCallback, TrainingArguments
from transformers.trainer_callback import TrainerCallback, TrainerControl, TrainerState
from transformers.utils import logging as hf_logging


class SeededOrder(Sampler[int]):
    """A new order of the rows in every epoch that depends on the seed alone, so that all schemes see the same data.

    Args:
        num_rows: Rows in the data set.
        seed: Seed of the run.

    Example:
        >>> list(SeededOrder(4, seed=0)) == list(SeededOrder(4, seed=0))
        True
    """

    def __init__(self, num_rows: int, seed: int) -> None:
        self.num_rows, self.seed, self.epoch = num_rows, seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of `epoch`, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_rows

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        yield from torch.randperm(self.num_rows, generator=generator).tolist()


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
