"""``moiety evaluate --benchmarks`` and ``moiety score``: public benchmarks, read from their official files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moiety.cli.asking import Asked, Lines
from moiety.cli.door import keeps_files, progress_line, say
from moiety.cli.look import load_both
from moiety.cli.options import AsJson, split
from moiety.cli.screen import show, show_json, table

if TYPE_CHECKING:
    from moiety.evaluate.benchmarks.benchmark import BenchmarkScore

NOTE = (
    "95 %: bootstrap over questions; questions that belong together are drawn together · compare scores of one rule "
    "only"
)
PANEL = "For benchmarks"
RULE = "Rule set that scores the answers: sound (the default), official, lmms_eval, or one that a benchmark names."


@dataclass(frozen=True)
class BenchmarkFiles:
    """What ``evaluate`` is given for benchmarks."""

    benchmarks: Annotated[
        str | None,
        typer.Option(help="Names of benchmarks, with commas, for instance pope,gqa.", rich_help_panel=PANEL),
    ] = None
    benchmark_data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder that holds one folder for each benchmark.", rich_help_panel=PANEL),
    ] = None
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the answers and scores.", rich_help_panel=PANEL)
    ] = Path("answers")
    scorer: Annotated[str | None, typer.Option("--scorer", help=RULE, rich_help_panel=PANEL)] = None

    @property
    def is_given(self) -> bool:
        """Whether any option asks for benchmarks; `output` alone does not, it has a default."""
        return any(value is not None for value in (self.benchmarks, self.benchmark_data, self.scorer))

    @property
    def is_whole(self) -> bool:
        """Whether both names and files are given."""
        return self.benchmarks is not None and self.benchmark_data is not None


def ask_benchmarks(model: str, given: BenchmarkFiles, asked: Asked) -> Lines:
    """Ask a model the questions of benchmarks and print their scores."""
    from moiety.evaluate.benchmarks.run import HEADS, RESULTS, evaluate_benchmarks, read_all
    from moiety.records.saving import check_writable

    names, data, output, asking = (
        split(given.benchmarks) or [],
        given.benchmark_data,
        given.output,
        asked.asking(given.scorer),
    )
    assert data is not None
    check_writable(output, is_folder=True)
    keeps_files(output, {"*.jsonl": f"the answers in {output}"})
    read_all(names, data, asking.rule)  # before the model: a missing file should not cost the time to load one
    runs = evaluate_benchmarks(
        *load_both(model, asked.device, asked.dtype, asked.processor), names, data, output, asking, _Lines()
    )
    if asked.as_json:
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
            say(f"{run.benchmark}: the routing is in {asking.watches.place(run.benchmark)}")
    say(f"answers and all numbers are in {output}, {RESULTS}")
    return HEADS, [run.line for run in runs]


def score(
    benchmark: Annotated[str, typer.Argument(metavar="BENCHMARK", help="Name of a benchmark, for instance pope.")],
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA", help="Folder with the files of the benchmark, in one of the layouts of docs/benchmarks.md."
        ),
    ],
    answers: Annotated[
        list[Path],
        typer.Argument(
            metavar="ANSWERS...", help="Files of answers, or folders of such files: see docs/benchmarks.md."
        ),
    ],
    scorer: Annotated[str | None, typer.Option("--scorer", help=RULE)] = None,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Score the first N questions only; use it for answers that were made with --limit N.",
        ),
    ] = None,
    graded: Annotated[
        bool, typer.Option("--graded", help="ANSWERS are the files that the benchmark's own grader wrote.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Score answers that exist already, made by moiety or by another tool. Each answer needs its question."""
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
    """All numbers of one score; the headline comes first, with its interval."""
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
    """Says on stderr how many questions of each benchmark are answered."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.update = progress_line("")

    def __call__(self, name: str, made: int, of: int) -> None:
        if name != self.name:
            self.name, self.update = name, progress_line(f"{name}: answers")
        self.update(made, of)
