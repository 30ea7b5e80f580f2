"""Draws a comparison as one picture that can be read on a phone: one row of dots for each type of question."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moiety.compare.summary import MEAN_OF_TYPES, Comparison
from moiety.compare.verdicts import Floors

# The palette of Okabe and Ito, which people with any kind of colour vision can tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v")  # the next marker once all colours are used
STYLES = {"majority": ":", "question_only": "--", "chance": "-."}
WIDTH = 5.4  # inches: letters of 9 points can be read on a phone
EDGE = 2.5  # percentage points beyond 0 and 100, so that no dot is cut


def draw(comparison: Comparison, path: Path) -> None:
    """Write a PNG with one row of dots for each type of question. The mean of types comes first.

    A dot is a mean with its 95 % interval. A hollow dot is the blank-image control. Grey marks are the floors.

    Args:
        comparison: At least one finished run.
        path: File to write. An older file is replaced when the new one is complete.
    """
    from matplotlib.figure import Figure

    names = [MEAN_OF_TYPES, *comparison.types]
    schemes = [row.scheme for row in comparison.rows if comparison.values(row.scheme, MEAN_OF_TYPES)]
    high = max(0.55, 0.13 * len(schemes) + 0.2)  # inches for each row; many schemes need more room
    figure = Figure(figsize=(WIDTH, high * len(names) + 1.1), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    for row, name in enumerate(names):
        _draw_floors(axes, row, comparison.floors.get(name, Floors()))
        for number, scheme in enumerate(schemes):
            at = row + (number - (len(schemes) - 1) / 2) * 0.72 / max(1, len(schemes))
            _draw_score(axes, at, comparison, scheme, name, number, label=row == 0)
    if any(comparison.values(scheme, name, blank=True) for scheme in schemes for name in names):
        axes.plot([], [], "o", markersize=4, color="0.4", markerfacecolor="none", label="blank image")
    for row in range(1, len(names)):
        axes.axhline(row - 0.5, color="0.9" if row > 1 else "0.6", linewidth=0.8)
    _dress(axes, names)
    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(
        unique.values(),
        unique.keys(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
        columnspacing=1.2,
    )
    temporary = path.with_name(f".{path.name}.part")
    figure.savefig(temporary, format="png")
    temporary.replace(path)


def _dress(axes: Any, names: list[str]) -> None:
    """Set the names of the rows and the scale, and hide the frame."""
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlim(-EDGE, 100 + EDGE)
    axes.set_xticks(range(0, 101, 20))
    axes.tick_params(axis="x", labelsize=9)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("accuracy, %", fontsize=9)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _draw_floors(axes: Any, row: int, floors: Floors) -> None:
    for name, style in STYLES.items():
        value = getattr(floors, name)
        if value is not None:
            ends, label = (row - 0.42, row + 0.42), f"floor: {name.replace('_', '-')}"
            axes.vlines(100 * value, *ends, colors="0.45", linestyles=style, linewidth=1.2, label=label)


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
        style = {"markersize": 4 if blank else 5.5, "linewidth": 0.8 if blank else 1.4, "alpha": 0.6 if blank else 1.0}
        axes.errorbar(
            mean, at, xerr=error, fmt=marker, color=colour, markerfacecolor=face, capsize=1.5, label=text, **style
        )
