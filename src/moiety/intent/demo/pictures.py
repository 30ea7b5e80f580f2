"""Pictures of the demo: four intents with the same words, and reached beside attainable accuracy."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from moiety.intent.clips.media import decode_audio, decode_video
from moiety.intent.clips.signal_audio import MIN_HZ, VOICED, prosody
from moiety.intent.compare.pictures import COLOURS, MARKERS
from moiety.intent.world.figure import FPS
from moiety.intent.world.files import IntentWorldFiles
from moiety.intent.world.signs import INTENTS
from moiety.intent.world.voice import RATE
from moiety.records.saving import whole_file

NUM_SHOWN = 7
"""Number of pictures in the film strip of a clip."""


def open_clips(world: IntentWorldFiles) -> list[dict[str, Any]]:
    """One test clip with clear signs for each intent that has the words of the first intent."""
    group = [intent for intent in INTENTS if intent.words == INTENTS[0].words]
    found: dict[str, dict[str, Any]] = {}
    for line in world.signs.read_text("utf-8").splitlines():
        one = json.loads(line)
        for intent in group:
            clear = (one["words"], one["tone"], one["gesture"]) == (intent.words, intent.tones[0], intent.gestures[0])
            if one["split"] == "test" and one["label"] == intent.label and clear and not one["missing"]:
                found.setdefault(intent.label, one)
    return [found[intent.label] for intent in group if intent.label in found]


def draw_clips(world: IntentWorldFiles, path: Path) -> None:
    """Write a PNG with one line for each clip: its pictures in order of time, and pitch and loudness of its voice.

    Args:
        world: A written world.
        path: File to write; it appears whole.
    """
    from matplotlib.figure import Figure

    chosen = open_clips(world)
    figure = Figure(figsize=(10.0, 1.5 * len(chosen) + 0.4), layout="constrained", dpi=110)
    parts = figure.subplots(len(chosen), 2, squeeze=False, width_ratios=[NUM_SHOWN, 4])
    for one, (strip, curve) in zip(chosen, parts, strict=True):
        clip = world.folder / "clips" / f"{one['key']}.mp4"
        frames, sound = decode_video(clip, fps=FPS, max_frames=100), decode_audio(clip, rate=RATE)
        assert frames is not None
        assert sound is not None
        shown = np.linspace(0, len(frames.images) - 1, NUM_SHOWN).round().astype(int)
        strip.imshow(np.concatenate([frames.images[i] for i in shown], axis=1))
        strip.set_title(f"{one['label']}: “{one['text']}”", loc="left", fontsize=9)
        strip.axis("off")
        columns, times = prosody(sound.samples, RATE)
        energy, pitch, voicing = columns[:, 24], columns[:, 25], columns[:, 26]
        voiced = (voicing > VOICED) & (energy > energy.max() - 3.5)
        curve.scatter(times[voiced], 100 * 2 ** pitch[voiced], s=6 + 20 * np.exp(energy[voiced]), color=COLOURS[0])
        curve.set_ylim(MIN_HZ, 420)
        curve.set_yscale("log", base=2)
        curve.set_yticks([75, 150, 300], ["75", "150", "300 Hz"], fontsize=7)
        curve.tick_params(labelsize=7)
        curve.spines[["top", "right"]].set_visible(False)
    parts[-1][1].set_xlabel("seconds; each dot is the pitch of the voice, larger when louder", fontsize=7)
    _write(figure, path)


def still(clip: Path) -> bytes:
    """The picture in the middle of a clip as PNG; empty where the clip has no pictures."""
    frames = decode_video(clip, fps=FPS, max_frames=100)
    if frames is None:
        return b""
    out = io.BytesIO()
    Image.fromarray(frames.images[len(frames.images) // 2]).save(out, format="PNG")
    return out.getvalue()


def draw_subsets(rows: Sequence[Mapping[str, Any]], methods: Sequence[str], path: Path) -> None:
    """Write a PNG with one group for each set of modalities: grey bars are attainable, dots are reached.

    Args:
        rows: As :func:`moiety.intent.demo.page.subset_rows` gives them.
        methods: Names of the methods that get dots.
        path: File to write.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.0, 3.8), layout="constrained", dpi=110)
    axes = figure.add_subplot()
    places = np.arange(len(rows))
    best = [100 * row["attainable"] for row in rows]
    axes.bar(places, best, width=0.8, color="0.88", edgecolor="0.6", label="attainable")
    for number, name in enumerate(methods):
        at = places + (number - (len(methods) - 1) / 2) * 0.7 / max(1, len(methods))
        found = [row["measured"].get(name) for row in rows]
        known = [(x, 100 * one["mean"]) for x, one in zip(at, found, strict=True) if one]
        style: dict[str, Any] = {
            "color": COLOURS[number % len(COLOURS)],
            "marker": MARKERS[number % len(MARKERS)],
            "zorder": 3,
        }
        axes.scatter([x for x, _ in known], [y for _, y in known], 30, label=name, **style)
    axes.set_xticks(places, [row["modalities"].replace("+", "\n+ ") for row in rows], fontsize=8)
    axes.set_ylabel("accuracy, percent")
    axes.set_ylim(0, 105)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside upper center", ncols=len(methods) + 1, frameon=False, fontsize=8)
    _write(figure, path)


def _write(figure: Any, path: Path) -> None:
    with whole_file(path) as fresh:
        figure.savefig(fresh, format="png")
