"""Who read what, as figures: the patches of the picture, and the words of prompt and answer, tinted by expert."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from moiety.lens.draw.figure import add_legend, save
from moiety.lens.draw.tint import over_picture, ranked, tint
from moiety.lens.trace.observe import Observation

PANELS_A_ROW = 4
WORDS_A_ROW = 40
GRID_LINES_UP_TO = 16  # patches of each side; in finer grids lines would cover the tints
HOW_TO_READ = "colour of a {}: first choice · corner: second choice, as large as its weight"


def draw_patches(observation: Observation, path: Path, layers: Sequence[int] | None = None, remark: str = "") -> Path:
    """Draw the picture, and beside it once for each layer with its patches tinted by the experts that read them.

    Args:
        observation: Routing of one question.
        path: PNG to write.
        layers: Sparse layers; None: all of them.
        remark: A further line above the legend.
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
    """Without a grid, draw the image tokens in reading order, one row for each layer."""
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
    """Draw every word of prompt and answer, one row for each layer, tinted like the patches."""
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
