"""The gates of evidence experts over the text: a grid for each gate, with layers as rows and words as columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moiety.lens.draw.figure import save
from moiety.lens.draw.tokens import WORDS_A_ROW, shorten
from moiety.lens.trace.observe import PHASES, Observation

GATES = {
    "alpha": ("alpha: share of memory in the evidence experts", "PuOr"),
    "score": ("score s: how much evidence experts are favoured", "PuOr_r"),
    "mass": ("evidence mass e: does anything given support this word?", "PuOr_r"),
}
"""Gate -> what it says, and its colours: orange is evidence, purple is memory, in every grid."""
HOW_TO_READ = "orange: leans on what was given · purple: on memory · behind the black line: the answer"
WRITTEN_UP_TO = 24  # words; in wider grids the numbers would touch


def draw_gates(observation: Observation, path: Path) -> Path | None:
    """Draw every gate that the model has; None if it has none.

    Words of the question stand first, those of the answer behind a line. Each word shows the gates with which it was
    read, which decide the word after it.
    """
    text = np.flatnonzero(~observation.is_image)
    found = {name: values for name in GATES if (values := gate_of(observation, name, text)) is not None}
    if not found:
        return None
    words = [*(observation.words[place] for place in text), *observation.generated]
    blocks = np.array_split(np.arange(len(words)), max(1, -(-len(words) // WORDS_A_ROW)))
    layers = observation.layers
    height = 0.34 * len(layers)
    longest = max(map(len, blocks))
    size = (max(7.5, 2.4 + 0.36 * longest), (height + 0.45) * len(found) * len(blocks) + 0.9 * len(blocks) + 0.2)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(found) * len(blocks), 1, squeeze=False)[:, 0]
    panel = iter(panels)
    for block in blocks:
        for number, (name, values) in enumerate(found.items()):
            axes = next(panel)
            image = _grid(axes, values[:, block], layers, name)
            if len(text) in block[1:]:
                axes.axvline(float(len(text) - block[0]), color="black", linewidth=1.5)
            axes.set_xlim(0, longest)
            last = number == len(found) - 1
            shown = [shorten(words[place]) for place in block] if last else []
            axes.set_xticks(
                np.arange(len(shown)) + 0.5, shown, rotation=60, ha="right", rotation_mode="anchor", fontsize=8
            )
            bar = figure.colorbar(image, ax=axes, ticks=[0, 0.5, 1], pad=0.01, fraction=0.03, aspect=8)
            bar.ax.tick_params(labelsize=7)
    figure.supxlabel(HOW_TO_READ, fontsize=8)
    return save(figure, path)


def gate_of(observation: Observation, name: str, text: np.ndarray) -> np.ndarray | None:
    """One gate of every word, ``(layers, words)``: mean over evidence experts; NaN in layers without gates.

    Args:
        observation: What was asked and answered.
        name: ``alpha``, ``score`` or ``mass``.
        text: Positions of the prompt that hold text.
    """
    rows = []
    for layer in observation.layers:
        parts = []
        for phase in PHASES:
            if not observation.phases[phase]:
                continue
            values = observation.phases[phase][layer].extras.get(name)
            if values is None:
                parts.append(np.full(len(text) if phase == "prefill" else len(observation.generated), np.nan))
                continue
            whole = values.numpy().reshape(len(values), -1).mean(-1)  # (tokens, evidence experts) -> (tokens,)
            parts.append(whole[text] if phase == "prefill" else whole)
        rows.append(np.concatenate(parts))
    found = np.stack(rows)
    return None if np.isnan(found).all() else found


def _grid(axes: Axes, values: np.ndarray, layers: list[int], name: str) -> Any:
    said, colours = GATES[name]
    image = axes.imshow(
        values, aspect="auto", interpolation="nearest", cmap=colours, vmin=0, vmax=1,
        extent=(0, values.shape[1], len(layers), 0),
    )  # fmt: skip
    axes.vlines(range(1, values.shape[1]), 0, len(layers), color="white", linewidth=0.6)
    axes.hlines(range(1, len(layers)), 0, values.shape[1], color="white", linewidth=0.6)
    if values.shape[1] <= WRITTEN_UP_TO:
        for row, column in zip(*np.nonzero(~np.isnan(values)), strict=True):
            value = values[row, column]
            ink = "white" if abs(value - 0.5) > 0.28 else "black"
            axes.text(
                column + 0.5,
                row + 0.5,
                f"{value:.2f}".removeprefix("0"),
                ha="center",
                va="center",
                fontsize=6.5,
                color=ink,
            )
    axes.set_yticks(np.arange(len(layers)) + 0.5, [f"layer {layer}" for layer in layers], fontsize=8)
    axes.set_title(said, fontsize=10, loc="left")
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.tick_params(length=0)
    return image
