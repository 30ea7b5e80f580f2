"""``moiety train``, ``compare``, ``evaluate`` and ``demo``: the verbs that take long and can be resumed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moiety.cli.benchmarks import Limit, Lines, Rule, TraceFile, TraceLimit, ask_benchmarks
from moiety.cli.door import calm_libraries, keeps_files, progress_line, say
from moiety.cli.look import DeviceOption, ModelFolder, load_both, pictures_of
from moiety.cli.recipes import load
from moiety.cli.screen import show, show_json, table

if TYPE_CHECKING:
    from moiety.evaluate.benchmarks.run import Asking
    from moiety.evaluate.watch import Watches
    from moiety.recipe.evaluate import DecodingSettings
    from moiety.train import Progress

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file or the name of a shipped recipe.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Dotted overrides, for instance moe.top_k=2.")
]
SetOption = Annotated[list[str] | None, typer.Option("--set", help="key=value; the same as behind the recipe.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, do nothing.")]
TRAINED = {"**/checkpoint-*/*": "the last checkpoint", "**/*.safetensors": "what was finished"}
EVALUATED = ("type", "task", "#questions", "#accuracy %", "more")
Decoding = Annotated[str, typer.Option(help="greedy, context_aware (CAD), visual_contrastive (VCD) or dola.")]
DecodingOption = Annotated[
    list[str] | None, typer.Option("--set", help="key=value of the decoding, for instance weight=0.5.")
]
ClampAlpha = Annotated[
    float | None, typer.Option("--clamp-alpha", min=0, max=1, help="Force alpha of every evidence expert.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    settings: SetOption = None,
    stage: Annotated[str | None, typer.Option(help="Run this stage only; the one before must be finished.")] = None,
    dry_run: DryRun = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Start anew instead of resuming.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train all stages of a recipe; finished stages are kept, a stopped one goes on."""
    from moiety.train import run_recipe
    from moiety.train.plan import plan

    read = load(recipe, [*(overrides or ()), *(settings or ())])
    if dry_run:
        show(plan(read))
        return
    calm_libraries()
    told = StepLines()
    keeps_files(Path(read.output), TRAINED)
    results = run_recipe(read, only_stage=stage, resume=not fresh, on_progress=told.of_stage, quiet=True)
    if as_json:
        show_json([vars(result) for result in results])
        return
    rows = [(done.name, "was finished" if done.reused else "trained", done.folder) for done in results]
    show(table("stages", ("stage", "state", "folder"), rows))
    last = shlex.quote(str(results[-1].folder))
    say(f"talk to it: moiety demo-app {last}\nscore it:   moiety evaluate {last} ROWS.jsonl --images FOLDER")


def compare(
    recipe: RecipeName,
    overrides: Overrides = None,
    settings: SetOption = None,
    schemes: Annotated[str | None, typer.Option(help="Schemes and variants with commas, over the recipe's.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Comma-separated seeds, over the recipe's.")] = None,
    dry_run: DryRun = False,
) -> None:
    """Train and score several schemes from one base at equal activated parameters; write table, plot and report."""
    from moiety.cli.compared import say_next, show_plan, show_scores
    from moiety.compare import run_compare

    read = load(recipe, [*(overrides or ()), *(settings or ())])
    calm_libraries()
    told = StepLines()
    keeps_files(Path(read.output), TRAINED)
    result = run_compare(
        read, schemes=split(schemes), seeds=numbers(seeds), dry_run=dry_run, on_progress=told.of_run, quiet=True
    )
    if dry_run:
        show_plan(result)
        return
    show_scores(result)
    say_next(result)


def evaluate(
    model: ModelFolder,
    data: Annotated[
        list[Path] | None, typer.Argument(metavar="[DATA]...", help="Conversation files with answers.")
    ] = None,
    images: Annotated[
        list[str] | None, typer.Option("--images", help="Image folder or .tar; several are searched.")
    ] = None,
    predictions: Annotated[Path | None, typer.Option(help="Where answers go; a stopped run goes on from it.")] = None,
    benchmarks: Annotated[str | None, typer.Option(help="Instead of DATA: benchmarks with commas.")] = None,
    benchmark_data: Annotated[Path | None, typer.Option("--data", help="Folder that holds their folders.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Answers and scores of benchmarks.")] = Path("answers"),
    scorer: Rule = None,
    limit: Limit = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions asked at once.")] = 32,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Longest answer; default 16, of benchmarks their own.")
    ] = None,
    blank_image: Annotated[bool, typer.Option("--blank-image", help="Ask with blank pictures: the control.")] = False,
    decoding: Decoding = "greedy",
    settings: DecodingOption = None,
    clamp_alpha: ClampAlpha = None,
    card: Annotated[bool, typer.Option("--card", help="Add the scores to the model's README.md.")] = False,
    trace: TraceFile = None,
    trace_limit: TraceLimit = 100,
    device: DeviceOption = None,
    as_json: AsJson = False,
) -> None:
    """Let a model answer questions, of conversation files or of benchmarks, and score it."""
    from moiety.evaluate.benchmarks.run import Asking

    if card:
        check_card(model)
    method = decoding_settings(decoding, settings)
    asked = (scorer, limit, batch_size, max_new_tokens, blank_image, method, clamp_alpha)
    asking = Asking(*asked, trace_files(trace, trace_limit))
    if benchmarks is None and data and benchmark_data is None and scorer is None:
        title = ", ".join(path.name for path in data)
        shown = answer_files(model, device, data, images, predictions, asking, as_json)
    elif benchmarks is not None and benchmark_data is not None and not (data or images or predictions):
        title = benchmarks
        shown = ask_benchmarks(model, device, split(benchmarks) or [], benchmark_data, output, asking, as_json)
    else:
        raise ValueError(
            "give either conversation files (with --images and --predictions), or --benchmarks with --data (and "
            "--output, --scorer): their files and answers are found by name"
        )
    if card:
        how = [how_decoded(method, clamp_alpha), *["blank pictures"] * blank_image, *[f"first {limit}"] * bool(limit)]
        add_to_card(model, f"{title} ({', '.join(how)})", shown)


def trace_files(trace: Path | None, limit: int) -> Watches | None:
    """What writes the routing of a run; None where nobody asked for it."""
    from moiety.lens.trace.writer import TraceFiles

    return None if trace is None else TraceFiles(trace, limit)


def add_to_card(model: str, title: str, shown: Lines) -> None:
    """Put a table that was shown into the card of a model folder."""
    from moiety.vlm.card import add_results

    heads, lines = shown
    say(f"scores stand in {add_results(model, title, [head.removeprefix('#') for head in heads], lines)}")


def check_card(model: str) -> None:
    """Refuse a model whose card cannot take scores before anything is asked.

    Raises:
        ValueError: it has none.
    """
    from moiety.vlm.card import CARD

    if not (Path(model) / CARD).is_file():
        raise ValueError(f"--card adds scores to {Path(model) / CARD}, which is not there; leave it out")


def answer_files(
    model: str,
    device: str | None,
    data: Sequence[Path],
    images: Sequence[str] | None,
    predictions: Path | None,
    asking: Asking,
    as_json: bool,
) -> Lines:
    """Let a model answer conversation files and print its scores by type of question."""
    from moiety.evaluate import evaluate_model, percent
    from moiety.recipe.evaluate import DecodingSettings
    from moiety.vlm.rows import load_rows

    if predictions is not None:
        keeps_files(predictions.parent, {predictions.name: f"the answers in {predictions}"})
    rows = load_rows(data)[: asking.limit]
    longest = asking.max_new_tokens or 16
    pictures = pictures_of(rows, data, images)
    both = load_both(model, device)
    result = evaluate_model(
        *both,
        rows,
        pictures,
        batch_size=asking.batch_size,
        max_new_tokens=longest,
        blank_image=asking.blank_image,
        decoding=asking.decoding,
        clamp_alpha=asking.clamp_alpha,
        predictions=predictions,
        watch=None if asking.watches is None else asking.watches.of(*both, pictures),
        progress=progress_line("answers"),
    )
    if asking.watches is not None:
        place = asking.watches.place()
        say(f"routing stands in {place}; see it with `moiety inspect --trace {place}`")
    lines = [list(line.values()) for line in result.table()]
    if as_json:
        show_json(result.to_dict())
        return EVALUATED, lines
    how = f"{how_decoded(asking.decoding or DecodingSettings(), asking.clamp_alpha)}, at most {longest} new tokens"
    note = f"all {len(rows)} questions: {percent(result.overall)} % · {how}"
    show(table(f"{model}{' with blank pictures' * asking.blank_image}", EVALUATED, lines, note))
    if predictions is not None:
        say(f"answers stand in {predictions}")
    return EVALUATED, lines


def decoding_settings(method: str, overrides: list[str] | None) -> DecodingSettings:
    """The decoding that the words of the command line stand for.

    Raises:
        RecipeError: a value does not fit, or a key is unknown.
    """
    from pydantic import ValidationError

    from moiety.recipe.evaluate import DecodingSettings
    from moiety.recipe.reader import apply_override
    from moiety.recipe.recipe import RecipeError, describe_errors

    tree: dict[str, Any] = {"method": method}
    for override in overrides or ():
        apply_override(tree, override)
    try:
        return DecodingSettings.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(describe_errors(error, "evaluate.decoding", DecodingSettings)) from error


def how_decoded(method: DecodingSettings, clamp_alpha: float | None) -> str:
    """The decoding in words, with a clamp of alpha where there is one."""
    return method.describe() + ("" if clamp_alpha is None else f", alpha clamped to {clamp_alpha:g}")


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for models, tables and the report.")] = Path(
        "runs/demo"
    ),
) -> None:
    """Train and compare small models on scenes of handwritten digits and write a report: minutes on two cores."""
    from moiety.cli.compared import say_next, show_scores
    from moiety.demo import compare_scenes

    calm_libraries()
    keeps_files(output, TRAINED)
    result = compare_scenes(output, on_progress=StepLines().of_run)
    show_scores(result)
    say_next(result)


class StepLines:
    """Tells on stderr how far training is, one line a stage."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.update: Callable[[int, int], None] = progress_line("")

    def of_run(self, name: str, progress: Progress) -> None:
        """One step of the stage called `name`."""
        if name != self.name:
            self.name, self.update = name, progress_line(f"{name}: step")
        self.update(progress.step, progress.num_steps)

    def of_stage(self, progress: Progress) -> None:
        """One step of a recipe's own stage."""
        self.of_run(progress.stage, progress)


def split(text: str | None) -> list[str] | None:
    """``a,b`` -> ``["a", "b"]``; None stays None.

    Example:
        >>> split("moiie, vanilla")
        ['moiie', 'vanilla']
    """
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str | None) -> list[int] | None:
    """``0,1,2`` -> ``[0, 1, 2]``; None stays None.

    Raises:
        ValueError: a part is not a whole number.
    """
    parts = split(text)
    if parts is None:
        return None
    if not parts or not all(part.isdigit() for part in parts):
        raise ValueError(f"--seeds {text!r}: expected whole numbers with commas, for instance 0,1,2")
    return [int(part) for part in parts]
