"""Pictures of points in hyperbolic space: how far out they lie, and where in the Poincaré disc."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from moiety.groups import ExpertGroups
from moiety.lens.draw.figure import save
from moiety.lens.draw.palette import label_of
from moiety.lens.draw.points import KINDS, Cloud

STYLES: dict[str, dict[str, Any]] = {
    "patches": {"color": "#E69F00", "marker": "s", "size": 14, "label": "patches"},
    "words": {"color": "#56B4E9", "marker": "o", "size": 18, "label": "words"},
    "pictures": {"color": "#8C3D00", "marker": "*", "size": 90, "label": "pictures"},
    "phrases": {"color": "#003A5C", "marker": "D", "size": 34, "label": "phrases"},
}
MANY = 60
"""With this many points of a kind, or more, their marks are drawn small."""
RINGS = (1, 2, 3, 4)
BINS = 30


def draw_radii(clouds: Sequence[Cloud], groups: ExpertGroups, path: Path) -> Path:
    """Histogram of hyperbolic radii, a panel for each layer and expert. General concepts lie near 0."""
    largest = max(
        float(cloud.radii(kind).max()) for cloud in clouds for kind in cloud.points if len(cloud.points[kind])
    )
    edges = np.linspace(0, 1.05 * max(largest, 1e-3), BINS + 1).tolist()

    def panel(axes: Axes, cloud: Cloud) -> None:
        for kind in shown(cloud):
            radii, style = cloud.radii(kind).numpy(), STYLES[kind]
            if len(radii) < 4:
                for number, value in enumerate(radii):
                    label = style["label"] if number == 0 else None
                    axes.axvline(value, color=style["color"], linewidth=2, linestyle="--", label=label)
                continue
            weights = np.full(len(radii), 1 / len(radii))
            axes.hist(radii, edges, weights=weights, histtype="stepfilled", alpha=0.35, color=style["color"])
            axes.hist(radii, edges, weights=weights, histtype="step", color=style["color"], label=style["label"])
        axes.set_xlabel("hyperbolic radius", fontsize=8)
        axes.set_ylabel("share of points", fontsize=8)
        axes.tick_params(labelsize=8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)

    return _grid(clouds, groups, path, panel, (4.4, 2.9))


def draw_discs(clouds: Sequence[Cloud], groups: ExpertGroups, path: Path) -> Path:
    """The Poincaré disc, a panel for each layer and expert, with rings at radius 1, 2, 3 and 4."""

    def panel(axes: Axes, cloud: Cloud) -> None:
        drawn, held = cloud.disc()
        axes.add_patch(Circle((0, 0), 1, facecolor="#FAFAFA", edgecolor="black", linewidth=1))
        for ring in RINGS:
            axes.add_patch(Circle((0, 0), np.tanh(ring / 2), fill=False, edgecolor="#CCCCCC", linewidth=0.7))
            axes.text(0, -np.tanh(ring / 2), str(ring), fontsize=6, color="#888888", ha="center", va="center")
        for kind in shown(cloud):
            places, style = drawn[kind].numpy(), STYLES[kind]
            size = style["size"] / 3 if len(places) >= MANY else style["size"]
            axes.scatter(
                places[:, 0], places[:, 1], s=size, c=style["color"], marker=style["marker"], label=style["label"],
                edgecolors="white", linewidths=0.4, alpha=0.9, zorder=3 + KINDS.index(kind),
            )  # fmt: skip
        axes.set_xlim(-1.04, 1.04)
        axes.set_ylim(-1.04, 1.04)
        axes.set_aspect("equal")
        axes.set_axis_off()
        axes.text(1, -1, f"plane holds {100 * held:.0f} %", ha="right", va="bottom", fontsize=7, color="#666666")

    return _grid(clouds, groups, path, panel, (3.9, 4.0))


def shown(cloud: Cloud) -> list[str]:
    """Kinds of points that have at least one point."""
    return [kind for kind in KINDS if kind in cloud.points and len(cloud.points[kind])]


def _grid(clouds: Sequence[Cloud], groups: ExpertGroups, path: Path, panel: Any, size: tuple[float, float]) -> Path:
    """A row for each layer, a column for each expert, one legend."""
    layers = sorted({cloud.layer for cloud in clouds})
    experts = sorted({cloud.expert for cloud in clouds})
    figure = Figure(figsize=(size[0] * len(experts), size[1] * len(layers) + 0.5), layout="constrained")
    places = figure.subplots(len(layers), len(experts), squeeze=False)
    labels: dict[str, Any] = {}
    for cloud in clouds:
        axes = places[layers.index(cloud.layer), experts.index(cloud.expert)]
        panel(axes, cloud)
        axes.set_title(f"layer {cloud.layer}, expert {label_of(groups, cloud.expert)}", fontsize=10, loc="left")
        handles, names = axes.get_legend_handles_labels()
        labels |= dict(zip(names, handles, strict=True))
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return save(figure, path)
