"""All problems of a data set, reported together before a run starts, and one row as the model reads it."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from torch import Tensor

from moiety.groups import ExpertGroups, Modality
from moiety.vlm.data import IGNORED_LABEL, Encoder
from moiety.vlm.images import absence
from moiety.vlm.problems import BadRows, Problem, place_of, shown
from moiety.vlm.rows import Row, merge_rows, read_rows
from moiety.vlm.skips import NO_SKIPS, Skips
from moiety.vlm.turns import IMAGE_MARK

Progress = Callable[[int, int], None]

_OWN_MARKS = {"image_token": "picture", "video_token": "video", "audio_token": "sound"}


@dataclass(frozen=True)
class DataReport:
    """What a check found.

    Args:
        num_rows: Number of rows, including those that cannot be read.
        problems: Everything that is wrong, in the order of files and lines.
        good: Rows without a problem. They are joined if the check was asked to merge rows.
        lengths: Tokens of each good row.
        num_trained: Trained tokens of each good row.
        tokens: Tokens of all good rows by modality name.
        types: Number of rows of each type, before rows are joined and including bad rows.
        notes: Remarks that concern no single row and are no problem.
    """

    num_rows: int
    problems: tuple[Problem, ...]
    good: tuple[Row, ...]
    lengths: tuple[int, ...]
    num_trained: tuple[int, ...]
    tokens: dict[str, int]
    types: dict[str, int]
    notes: tuple[str, ...] = ()

    def stop_on_problems(self) -> None:
        """Raise an error if there are problems.

        Raises:
            BadRows: there is at least one problem; the error holds all of them.
        """
        if self.problems:
            raise BadRows(self.problems, f"problems in {self.num_rows} rows")


def check_files(
    files: Iterable[str | Path],
    encoder: Encoder,
    *,
    merge_turns: bool = False,
    seed: int | None = None,
    groups: ExpertGroups | None = None,
    skip: Skips = NO_SKIPS,
    on_progress: Progress | None = None,
) -> DataReport:
    """Read conversation files and check every row.

    Args:
        files: As for :func:`moiety.vlm.rows.load_rows`.
        encoder: Holds the pictures, the chat template and the length limit of a row.
        merge_turns: Join the rows of one picture into one conversation, and check and return the joined rows.
        seed: Seed of the order of joined rows.
        groups: Expert groups of the scheme; a modality that none of them admits is a problem.
        skip: Rows that are left out and not counted.
        on_progress: Called with (rows done, rows in all).

    Raises:
        FileNotFoundError: there is no such file.
    """
    rows, unreadable = read_rows(files, skip)
    sound, problems = _without_faults(rows, encoder)
    joined = merge_rows(sound, seed) if merge_turns else sound
    return _report(rows, joined, [*unreadable, *problems], encoder, groups, on_progress)


def check_rows(
    rows: Sequence[Row],
    encoder: Encoder,
    groups: ExpertGroups | None = None,
    on_progress: Progress | None = None,
) -> DataReport:
    """Check rows that were read before. The arguments are those of :func:`check_files`."""
    sound, problems = _without_faults(rows, encoder)
    return _report(rows, sound, problems, encoder, groups, on_progress)


def faults_of(row: Row, encoder: Encoder) -> list[str]:
    """What is wrong with a row, as far as this can be seen without decoding its pictures."""
    spoken = [turn for turn in row.turns if turn.role != "system"]
    faults = []
    if any(turn.role == "system" for turn in row.turns[1:]):
        faults.append("a system turn must be the first turn; this row has one later")
    roles = [turn.role for turn in spoken]
    if roles != ["user", "assistant"] * (len(roles) // 2) or not roles:
        faults.append(f"turns must alternate user, assistant and end with assistant; got {', '.join(roles) or 'none'}")
    if row.num_marks != len(row.images):
        faults.append(
            f"{row.num_marks} {IMAGE_MARK} marks in the turns of the user, {len(row.images)} pictures; "
            "each picture needs one mark"
        )
    tokens = {getattr(encoder.processor, name, None) or IMAGE_MARK: what for name, what in _OWN_MARKS.items()}
    for number, turn in enumerate(row.turns, start=1):
        if turn.role == "assistant" and not turn.text.strip():
            faults.append(f"turn {number}: the answer is empty")
        if turn.role != "user" and IMAGE_MARK in turn.text:
            faults.append(f"turn {number}: {IMAGE_MARK} stands outside the turns of the user")
        for token, what in tokens.items():
            if token != IMAGE_MARK and token in turn.text:
                remedy = f"write {IMAGE_MARK}" if what == "picture" else "take it out"
                faults.append(f"turn {number}: the text holds this model's {what} token {token}; {remedy}")
    faults += [absence(name, encoder.images) for name in row.images if name not in encoder.images]
    return faults


def describe_sample(row: Row, encoder: Encoder) -> RenderableType:
    """One row as the model reads it. Each line of the table is a run of tokens with one modality, trained or not.

    Args:
        row: A row that can be encoded.
        encoder: The encoder that training uses.

    Returns:
        A table for :class:`rich.console.Console`. It can also be read without colours.

    Raises:
        FileNotFoundError: a picture is missing.
        ValueError: the row cannot be encoded.
    """
    tensors = encoder.encode(row)
    trained = tensors["labels"] != IGNORED_LABEL
    table = Table(box=None, pad_edge=False, show_edge=False)
    for title in ("positions", "modality", "trained", "text"):
        table.add_column(title, justify="right" if title == "positions" else "left", overflow="fold")
    for start, stop in _runs(tensors["modality_ids"], trained):
        modality = Modality(int(tensors["modality_ids"][start]))
        style = "bold green" if trained[start] else "magenta" if modality != Modality.TEXT else ""
        table.add_row(
            f"{start}-{stop - 1}",
            f"{int(modality)} {modality.name.lower()}",
            "yes" if trained[start] else "no",
            _shown(tensors["input_ids"][start:stop], modality, encoder),
            style=style,
        )
    counts = Counter(Modality(value).name.lower() for value in tensors["modality_ids"].tolist())
    head = Text.assemble(
        (row.place, "bold"),
        f"\n{len(trained)} tokens ({', '.join(f'{count} {name}' for name, count in counts.items())}), ",
        (f"{int(trained.sum())} trained", "bold green"),
        f"; pictures: {', '.join(row.images) or 'none'}\n",
    )
    return Group(head, table)


def _report(
    rows: Sequence[Row],
    candidates: Sequence[Row],
    problems: Sequence[Problem],
    encoder: Encoder,
    groups: ExpertGroups | None,
    on_progress: Progress | None,
) -> DataReport:
    """Encode the rows without a fault, and report what encoding finds together with the earlier problems."""
    found = list(problems)
    good, lengths, num_trained = [], [], []
    tokens: Counter[int] = Counter()
    for done, row in enumerate(candidates, start=1):
        try:
            tensors = encoder.encode(row)
            present = Counter(tensors["modality_ids"].tolist())
            if groups is not None:
                for modality in present:
                    groups.index_of_modality(modality)  # raises when the scheme has no group for it
        except (OSError, ValueError) as error:
            found.append(_problem(row, str(error).removeprefix(f"{row.place}: ")))
        else:
            good.append(row)
            lengths.append(len(tensors["input_ids"]))
            num_trained.append(int((tensors["labels"] != IGNORED_LABEL).sum()))
            tokens += present
        if on_progress:
            on_progress(done, len(candidates))
    order = {file: number for number, file in enumerate(dict.fromkeys(row.file for row in rows))}
    found.sort(key=lambda problem: (order.get(problem.file, len(order)), problem.line, problem.column))
    unreadable = {problem.where for problem in problems} - {row.where for row in rows}
    return DataReport(
        num_rows=len(rows) + len(unreadable),
        problems=tuple(found),
        good=tuple(good),
        lengths=tuple(lengths),
        num_trained=tuple(num_trained),
        tokens={Modality(modality).name.lower(): count for modality, count in sorted(tokens.items())},
        types=dict(Counter(row.type or "untyped" for row in rows)),
        notes=tuple(_notes(rows)),
    )


def _without_faults(rows: Sequence[Row], encoder: Encoder) -> tuple[list[Row], list[Problem]]:
    """Rows without a fault, and the faults of the others. If a row occurs twice, the later one has a fault."""
    sound, problems = [], []
    shared = _shared_ids(rows)
    first: dict[Hashable, Row] = {}
    for row in rows:
        faults = faults_of(row, encoder)
        earlier = first.setdefault(_content(row), row) if row.id in shared else row
        if earlier.where != row.where:  # a file that is named twice is read twice
            faults.append(f"the same row with the same id stands already in {place_of(*earlier.where)}; remove one")
        problems += [_problem(row, fault) for fault in faults]
        if not faults:
            sound.append(row)
    return sound, problems


def _shared_ids(rows: Iterable[Row]) -> dict[str, list[Row]]:
    """Id -> rows, for every id that more than one row has."""
    named: dict[str, dict[tuple[str, int, int], Row]] = {}
    for row in rows:
        if row.is_named:
            named.setdefault(row.id, {}).setdefault(row.where, row)
    return {name: list(found.values()) for name, found in named.items() if len(found) > 1}


def _content(row: Row) -> Hashable:
    return row.id, row.turns, row.images, row.type, row.answers, row.choices, repr(sorted(row.extra.items()))


def _notes(rows: Sequence[Row]) -> Iterable[str]:
    shared = _shared_ids(rows)
    if shared:
        name, found = next(iter(shared.items()))
        yield (
            f"{sum(map(len, shared.values()))} rows share {len(shared)} ids, for instance {shown(name)} in "
            f"{' and '.join(place_of(*row.where) for row in found[:2])}; such rows are distinguished by file and line"
        )


def _problem(row: Row, text: str) -> Problem:
    return Problem(row.file, row.line, row.id, text, row.column)


def _runs(modality_ids: Tensor, trained: Tensor) -> list[tuple[int, int]]:
    """Borders of the longest runs with one modality and one label state."""
    kinds = list(zip(modality_ids.tolist(), trained.tolist(), strict=True))
    borders = [0, *itertools.accumulate(len(list(run)) for _, run in itertools.groupby(kinds))]
    return list(itertools.pairwise(borders))


def _shown(input_ids: Tensor, modality: Modality, encoder: Encoder) -> Text:
    """Text of one run. Placeholders are counted instead of repeated, and line breaks are made visible."""
    tokenizer = encoder.processor.tokenizer
    if modality != Modality.TEXT:
        return Text(f"{tokenizer.decode(input_ids[:1])} x {len(input_ids)}")
    return Text(tokenizer.decode(input_ids).replace("\n", "⏎"))
