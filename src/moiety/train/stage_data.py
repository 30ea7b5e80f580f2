"""Reads the rows of one stage and checks every row before training starts."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from moiety.groups import ExpertGroups
from moiety.recipe.recipe import Recipe, StageSettings
from moiety.vlm.check import DataReport, check_files
from moiety.vlm.data import Collator, ConversationDataset, Encoder
from moiety.vlm.images import Images
from moiety.vlm.problems import num_bad
from moiety.vlm.rows import Row
from moiety.vlm.skips import skips_of

logger = logging.getLogger(__name__)

_SHOWN = 5


class RememberingEncoder(Encoder):
    """An encoder that keeps encoded rows, so that rows which were checked before training are not encoded again.

    Args:
        room: Number of bytes that may be kept. Further rows are encoded each time.
        options: As for :class:`Encoder`.
    """

    def __init__(self, *args: Any, room: int = 2**30, **options: Any) -> None:
        super().__init__(*args, **options)
        self._room = room
        self._kept: dict[int, tuple[Row, dict[str, Tensor]]] = {}

    def encode(self, row: Row) -> dict[str, Tensor]:
        """Encode a row as :meth:`Encoder.encode` does. The same row gives the same tensors."""
        if id(row) in self._kept:
            return self._kept[id(row)][1]
        tensors = super().encode(row)
        size = sum(tensor.nbytes for tensor in tensors.values())
        if size <= self._room:
            self._room -= size
            self._kept[id(row)] = (row, tensors)  # the row is kept as well, so that no other object gets its id
        return tensors


@dataclass(frozen=True)
class StageData:
    """Checked rows, ready for a trainer. Runs that differ only in the scheme can share them.

    Args:
        dataset: Rows without a problem.
        collator: Joins them into batches.
        report: What the check found.
    """

    dataset: ConversationDataset
    collator: Collator
    report: DataReport

    @property
    def num_skipped(self) -> int:
        """Rows that were left out."""
        return num_bad(self.report.problems)


def num_silent(rows: Sequence[Row], stage: StageSettings) -> int:
    """Rows that teach nothing in `stage`: rows without a picture, if the stage trains only tower and projector.

    Example:
        >>> from moiety.vlm.rows import Turn
        >>> alone = StageSettings(name="align", data=["rows.jsonl"], trains=["projector"])
        >>> num_silent([Row("a", (Turn("user", "Which?"), Turn("assistant", "x")))], alone)
        1
    """
    sees = set(stage.trains) <= {"vision_tower", "projector"}
    return sum(not row.images for row in rows) if sees else 0


def prepare_data(
    stage: StageSettings,
    recipe: Recipe,
    processor: Any,
    *,
    seed: int = 0,
    groups: ExpertGroups | None = None,
    token_ids: Mapping[int, int] | None = None,
    control: Collection[int] | None = None,
) -> StageData:
    """Read and check the rows of `stage`. They include spans, which the trainer removes for most schemes.

    Args:
        stage: Names the files.
        recipe: Its section ``data`` says how the rows are read.
        processor: Of :func:`moiety.vlm.templates.load_processor`.
        seed: Order of the questions about one picture, if turns are merged.
        groups: Expert table. A row with a modality that it does not hold is a bad row.
        token_ids: Token id -> modality id, see :class:`Encoder`.
        control: Tokens that are never evidence, see :class:`Encoder`.

    Raises:
        FileNotFoundError: ``data.skip`` names no file.
        BadRows: some rows are bad and ``data.on_bad_row`` is ``stop``. The text lists them all.
        ValueError: no row is left.
    """
    settings, root = recipe.data, Path(recipe.data.root)
    images = Images([root / path for path in settings.images])
    encoder = RememberingEncoder(
        processor, images, settings.max_length, settings.labels, token_ids, control=control, spans=True
    )
    merge = settings.merge_turns if stage.merge_turns is None else stage.merge_turns
    files = [root / name for name in stage.data]
    report = check_files(files, encoder, merge_turns=merge, seed=seed, groups=groups, skip=skips_of(settings))
    if settings.on_bad_row == "stop":
        report.stop_on_problems()
    data = StageData(ConversationDataset(report.good, encoder), Collator(encoder.pad_token_id), report)
    _warn(data, stage)
    if not report.good:
        raise ValueError(f"stage {stage.name!r} has no usable row in {', '.join(stage.data)} ({report.num_rows} read)")
    return data


def _warn(data: StageData, stage: StageSettings) -> None:
    """Warn of rows that are left out and of rows that teach nothing."""
    if data.num_skipped:
        shown = "\n".join(f"  {problem}" for problem in data.report.problems[:_SHOWN])
        logger.warning(
            "stage %r: %d of %d rows are bad and skipped (data.on_bad_row: skip), for instance\n%s",
            stage.name,
            data.num_skipped,
            data.report.num_rows,
            shown,
        )
    silent = num_silent(data.report.good, stage)
    if silent:
        logger.warning(
            "stage %r: %d of %d rows have no picture and teach nothing: it trains %s alone; put them into another "
            "stage",
            stage.name,
            silent,
            len(data.report.good),
            " and ".join(stage.trains),
        )
