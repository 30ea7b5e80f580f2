"""The embedded default: a world of handwritten digits, a model from nothing, four schemes side by side, one report."""

from __future__ import annotations

import json
import logging
from pathlib import Path

from moiety.compare import Comparison, run_compare
from moiety.compare.outcome import write_outcome
from moiety.compare.records import run_name
from moiety.compare.run import RUNS, OnProgress
from moiety.config import Recipe, load_recipe
from moiety.lens import tinted_picture
from moiety.scenes import SceneFiles, write_scenes
from moiety.vlm.images import Images
from moiety.vlm.model import load
from moiety.vlm.rows import IMAGE_MARK, Row, load_rows
from moiety.vlm.templates import load_processor

logger = logging.getLogger(__name__)

RECIPE = Path(__file__).parent / "recipes" / "demo.yaml"
READING = "conversations-reading-train.jsonl"
NUM_TRAIN, NUM_TEST = 3000, 400


def run_demo(
    output: str | Path = "runs/demo",
    *,
    recipe: Recipe | None = None,
    num_train: int = NUM_TRAIN,
    num_test: int = NUM_TEST,
    on_progress: OnProgress | None = None,
    quiet: bool = True,
) -> Path:
    """Write the scenes, compare the schemes of ``recipes/demo.yaml`` on them and draw who read what.

    Nothing is downloaded. A stopped demo goes on where it was.

    Args:
        output: Folder for scenes, models, tables and report.
        recipe: Another recipe over the same world; its output and data root are set here.
        num_train: Scenes to learn from.
        num_test: Scenes to answer questions about.
        on_progress: Called after each optimizer step with the name of the run.
        quiet: No progress bars.

    Returns:
        The report, one HTML file.
    """
    folder = Path(output)
    scenes = write_scenes(folder / "scenes", num_train=num_train, num_test=num_test, seed=0)
    chosen = load_recipe(RECIPE) if recipe is None else recipe
    _write_reading_rows(scenes)
    data = chosen.data.model_copy(update={"root": str(scenes.folder)})
    chosen = chosen.model_copy(update={"output": str(folder), "data": data})
    comparison = run_compare(chosen, on_progress=on_progress, quiet=quiet)
    pictures = _draw_experts(comparison, chosen, load_rows([scenes.test]), Images(scenes.images))
    write_outcome(comparison, pictures)
    logger.info("report in %s", comparison.report)
    return comparison.report


def _write_reading_rows(scenes: SceneFiles) -> None:
    """Rows of the first stage: place and parity of scenes that hold one digit.

    Where to look and what a digit looks like are hard to learn at once; with one digit in the dark, only the second is.
    """
    rows = [json.loads(line) for line in scenes.train.read_text(encoding="utf-8").splitlines()]
    single = {row["image"] for row in rows if row["type"] == "count" and row["answers"] == ["1"]}
    chosen = [row for row in rows if row["image"] in single and row["type"] in ("place", "parity")]
    text = "".join(json.dumps(row) + "\n" for row in chosen)
    (scenes.folder / READING).write_text(text, encoding="utf-8")


def _draw_experts(comparison: Comparison, recipe: Recipe, rows: list[Row], images: Images) -> dict[str, Path]:
    """Caption -> picture of one test scene whose patches are tinted by the expert that read them."""
    stage = [stage for stage in recipe.stages if stage.sparse][-1]
    name = run_name(comparison.reference, recipe.compare.seeds[0])
    model_folder = comparison.folder / RUNS / name / stage.name
    row = _busiest(rows)
    question = row.turns[0].text.replace(IMAGE_MARK, "").strip()
    model = load(model_folder)
    processor = load_processor(model_folder, recipe.model.template, marks=False)
    path = tinted_picture(model, processor, images[row.images[0]], question, comparison.folder / "experts.png")
    caption = f"Which expert of {comparison.reference} read which patch, with the question {question!r}"
    return {caption: path}


def _busiest(rows: list[Row]) -> Row:
    """The first question about a scene that holds the most digits."""
    counts = {row.images: row.answers[0] for row in rows if row.type == "count"}
    return max(rows, key=lambda row: int(counts.get(row.images, "0")))
