"""The page of the demo: what can be reached, what was reached, what the clips are, and the answers for one clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moiety.intent.clips.writer import plays
from moiety.intent.compare.outcome import IntentComparison
from moiety.intent.compare.report import pictures_of
from moiety.intent.compare.sentences import fusion, limits, luck, made
from moiety.intent.compare.tables import caption, cost_table, notes, percent, score_table
from moiety.intent.demo.pictures import draw_clips, draw_subsets, open_clips, still
from moiety.intent.recipe import FLOORS
from moiety.intent.world.files import IntentWorldFiles
from moiety.intent.world.signs import ANY_GESTURE, ANY_TONE, INTENTS, MASKS, SIGNS
from moiety.records.pages import (
    document,
    html_clip,
    html_command,
    html_figure,
    html_fold,
    html_heading,
    html_note,
    html_table,
    opening,
)
from moiety.records.saving import write_atomically

CLIPS, SUBSETS = "clips.png", "subsets.png"
TITLE = "Intent from what is said, heard and seen: is fusion needed, and is it learned?"
WORLD = (
    "The clips show a small spoken world that moiety made; nothing was recorded. Sentences come from templates, the "
    "voice is a sum of harmonics, and the figure is drawn. No speaker is in both training and test."
)
SCOPE = "A made world says nothing about recorded people."


@dataclass(frozen=True)
class Asked:
    """What a saved model answered for one raw clip.

    Args:
        model: Folder of the model, below the folder of the demo.
        clip: The mp4 file, likewise.
        drawn: What was drawn for the clip: a line of ``signs.jsonl``.
        said: Modalities that the model was given, joined with ``+`` -> a row of :func:`moiety.intent.answers.answers`.
    """

    model: Path
    clip: Path
    drawn: Mapping[str, Any]
    said: Mapping[str, Mapping[str, Any]]

    def tree(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"model": str(self.model), "clip": str(self.clip), "drawn": dict(self.drawn), "said": dict(self.said)}


def subset_rows(comparison: IntentComparison, world: IntentWorldFiles) -> list[dict[str, Any]]:
    """Measured accuracy beside the attainable one: one row for each set of modalities, the largest set first.

    Returns:
        Rows with ``modalities`` (those that are given), ``hide`` (the others, as in the recipe), ``rows`` (number of
        clips that were graded), ``attainable`` in 0..1, and ``measured``: method -> mean over seeds and its interval,
        which is null where there is one run.
    """
    best, hides = world.attainable(), ("", *comparison.recipe.compare.hide)
    found = []
    for kept in MASKS:
        hidden = {name for name in SIGNS if name not in kept}
        hide = next(one for one in hides if set(one.split("+")) - {""} == hidden)
        measured = {}
        for name in comparison.names:
            estimate = comparison.estimate(name, "acc", hide)
            if estimate is not None:
                ends = [estimate.low, estimate.high] if estimate.has_interval else [None, None]
                measured[name] = {"mean": estimate.mean, "low": ends[0], "high": ends[1]}
        runs = [run for run in comparison.runs if run.name == comparison.recipe.model.method]
        without = max((run.without_input.get(hide, 0) for run in runs), default=0)
        rows = int(comparison.context["rows"]["score"]) - without
        name = "+".join(kept)
        found.append({"modalities": name, "hide": hide, "rows": rows, "attainable": best[name], "measured": measured})
    return found


def write_page(folder: Path, comparison: IntentComparison, world: IntentWorldFiles, asked: Asked) -> Path:
    """Draw the pictures and write ``report.html``, which is whole at any time.

    Args:
        folder: Folder of the demo.
        comparison: The finished comparison.
        world: The world that it read.
        asked: The answers for one clip.

    Returns:
        The page.
    """
    rows = subset_rows(comparison, world)
    trained = [name for name in comparison.names if name != "majority"]
    draw_clips(world, folder / CLIPS)
    draw_subsets(rows, trained, folder / SUBSETS)
    path = folder / "report.html"
    parts = [*_result_parts(folder, comparison, rows), *_world_parts(folder, world), *_asked_parts(folder, asked)]
    write_atomically(path, document(TITLE, [*parts, *_rest_parts(comparison)]))
    return path


def _result_parts(folder: Path, comparison: IntentComparison, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The question of the demo and its answer: sentences, a picture and a table."""
    lines = [["modalities given", "clips", "attainable", *comparison.names]]
    for row in rows:
        shown = [percent(comparison.estimate(name, "acc", row["hide"])) for name in comparison.names]
        lines.append([row["modalities"], str(row["rows"]), f"{100 * row['attainable']:.1f}", *shown])
    done = f"{made(comparison)} {WORLD}"
    note = (
        "Attainable is the accuracy of a perfect reader, who never misreads a sign. It is computed from the rules by "
        "which the world was made. Modalities are hidden only when the models are scored; no model is trained again. "
    )
    if len(comparison.seeds) > 1:
        note += "Brackets show Student's 95 % interval over seeds. "
    return [
        opening(TITLE, done, fusion(comparison, rows), f"{limits(comparison)} {SCOPE}"),
        html_figure("Accuracy for each set of modalities. Grey bars: attainable. Dots: reached.", folder / SUBSETS),
        html_table(lines),
        html_note(note + luck(rows)),
    ]


def _world_parts(folder: Path, world: IntentWorldFiles) -> list[str]:
    """What the clips are. They play in the page if browsers know their format."""
    lines = [["intent", "words", "voice", "gesture"]]
    for one in INTENTS:
        tones = "any" if one.tones == ANY_TONE else ", ".join(one.tones)
        gestures = "any" if one.gestures == ANY_GESTURE else ", ".join(one.gestures)
        lines.append([one.label, one.words, tones, gestures])
    clips = [
        html_clip(f"{one['label']}: “{one['text']}”, {one['tone']} voice, gesture: {one['gesture']}", path, still(path))
        for one in open_clips(world)
        if plays(path := world.folder / "clips" / f"{one['key']}.mp4")
    ]
    return [
        html_heading("What the clips are"),
        html_note(
            "These clips use the same group of sentences. Only the voice and the gesture together tell their intents "
            "apart."
        ),
        f'<div class="clips">{"".join(clips)}</div>' if clips else "",
        html_figure("The same clips: pictures in order of time, and the pitch of the voice.", folder / CLIPS),
        html_fold(f"The signs of all {len(INTENTS)} intents", html_table(lines, num_texts=4)),
    ]


def _asked_parts(folder: Path, asked: Asked) -> list[str]:
    """What the saved model answers for one clip."""
    drawn, whole = asked.drawn, next(iter(asked.said.values()))
    lines = [["modalities given", "answer", "probability", "next best"]]
    for kept, row in asked.said.items():
        others = ", ".join(f"{one['label']} {one['probability']:.2f}" for one in row["top"][1:])
        lines.append([kept, row["label"], f"{row['probability']:.2f}", others])
    model, clip = (path.relative_to(folder).as_posix() for path in (asked.model, asked.clip))
    spoken = f"“{drawn['text']}”"
    command = f'moiety intent predict {model} {clip} --text "{drawn["text"]}"'
    truth = f"The true intent is {drawn['label']}: the voice is {drawn['tone']}, the gesture is {drawn['gesture']}."
    verdict = "Given all modalities, the model is right." if whole["label"] == drawn["label"] else (
        f"Given all modalities, the model answers {whole['label']}, which is wrong."
    )  # fmt: skip
    return [
        html_heading("Try it: what the model says about one clip"),
        html_note(f"{truth} {verdict} {_grounds(whole)}"),
        f'<div class="clips">{html_clip(spoken, asked.clip, still(asked.clip))}</div>' if plays(asked.clip) else "",
        html_table(lines, num_texts=2),
        html_note("To ask the model yourself, run this in the folder of this page:"),
        html_command(command),
    ]


def _grounds(row: Mapping[str, Any], most: int = 3) -> str:
    """From which modalities and frames the answer was computed; empty for methods that choose no frames."""
    if "shares" not in row:
        return ""
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in row["shares"].items())
    timed = [one for one in row["anchors"] if one["seconds"] is not None][:most]
    frames = ", ".join(f"{one['modality']} at {one['seconds']:.2f} s" for one in timed)
    strongest = f" The frames with the largest weights (anchors) are {frames}." if frames else ""
    return f"The last layer reads one vector, made of {shares}.{strongest}"


def _rest_parts(comparison: IntentComparison) -> list[str]:
    """All measures, cost, and how to read the numbers."""
    further = [html_figure(text, path) for text, path in list(pictures_of(comparison).items())[1:]]
    return [
        html_heading("All measures"),
        html_table(score_table(comparison), FLOORS),
        html_note(caption(comparison)),
        html_fold("Confusion matrix and embedding of the clips", *further) if further else "",
        html_heading("Cost"),
        html_table(cost_table(comparison), FLOORS),
        html_heading("How to read these numbers"),
        *map(html_note, notes(comparison)),
    ]
