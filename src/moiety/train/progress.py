"""Shows one progress bar with the loss in the terminal during training, and no other bars."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import ProgressCallback, TrainingArguments
from transformers.trainer_callback import TrainerControl, TrainerState
from transformers.utils import logging as hf_logging


class LossBar(ProgressCallback):
    """A progress bar that shows the loss. It prints no lines of logs."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Show the loss behind the bar."""
        if self.training_bar is not None and logs and "loss" in logs:
            self.training_bar.set_postfix(loss=f"{logs['loss']:.4f}")


@contextmanager
def without_weight_bars() -> Iterator[None]:
    """Stop transformers from drawing a progress bar for each weight file that it reads or writes.

    A run that writes checkpoints would fill the screen with them.
    """
    shown = hf_logging.is_progress_bar_enabled()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            hf_logging.enable_progress_bar()
