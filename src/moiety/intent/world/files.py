"""Writes the small spoken world: clips whose words leave the intent open, so that voice and gesture must be read.

Everything is made, nothing is recorded: sentences from parts (:mod:`moiety.intent.world.phrases`), a voice of harmonics
(:mod:`moiety.intent.world.voice`), a drawn figure (:mod:`moiety.intent.world.figure`). The law of the world, and the
accuracy that it allows for every set of modalities, are in :mod:`moiety.intent.world.signs`. No speaker is in two
splits.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from moiety.intent.clips.writer import write_clip
from moiety.intent.world.figure import FPS
from moiety.intent.world.signs import ANY_GESTURE, ANY_TONE, INTENTS, MASKS, attainable
from moiety.intent.world.utterance import Utterance, clip_of, drawn_utterance
from moiety.intent.world.voice import RATE
from moiety.recipe.section import differences
from moiety.records.saving import whole_folder

FORMAT = 1
OnClip = Callable[[int, int], None]
"""Called with (clips written, clips in all)."""


@dataclass(frozen=True)
class IntentWorldFiles:
    """The files of a written world.

    Args:
        folder: The folder of the world; the clips are in ``clips``.
        rows: ``rows.jsonl``: key, clip, text, label and split of every clip.
        labels: ``labels.json``: what each label means.
        signs: ``signs.jsonl``: what was drawn for each clip. This is for people, and never an input.
        facts: ``world.json``: arguments, and the attainable accuracy for each set of modalities.
    """

    folder: Path
    rows: Path
    labels: Path
    signs: Path
    facts: Path

    @classmethod
    def below(cls, folder: str | Path) -> IntentWorldFiles:
        """The files of the world in `folder`."""
        folder = Path(folder)
        names = ("rows.jsonl", "labels.json", "signs.jsonl", "world.json")
        return cls(folder, *(folder / name for name in names))

    def attainable(self) -> dict[str, float]:
        """Modalities joined with ``+`` -> attainable accuracy, 0..1."""
        return dict(json.loads(self.facts.read_text("utf-8"))["attainable"])


def write_intent_world(
    folder: str | Path,
    *,
    num_train: int = 720,
    num_dev: int = 120,
    num_test: int = 360,
    seed: int = 0,
    unclear: float = 0.03,
    missing: float = 0.05,
    outside: float = 0.0,
    noise: float = 1.0,
    on_progress: OnClip | None = None,
) -> IntentWorldFiles:
    """Write clips, rows and label descriptions. The same arguments write the same bytes with the same PyAV.

    A world that is already in the folder is left as it is. A larger world begins with the clips of a smaller one.

    Args:
        folder: Folder for the files.
        num_train: Number of clips to learn from.
        num_dev: Number of clips that choose the best epoch.
        num_test: Number of clips that are scored. Multiples of 12 hold every intent equally often.
        seed: Seed of everything that is drawn.
        unclear: Probability that the words say nothing about the intent; the same, independently, for tone and gesture.
        missing: Probability that a clip lacks one modality; each modality is equally likely.
        outside: Probability that a clip belongs to no intent; with 0 the world has no such label. These clips do not
            count for the attainable accuracy.
        noise: Factor on the noise of sound and pictures, 0 or more.
        on_progress: Called after each clip.

    Raises:
        ValueError: a number is out of range.
        FileExistsError: the folder holds a world that was made with other arguments, or other files.
    """
    _check({"num_train": num_train, "num_dev": num_dev, "num_test": num_test},
           {"unclear": unclear, "missing": missing, "outside": outside}, noise)  # fmt: skip
    counts = {"train": num_train, "dev": num_dev, "test": num_test}
    chances = {"unclear": unclear, "missing": missing, "outside": outside}
    arguments = {"format": FORMAT, "counts": counts, "seed": seed, **chances, "noise": noise}
    files = IntentWorldFiles.below(folder)
    if _is_written(files, arguments):
        return files
    drawn = [drawn_utterance(split, n, seed=seed, **chances) for split, count in counts.items() for n in range(count)]
    with whole_folder(files.folder) as fresh:
        (fresh / "clips").mkdir()
        _write_clips(fresh, drawn, seed, noise, on_progress)
        _write_tables(IntentWorldFiles.below(fresh), drawn, arguments)
    return files


def _write_clips(folder: Path, drawn: list[Utterance], seed: int, noise: float, on_progress: OnClip | None) -> None:
    def write(utterance: Utterance) -> Path:
        pictures, sound = clip_of(utterance, seed, noise)
        return write_clip(folder / _clip_name(utterance), pictures, sound, fps=FPS, rate=RATE)

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:  # the video encoder releases the interpreter lock
        try:
            for done, _ in enumerate(threads.map(write, drawn), 1):
                if on_progress is not None:
                    on_progress(done, len(drawn))
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)  # after Ctrl-C nobody waits for the other clips
            raise


def _clip_name(utterance: Utterance) -> str:
    return f"clips/{utterance.key}.mp4"


def _write_tables(files: IntentWorldFiles, drawn: list[Utterance], arguments: Mapping[str, Any]) -> None:
    """Write rows, label descriptions, signs, facts, and a README."""
    _write_lines(files.rows, (
        {"key": one.key, "clip": _clip_name(one), "text": "" if one.missing == "text" else one.text,
         "label": one.label, "split": one.split}
        for one in drawn
    ))  # fmt: skip
    _write_lines(files.signs, ({**asdict(one), "draw": list(one.draw)} for one in drawn))
    labels = [{"label": one.label, "description": one.description, "cues": one.cues or None} for one in INTENTS]
    _write_json(files.labels, {"labels": labels})
    chances = {name: arguments[name] for name in ("unclear", "missing")}
    found = {"+".join(kept): attainable(kept, **chances) for kept in MASKS}
    table = {one.label: {"text": one.words, "video": one.gestures, "audio": one.tones} for one in INTENTS}
    _write_json(files.facts, {"arguments": arguments, "attainable": found, "intents": table})
    (files.folder / "README.md").write_text(_page(found, arguments), encoding="utf-8")


def _page(found: Mapping[str, float], arguments: Mapping[str, Any]) -> str:
    signs = "\n".join(
        f"| {one.label} | {one.words} | {_named(one.tones, ANY_TONE)} | {_named(one.gestures, ANY_GESTURE)} |"
        for one in INTENTS
    )
    best = "\n".join(f"| {kept} | {100 * value:.1f} |" for kept, value in found.items())
    return (
        "# A small spoken world\n\nWritten by moiety, `moiety.intent.world`; nothing here was recorded. Arguments: "
        f"`{json.dumps(arguments)}`.\n\n| intent | words | voice | gesture |\n| --- | --- | --- | --- |\n{signs}\n\n"
        "Attainable: the accuracy, in percent, of the best possible reader, who never misreads a sign, for each set of "
        f"modalities (rows that have none of them do not count):\n\n| modalities | accuracy |\n| --- | ---: |\n{best}\n"
    )


def _named(values: tuple[str, ...], every: tuple[str, ...]) -> str:
    return "any" if values == every else ", ".join(values)


def _is_written(files: IntentWorldFiles, arguments: Mapping[str, Any]) -> bool:
    """Whether exactly this world is in the folder already.

    Raises:
        FileExistsError: the folder holds something else, which is not replaced.
    """
    if not files.folder.exists() or not any(files.folder.iterdir()):
        return False
    if not files.facts.is_file():
        raise FileExistsError(f"{files.folder} holds other files; choose a new folder for the world")
    there = json.loads(files.facts.read_text("utf-8"))["arguments"]
    changes = differences(there, arguments)
    if changes:
        raise FileExistsError(
            f"{files.folder} holds a world that was made with other arguments: {'; '.join(changes)}; "
            "choose another folder, or delete it"
        )
    return True


def _check(counts: Mapping[str, int], chances: Mapping[str, float], noise: float) -> None:
    few = {name: count for name, count in counts.items() if count < len(INTENTS)}
    if few:
        given = ", ".join(f"{name}={count}" for name, count in few.items())
        raise ValueError(f"{given}: give every split at least {len(INTENTS)} clips, one of each intent")
    wrong = {name: chance for name, chance in chances.items() if not 0 <= chance <= 1}
    if wrong or noise < 0:
        given = ", ".join(
            f"{name}={value}" for name, value in {**wrong, **({"noise": noise} if noise < 0 else {})}.items()
        )
        raise ValueError(f"{given}: give probabilities within 0..1, and noise of 0 or more")


def _write_lines(path: Path, rows: Iterator[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _write_json(path: Path, tree: Any) -> None:
    path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")
