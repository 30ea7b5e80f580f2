"""Which expert read what in one layer, as one piece of HTML: the tinted picture, load shares, tinted words.

The HTML contains everything, pictures included, and loads nothing.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageOps

from moiety.app.session import Reading
from moiety.groups import ExpertGroups
from moiety.lens.draw.palette import colours_of, is_dark, label_of
from moiety.lens.draw.tint import over_picture, ranked, tint
from moiety.lens.draw.tokens import GRID_LINES_UP_TO
from moiety.lens.trace.observe import Observation

SIDE = 384  # pixels of the tinted picture, at least
STRIP = 32  # image tokens in a row where they form no grid
NAMES = {"vision": "picture", "text": "words", "video": "video", "audio": "sound"}
STYLE = """
.lens { font-size: 14px; line-height: 1.45 }
.lens .both { display: flex; flex-wrap: wrap; gap: 20px; align-items: flex-start; margin: 10px 0 14px }
.lens figure { margin: 0; flex: 1 1 240px; max-width: 340px }
.lens figure img { width: 100%; border-radius: 6px; display: block }
.lens .loads { flex: 1 1 240px }
.lens h4 { margin: 0 0 4px; font-size: 14px; font-weight: 600 }
.lens .load { margin-bottom: 12px }
.lens .bar { display: flex; height: 26px; border-radius: 5px; overflow: hidden; gap: 1px }
.lens .bar span { min-width: 2px; text-align: center; font-size: 12px; line-height: 26px; overflow: hidden }
.lens .what { font-weight: 600; margin: 0 0 8px; overflow: hidden; overflow-wrap: anywhere }
.lens .what { display: -webkit-box; -webkit-box-orient: vertical; -webkit-line-clamp: 4 }
.lens .quiet { opacity: .7; font-size: 12.5px }
.lens .expert { display: inline-block; padding: 1px 9px; border-radius: 4px; margin: 0 6px 5px 0; font-size: 13px }
.lens .words { margin: 2px 0 12px; line-height: 2 }
.lens .word { padding: 2px 4px; border-radius: 4px; margin: 0 1px; border-bottom: 4px solid; white-space: pre }
.lens .patches { padding: 2px 7px; border-radius: 4px; border: 1px dashed currentColor; opacity: .7 }
"""


def waiting_html(groups: ExpertGroups | None) -> str:
    """What is shown before the first answer; without groups the model is dense."""
    if groups is None:
        text = (
            "<h4>No routing</h4><p>This model is dense: every token passes through the same weights, so there is no "
            "routing to show. <code>moiety upcycle</code> makes it sparse.</p>"
        )
    else:
        text = (
            f"<p>{legend_html(groups)}</p><h4>Who reads what</h4><p>After each answer you see here which of these "
            "experts read each patch of the picture and each word, in every sparse layer.</p>"
        )
    return f'<div class="lens waiting">{text}</div>'


def note_html(text: str, *, is_error: bool) -> str:
    """A line about the last answer, or the reason why there is none."""
    kind = "error" if is_error else "quiet"
    return f'<span class="{kind}" role="{"alert" if is_error else "status"}">{html.escape(text)}</span>'


def step_of(layers: Sequence[int]) -> int:
    """Step of a slider that stops at every sparse layer.

    Example:
        >>> step_of([1, 3, 5]), step_of([0, 4, 6]), step_of([2])
        (2, 2, 1)
    """
    return math.gcd(*(layer - layers[0] for layer in layers[1:])) if len(layers) > 1 else 1


def nearest_layer(layers: Sequence[int], value: float) -> int:
    """The sparse layer nearest to the value of a slider; of two equally near ones the lower.

    Example:
        >>> nearest_layer([0, 4, 6], 2), nearest_layer([0, 4, 6], 5.5)
        (0, 6)
    """
    return min(layers, key=lambda layer: (abs(layer - value), layer))


def routing_html(reading: Reading, layer: int, strength: float = 1.0) -> str:
    """The routing of the last answer in one layer.

    Args:
        reading: Routing of the last answer.
        layer: A sparse layer.
        strength: How strong the tint of the picture is, 0..1; at 0 the picture alone is shown.

    Raises:
        ValueError: `layer` is not sparse.
    """
    seen = reading.observation
    if layer not in seen.layers:
        raise ValueError(f"layer {layer} is not sparse; sparse layers: {seen.layers}")
    chosen = seen.phases["prefill"][layer].index.shape[1]
    second = "; the lower right corner shows the second choice, as large as its weight" if chosen > 1 else ""
    how = (
        f"Each patch has the colour of its first choice, the expert with the largest weight{second}."
        if seen.grid
        else f"{seen.note}."
    )
    what = html.escape(f"Layer {layer} · “{seen.question}” → “{seen.answer}”")
    parts = [
        f'<p class="what">{what}</p><p>{legend_html(seen.groups)}</p>',
        f'<div class="both"><figure>{_image(tinted(seen, layer, strength), f"patches tinted by expert, layer {layer}")}'
        f'<figcaption class="quiet">{html.escape(how)}</figcaption></figure>{loads_html(reading, layer)}</div>',
        "<h4>The prompt, word by word</h4>",
        words_html(seen, layer, "prefill"),
    ]
    if seen.generated:
        parts += ["<h4>The answer</h4>", words_html(seen, layer, "decode")]
    hint = "The underline shows the second choice. Point at a word to see the weights." if chosen > 1 else ""
    return f'<div class="lens" data-layer="{layer}">{"".join(parts)}<p class="quiet">{hint}</p></div>'


def tinted(seen: Observation, layer: int, strength: float = 1.0) -> Image.Image:
    """The picture with its patches tinted by the experts that read them, at least `SIDE` pixels wide.

    Without a grid, the image tokens stand in reading order, `STRIP` in each row, without the picture.

    Args:
        seen: Routing of a question.
        layer: A sparse layer.
        strength: 0..1. At 1 the picture below is grey, and at 0 it is shown in its own colours without tint.
    """
    index, weights = (values[seen.is_image] for values in ranked(seen.phases["prefill"][layer]))
    if seen.grid is None:
        grid = (max(1, -(-len(index) // STRIP)), STRIP)
        missing = ((0, grid[0] * STRIP - len(index)), (0, 0))
        index = np.pad(index, missing, constant_values=seen.groups.num_experts)
        colours = tint(index, np.pad(weights, missing), grid, seen.groups)
    else:
        grid = seen.grid
        colours = tint(index, weights, grid, seen.groups)
    times = max(1, -(-SIDE // colours.shape[1]))
    large = Image.fromarray((255 * colours).round().astype(np.uint8))
    large = large.resize((times * large.width, times * large.height), Image.Resampling.BICUBIC)
    drawn = np.array(large)
    if seen.grid is not None:
        light = ImageOps.autocontrast(seen.picture.convert("L"), cutoff=1)  # shows the shapes of a dark picture, too
        drawn = (255 * over_picture(drawn / 255, light)).round().astype(np.uint8)
    if max(grid) <= max(GRID_LINES_UP_TO, STRIP):
        step = drawn.shape[1] // grid[1]
        drawn[step::step, :] = 255
        drawn[:, step::step] = 255
    shown = Image.fromarray(drawn)
    if seen.grid is not None:
        picture = seen.picture.convert("RGB").resize(shown.size, Image.Resampling.BILINEAR)
        shown = Image.blend(picture, shown, strength)
    return shown


def loads_html(reading: Reading, layer: int) -> str:
    """A bar for each modality and phase: the share of its choices that each expert of `layer` got."""
    numbers, groups = reading.numbers, reading.observation.groups
    place = numbers.layers.index(layer)
    bars = []
    for phase in numbers.phases:
        for row, name in enumerate(groups.names):
            tokens = int(numbers.of(phase, "tokens")[place, row])
            if tokens:
                what = "answer" if (phase, name) == ("decode", "text") else NAMES.get(name, name)
                count = f'<span class="quiet">· {tokens} token{"s" * (tokens > 1)}</span>'
                bar = _bar(numbers.of(phase, "load_share")[place, row], groups)
                bars.append(f'<div class="load"><h4>{html.escape(what)} {count}</h4>{bar}</div>')
    return f'<div class="loads">{"".join(bars)}<p class="quiet">Share of the choices that each expert got.</p></div>'


def _bar(shares: np.ndarray, groups: ExpertGroups) -> str:
    spans = [
        f'<span style="width:{100 * share:.2f}%;{_ink(colour)}" title="{html.escape(label_of(groups, expert))}: '
        f'{100 * share:.0f} %">{f"{100 * share:.0f} %" if share >= 0.14 else ""}</span>'
        for expert, (share, colour) in enumerate(zip(shares, colours_of(groups), strict=True))
        if share > 0
    ]
    return f'<div class="bar">{"".join(spans)}</div>'


def words_html(seen: Observation, layer: int, phase: str) -> str:
    """Words of the prompt (``prefill``) or of the answer (``decode``), each in the colour of its expert."""
    words = seen.words if phase == "prefill" else seen.generated
    is_image = seen.is_image if phase == "prefill" else np.zeros(len(words), dtype=bool)
    index, weights = ranked(seen.phases[phase][layer])
    parts = []
    for position, word in enumerate(words):
        if not is_image[position]:
            parts.append(_word(word, index[position], weights[position], seen.groups))
        elif position == 0 or not is_image[position - 1]:
            parts.append(f'<span class="patches">{int(is_image.sum())} patches of the picture</span>')
    return f'<div class="words">{"<wbr>".join(parts)}</div>'


def _word(word: str, index: np.ndarray, weights: np.ndarray, groups: ExpertGroups) -> str:
    colours = (*colours_of(groups), "#FFFFFF")  # the last one for padding, which no expert reads
    labels = [label_of(groups, int(expert)) for expert in index if expert < groups.num_experts]
    told = " · ".join(f"{label} {100 * weight:.0f} %" for label, weight in zip(labels, weights, strict=False))
    under = colours[index[1]] if len(index) > 1 else colours[index[0]]
    text = html.escape(word.replace("\n", "↵").replace("\t", "⇥").strip() or "␣")
    style = f"{_ink(colours[index[0]])};border-color:{under}"
    return f'<span class="word" style="{style}" title="{html.escape(told)}">{text}</span>'


def legend_html(groups: ExpertGroups) -> str:
    """One chip for each expert: its index, its group and what it may read."""
    chips = []
    for expert, colour in enumerate(colours_of(groups)):
        group = groups.group_of_expert(expert)
        readers = [NAMES.get(name, name) for name in groups.names if expert in groups.visible(name)]
        whom = "everything" if len(readers) == len(groups.names) else f"{' and '.join(readers)} only"
        text = html.escape(f"{expert} {group.name} · {whom}")
        chips.append(f'<span class="expert" style="{_ink(colour)}">{text}</span>')
    return "".join(chips)


def _ink(colour: str) -> str:
    """Style of a coloured field, with a text colour that can be read on it."""
    return f"background:{colour};color:{'#fff' if is_dark(colour) else '#000'}"


def _image(picture: Image.Image, what: str) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG")
    inside = base64.b64encode(file.getvalue()).decode()
    return f'<img alt="{html.escape(what)}" src="data:image/png;base64,{inside}">'
