"""Charts over depth: load of each expert, entropy of the router, share of the inter-modality experts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moiety.groups import ExpertGroups
from moiety.lens.draw.figure import add_legend, save
from moiety.lens.draw.palette import colours_of, is_dark
from moiety.lens.numbers import RoutingNumbers

LINES = {"vision": ("#D55E00", "o"), "text": ("#009E73", "s")}
OTHER_LINE = ("#CC79A7", "^")
DASHES = {"prefill": "-", "decode": "--"}
WRITTEN_FROM = 0.1  # narrower bars have no room for a number
FEW_EXPERTS = 8  # with more experts, lines of an even load would hide the bars


def draw_shares(numbers: RoutingNumbers, groups: ExpertGroups, path: Path) -> Path:
    """Load of every expert as stacked bars: a panel for each phase and modality group, a bar for each layer."""
    panels = [
        (phase, name)
        for phase in numbers.phases
        for name in groups.names
        if numbers.of(phase, "tokens")[:, groups.names.index(name)].any()
    ]
    height = 1.3 + 0.32 * len(numbers.layers)
    figure = Figure(figsize=(4.2 * len(panels), height + 0.6), layout="constrained")
    for panel, (phase, name) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        _share_bars(panel, numbers, groups, phase, name)
    add_legend(figure, groups, "share of the chosen slots; dotted: an even load")
    return save(figure, path)


def _share_bars(panel: Axes, numbers: RoutingNumbers, groups: ExpertGroups, phase: str, name: str) -> None:
    row = groups.names.index(name)
    share = numbers.of(phase, "load_share")[:, row]  # (layers, experts)
    places = list(range(len(numbers.layers)))
    left = np.zeros(len(places))
    for expert, colour in enumerate(colours_of(groups)):
        panel.barh(places, share[:, expert], left=left, color=colour, edgecolor="white", linewidth=0.6, height=0.8)
        for place, value, start in zip(places, share[:, expert], left, strict=True):
            if value >= WRITTEN_FROM:
                ink = "white" if is_dark(colour) else "black"
                middle = start + value / 2
                panel.text(
                    middle, place, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color=ink, zorder=5
                )
        left += share[:, expert]
    visible = len(groups.visible(name))
    for step in range(1, visible) if visible <= FEW_EXPERTS else ():
        panel.axvline(step / visible, color="black", linewidth=0.7, linestyle=":", alpha=0.6)
    panel.set_xlim(0, 1)
    panel.set_ylim(-0.6, len(places) - 0.4)
    panel.set_xticks([0, 0.5, 1], ["0", "50", "100 %"], fontsize=8)
    panel.set_yticks(places, [f"layer {layer}" for layer in numbers.layers], fontsize=8)
    panel.invert_yaxis()
    tokens = int(numbers.of(phase, "tokens")[:, row].max())
    panel.set_title(f"{phase} · {name} ({tokens} tokens)", fontsize=10, loc="left")
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


def draw_depth(numbers: RoutingNumbers, groups: ExpertGroups, path: Path) -> Path:
    """Entropy of the router and share of the inter-modality experts: lines layer by layer, bars for a single layer."""
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    sure, common = figure.subplots(1, 2)
    drawn = [
        (phase, row, name)
        for phase in numbers.phases
        for row, name in enumerate(groups.names)
        if numbers.of(phase, "tokens")[:, row].any()
    ]
    for panel, what in ((sure, "normalised_entropy"), (common, "inter_share")):
        if len(numbers.layers) == 1:
            _bars(panel, numbers, drawn, what)
        else:
            _lines(panel, numbers, drawn, what)
    for name in groups.names:
        even = len(set(groups.visible(name)) & set(groups.inter)) / len(groups.visible(name))
        common.axhline(even, color=LINES.get(name, OTHER_LINE)[0], linewidth=0.8, linestyle=":")
    sure.set_title("entropy of the router (1 = undecided)", fontsize=10, loc="left")
    common.set_title("share of inter-modality experts (dotted: even load)", fontsize=10, loc="left")
    for panel in (sure, common):
        panel.set_ylim(-0.03, 1.12 if len(numbers.layers) == 1 else 1.05)  # room for the values of bars
        panel.grid(axis="y" if len(numbers.layers) == 1 else "both", alpha=0.25)
        for side in ("top", "right"):
            panel.spines[side].set_visible(False)
    handles, labels = sure.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return save(figure, path)


def _lines(panel: Axes, numbers: RoutingNumbers, drawn: Sequence[tuple[str, int, str]], what: str) -> None:
    for phase, row, name in drawn:
        colour, marker = LINES.get(name, OTHER_LINE)
        style: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": DASHES[phase], "markersize": 5}
        style["markerfacecolor"] = "white" if phase == "decode" else colour
        panel.plot(numbers.layers, numbers.of(phase, what)[:, row], label=f"{name}, {phase}", **style)
    panel.set_xticks(numbers.layers)
    panel.set_xlabel("layer")


def _bars(panel: Axes, numbers: RoutingNumbers, drawn: Sequence[tuple[str, int, str]], what: str) -> None:
    """One bar for each phase and modality group of the only sparse layer, with its value."""
    for place, (phase, row, name) in enumerate(drawn):
        value = float(numbers.of(phase, what)[0, row])
        hatch = "//" if phase == "decode" else None
        panel.bar(place, value, width=0.6, color=LINES.get(name, OTHER_LINE)[0], hatch=hatch, edgecolor="white")
        panel.text(place, value + 0.02, f"{value:.2f}", ha="center", fontsize=8)
    panel.set_xticks(range(len(drawn)), [f"{name}\n{phase}" for phase, _, name in drawn], fontsize=8)
    panel.set_xlabel(f"layer {numbers.layers[0]}, the only sparse one")
