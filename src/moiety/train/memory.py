"""What a stage needs in memory at its peak, by part, for the batch of its longest rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from rich.table import Table

from moiety.recipe.recipe import MoESettings, StageSettings
from moiety.train.fake_pass import bytes_of_pass
from moiety.vlm.data import Collator, Encoder
from moiety.vlm.parameters import count_parameters, on_meta, stage_memory
from moiety.vlm.rows import Row

logger = logging.getLogger(__name__)

_GIB = 2**30
_TRIES = 16

NOTE = (
    "GiB of one training process on a CPU, at the moment of its peak, for a batch of the longest rows; the process "
    "itself comes on top, and so do rows that it keeps"
)
"""What the numbers of :class:`StageMemory` are, for a table."""


@dataclass(frozen=True)
class StageMemory:
    """GiB that one stage holds at its peak in one training process.

    Args:
        parameters: Weights and buffers.
        gradients: Gradients that are there when most is held. They are 0 where that is before the backward pass.
        optimizer: Moments of AdamW.
        activations: What the backward pass needs, logits of labelled positions and intermediate results. None: they
            could not be worked out; the other numbers are those of all weights and gradients.
        rows: Rows of the batch.
        length: Tokens of its longest row.
        reason: Why there are no activations.
    """

    parameters: float
    gradients: float
    optimizer: float
    activations: float | None
    rows: int
    length: int
    reason: str = ""

    PARTS: ClassVar = ("parameters", "gradients", "optimizer", "activations", "total")

    @property
    def total(self) -> float:
        """All of it; without activations where they are unknown."""
        return self.parameters + self.gradients + self.optimizer + (self.activations or 0.0)

    def shown(self) -> list[str]:
        """The numbers of :attr:`PARTS` for a table."""
        parts = (getattr(self, name) for name in self.PARTS)
        return ["?" if part is None else f"{part:.2f}" for part in parts]


def memory_of(
    source: Any,
    moe: MoESettings | None,
    stage: StageSettings,
    batch: Sequence[dict[str, torch.Tensor]],
    pad_token_id: int,
    dtype: torch.dtype,
) -> StageMemory:
    """Memory of one stage. Nothing is computed, and no weights are read.

    Args:
        source: Config or folder of the model that the stage trains, or of the dense model that becomes sparse.
        moe: Settings of its sparse layers; None: the model stays what `source` is.
        stage: Names the parts that learn, and how.
        batch: Encoded rows of the largest micro-batch, see :func:`largest_batch`.
        pad_token_id: Id that padding is written with.
        dtype: Type of the weights.
    """
    length = max((len(row["input_ids"]) for row in batch), default=0)
    reason = "no row can be encoded"
    if batch:
        try:
            found = bytes_of_pass(on_meta(source, moe), Collator(pad_token_id)(batch), stage.trains, stage.train, dtype)
        except (RuntimeError, ValueError) as error:  # what fake tensors cannot do, and stages in which nothing learns
            reason = str(error).partition("\n")[0][:200] or type(error).__name__
            logger.warning("stage %r: its activations cannot be worked out: %s", stage.name, reason)
        else:
            return StageMemory(
                parameters=found.parameters / _GIB,
                gradients=found.gradients / _GIB,
                optimizer=found.optimizer / _GIB,
                activations=found.activations / _GIB,
                rows=len(batch),
                length=length,
            )
    count = count_parameters(source, moe)
    bare, whole = stage_memory(count, [], dtype), stage_memory(count, stage.trains, dtype)
    moments = (whole - bare) * 2 / 3
    return StageMemory(bare, moments / 2, moments, None, len(batch), length, reason)


def largest_batch(rows: Sequence[Row], encoder: Encoder, number: int) -> list[dict[str, torch.Tensor]]:
    """The `number` rows with most pictures and most text, encoded; rows that cannot be encoded are passed over.

    Rows are compared by their letters, because encoding all of them takes minutes. `encoder` must add spans.
    """
    largest = sorted(rows, key=lambda row: (len(row.images), sum(len(turn.text) for turn in row.turns)), reverse=True)
    found: list[dict[str, torch.Tensor]] = []
    for row in largest[: number + _TRIES]:
        try:
            found.append(encoder.encode(row))
        except (FileNotFoundError, ValueError):
            continue
        if len(found) == number:
            break
    return found


def memory_table(stages: Mapping[str, StageMemory]) -> Table:
    """One line for each stage: GiB by part, and the batch that they are for."""
    unknown = [f"{name}: activations are unknown ({found.reason})" for name, found in stages.items() if found.reason]
    table = Table(title="memory", title_justify="left", caption="\n".join([NOTE, *unknown]), caption_justify="left")
    table.add_column("stage")
    for head in (*StageMemory.PARTS, "rows", "longest row"):
        table.add_column(head, justify="right")
    for name, found in stages.items():
        table.add_row(name, *found.shown(), str(found.rows), str(found.length))
    return table
