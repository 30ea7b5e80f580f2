"""Observers of a model while it answers questions, such as the writer of a routing trace."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from moiety.moe.trace import RoutingTrace
from moiety.vlm.images import Pictures
from moiety.vlm.rows import Row


class Watch:
    """Sees every batch of questions and its answers. This class does nothing with them; a subclass does.

    :class:`moiety.lens.trace.writer.TraceWriter` is such a subclass.
    """

    @contextmanager
    def over(self, rows: Sequence[Row], settings: Mapping[str, Any]) -> Iterator[None]:
        """Context that is open during a whole run.

        Args:
            rows: All questions of the run.
            settings: What the answers depend on, as kept with predictions.
        """
        yield

    def lacks(self, row: Row) -> bool:
        """Whether `row` must be asked although its answer exists already."""
        return False

    @contextmanager
    def recording(self) -> Iterator[RoutingTrace | None]:
        """Context that is open while one batch is generated."""
        yield None

    def add(
        self,
        same: Sequence[Sequence[Row]],
        prompts: Mapping[str, Tensor],
        said: Tensor,
        trace: RoutingTrace | None,
    ) -> None:
        """One batch was answered.

        Args:
            same: The rows of each prompt. Rows with one prompt ask the same.
            prompts: The batch. The rivals of contrastive decoding follow the prompts.
            said: Tokens of the answers, ``(batch, new tokens)``.
            trace: The value of :meth:`recording`.
        """


class Watches(abc.ABC):
    """Makes a :class:`Watch` for each run of questions. Each benchmark is one run."""

    @abc.abstractmethod
    def place(self, benchmark: str | None = None) -> Path:
        """The file that the :class:`Watch` of one run writes.

        Args:
            benchmark: Name of the benchmark; None: the run is of conversation files.
        """

    @abc.abstractmethod
    def of(self, model: Any, processor: Any, images: Pictures, benchmark: str | None = None) -> Watch:
        """Make the :class:`Watch` of one run.

        Args:
            model: The model that answers.
            processor: Its processor.
            images: Where the pictures are.
            benchmark: As for :meth:`place`.
        """
