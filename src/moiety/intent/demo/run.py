"""The demo: it makes a small spoken world, reads its clips, trains several methods on them, and writes one page.

It goes from raw clip to label in minutes on two cores, without a download. The page shows measured beside attainable
accuracy for every set of modalities, so that a reader sees what fusion can give and how much of it is learned.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from moiety.intent.answers import answers, samples_at
from moiety.intent.classifier import IntentClassifier
from moiety.intent.compare.grading import subsets
from moiety.intent.compare.run import model_folder, run_intent_compare
from moiety.intent.data.samples import MODALITIES
from moiety.intent.data.sources import read_source
from moiety.intent.demo.page import Asked, subset_rows, write_page
from moiety.intent.recipe import IntentRecipe, load_intent_recipe, parse_intent_recipe
from moiety.intent.world.files import IntentWorldFiles, write_intent_world
from moiety.records.saving import write_atomically
from moiety.records.second_process import one_thread, second_process, stop_if_alone

logger = logging.getLogger(__name__)

RECIPE = Path(__file__).parents[2] / "recipes" / "intent" / "demo.yaml"
NUM_TRAIN, NUM_DEV, NUM_TEST = 600, 120, 360
STEPS = ("writing clips", "reading clips", "training")
OnStep = Callable[[str, int, int], None]
"""Called with (one of :data:`STEPS`, how much of it is done, how much there is)."""


def run_demo(
    output: str | Path = "runs/intent-demo",
    *,
    num_train: int = NUM_TRAIN,
    num_dev: int = NUM_DEV,
    num_test: int = NUM_TEST,
    seeds: Sequence[int] | None = None,
    recipe: IntentRecipe | None = None,
    processes: int = 2,
    on_progress: OnStep | None = None,
) -> Path:
    """Write a world, compare methods on its clips, ask the saved model about one clip, and write a page.

    A stopped demo goes on where it was: the world, the features that were read and the finished runs are kept.
    Written below `output`: ``world`` (clips, rows), ``features`` (cache), ``compare`` (tables, runs, the model of the
    first seed), ``subsets.json`` (measured beside attainable), ``answer.json`` (the one clip), ``report.html``.

    Args:
        output: Folder for all files.
        num_train: Number of clips to learn from.
        num_dev: Number of clips that choose the best epoch.
        num_test: Number of clips that are scored.
        seeds: Seeds instead of those of the recipe.
        recipe: Another recipe for the same world; its paths and its hidden modalities are set here.
        processes: 2: a second process shares the runs. 1: this process does all of them.
        on_progress: Called as the work goes on.

    Returns:
        The page.

    Raises:
        ValueError: a split is too small, the comparison lacks the recipe's method, or earlier runs had other settings.
        FileExistsError: an earlier demo in `output` has other clips.
    """
    folder = Path(output)
    recipe = _checked(load_intent_recipe(RECIPE) if recipe is None else recipe)
    writing, reading, training = (_told(on_progress, what) for what in STEPS)
    counts = {"num_train": num_train, "num_dev": num_dev, "num_test": num_test}
    world = write_intent_world(folder / "world", **counts, on_progress=writing)
    recipe = _placed(recipe, folder, world, seeds)
    with one_thread():
        read_source(recipe.data, reading)  # fills the cache, so that later readers find all features there
        with _second_process(recipe) if processes > 1 else contextlib.nullcontext():
            comparison = run_intent_compare(recipe, on_run=training)
        if comparison.missing:  # the second process was still working on them when the first had no more to do
            comparison = run_intent_compare(recipe, on_run=training)
        asked = ask(model_folder(recipe, recipe.model.method, recipe.seeds[0]), world)
    write_atomically(folder / "answer.json", json.dumps(asked.tree(), indent=1, ensure_ascii=False) + "\n")
    write_atomically(folder / "subsets.json", json.dumps(subset_rows(comparison, world), indent=1) + "\n")
    return write_page(folder, comparison, world, asked)


def ask(model: Path, world: IntentWorldFiles) -> Asked:
    """Ask a saved model about one raw clip, as ``moiety intent predict MODEL CLIP --text "..."`` does.

    The clip is the first test clip whose words leave four intents open and that lacks no modality.

    Args:
        model: Folder of a saved classifier.
        world: The world of the clip.

    Raises:
        ValueError: the world has no such clip.
    """
    signs = [json.loads(line) for line in world.signs.read_text("utf-8").splitlines()]
    open_ones = [one for one in signs if one["split"] == "test" and one["words"] == "outcome" and not one["missing"]]
    if not open_ones:
        raise ValueError(
            f"{world.folder} has no test clip with all modalities whose words leave four intents open; write more clips"
        )
    chosen = open_ones[0]
    classifier = IntentClassifier.load(model)
    clip = world.folder / "clips" / f"{chosen['key']}.mp4"
    samples = samples_at(classifier, clip, text=chosen["text"]).samples
    hides: tuple[tuple[str, ...], ...] = ((), ("audio",), ("video",), ("video", "audio"))
    with_frames = classifier.method == "amess"
    given = {
        "+".join(name for name in ("text", "video", "audio") if name not in hide): answers(
            classifier, samples, hide=hide, with_frames=with_frames
        )[0]
        for hide in hides
    }
    return Asked(model, clip, chosen, given)


def _checked(recipe: IntentRecipe) -> IntentRecipe:
    """The recipe, if it trains the model that is asked about one clip. This is checked before anything is made."""
    if recipe.model.method not in recipe.compare.methods:
        raise ValueError(
            f"recipe {recipe.name}: compare.methods lacks {recipe.model.method!r}, whose model answers the one clip; "
            "add it"
        )
    return recipe


def _placed(recipe: IntentRecipe, folder: Path, world: IntentWorldFiles, seeds: Sequence[int] | None) -> IntentRecipe:
    """The recipe with its paths in the folder of the demo, and with a score for every set of modalities."""
    tree: dict[str, Any] = recipe.model_dump() | {"output": str(folder / "compare")}
    tree["data"] = recipe.data.given() | {"path": str(world.rows), "cache": str(folder / "features")}
    tree["model"] = tree["model"] | {"label_descriptions": str(world.labels)}
    hide = ["+".join(names) for names in subsets(MODALITIES) if names]
    tree["compare"] = tree["compare"] | {"keep_models": "first_seed", "hide": hide}
    if seeds is not None:
        tree["seeds"] = list(seeds)
    return IntentRecipe.model_validate(tree)


def _told(on_progress: OnStep | None, what: str) -> Callable[[int, int], None] | None:
    return None if on_progress is None else partial(on_progress, what)


def _second_process(recipe: IntentRecipe) -> contextlib.AbstractContextManager[None]:
    """Let a second process share the runs of the comparison."""
    tree = recipe.model_dump(mode="json") | {"data": recipe.data.given()}
    return second_process("moiety.intent.demo.run", json.dumps(tree), Path(recipe.output) / "second-process.log")


def work(recipe: str) -> None:
    """Body of the second process: do the runs that no other process is working on.

    Args:
        recipe: The recipe as JSON.
    """
    first = os.getppid()

    def watch(done: int, planned: int) -> None:
        stop_if_alone(first, f"it stops at run {done + 1} of {planned}")

    with one_thread():
        run_intent_compare(parse_intent_recipe(json.loads(recipe)), on_run=watch)
