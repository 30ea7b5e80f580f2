"""The comparison as one picture: a column of dots per type of question, floors as lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moiety.compare.summary import MEAN_OF_TYPES, Comparison, Floors

# Okabe and Ito's palette: told apart with every kind of colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v")  # another form for each round through the colours


def draw(comparison: Comparison, path: Path) -> None:
    """Write a PNG with one group of dots per type of question.

    Dots are means with 95 % intervals, hollow dots of the same colour the blank-image control, grey lines the floors.

    Args:
        comparison: At least one finished run.
        path: File to write; replaced at once when complete.
    """
    from matplotlib.figure import Figure

    types = comparison.types
    schemes = [row.scheme for row in comparison.rows if comparison.values(row.scheme, MEAN_OF_TYPES)]
    column_width = max(1.7, 0.15 * len(schemes) + 0.5)  # inches; dots of many schemes need room beside each other
    figure = Figure(figsize=(max(7.0, column_width * (len(types) + 1)), 4.6), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    for column, name in enumerate([*types, MEAN_OF_TYPES]):
        _draw_floors(axes, column, comparison.floors.get(name, Floors()))
        for number, scheme in enumerate(schemes):
            at = column + (number - (len(schemes) - 1) / 2) * 0.75 / max(1, len(schemes))
            _draw_score(axes, at, comparison, scheme, name, number, label=column == 0)
    if any(comparison.values(scheme, name, blank=True) for scheme in schemes for name in types):
        axes.plot([], [], "o", markersize=4, color="0.4", markerfacecolor="none", label="blank image")
    axes.set_xticks(range(len(types) + 1), [*types, MEAN_OF_TYPES], rotation=20 if len(types) > 6 else 0)
    axes.set_ylim(0, 100)
    axes.set_ylabel("accuracy, %")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(
        unique.values(),
        unique.keys(),
        loc="outside lower center",
        ncols=max(2, int(figure.get_figwidth() / 1.6)),
        frameon=False,
    )
    temporary = path.with_name(f".{path.name}.part")
    figure.savefig(temporary, format="png")
    temporary.replace(path)


def _draw_floors(axes: Any, column: int, floors: Floors) -> None:
    styles = {"majority": ":", "question_only": "--", "chance": "-."}
    for name, style in styles.items():
        value = getattr(floors, name)
        if value is not None:
            ends = (column - 0.42, column + 0.42)
            label = f"floor: {name.replace('_', '-')}"
            axes.hlines(100 * value, *ends, colors="0.45", linestyles=style, linewidth=1, label=label)


def _draw_score(axes: Any, at: float, comparison: Comparison, scheme: str, name: str, number: int, label: bool) -> None:
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]
    for blank in (False, True):
        score = comparison.score(scheme, name, blank=blank)
        if score is None:
            continue
        mean = 100 * score.mean
        error = [[mean - 100 * score.low], [100 * score.high - mean]] if score.has_interval else None
        text = scheme if label and not blank else None
        face = "none" if blank else colour
        style = {"markersize": 4 if blank else 6, "linewidth": 0.8 if blank else 1.4, "alpha": 0.6 if blank else 1.0}
        axes.errorbar(at, mean, error, fmt=marker, color=colour, markerfacecolor=face, capsize=2, label=text, **style)
