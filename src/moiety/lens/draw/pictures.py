"""The four pictures of the lens. Every function takes numbers, draws one figure and writes one PNG."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from PIL import Image

from moiety.groups import ExpertGroups
from moiety.lens.draw.palette import colours_of, label_of, rgb
from moiety.lens.trace.observe import Observation
from moiety.moe.trace import Routing

CELL = 16  # pixels a side of one patch: enough for a clean corner
PANELS_A_ROW = 4
WORDS_A_ROW = 40
GRID_LINES_UP_TO = 16  # patches a side; in finer grids lines would cover the tints
SHADE = 0.45  # how far the picture darkens a tint: more shows the picture, less the experts
KINDS = ("png", "pdf", "svg")
DPI_RANGE = (10, 1200)
HOW_TO_READ = "{}: first choice · corner: second choice, as large as its weight"


def ranked(routing: Routing) -> tuple[np.ndarray, np.ndarray]:
    """Chosen experts and their weights, the heaviest first: two ``(tokens, top_k)`` arrays."""
    weights, index = routing.weights.numpy(), routing.index.numpy()
    order = np.argsort(-weights, axis=1, kind="stable")
    return np.take_along_axis(index, order, 1), np.take_along_axis(weights, order, 1)


def tint(index: np.ndarray, weights: np.ndarray, grid: tuple[int, int], groups: ExpertGroups) -> np.ndarray:
    """Colours of a patch grid: the first choice fills a patch, the second its lower right corner.

    The corner covers the second choice's part of both weights, so colours never mean two things at once.

    Args:
        index: Chosen experts, heaviest first, ``(patches, top_k)``; padding stays white.
        weights: Their weights.
        grid: Rows and columns, whose product is `patches`.
        groups: Gives the colours.

    Returns:
        Red, green, blue in 0..1, ``(rows * CELL, columns * CELL, 3)``.
    """
    table = np.array([*map(rgb, colours_of(groups)), (1.0, 1.0, 1.0)])
    cells = np.repeat(np.repeat(table[index[:, 0]].reshape(*grid, 3), CELL, 0), CELL, 1)
    if index.shape[1] == 1:
        return cells
    second = np.repeat(np.repeat(table[index[:, 1]].reshape(*grid, 3), CELL, 0), CELL, 1)
    share = weights[:, 1] / np.maximum(weights[:, :2].sum(1), 1e-12)
    leg = np.sqrt(2 * share).reshape(grid)  # side of a right-angled corner whose area is `share` of the patch
    far = (np.arange(CELL) + 0.5) / CELL
    depth = np.tile(np.add.outer(far, far), grid)
    inside = depth > 2 - np.repeat(np.repeat(leg, CELL, 0), CELL, 1)
    return np.where(inside[..., None], second, cells)


def over_picture(tinted: np.ndarray, picture: Image.Image) -> np.ndarray:
    """The tints, darker where the picture is dark, so that its shapes show through."""
    size = (tinted.shape[1], tinted.shape[0])
    light = np.asarray(picture.convert("L").resize(size, Image.Resampling.BILINEAR)) / 255
    return tinted * (1 - SHADE * (1 - light[..., None]))


def most_varied_layer(observation: Observation) -> int:
    """The layer whose first choices over the picture are spread over experts most evenly; the last one in a tie."""

    def spread(layer: int) -> float:
        first = ranked(observation.phases["prefill"][layer])[0][observation.is_image, 0]
        share = np.bincount(first, minlength=observation.groups.num_experts) / max(1, len(first))
        return float(-(share[share > 0] * np.log(share[share > 0])).sum())

    return max(observation.layers, key=lambda layer: (round(spread(layer), 9), layer))


def draw_patches(observation: Observation, path: Path, layers: Sequence[int] | None = None, remark: str = "") -> Path:
    """The picture, then once for each of `layers` with its patches tinted by the experts that read them.

    Args:
        observation: What to draw.
        path: PNG to write.
        layers: Sparse layers; None: all of them.
        remark: Further line above the legend.
    """
    layers = observation.layers if layers is None else layers
    if observation.grid is None:
        return _draw_strip(observation, path, layers)
    columns = min(PANELS_A_ROW, 1 + len(layers))
    rows = -(-(1 + len(layers)) // columns)
    figure = Figure(figsize=(3.1 * columns, 3.3 * rows + 0.7), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for panel in panels:
        panel.set_axis_off()
    panels[0].imshow(observation.picture)
    panels[0].set_title("as the model saw it", fontsize=10)
    for panel, layer in zip(panels[1:], layers, strict=False):
        index, weights = ranked(observation.phases["prefill"][layer])
        patches = observation.is_image
        tinted = tint(index[patches], weights[patches], observation.grid, observation.groups)
        rows_of, columns_of = observation.grid
        panel.imshow(over_picture(tinted, observation.picture), extent=(0, columns_of, rows_of, 0))
        if max(observation.grid) <= GRID_LINES_UP_TO:
            _separate(panel, columns_of, rows_of)
        panel.set_title(f"layer {layer}", fontsize=10)
    add_legend(figure, observation.groups, "\n".join(filter(None, (HOW_TO_READ.format("patch"), remark))))
    return save(figure, path)


def _draw_strip(observation: Observation, path: Path, layers: Sequence[int]) -> Path:
    """Without a grid: the image tokens in reading order, one row a layer."""
    num = int(observation.is_image.sum())
    figure = Figure(figsize=(10, 2.6 + 0.35 * len(layers)), layout="constrained")
    top, strip = figure.subplots(2, 1, height_ratios=(2.2, 0.35 * len(layers)))
    top.imshow(observation.picture)
    top.set_axis_off()
    top.set_title("the picture", fontsize=10)
    rows = []
    for layer in layers:
        index, weights = ranked(observation.phases["prefill"][layer])
        chosen = observation.is_image
        rows.append(tint(index[chosen], weights[chosen], (1, max(num, 1)), observation.groups))
    strip.imshow(np.concatenate(rows), aspect="auto", interpolation="nearest", extent=(0, num, len(layers), 0))
    strip.set_yticks(np.arange(len(layers)) + 0.5, [f"layer {layer}" for layer in layers], fontsize=8)
    strip.set_xlabel("image token")
    add_legend(figure, observation.groups, observation.note)
    return save(figure, path)


def draw_words(observation: Observation, path: Path) -> Path:
    """Every word of the prompt and of the answer, one row a layer, tinted like the patches."""
    text = np.flatnonzero(~observation.is_image)
    blocks = [
        ("prefill", [observation.words[i] for i in part], part)
        for part in np.array_split(text, max(1, -(-len(text) // WORDS_A_ROW)))
    ]
    count = len(observation.generated)
    if count:
        parts = np.array_split(np.arange(count), -(-count // WORDS_A_ROW))
        blocks += [("decode", [observation.generated[i] for i in part], part) for part in parts]
    height = 0.3 * len(observation.layers)
    longest = max(len(words) for _, words, _ in blocks)
    figure = Figure(figsize=(max(6.5, 1.2 + 0.3 * longest), (height + 1.5) * len(blocks) + 0.7), layout="constrained")
    for panel, (phase, words, positions) in zip(
        figure.subplots(len(blocks), 1, squeeze=False)[:, 0], blocks, strict=True
    ):
        _word_rows(panel, observation, phase, words, positions)
        panel.set_xlim(0, longest)
    add_legend(figure, observation.groups, HOW_TO_READ.format("cell"))
    return save(figure, path)


def _word_rows(panel: Axes, observation: Observation, phase: str, words: list[str], positions: np.ndarray) -> None:
    layers = observation.layers
    rows = []
    for layer in layers:
        index, weights = ranked(observation.phases[phase][layer])
        rows.append(tint(index[positions], weights[positions], (1, len(words)), observation.groups))
    panel.imshow(np.concatenate(rows), aspect="auto", interpolation="nearest", extent=(0, len(words), len(layers), 0))
    _separate(panel, len(words), len(layers))
    panel.set_yticks(np.arange(len(layers)) + 0.5, [f"layer {layer}" for layer in layers], fontsize=8)
    shown = [shorten(word) for word in words]
    panel.set_xticks(np.arange(len(words)) + 0.5, shown, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    panel.set_title({"prefill": "question (prefill)", "decode": "answer (decode)"}[phase], fontsize=10, loc="left")
    for spine in panel.spines.values():
        spine.set_visible(False)
    panel.tick_params(length=0)


def _separate(panel: Axes, columns: int, rows: int) -> None:
    """White lines between cells, so that neighbours of one colour stay apart."""
    panel.vlines(range(1, columns), 0, rows, color="white", linewidth=0.8)
    panel.hlines(range(1, rows), 0, columns, color="white", linewidth=0.8)


def shorten(word: str) -> str:
    """A token as an axis label: white space visible, at most 12 characters, nothing that matplotlib reads as markup.

    Example:
        >>> shorten("\\n"), shorten(" where"), shorten("$x")
        ('↵', 'where', '\\\\$x')
    """
    text = word.replace("\n", "↵").strip() or "␣"
    text = text if len(text) <= 12 else text[:11] + "…"
    return text.replace("$", r"\$")


def add_legend(figure: Figure, groups: ExpertGroups, note: str) -> None:
    """One entry for every expert, below the figure, with a line that says how to read it."""
    colours = colours_of(groups)
    handles = [Patch(color=colour, label=label_of(groups, expert)) for expert, colour in enumerate(colours)]
    columns = max(1, min(8, len(handles), int(figure.get_figwidth() / 1.05)))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=columns,
        fontsize=8,
        title=note,
        title_fontsize=8,
        frameon=False,
    )


@dataclass(frozen=True)
class Export:
    """How pictures are written.

    Args:
        kind: ``png``; or ``pdf`` or ``svg``, which stand beside the PNG that pages show.
        dpi: Dots an inch of a PNG.
    """

    kind: str = "png"
    dpi: int = 130


AS_PNG = Export()
_export: ContextVar[Export] = ContextVar("moiety_lens_export", default=AS_PNG)


@contextmanager
def exporting(export: Export) -> Iterator[None]:
    """Write every picture that is drawn meanwhile as `export` says.

    Raises:
        ValueError: another kind of file, or fewer than 10 or more than 1200 dots an inch.
    """
    if export.kind not in KINDS:
        raise ValueError(f"pictures can be written as {', '.join(KINDS)}, not as {export.kind!r}")
    if not DPI_RANGE[0] <= export.dpi <= DPI_RANGE[1]:
        raise ValueError(f"{export.dpi} dots an inch; choose {DPI_RANGE[0]} to {DPI_RANGE[1]}")
    token = _export.set(export)
    try:
        yield
    finally:
        _export.reset(token)


def save(figure: Figure, path: Path) -> Path:
    """Write a PNG, making its folder, and beside it what :func:`exporting` asks for.

    Text in a PDF or SVG stays text, in fonts that a paper may embed.
    """
    export = _export.get()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=export.dpi, facecolor="white")
    if export.kind != "png":
        figure.set_layout_engine("none")  # what the first drawing found holds for the second
        with rc_context({"pdf.fonttype": 42, "svg.fonttype": "none"}):
            figure.savefig(path.with_suffix(f".{export.kind}"), facecolor="white")
    return path
