"""``moiety evaluate``: a model answers conversation files (:mod:`.answers`) or benchmarks (:mod:`.benchmarks`)."""

from __future__ import annotations

from pathlib import Path

from moiety.cli.answers import ConversationFiles, ask_files
from moiety.cli.asking import Asked, Lines
from moiety.cli.benchmarks import BenchmarkFiles, ask_benchmarks
from moiety.cli.door import say
from moiety.cli.look import ModelFolder
from moiety.cli.options import takes_groups


@takes_groups
def evaluate(model: ModelFolder, files: ConversationFiles, official: BenchmarkFiles, asked: Asked) -> None:
    """Let a model answer questions, and score the answers.

    The questions are either conversation files (DATA) or public benchmarks (--benchmarks NAMES --data FOLDER).
    """
    by_files, by_benchmarks = files.is_given, official.is_given
    if by_files == by_benchmarks or not (files.data or official.is_whole):
        raise ValueError(
            "give either conversation files (with --images and --predictions), or --benchmarks with --data (and "
            "--output, --scorer): their files and answers are found by name"
        )
    if asked.card:
        check_card(model)
    shown = ask_files(model, files, asked) if by_files else ask_benchmarks(model, official, asked)
    if asked.card:
        title = ", ".join(path.name for path in files.data or ()) or str(official.benchmarks)
        add_to_card(model, f"{title} ({asked.describe()})", shown)


def add_to_card(model: str, title: str, shown: Lines) -> None:
    """Put a table that was shown into the card of a model folder."""
    from moiety.vlm.card import add_results

    heads, lines = shown
    say(f"the scores are in {add_results(model, title, [head.removeprefix('#') for head in heads], lines)}")


def check_card(model: str) -> None:
    """Refuse a model folder without a card before anything is asked.

    Raises:
        ValueError: it has none.
    """
    from moiety.vlm.card import CARD

    if not (Path(model) / CARD).is_file():
        raise ValueError(f"--card adds scores to {Path(model) / CARD}, which is not there; leave it out")
