"""The page of the demo: what the world holds, what can be reached, what was reached, and one clip asked about."""

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
    "The clips are of a small spoken world, made by moiety and recorded by nobody: templated sentences, a voice of "
    "harmonics, a drawn figure; speakers differ between training and test."
)
SCOPE = "Nor does a made world say anything about recorded people."


@dataclass(frozen=True)
class Asked:
    """What a saved model said about one raw clip.

    Args:
        model: Folder of the model, and
        clip: the file, both below the folder of the demo.
        drawn: What was drawn of it, a line of ``signs.jsonl``.
        said: Modalities that it was given, joined with ``+`` -> a row of :func:`moiety.intent.answers.answers`.
    """

    model: Path
    clip: Path
    drawn: Mapping[str, Any]
    said: Mapping[str, Mapping[str, Any]]

    def tree(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {"model": str(self.model), "clip": str(self.clip), "drawn": dict(self.drawn), "said": dict(self.said)}


def subset_rows(comparison: IntentComparison, world: IntentWorldFiles) -> list[dict[str, Any]]:
    """Measured accuracy beside the attainable one, one row a set of modalities, the largest first.

    Returns:
        ``modalities`` that are given, ``hide`` as in the recipe, ``rows``: how many were graded, ``attainable`` in
        0..1, ``measured``: method -> mean over seeds and its interval (null where one run gives none).
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
        own = [run for run in comparison.runs if run.name == comparison.recipe.model.method]
        without = max((run.without_input.get(hide, 0) for run in own), default=0)
        rows = int(comparison.context["rows"]["score"]) - without
        name = "+".join(kept)
        found.append({"modalities": name, "hide": hide, "rows": rows, "attainable": best[name], "measured": measured})
    return found


def write_page(folder: Path, comparison: IntentComparison, world: IntentWorldFiles, asked: Asked) -> Path:
    """Draw what is missing and write ``report.html``, whole at any time.

    Args:
        folder: Of the demo.
        comparison: Finished.
        world: What it read.
        asked: One clip.

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
    """The question of the demo with its answer, as sentences, picture and table."""
    lines = [["given when scored", "rows", "attainable", *comparison.names]]
    for row in rows:
        shown = [percent(comparison.estimate(name, "acc", row["hide"])) for name in comparison.names]
        lines.append([row["modalities"], str(row["rows"]), f"{100 * row['attainable']:.1f}", *shown])
    done = f"{made(comparison)} {WORLD}"
    note = (
        "Attainable: the accuracy of the best reader who never misreads a sign, computed from the law of the world. "
        "Modalities are taken away when scored; nothing is trained anew. Brackets: Student's interval over seeds. "
    )
    return [
        opening(TITLE, done, fusion(comparison, rows), f"{limits(comparison)} {SCOPE}"),
        html_figure("Accuracy by what is given: grey bars are attainable, dots are reached.", folder / SUBSETS),
        html_table(lines),
        html_note(note + luck(rows)),
    ]


def _world_parts(folder: Path, world: IntentWorldFiles) -> list[str]:
    """What the clips are; they play where the browser knows their format."""
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
        html_note("The same kind of words; which intent it is, only voice and gesture together tell."),
        f'<div class="clips">{"".join(clips)}</div>' if clips else "",
        html_figure("The same clips as strips, with the pitch of the voice.", folder / CLIPS),
        html_fold(f"The signs of all {len(INTENTS)} intents", html_table(lines, num_texts=4)),
    ]


def _asked_parts(folder: Path, asked: Asked) -> list[str]:
    """The saved model and one clip."""
    drawn, whole = asked.drawn, next(iter(asked.said.values()))
    lines = [["given", "answer", "probability", "next best"]]
    for kept, row in asked.said.items():
        others = ", ".join(f"{one['label']} {one['probability']:.2f}" for one in row["top"][1:])
        lines.append([kept, row["label"], f"{row['probability']:.2f}", others])
    model, clip = (path.relative_to(folder).as_posix() for path in (asked.model, asked.clip))
    spoken = f"“{drawn['text']}”"
    command = f'moiety intent predict {model} {clip} --text "{drawn["text"]}"'
    truth = f"The speaker meant {drawn['label']}, with a {drawn['tone']} voice and this gesture: {drawn['gesture']}."
    verdict = "The answer with everything given is right." if whole["label"] == drawn["label"] else (
        f"The answer with everything given, {whole['label']}, is wrong."
    )  # fmt: skip
    return [
        html_heading("One clip, asked as you would"),
        html_note(f"{truth} {verdict} {_grounds(whole)}"),
        f'<div class="clips">{html_clip(spoken, asked.clip, still(asked.clip))}</div>' if plays(asked.clip) else "",
        html_table(lines, num_texts=2),
        html_note("In the folder of this page:"),
        html_command(command),
    ]


def _grounds(row: Mapping[str, Any], most: int = 3) -> str:
    """What the answer with all modalities rests on; nothing for methods that choose no frames."""
    if "shares" not in row:
        return ""
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in row["shares"].items())
    timed = [one for one in row["anchors"] if one["seconds"] is not None][:most]
    frames = ", ".join(f"{one['modality']} at {one['seconds']:.2f} s" for one in timed)
    return f"Given everything, the answer rests on {shares} of the pooled vector; strongest anchors: {frames}."


def _rest_parts(comparison: IntentComparison) -> list[str]:
    """All measures, cost, and what a reader should know."""
    further = [html_figure(text, path) for text, path in list(pictures_of(comparison).items())[1:]]
    return [
        html_heading("All measures"),
        html_table(score_table(comparison), FLOORS),
        html_note(caption(comparison)),
        html_fold("Who is taken for whom, and where the clips lie", *further) if further else "",
        html_heading("Cost"),
        html_table(cost_table(comparison), FLOORS),
        html_heading("To know when reading these numbers"),
        *map(html_note, notes(comparison)),
    ]
