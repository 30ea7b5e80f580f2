"""Shows a comparison in a terminal: its plan or its results, in tables that are never cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

from moiety.cli.door import say
from moiety.cli.screen import show, table

if TYPE_CHECKING:
    from rich.table import Table

    from moiety.compare import Comparison


def show_plan(comparison: Comparison) -> None:
    """Show the stages, the parameters of each scheme, and every run with its state."""
    from moiety.compare.records import run_name
    from moiety.compare.run import RUNS
    from moiety.records.run_files import RESULT

    runs = comparison.folder / RUNS
    done = {pair for pair in comparison.planned if (runs / run_name(*pair) / RESULT).is_file()}
    rows = [(run_name(*pair), *pair, "finished" if pair in done else "to do") for pair in comparison.planned]
    note = f"{len(rows) - len(done)} of {len(rows)} runs to do, in {runs}"
    stages = [
        (stage["name"], "once a run" if stage["scheme"] != "dense" else "once for all", stage["rows"], stage["steps"])
        for stage in comparison.context["stages"]
    ]
    show(
        table(f"stages of {comparison.name}", ("stage", "done", "#rows", "#steps"), stages),
        parameters(comparison),
        table("runs", ("run", "scheme", "#seed", "state"), rows, note),
    )


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
    from moiety.compare.table import caption, conflict_table, contrast_table, notes

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
