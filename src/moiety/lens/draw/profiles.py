"""Profiles over depth of one model, or of a model beside a reference: attention, grounding, dependence, gates."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moiety.lens.draw.charts import LINES
from moiety.lens.draw.figure import save
from moiety.lens.draw.palette import colours_of, label_of
from moiety.lens.ground.metrics import Grounding

GATE_LINES = {"alpha": ("#8C3D00", "o"), "score": ("#0072B2", "s"), "mass": ("#6B6B6B", "^")}
GATE_WORDS = {"alpha": "alpha (share of memory)", "score": "score s", "mass": "evidence mass e"}
ATTENDED = {
    "context": ("#0072B2", "all evidence (C)"),
    "picture": ("#E69F00", "the picture"),
    "answer": ("#8C3D00", "what holds the answer (N)"),
}
HOLLOW: dict[str, Any] = {"linestyle": "--", "linewidth": 1, "marker": "o", "markersize": 4, "markerfacecolor": "white"}
MARKERS = "osD^vP*X"
COLUMNS = 3
BAR = 0.16  # width of a bar, in layers


def draw_profiles(found: Grounding, path: Path, reference: Grounding | None = None) -> Path:
    """One panel for each kind of number the model has, layer by layer; a reference is drawn dashed and hollow.

    Args:
        found: Numbers of the model.
        path: PNG to write.
        reference: Numbers of another model over the same rows.
    """
    panels: list[Callable[[Axes], None]] = [
        lambda axes: _entropy(axes, found, reference),
        lambda axes: _attention(axes, found, reference),
    ]
    if found.groups is not None:
        panels.append(
            lambda axes: _experts(axes, found, found.grounding_ratio(), "evidence in the attention of its tokens (F)")
        )
        if not np.isnan(found.dependence("exchanged")).all():
            panels.append(lambda axes: _dependence(axes, found))
        if found.has_gates:
            panels.append(lambda axes: _gates(axes, found))
    columns = 2 if len(panels) in (2, 4) else COLUMNS
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 3.9 * rows), layout="constrained")
    places = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, draw in zip(places, panels, strict=False):
        draw(axes)
        _dress(axes, found)
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    return save(figure, path)


def _dress(axes: Axes, found: Grounding) -> None:
    axes.set_xlabel("layer", fontsize=9)
    step = max(1, len(found.layers) // 12)
    axes.set_xticks(found.layers[::step])
    margin = 0.7 if len(found.sparse_layers) == 1 else 0.3  # bars stand on both sides of their layer
    axes.set_xlim(-margin, len(found.layers) - 1 + margin)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(fontsize=7.5, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=_columns(axes))


def _columns(axes: Axes) -> int:
    """Columns of a legend below a panel: long labels stand two and two."""
    labels = axes.get_legend_handles_labels()[1]
    return 2 if max(map(len, labels), default=0) > 12 else 3


def _entropy(axes: Axes, found: Grounding, reference: Grounding | None) -> None:
    for modality, line in (("text", "text"), ("image", "vision")):
        colour, marker = LINES[line]
        axes.plot(found.layers, found.entropy(modality), color=colour, marker=marker, markersize=5, label=modality)
        if reference is not None:
            axes.plot(reference.layers, reference.entropy(modality), color=colour, **HOLLOW)
    slope = found.entropy_slope
    axes.set_title("attention entropy (1 = looks everywhere)", fontsize=10, loc="left")
    axes.set_ylim(-0.03, 1.05)
    if slope is not None:
        interval = "" if np.isnan(slope.low) else f" [{slope.low:+.3f}, {slope.high:+.3f}]"
        said = f"text: {slope.value:+.3f}{interval} a layer"
        axes.text(0.98, 0.02, said, transform=axes.transAxes, ha="right", va="bottom", fontsize=8)


def _attention(axes: Axes, found: Grounding, reference: Grounding | None) -> None:
    for key, (colour, label) in ATTENDED.items():
        if np.isnan(found.attention(key)).all():
            continue
        axes.plot(found.layers, found.attention(key), color=colour, marker="o", markersize=5, label=label)
        if reference is not None:
            axes.plot(reference.layers, reference.attention(key), color=colour, **HOLLOW)
    if reference is not None:
        axes.plot([], [], color="black", label="dashed: reference", **HOLLOW)
    axes.set_title("attention of the position that answers", fontsize=10, loc="left")
    axes.set_ylim(-0.03, 1.05)


def _experts(axes: Axes, found: Grounding, values: np.ndarray, title: str) -> None:
    """A line for each expert that any text token reached, in its colour; markers tell lines that meet apart.

    One sparse layer makes no line: then each expert has a bar there.
    """
    assert found.groups is not None
    reached = found.samples["routed"].sum(0).any(0)
    shown = [expert for expert in range(len(reached)) if reached[expert] and not np.isnan(values[:, expert]).all()]
    for place, expert in enumerate(shown):
        colour, label = colours_of(found.groups)[expert], label_of(found.groups, expert)
        if len(found.sparse_layers) == 1:
            at = found.sparse_layers[0] + (place - (len(shown) - 1) / 2) * BAR
            axes.bar(at, values[0, expert], width=0.9 * BAR, color=colour, label=label)
            continue
        marker = MARKERS[expert % len(MARKERS)]
        axes.plot(found.sparse_layers, values[:, expert], color=colour, marker=marker, markersize=5, label=label)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_ylim(-0.03, 1.05)


def _dependence(axes: Axes, found: Grounding) -> None:
    _experts(axes, found, found.dependence("exchanged"), "chosen more often with the right picture (R)")
    axes.axhline(0, color="black", linewidth=0.8)
    largest = np.nanmax(np.abs(found.dependence("exchanged")))
    axes.set_ylim(-max(0.1, 1.2 * largest), max(0.1, 1.2 * largest))


def _gates(axes: Axes, found: Grounding) -> None:
    """A line for each gate, dashed with the pictures exchanged; one sparse layer makes no line, and gets bars."""
    shown = [name for name in GATE_LINES if not np.isnan(found.gate(name)).all()]
    for place, name in enumerate(shown):
        colour, marker = GATE_LINES[name]
        present, without = found.gate(name), found.gate(name, "exchanged")
        if len(found.sparse_layers) == 1:
            at = found.sparse_layers[0] + (2 * place + 0.5 - len(shown)) * BAR
            axes.bar(at, present[0], width=0.9 * BAR, color=colour, label=GATE_WORDS[name])
            axes.bar(at + BAR, without[0], width=0.9 * BAR, color="white", edgecolor=colour, linestyle="--")
            continue
        axes.plot(found.sparse_layers, present, color=colour, marker=marker, markersize=5, label=GATE_WORDS[name])
        if not np.isnan(without).all():
            axes.plot(found.sparse_layers, without, color=colour, **{**HOLLOW, "marker": marker})
    if not np.isnan(found.gate("mass", "exchanged")).all():
        axes.plot([], [], color="black", label="dashed: pictures exchanged", **HOLLOW)
    axes.set_title("gates where the answer is made", fontsize=10, loc="left")
    axes.set_ylim(-0.03, 1.05)
