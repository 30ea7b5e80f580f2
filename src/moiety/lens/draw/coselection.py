"""Which experts are chosen together: one table for each sparse layer and modality group."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moiety.groups import ExpertGroups
from moiety.lens.draw.figure import save
from moiety.lens.draw.palette import colours_of
from moiety.lens.numbers import RoutingNumbers

WRITTEN_UP_TO = 8  # experts; larger tables have no room for numbers
COLUMNS = 8  # layers in a row


def draw_co_selection(numbers: RoutingNumbers, groups: ExpertGroups, path: Path) -> Path:
    """Share of the tokens that chose both experts; on the diagonal, those that chose the expert.

    Prefill where there is one, else decode: the phases differ less than the layers do.
    """
    phase = numbers.phases[0]
    tokens = numbers.of(phase, "tokens")
    names = [name for row, name in enumerate(groups.names) if tokens[:, row].any()]
    columns = min(COLUMNS, len(numbers.layers))
    blocks = -(-len(numbers.layers) // columns)
    figure = Figure(figsize=(max(4.5, 1.9 * columns + 0.6), 2.0 * len(names) * blocks + 0.6), layout="constrained")
    places = figure.subplots(len(names) * blocks, columns, squeeze=False)
    for axes in places.ravel():
        axes.set_axis_off()
    for place, layer in enumerate(numbers.layers):
        for row, name in enumerate(names):
            axes = places[place // columns * len(names) + row, place % columns]
            shares = numbers.of(phase, "co_select")[place, groups.names.index(name)]
            _table(axes, shares, groups, name, f"layer {layer} · {name}")
    figure.supxlabel(f"per cent of tokens that chose both experts ({phase}); diagonal: chose the expert", fontsize=8)
    return save(figure, path)


def _table(axes: Axes, shares: np.ndarray, groups: ExpertGroups, name: str, title: str) -> None:
    seen = list(groups.visible(name))
    values = shares[np.ix_(seen, seen)]
    axes.set_axis_on()
    axes.imshow(values, cmap="Blues", vmin=0, vmax=max(1e-9, float(values.max())))
    axes.set_title(title, fontsize=8, loc="left")
    axes.tick_params(length=0)
    ticks = list(range(len(seen))) if len(seen) <= WRITTEN_UP_TO else []
    labels = [str(seen[tick]) for tick in ticks]
    axes.set_xticks(ticks, labels, fontsize=7)
    axes.set_yticks(ticks, labels, fontsize=7)
    for labels_of in (axes.get_xticklabels(), axes.get_yticklabels()):
        for tick, label in zip(ticks, labels_of, strict=True):
            label.set(color=colours_of(groups)[seen[tick]], fontweight="bold")
    for spine in axes.spines.values():
        spine.set_visible(False)
    if len(seen) <= WRITTEN_UP_TO:
        for (down, across), value in np.ndenumerate(values):
            ink = "white" if value > 0.6 * values.max() else "black"
            axes.text(across, down, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=ink)
