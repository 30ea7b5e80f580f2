"""Somebody who looks on while questions are answered; by default nobody does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from moiety.moe.trace import RoutingTrace
from moiety.vlm.rows import Row


class Watch:
    """Sees every batch of questions and what was said to it. This one looks away.

    See :mod:`moiety.lens.trace.gather` for one that does not.
    """

    @contextmanager
    def over(self, rows: Sequence[Row], settings: Mapping[str, Any]) -> Iterator[None]:
        """Open around a whole run.

        Args:
            rows: All questions of the run.
            settings: What the answers depend on, as kept with predictions.
        """
        yield

    def lacks(self, row: Row) -> bool:
        """Whether `row` must be asked although its answer is there already."""
        return False

    @contextmanager
    def recording(self) -> Iterator[RoutingTrace | None]:
        """Open around the generation of one batch."""
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
            same: Rows of each prompt; rows of one prompt are alike.
            prompts: The batch; rivals of a contrastive decoding stand behind the prompts.
            said: Tokens of the answers, ``(batch, new tokens)``.
            trace: What :meth:`recording` gave.
        """
