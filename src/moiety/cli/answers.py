"""``moiety evaluate MODEL DATA``: let a model answer conversation files and score it by type of question."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from moiety.cli.asking import Asked, Lines, how_decoded
from moiety.cli.door import keeps_files, progress_line, say
from moiety.cli.look import ImagesOption, load_both, pictures_of
from moiety.cli.options import output_file
from moiety.cli.screen import show, show_json, table

HEADS = ("type", "task", "#questions", "#accuracy %", "more")
LONGEST_ANSWER = 16
PANEL = "For conversation files"


@dataclass(frozen=True)
class ConversationFiles:
    """What ``evaluate`` is given for conversation files."""

    data: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[DATA]...", help="Conversation files whose rows hold the right answers."),
    ] = None
    images: ImagesOption = None
    predictions: Annotated[
        Path | None,
        typer.Option(
            help="Write the answers to this file; a run that was stopped goes on from it.",
            callback=output_file,
            rich_help_panel=PANEL,
        ),
    ] = None

    @property
    def is_given(self) -> bool:
        """Whether any option asks for conversation files."""
        return bool(self.data or self.images or self.predictions)


def ask_files(model: str, files: ConversationFiles, asked: Asked) -> Lines:
    """Let a model answer conversation files and print its scores by type of question."""
    from moiety.evaluate import evaluate_model, percent
    from moiety.vlm.rows import load_rows

    asking, data, predictions = asked.asking(), files.data or [], files.predictions
    if predictions is not None:
        keeps_files(predictions.parent, {predictions.name: f"the answers in {predictions}"})
    rows = load_rows(data)[: asking.limit]
    longest = asking.max_new_tokens or LONGEST_ANSWER
    pictures = pictures_of(rows, data, files.images)
    both = load_both(model, asked.device, asked.dtype, asked.processor)
    result = evaluate_model(
        *both,
        rows,
        pictures,
        batch_size=asking.batch_size,
        max_new_tokens=longest,
        blank_image=asking.blank_image,
        decoding=asking.decoding,
        clamp_alpha=asking.clamp_alpha,
        predictions=predictions,
        watch=None if asking.watches is None else asking.watches.of(*both, pictures),
        progress=progress_line("answers"),
    )
    if asking.watches is not None:
        place = asking.watches.place()
        say(f"the routing is in {place}; look at it with `moiety inspect --trace {place}`")
    lines = [list(line.values()) for line in result.table()]
    if asked.as_json:
        show_json(result.to_dict())
        return HEADS, lines
    assert asking.decoding is not None
    how = f"{how_decoded(asking.decoding, asking.clamp_alpha)}, at most {longest} new tokens"
    note = f"all {len(rows)} questions: {percent(result.overall)} % · {how}"
    show(table(f"{model}{' with blank pictures' * asking.blank_image}", HEADS, lines, note))
    if predictions is not None:
        say(f"the answers are in {predictions}")
    return HEADS, lines
