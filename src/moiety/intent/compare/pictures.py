"""Pictures of results: scores side by side, confusion matrix, and embedding of the samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from moiety.intent.compare.tables import SHOWN
from moiety.intent.data.samples import has_input
from moiety.records.saving import whole_file

if TYPE_CHECKING:
    from moiety.intent.classifier import IntentClassifier
    from moiety.intent.compare.grading import Graded
    from moiety.intent.compare.outcome import IntentComparison
    from moiety.intent.data.dataset import Split

CONFUSION, EMBEDDING, SCORES = "confusion.png", "embedding.png", "scores.png"
# Okabe and Ito's palette: its colours differ for every kind of colour vision.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#000000", "#999999")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("--", ":", "-.")
MAX_POINTS = 2000
"""Of more samples an evenly spaced part is drawn: t-SNE would take minutes, and the dots would hide each other."""


def draw_model(model: IntentClassifier, split: Split, graded: Graded, folder: Path) -> tuple[Path, Path]:
    """Confusion matrix and embedding plot of one model on the rows that it was graded on.

    Args:
        model: A fitted classifier.
        split: The rows that are scored.
        graded: What the model answered for the rows that it can read.
        folder: Where ``confusion.png`` and ``embedding.png`` go.

    Returns:
        Both files.
    """
    table = graded.confusion()
    draw_confusion(table["labels"], table["counts"], folder / CONFUSION)
    samples = [sample for sample in split.samples if has_input(sample, tuple(model.dims_))]
    kept = np.unique(np.linspace(0, len(samples) - 1, min(MAX_POINTS, len(samples))).astype(int))
    vectors = model.embed([samples[i] for i in kept])
    draw_embedding(plane(vectors), graded.truth[kept].tolist(), graded.predicted[kept].tolist(), folder / EMBEDDING)
    return folder / CONFUSION, folder / EMBEDDING


def plane(vectors: np.ndarray, kind: Literal["pca", "tsne"] = "pca", seed: int = 0) -> np.ndarray:
    """Vectors as points of a plane, ``(samples, 2)``.

    Args:
        vectors: ``(samples, width)``.
        kind: ``pca``: the two principal components; distances keep their meaning. ``tsne``: neighbours stay
            neighbours, but distances mean nothing.
        seed: Seed of t-SNE.

    Raises:
        ValueError: fewer than 3 samples.
    """
    if len(vectors) < 3:
        raise ValueError(f"{len(vectors)} samples make no picture; give at least 3")
    if kind == "tsne":
        near = min(30.0, (len(vectors) - 1) / 3)
        return TSNE(2, perplexity=near, init="pca", random_state=seed).fit_transform(vectors)
    wide = vectors if vectors.shape[1] > 1 else np.repeat(vectors, 2, axis=1)
    return PCA(2, svd_solver="full").fit_transform(wide)


def draw_confusion(labels: Sequence[str], counts: Sequence[Sequence[int]], path: Path) -> None:
    """Write a PNG: a line for each true label, a column for each answer. Numbers are rows; shade is their share.

    Args:
        labels: Names, in order.
        counts: ``(labels, labels)``.
        path: File to write; it appears whole.
    """
    from matplotlib.figure import Figure

    table = np.asarray(counts, dtype=float)
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    side = max(4.0, 0.45 * len(labels) + 1.8)
    figure = Figure(figsize=(side + 0.8, side), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    places = range(len(labels))
    axes.set_xticks(places, labels, rotation=90 if len(labels) > 4 else 0)
    axes.set_yticks(places, labels)
    axes.set_xlabel("answer")
    axes.set_ylabel("true label")
    for row, column in np.argwhere(table > 0):
        shade = "white" if share[row, column] > 0.55 else "black"
        axes.text(column, row, f"{table[row, column]:.0f}", ha="center", va="center", color=shade, fontsize=7)
    figure.colorbar(image, ax=axes, label="share of the row", shrink=0.8)
    _write(figure, path)


def draw_embedding(points: np.ndarray, truth: Sequence[str], predicted: Sequence[str], path: Path) -> None:
    """Write a PNG with one dot for each sample: colour and shape are its true label; hollow dots are wrong answers.

    Args:
        points: ``(samples, 2)``.
        truth: Labels.
        predicted: Answers.
        path: File to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 5.6), layout="constrained", dpi=120)
    axes = figure.add_subplot()
    truths, right = np.asarray(truth, dtype=object), np.asarray(truth) == np.asarray(predicted)
    for number, label in enumerate(sorted(set(truth))):
        colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number // len(COLOURS) % len(MARKERS)]
        for hit in (False, True):
            chosen = (truths == label) & (right == hit)
            style: dict[str, Any] = {"edgecolors": colour, "facecolors": colour if hit else "none", "marker": marker}
            axes.scatter(points[chosen, 0], points[chosen, 1], s=14, linewidths=0.7, **style)
        axes.scatter([], [], s=24, marker=marker, color=colour, label=label)
    axes.scatter([], [], s=24, marker="o", edgecolors="0.3", facecolors="none", label="wrong answer")
    axes.set_xlabel("first component")
    axes.set_ylabel("second component")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", frameon=False)
    _write(figure, path)


def draw_scores(comparison: IntentComparison, path: Path) -> None:
    """Write a PNG with one group of dots for each measure: dots are means with intervals, grey lines are floors.

    Args:
        comparison: At least one finished run.
        path: File to write.
    """
    from matplotlib.figure import Figure

    measures = comparison.recipe.compare.measures
    names = [name for name in comparison.names if comparison.values(name, measures[0])]
    dots = [name for name in names if not comparison.is_floor(name)]
    width = max(7.0, len(measures) * (0.3 * len(dots) + 1))
    figure = Figure(figsize=(width, 4.6), layout="constrained", dpi=150)
    axes = figure.add_subplot()
    for column, measure in enumerate(measures):
        for number, name in enumerate(name for name in names if comparison.is_floor(name)):
            value = 100 * next(iter(comparison.values(name, measure).values()))
            style: dict[str, Any] = {"color": "0.45", "linestyle": LINES[number % len(LINES)], "linewidth": 1}
            ends = [column - 0.42, column + 0.42]
            axes.plot(ends, [value, value], label=f"floor: {name}" if column == 0 else None, **style)
        for number, name in enumerate(dots):
            at = column + (number - (len(dots) - 1) / 2) * 0.75 / max(1, len(dots))
            _draw_dot(axes, at, comparison, name, measure, number, label=column == 0)
    axes.set_xticks(range(len(measures)), [SHOWN[measure] for measure in measures])
    axes.set_ylabel("percent")
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=max(2, int(figure.get_figwidth() / 1.8)), frameon=False)
    _write(figure, path)


def _draw_dot(
    axes: Any, at: float, comparison: IntentComparison, name: str, measure: str, number: int, label: bool
) -> None:
    estimate = comparison.estimate(name, measure)
    if estimate is None:
        return
    mean = 100 * estimate.mean
    error = [[mean - 100 * estimate.low], [100 * estimate.high - mean]] if estimate.has_interval else None
    style = {"color": COLOURS[number % len(COLOURS)], "fmt": MARKERS[number // len(COLOURS) % len(MARKERS)]}
    axes.errorbar(at, mean, error, markersize=5, capsize=2, linewidth=1.2, label=name if label else None, **style)


def _write(figure: Any, path: Path) -> None:
    with whole_file(path) as fresh:
        figure.savefig(fresh, format="png")
