"""The demo: makes scenes of handwritten digits, trains four schemes on them from nothing, and writes one report."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from moiety.compare import Comparison, run_compare
from moiety.compare.outcome import write_outcome
from moiety.compare.records import run_name
from moiety.compare.run import RUNS, OnProgress
from moiety.lens import tinted_picture
from moiety.recipe.recipe import Recipe, load_recipe
from moiety.records.second_process import one_thread, second_process, stop_if_alone
from moiety.train import Progress
from moiety.train.progress import without_weight_bars
from moiety.vlm.images import Images
from moiety.vlm.model import load
from moiety.vlm.rows import IMAGE_MARK, Row, load_rows
from moiety.vlm.templates import load_processor
from moiety.worlds.scenes import SceneFiles, write_scenes

logger = logging.getLogger(__name__)

RECIPE = Path(__file__).parent / "recipes" / "demo.yaml"
READING = "conversations-reading-train.jsonl"
NUM_TRAIN, NUM_TEST = 2000, 400
MORE_SEEDS = {
    "Train more seeds, so that the intervals speak of training too": "moiety compare demo output=. data.root=scenes "
    "--seeds 0,1,2"
}


def run_demo(output: str | Path = "runs/demo", **options: Any) -> Path:
    """Run the demo and return its report.

    Args:
        output: Folder for scenes, models, tables and report.
        options: As :func:`compare_scenes` takes them.

    Returns:
        The report, one HTML file.
    """
    return compare_scenes(output, **options).report


def compare_scenes(
    output: str | Path = "runs/demo",
    *,
    recipe: Recipe | None = None,
    num_train: int = NUM_TRAIN,
    num_test: int = NUM_TEST,
    on_progress: OnProgress | None = None,
    quiet: bool = True,
) -> Comparison:
    """Write the scenes, compare the schemes of ``recipes/demo.yaml`` on them, and draw which expert read which patch.

    Nothing is downloaded. A stopped demo continues where it stopped.

    Args:
        output: Folder for scenes, models, tables and report.
        recipe: Another recipe for the same scenes. This function sets its output and its data root.
        num_train: Number of training scenes.
        num_test: Number of test scenes.
        on_progress: Called after each optimizer step with the name of the run.
        quiet: No progress bars.

    Returns:
        The comparison. Its tables and its HTML page have been written.
    """
    folder = Path(output)
    logger.info("scenes of handwritten digits: %d to learn from, %d to answer questions about", num_train, num_test)
    scenes = write_scenes(folder / "scenes", num_train=num_train, num_test=num_test, seed=0)
    chosen = load_recipe(RECIPE) if recipe is None else recipe
    _write_reading_rows(scenes)
    data = chosen.data.model_copy(update={"root": str(scenes.folder)})
    chosen = chosen.model_copy(update={"output": str(folder), "data": data})
    with (
        one_thread(),
        second_process("moiety.demo", chosen.model_dump_json(), Path(chosen.output) / "second-process.log"),
    ):
        comparison = run_compare(chosen, on_progress=on_progress, quiet=quiet)
        if comparison.missing:
            waited = ", ".join(f"{scheme}, seed {seed}" for scheme, seed in comparison.missing)
            logger.info("waiting for the second process, which is at %s", waited)
    if comparison.missing:  # read what the process has finished, or run what it left
        comparison = run_compare(chosen, on_progress=on_progress, quiet=quiet)
    pictures = _draw_experts(comparison, chosen, load_rows([scenes.test]), Images(scenes.images))
    write_outcome(comparison, pictures, MORE_SEEDS)
    return comparison


def work(recipe: str) -> None:
    """The work of the second process: it takes runs of the comparison that no other process is working on.

    Args:
        recipe: The recipe as JSON.
    """
    first = os.getppid()

    def watch(run: str, progress: Progress) -> None:
        stop_if_alone(first, f"{run} stops at step {progress.step}")

    with one_thread():
        run_compare(Recipe.model_validate_json(recipe), on_progress=watch)


def _write_reading_rows(scenes: SceneFiles) -> None:
    """Write the rows of the first stage, which only ask which digit is where.

    A tower that starts from nothing learns this one kind of question in a few hundred steps, because the answer is the
    digit itself. With all kinds of questions and with captions, in which one word in eight is a digit, it learns almost
    nothing in that time.
    """
    lines = scenes.train.read_text(encoding="utf-8").splitlines(keepends=True)
    chosen = "".join(line for line in lines if json.loads(line)["type"] == "place")
    (scenes.folder / READING).write_text(chosen, encoding="utf-8")


def _draw_experts(comparison: Comparison, recipe: Recipe, rows: list[Row], images: Images) -> dict[str, Path]:
    """Caption -> picture of one test scene. Each patch has the colour of the expert that read it."""
    stage = [stage for stage in recipe.stages if stage.sparse][-1]
    name = run_name(comparison.reference, recipe.compare.seeds[0])
    model_folder = comparison.folder / RUNS / name / stage.name
    row = _busiest(rows)
    question = row.turns[0].text.replace(IMAGE_MARK, "").strip()
    with without_weight_bars():
        model = load(model_folder)
    processor = load_processor(model_folder, recipe.model.template, marks=False)
    path = tinted_picture(model, processor, images[row.images[0]], question, comparison.folder / "experts.png")
    caption = f"Which expert of {comparison.reference} read which patch of a test scene, asked {question!r}"
    return {caption: path}


def _busiest(rows: list[Row]) -> Row:
    """The first question about a scene that holds the most digits."""
    counts = {row.images: row.answers[0] for row in rows if row.type == "count"}
    return max(rows, key=lambda row: int(counts.get(row.images, "0")))
