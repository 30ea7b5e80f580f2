"""The comparison as a table: Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence
from dataclasses import asdict

from moiety.compare.caveats import language_caption, starts, unequal
from moiety.compare.summary import MEAN_OF_TYPES, Comparison, SchemeRow
from moiety.compare.verdicts import Difference
from moiety.evaluate.report import percent
from moiety.records.pages import finite, pipe_table
from moiety.stats.contrasts import Contrast, limit_of
from moiety.stats.intervals import Estimate, seed_interval

FLOOR_NAMES = ("majority", "question_only", "chance")


def markdown(comparison: Comparison) -> str:
    """Scores, floors and costs as Markdown tables; before any run is finished, parameters only."""
    parts = [pipe_table(score_table(comparison))] if comparison.records else []
    further = {2: conflict_table(comparison), 4: contrast_table(comparison)}
    parts += [pipe_table(lines, num_texts) for num_texts, lines in further.items() if len(lines) > 1]
    kept = start_table(comparison)
    parts += [pipe_table(kept, 2)] * (len(kept) > 1)
    parts += [pipe_table(cost_table(comparison)), caption(comparison), *notes(comparison)]
    return "\n\n".join(parts) + "\n"


def caption(comparison: Comparison) -> str:
    """What the numbers mean and how many runs they rest on."""
    seeds = sorted({record.seed for record in comparison.records})
    if len(seeds) > 1:
        meaning = f"mean over up to {len(seeds)} seeds with Student's 95 % interval over seeds"
    else:
        meaning = "one seed, with Wilson's 95 % interval over questions (says nothing about other seeds)"
    waiting: dict[str, list[int]] = {}
    for scheme, seed in comparison.missing if comparison.records else ():
        waiting.setdefault(scheme, []).append(seed)
    absent = [f"{scheme} {_seeds(numbers)}" for scheme, numbers in waiting.items()]
    return (
        f"Accuracy in percent: {meaning}. {len(comparison.records)} of {len(comparison.planned)} runs are finished"
        + (f"; without result: {', '.join(absent)}." if absent else ".")
    )


def _seeds(numbers: Sequence[int]) -> str:
    """``seed 3``, ``seeds 0, 2`` or ``seeds 0 to 7``."""
    if len(numbers) == 1:
        return f"seed {numbers[0]}"
    if len(numbers) > 2 and list(numbers) == list(range(numbers[0], numbers[-1] + 1)):
        return f"seeds {numbers[0]} to {numbers[-1]}"
    return f"seeds {', '.join(map(str, numbers))}"


def notes(comparison: Comparison, *, costs: bool = True, starting: bool = True) -> list[str]:
    """What each variant is there for, what is not equal, what the seeds cannot show, and what the columns leave open.

    Args:
        comparison: The comparison.
        costs: Also what the columns of :func:`cost_table` leave open.
        starting: Also the notes of :func:`start_notes`.
    """
    asked, num_seeds = comparison.asked, len({seed for _, seed in comparison.planned})
    family = len(asked.contrast_types) or len({*comparison.floors, *comparison.types}) + 1
    limit = limit_of(num_seeds, 2.0 ** (1 - num_seeds), family) if asked.contrasts and num_seeds else ""
    found = [f"No contrast can be shown: {limit}; take more seeds or fewer contrast_types."] if limit else []
    found += [f"{row.scheme}: {row.note}" for row in comparison.rows if row.note]
    found += [*unequal(comparison), *(start_notes(comparison) if starting else [])]
    if costs and any(row.against_dense is not None for row in comparison.rows):
        found.append("Activated against dense: of the language model alone, vision tower and projector left out.")
    return found


def start_notes(comparison: Comparison) -> list[str]:
    """What belongs to :func:`start_table`: who starts as the dense model, and what text loss is."""
    return [text for text in (*starts(comparison), language_caption(comparison)) if text]


def score_table(comparison: Comparison) -> list[list[str]]:
    """Header and lines: one scheme a line, one type of question a column, then the floors."""
    types = comparison.types
    columns = [MEAN_OF_TYPES, *types]  # what a reader looks for comes first
    lines = [["scheme", "seeds", *columns]]
    for row in comparison.rows:
        num_seeds = sum(record.scheme == row.scheme for record in comparison.records)
        scores = [_score(comparison.score(row.scheme, name)) for name in columns]
        lines.append([row.scheme + _mark(row), str(num_seeds), *scores])
        if any(comparison.values(row.scheme, name, blank=True) for name in types):
            blanks = [_score(comparison.score(row.scheme, name, blank=True)) for name in columns]
            lines.append([f"{row.scheme}, blank image", str(num_seeds), *blanks])
    for floor in FLOOR_NAMES:
        values = [getattr(comparison.floors.get(name), floor, None) for name in types]
        if any(value is not None for value in values):
            shown = ["" if value is None else f"{100 * value:.1f}" for value in values]
            lines.append([floor.replace("_", "-"), "", "", *shown])
    return lines


def conflict_table(comparison: Comparison) -> list[list[str]]:
    """Header and lines: whom each scheme believed, one scheme and type a line; only the header without conflicts."""
    lines = [["scheme", "type", "ConR (evidence)", "MemR (memory)", "MR = MemR / (MemR + ConR)"]]
    for name in comparison.types:
        for row in comparison.rows:
            rates = [comparison.conflict(row.scheme, name, rate) for rate in ("evidence", "memory", "ratio")]
            if rates[0] is not None:
                lines.append([row.scheme + _mark(row), name, *map(_score, rates)])
    return lines


def contrast_table(comparison: Comparison) -> list[list[str]]:
    """Header and lines: one contrast and type of question a line; those without a result yet say so."""
    lines = [["contrast", "type", "verdict", "numbers"]]
    found = comparison.contrasts()
    lines += [[entry.name, entry.question_type, entry.verdict, entry.numbers] for entry in found]
    waiting = [name for name in comparison.asked.contrasts if name not in {entry.name for entry in found}]
    return lines + [[name, "", "no seed with all of its schemes yet", ""] for name in waiting]


def cost_table(comparison: Comparison) -> list[list[str]]:
    """Header and lines: parameters and the price of training, one scheme a line."""
    header = ["scheme", "expert width", "activated", "total", "activated against " + comparison.reference]
    lines = [[*header, "against dense", "training tokens", "tokens/s", "peak memory GiB"]]
    for row in comparison.rows:
        lines.append(
            [
                row.scheme,
                ", ".join(f"{group} {width}" for group, width in row.widths.items()) or str(row.expert_ffn),
                f"{row.activated:,}",
                f"{row.total:,}",
                f"{100 * row.relative_difference:+.2f} %{_mark(row)}",
                "" if row.against_dense is None else f"{100 * row.against_dense:+.2f} %",
                _number(comparison.mean_of(row.scheme, "tokens"), ",.0f"),
                _number(comparison.mean_of(row.scheme, "tokens_per_second"), ",.0f"),
                _number(comparison.mean_of(row.scheme, "peak_memory_gib"), ".2f"),
            ]
        )
    return lines


def start_table(comparison: Comparison) -> list[list[str]]:
    """Header and lines: what each scheme is before training, and how much language it keeps; one scheme a line.

    Only the header where there is nothing to say: the recipe builds its base from nothing, and all start as it.
    """
    base = comparison.base
    header = ["scheme", "starts as the dense model"]
    header += ["text loss at step 0", "language kept (text loss before → after)"] if base.text_loss is not None else []
    if not base.given and all(row.starts_as_dense is not False for row in comparison.rows):
        return [header]
    words = {True: "yes", False: "no", None: ""}
    return [header, *([row.scheme, words[row.starts_as_dense], *_language(comparison, row)] for row in comparison.rows)]


def _language(comparison: Comparison, row: SchemeRow) -> list[str]:
    before, start, after = comparison.base.text_loss, row.start_text_loss, comparison.text_losses(row.scheme)
    if before is None:
        return []
    found = seed_interval(after) if after else None
    kept = "" if found is None else f"{before:.3f} → {found.mean:.3f}"
    kept += f" [{found.low:.3f}, {found.high:.3f}]" if found is not None and found.has_interval else ""
    return ["" if start is None else f"{start:.3f}", kept]


def csv_text(comparison: Comparison) -> str:
    """One line per scheme and type of question, numbers unrounded, for other programs."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    header = "scheme budget_remark type num_seeds mean low high blank_mean blank_low blank_high"
    ends = ["activated", "total", "expert_ffn", "starts_as_dense", "base_text_loss", "start_text_loss", "text_loss"]
    writer.writerow([*header.split(), *FLOOR_NAMES, *ends])
    for row in comparison.rows:
        losses = comparison.text_losses(row.scheme)
        kept = sum(losses) / len(losses) if losses else None
        sizes = [row.activated, row.total, row.expert_ffn]
        language = [row.starts_as_dense, comparison.base.text_loss, row.start_text_loss, kept]
        for name in [*comparison.types, MEAN_OF_TYPES]:
            seeds = len(comparison.values(row.scheme, name))
            scores = (comparison.score(row.scheme, name), comparison.score(row.scheme, name, blank=True))
            floors = [getattr(comparison.floors.get(name), floor, None) for floor in FLOOR_NAMES]
            cells = [cell for score in scores for cell in _cells(score)]
            writer.writerow([row.scheme, row.budget_remark, name, seeds, *cells, *floors, *sizes, *language])
    return out.getvalue()


def json_text(comparison: Comparison) -> str:
    """All records, floors, differences and the context as JSON; an absent interval is null."""
    tree = {
        "name": comparison.name,
        "reference": comparison.reference,
        "base": asdict(comparison.base) | {"folder": str(comparison.base.folder or "")},
        "schemes": [asdict(row) for row in comparison.rows],
        "floors": {name: asdict(floors) for name, floors in comparison.floors.items()},
        "differences": [_tested(difference) for difference in comparison.reference_minus_others()],
        "contrasts": [_tested(contrast) for contrast in comparison.contrasts()],
        "records": [asdict(record) for record in comparison.records],
        "missing": [list(pair) for pair in comparison.missing],
        "context": dict(comparison.context),
    }
    return json.dumps(finite(tree), indent=1)


def _tested(entry: Difference | Contrast) -> dict[str, object]:
    return asdict(entry) | {"verdict": entry.verdict}


def _cells(score: Estimate | None) -> list[float | None]:
    if score is None:
        return [None, None, None]
    return [score.mean, score.low, score.high] if score.has_interval else [score.mean, None, None]


def _score(score: Estimate | None) -> str:
    return "" if score is None else percent(score)


def _mark(row: SchemeRow) -> str:
    return "" if row.has_equal_budget else f" ({row.budget_remark})"


def _number(value: float, form: str) -> str:
    return "" if math.isnan(value) else format(value, form)
