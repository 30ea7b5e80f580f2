"""``moiety evaluate --benchmarks`` and ``moiety score``: the benchmarks of the field, from official files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moiety.cli.door import keeps_files, progress_line, say
from moiety.cli.look import load_both
from moiety.cli.screen import show, show_json, table

if TYPE_CHECKING:
    from moiety.evaluate.benchmarks.benchmark import BenchmarkScore
    from moiety.evaluate.benchmarks.run import Asking

NOTE = "95 %: bootstrap over questions that are drawn together where they belong together · compare equal rules only"
Rule = Annotated[
    str | None,
    typer.Option("--scorer", help="Rule set: sound (the default), official, lmms_eval, or one a benchmark names."),
]
TraceFile = Annotated[
    Path | None, typer.Option("--trace", help="Write the routing of the run, for `moiety inspect --trace FILE`.")
]
TraceLimit = Annotated[
    int, typer.Option("--trace-limit", min=1, help="Keep every decision of the first N questions, sums of all.")
]
Lines = tuple[Sequence[str], list[list[str]]]
"""Heads and lines of a table that was shown."""
Limit = Annotated[int | None, typer.Option(min=1, help="The first N questions only.")]


def ask_benchmarks(
    model: str, device: str | None, names: Sequence[str], data: Path, output: Path, asking: Asking, as_json: bool
) -> Lines:
    """Ask a model the questions of benchmarks and print their scores; files are read before the model."""
    from moiety.evaluate.benchmarks.run import HEADS, RESULTS, evaluate_benchmarks, read_all

    keeps_files(output, {"*.jsonl": f"the answers in {output}"})
    read_all(names, data, asking.rule)  # a missing file should not cost the time to load a model
    runs = evaluate_benchmarks(*load_both(model, device), names, data, output, asking, _Lines())
    if as_json:
        show_json([vars(run) | {"score": None if run.score is None else run.score.to_dict()} for run in runs])
        return HEADS, [run.line for run in runs]
    notes = [f"{run.benchmark}: {note}" for run in runs if run.score is not None for note in run.score.notes]
    title = f"{model}{' with blank pictures' * asking.blank_image}"
    show(table(title, HEADS, [run.line for run in runs], "\n".join([NOTE, *notes])))
    for run in runs:
        if run.answers_file is not None:
            say(f"{run.benchmark}: hand in {run.answers_file}")
    for run in runs:
        if asking.watches is not None:
            say(f"{run.benchmark}: routing stands in {asking.watches.place(run.benchmark)}")
    say(f"answers and all numbers stand in {output}, {RESULTS}")
    return HEADS, [run.line for run in runs]


def score(
    benchmark: Annotated[str, typer.Argument(metavar="BENCHMARK", help="Name of a benchmark, for instance pope.")],
    data: Annotated[
        Path, typer.Argument(metavar="DATA", help="Folder with its files, in any layout of docs/benchmarks.md.")
    ],
    answers: Annotated[
        list[Path], typer.Argument(metavar="ANSWERS...", help="Files or folders of answers, see docs/benchmarks.md.")
    ],
    scorer: Rule = None,
    limit: Limit = None,
    graded: Annotated[
        bool, typer.Option("--graded", help="ANSWERS is what the benchmark's own grader wrote, in one or more files.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score answers that are there already, made here or by another tool; each needs its question."""
    from moiety.evaluate.benchmarks.rules.graded import score_graded
    from moiety.evaluate.benchmarks.run import score_answers

    if graded and scorer is not None:
        raise ValueError(f"--graded has one rule, the grader's own; leave out --scorer {scorer}")
    if graded:
        result = score_graded(benchmark, data, answers, limit)
    else:
        result, _ = score_answers(benchmark, data, answers, scorer, limit)
    if as_json:
        show_json(result.to_dict())
        return
    show(score_table(result))


def score_table(result: BenchmarkScore) -> Any:
    """All numbers of one score, the headline first with its interval."""
    from moiety.evaluate.benchmarks.run import named, shown

    name, value, interval = shown(result)
    others = [(key, f"{number:.2f}", "") for key, number in result.numbers.items() if key != result.headline[0]]
    if result.unread is not None:
        others.append(("answers not read", f"{result.unread:,} of {result.num_questions:,}", ""))
    title = f"{named(result.benchmark, result.part)}, rule {result.rule}, {result.num_questions:,} questions"
    return table(
        title, ("number", "#value", "#95 %"), [(name, value, interval), *others], "\n".join(result.notes) or None
    )


class _Lines:
    """Tells on stderr how far each benchmark is."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.update = progress_line("")

    def __call__(self, name: str, made: int, of: int) -> None:
        if name != self.name:
            self.name, self.update = name, progress_line(f"{name}: answers")
        self.update(made, of)
