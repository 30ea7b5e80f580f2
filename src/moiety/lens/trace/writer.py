"""Records the routing while a model answers, writes the trace of the run, and resumes one that was stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from moiety.evaluate.watch import Watch, Watches
from moiety.lens.trace.file import SavedTrace, TracedQuestion, write_trace
from moiety.lens.trace.gather import (
    add_totals,
    answered_lengths,
    empty_trace,
    end_tokens,
    fingerprint,
    pictures_of_batch,
    split_batch,
    traced_question,
)
from moiety.lens.trace.reader import read_trace
from moiety.moe.trace import RoutingTrace, recording
from moiety.vlm.images import Pictures
from moiety.vlm.rows import Row

SECONDS_BETWEEN_WRITES = 60.0


class TraceWriter(Watch):
    """Writes the routing of all questions that `model` is asked to one file.

    The file is written every minute, at the end, and when the run is stopped. The same run can then be resumed:
    questions that the file holds are not counted twice, and those that it lacks are asked even if their answers are
    known.

    Args:
        path: The file.
        model: A sparse model.
        processor: Its processor.
        images: Where the pictures are.
        limit: Number of rows, from the first one on, whose decisions and pictures are kept.

    Raises:
        ValueError: the model is dense, `path` is a folder, or the file there is no trace.
    """

    def __init__(self, path: str | Path, model: Any, processor: Any, images: Pictures, limit: int = 100) -> None:
        self.path, self.model, self.processor, self.images = Path(path), model, processor, images
        self.limit = limit
        if self.path.is_dir():
            raise ValueError(
                f"{self.path} is a folder; give --trace a file, for instance {self.path / 'trace'}.safetensors"
            )
        self.trace = empty_trace(model, {})
        self.path.parent.mkdir(parents=True, exist_ok=True)  # an impossible path is noticed before the first question
        self._there = read_trace(self.path) if self.path.exists() else None
        self._asked: set[int] = set()
        self._kept: dict[str, TracedQuestion] = {}
        self._order: dict[str, int] = {}
        self._written = time.monotonic()

    @contextmanager
    def over(self, rows: Sequence[Row], settings: Mapping[str, Any]) -> Iterator[None]:
        """Continue with what the file holds, and write the file when the run ends for any reason.

        Raises:
            ValueError: the file belongs to another model, other settings or other questions.
        """
        self.trace = empty_trace(self.model, {**settings, "trace_limit": self.limit})
        self._order = {row.id: place for place, row in enumerate(rows)}
        if self._there is not None:
            self._go_on(self._there, {fingerprint(row) for row in rows})
        try:
            yield
        finally:
            if self._asked:
                self.save()

    def _go_on(self, there: SavedTrace, known: set[int]) -> None:
        said, now = there.settings, self.trace.settings
        changed = [key for key in now | said if now.get(key) != said.get(key)]
        if changed:
            changes = ", ".join(f"{key}: {said.get(key)!r} there, {now.get(key)!r} now" for key in changed)
            raise ValueError(
                f"{self.path} holds a trace made with other settings ({changes}); delete it or choose another file"
            )
        foreign = len(there.asked - known)
        if foreign:
            raise ValueError(
                f"{self.path} holds a trace of {foreign} rows that are not asked now; delete it or choose another file"
            )
        self.trace = there
        self._asked = set(there.asked)
        self._kept = {question.id: question for question in there.questions}

    def lacks(self, row: Row) -> bool:
        """Whether the file does not hold `row` yet."""
        return fingerprint(row) not in self._asked

    @contextmanager
    def recording(self) -> Iterator[RoutingTrace | None]:
        """Record every decision."""
        with recording() as trace:
            yield trace

    def add(
        self,
        same: Sequence[Sequence[Row]],
        prompts: Mapping[str, Tensor],
        said: Tensor,
        trace: RoutingTrace | None,
    ) -> None:
        """Add one batch; questions that were added before are skipped."""
        assert trace is not None
        rows = [alike[0] for alike in same]
        mask = prompts["attention_mask"][: len(rows)].bool()
        lengths = answered_lengths(said, end_tokens(self.model))
        found = split_batch(trace, mask, lengths)
        pictures: list[Any] | None = None
        for number, (row, phases) in enumerate(zip(rows, found, strict=True)):
            if not self.lacks(row):
                continue
            self._asked |= {fingerprint(alike) for alike in same[number]}
            self.trace = replace(self.trace, num_questions=self.trace.num_questions + 1)
            add_totals(self.trace.totals, phases, self.trace.groups)
            if self._order[row.id] >= self.limit:
                continue
            pictures = pictures or pictures_of_batch(rows, prompts, self.processor, self.images)
            ids, kinds = (prompts[name][number][mask[number]] for name in ("input_ids", "modality_ids"))
            tokens = said[number].tolist()[: lengths[number] + 1]
            self._kept[row.id] = traced_question(
                row, ids, kinds, tokens, phases, pictures[number], self.processor, self.trace.groups
            )
        if time.monotonic() - self._written > SECONDS_BETWEEN_WRITES:
            self.save()

    def save(self) -> None:
        """Write everything that was recorded so far."""
        questions = sorted(self._kept.values(), key=lambda question: self._order[question.id])
        write_trace(replace(self.trace, questions=questions, asked=frozenset(self._asked)), self.path)
        self._written = time.monotonic()


@dataclass(frozen=True)
class TraceFiles(Watches):
    """Writes a trace of each run: to one file, or to one file for each benchmark.

    Args:
        path: The file. Benchmarks put their name before its suffix: ``run.safetensors`` -> ``run.pope.safetensors``.
        limit: See :class:`TraceWriter`.
    """

    path: Path
    limit: int = 100

    def place(self, benchmark: str | None = None) -> Path:
        """The file of one run."""
        stem, suffix = self.path.stem, self.path.suffix
        return self.path if benchmark is None else self.path.with_name(f"{stem}.{benchmark}{suffix}")

    def of(self, model: Any, processor: Any, images: Pictures, benchmark: str | None = None) -> TraceWriter:
        """The writer of one run."""
        return TraceWriter(self.place(benchmark), model, processor, images, self.limit)
