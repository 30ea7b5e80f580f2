"""Shows a comparison in a terminal: its plan or its results, in tables that are never cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moiety.cli.door import say
from moiety.cli.screen import show, table

if TYPE_CHECKING:
    from rich.table import Table

    from moiety.compare import Comparison


def show_plan(comparison: Comparison) -> None:
    """Every run that was asked for, and whether it is finished; the stages that all share; parameters."""
    from moiety.compare.caveats import caveats
    from moiety.compare.dry import FINISHED
    from moiety.compare.run import RUNS

    runs = comparison.context["runs"]
    rows = [
        (run["name"], run["scheme"], run["seed"], "\n".join(f"{name}: {did}" for name, did in run["stages"].items()))
        for run in runs
    ]
    to_do = sum(run["state"] != FINISHED for run in runs)
    note = f"{to_do} of {len(rows)} runs to do, in {comparison.folder / RUNS}"
    show(
        stages(comparison),
        parameters(comparison),
        before_training(comparison),
        table("runs", ("run", "scheme", "#seed", "what is done"), rows, note),
        *caveats(comparison),
    )


def stages(comparison: Comparison) -> Table:
    """The stages of the recipe: how often each is trained, and what is done of those that all runs share."""
    rows, shared = [], False
    for stage in comparison.context["stages"]:
        dense = stage["scheme"] == "dense"
        how, state = ("once for all runs", stage["state"]) if dense else ("in each run", "see below")
        rows.append((stage["name"], how, stage["rows"], stage["steps"], state))
        shared |= dense
    start = comparison.base.folder
    note = f"{'the first stage' if shared else 'every run'} starts from {start}" if start else ""
    return table(f"stages of {comparison.name}", ("stage", "trained", "#rows", "#steps", "state"), rows, note)


def before_training(comparison: Comparison) -> Table:
    """How each scheme starts, and what one run of it needs in memory, by part."""
    from moiety.train.memory import NOTE, StageMemory

    words = {True: "yes", False: "no", None: ""}
    rows, memory = [], comparison.context["memory"]
    for row in comparison.rows:
        found = StageMemory(**memory[row.scheme])
        rows.append((row.scheme, words[row.starts_as_dense], *found.shown()))
    most = max((StageMemory(**found).total for found in memory.values()), default=0.0)
    note = f"one run is in memory at a time: {most:.2f} GiB are enough. {NOTE}"
    heads = ("scheme", "starts as the dense model", *(f"#{part}" for part in StageMemory.PARTS))
    return table("start and memory", heads, rows, note)


def parameters(comparison: Comparison) -> Table:
    """A table of the parameters of each scheme, compared with the reference."""
    heads = ("scheme", "#expert width", "#activated", f"#against {comparison.reference}", "#total")
    rows = []
    for row in comparison.rows:
        widths = "\n".join(f"{group} {width}" for group, width in row.widths.items()) or str(row.expert_ffn)
        rows.append((row.scheme, widths, row.activated, f"{100 * row.relative_difference:+.2f} %", row.total))
    unequal = [f"{row.scheme}: {row.budget_remark}" for row in comparison.rows if not row.has_equal_budget]
    note = "activated: parameters that one token passes through" + "".join(f"; {text}" for text in unequal)
    return table("parameters", heads, rows, note)


def show_scores(comparison: Comparison) -> None:
    """Show the accuracy of every scheme, first the mean of all types. Intervals stand only in the files."""
    from moiety.compare.sentences import result
    from moiety.compare.summary import MEAN_OF_TYPES
    from moiety.compare.table import caption, conflict_table, contrast_table, notes, start_table

    types = [MEAN_OF_TYPES, *comparison.types]
    rows = []
    for row in comparison.rows:
        seeds = len(comparison.values(row.scheme, MEAN_OF_TYPES))
        for blank in (False, True):
            scores = [comparison.score(row.scheme, name, blank=blank) for name in types]
            if any(scores):
                shown = ["" if score is None else f"{100 * score.mean:.1f}" for score in scores]
                rows.append((row.scheme + ", blank image" * blank, seeds, *shown))
    heads = ("scheme", "#seeds", *(f"#{name}" for name in types))
    show(table("accuracy in percent", heads, rows, f"intervals: {comparison.folder / 'table.md'}"))
    asked, *answers = contrast_table(comparison)
    show(*[table("what the recipe asks", asked, answers)] * bool(answers))
    rates, *lines = conflict_table(comparison)
    show(*[table("evidence against memory", [*rates[:2], *(f"#{rate}" for rate in rates[2:])], lines)] * bool(lines))
    columns, *kept = start_table(comparison)
    show(*[table("start and language", [*columns[:2], *(f"#{head}" for head in columns[2:])], kept)] * bool(kept))
    show(parameters(comparison), caption(comparison), *notes(comparison, costs=False))
    if text := result(comparison):
        show(text)


def say_next(comparison: Comparison) -> None:
    """Print the address of the page, and commands for the model that was kept."""
    from moiety.compare.outcome import next_commands

    say(f"open {comparison.report}")
    for what, command in next_commands(comparison, whole=True).items():
        say(f"{what}:\n  {command}")
    if comparison.missing:
        names = ", ".join(f"{scheme} seed {seed}" for scheme, seed in comparison.missing)
        say(f"running in another process; give the same command again when it has finished: {names}")
