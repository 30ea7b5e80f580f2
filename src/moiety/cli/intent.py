"""``moiety intent``: train, ask, grade and compare classifiers of intents from text, audio and video."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moiety.cli import intent_encoders, intent_labels
from moiety.cli.door import keeps_files, progress_line, say, stop
from moiety.cli.intent_grades import (
    check_inputs,
    count_of,
    default_split,
    evaluation_folder,
    grade_table,
    left_in,
    write_grades,
)
from moiety.cli.options import AsJson, DryRun, RecipeName, numbers, output_folder, set_option, split
from moiety.cli.recipes import find_recipe, is_intent
from moiety.cli.screen import show, show_json, table

if TYPE_CHECKING:
    from moiety.intent.recipe import IntentRecipe

app = typer.Typer(
    no_args_is_help=True,
    help="Recognise what speakers want (their intents) from text, audio and video.",
)
app.command("describe-labels")(intent_labels.describe_labels)
app.command("fetch-demo-encoders")(intent_encoders.fetch_demo_encoders)

ModelFolder = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder that `moiety intent fit` wrote.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Dotted overrides of the recipe, for instance data.path=rows.jsonl model.hidden=64.",
    ),
]
Seeds = Annotated[str | None, typer.Option(help="Seeds with commas, instead of those of the recipe.")]
GradesFolder = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="Folder for grades and pictures. Default: another one for each model and data."
    ),
]
DEMO_KEEPS = {
    "compare/runs/*/result.json": "the finished runs",
    "features/*/*.safetensors": "the features of the clips that were read",
    "world/rows.jsonl": "the clips that were made",
}
SetOption = Annotated[list[str] | None, set_option("model.hidden=64")]
DataSettings = Annotated[
    list[str] | None, set_option("data.target=ui_ternary", "data", where="For a data folder only.")
]
Cache = Annotated[Path | None, typer.Option(help="Folder that keeps the features of clips, so that each is read once.")]
OnError = Annotated[
    str,
    typer.Option(
        help="What to do when a clip cannot be read: raise (stop), skip the row, or mask (leave that modality out)."
    ),
]


@app.command("fit")
def fit(
    recipe: RecipeName,
    overrides: Overrides = None,
    settings: SetOption = None,
    seeds: Seeds = None,
    as_json: AsJson = False,
) -> None:
    """Train the recipe's model once with each seed, and keep every model. A stopped command goes on where it was."""
    from moiety.intent.compare.run import fit_folder, run_intent_fit

    read = load(recipe, overrides, settings)
    check_outputs(fit_folder(read), read.data.cache)
    keeps_runs(fit_folder(read), read.data.cache)
    result, folders = run_intent_fit(read, seeds=numbers(seeds), on_progress=progress_line("clips"))
    if as_json:
        show_json({"models": folders, "grades": [{"seed": run.seed, **run.grades} for run in result.runs]})
        return
    show_tables(result)
    for folder in folders:
        say(f"model {folder}")
    say(f"open {result.report}")


@app.command("compare")
def compare(
    recipe: RecipeName,
    overrides: Overrides = None,
    settings: SetOption = None,
    methods: Annotated[
        str | None, typer.Option(help="Methods and variants with commas, instead of those of the recipe.")
    ] = None,
    seeds: Seeds = None,
    dry_run: DryRun = False,
) -> None:
    """Train and score several methods on the same rows; write tables, pictures and a report.

    A stopped command goes on where it was.
    """
    from moiety.intent.compare.run import run_intent_compare

    read = load(recipe, overrides, settings)
    if not dry_run:
        check_outputs(Path(read.output), read.data.cache)
    keeps_runs(Path(read.output), read.data.cache)
    result = run_intent_compare(
        read,
        methods=split(methods),
        seeds=numbers(seeds),
        dry_run=dry_run,
        on_progress=progress_line("clips"),
    )
    show_tables(result)
    if not dry_run:
        say(f"open {result.report}")


@app.command("predict")
def predict(
    model: ModelFolder,
    given: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A clip, a rows file (.jsonl, .csv) or a data folder.")
    ],
    text: Annotated[str | None, typer.Option(help="The words that are spoken, if INPUT is one clip.")] = None,
    part: Annotated[
        str | None, typer.Option("--split", help="The split that is asked about. Default: all rows.")
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Add which frames each answer rests on, and when they were.")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="File for the JSON lines. Default: they are printed.")] = None,
    settings: DataSettings = None,
    cache: Cache = None,
    on_error: OnError = "raise",
) -> None:
    """Say what the speaker wants in each clip or row.

    Prints one line of JSON for each: label, probability, top (three labels),
    oos_score (higher: further out of scope) and the modalities that were read.
    """
    import json

    from moiety.intent.answers import answers, samples_at, write_answers
    from moiety.intent.classifier import IntentClassifier
    from moiety.records.saving import check_writable

    if out is not None:
        check_writable(out)
    classifier = IntentClassifier.load(model)
    options = of_clips(given, cache, on_error)
    rows = samples_at(classifier, given, text=text, split=part, settings=settings or (), **options)
    found = answers(classifier, rows.samples, with_frames=explain)
    if out is None:
        for row in found:
            typer.echo(json.dumps(row, ensure_ascii=False))
        return
    write_answers(found, out)
    say(f"wrote {len(found)} answers to {out}")


@app.command("evaluate")
def evaluate(
    model: ModelFolder,
    data: Annotated[Path, typer.Argument(metavar="DATA", help="A data folder, or a rows file with labels.")],
    part: Annotated[
        str | None, typer.Option("--split", help="The split that is graded. Default: test, else dev, else all.")
    ] = None,
    hide: Annotated[str | None, typer.Option(help="Modalities to hide, with commas: audio,video.")] = None,
    masks: Annotated[bool, typer.Option("--masks", help="Grade with every possible set of modalities.")] = False,
    output: GradesFolder = None,
    settings: DataSettings = None,
    cache: Cache = None,
    on_error: OnError = "raise",
    as_json: AsJson = False,
) -> None:
    """Grade a model on rows whose labels are known; draw its confusion matrix and its embedding."""
    from moiety.intent.answers import samples_at
    from moiety.intent.classifier import IntentClassifier
    from moiety.intent.compare.grading import grade, subsets
    from moiety.intent.compare.pictures import draw_model
    from moiety.intent.data.samples import check_hidden
    from moiety.records.saving import check_writable

    hidden = tuple(split(hide) or ())
    if masks and hidden:
        raise ValueError("--hide and --masks exclude each other: --masks hides every set of modalities in turn")
    check_hidden(hidden)
    where = part or default_split(data, settings or ())
    folder = output or evaluation_folder(model, data, [where or "all", *hidden, *["masks"] * masks, *(settings or ())])
    check_writable(folder, is_folder=True)
    classifier = IntentClassifier.load(model)
    rows = samples_at(classifier, data, split=where, settings=settings or (), **of_clips(data, cache, on_error))
    check_inputs(classifier.dims_, rows, hidden, data)
    wanted = list(subsets(tuple(classifier.dims_))) if masks else [hidden]
    graded = {names: found for names in wanted if (found := grade(classifier, rows, names)) is not None}
    if not graded:
        raise ValueError(f"no row of {data} has a modality that is left; the model reads {', '.join(classifier.dims_)}")
    first = next(iter(graded.items()))
    pictures = () if first[0] else draw_model(classifier, rows, first[1], folder)
    trees = {left_in(tuple(classifier.dims_), names): found.grades | count_of(found) for names, found in graded.items()}
    write_grades(folder, trees)
    if as_json:
        show_json(trees)
    else:
        show(grade_table(f"{model} on {data}{f', {where}' if where else ''}", trees))
    for picture in pictures:
        say(f"wrote {picture}")


@app.command("demo")
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for clips, models and the report.")] = Path(
        "runs/intent-demo"
    ),
) -> None:
    """Make a small world of spoken clips, learn their intents, and write a report. Takes minutes on two cores."""
    from moiety.intent.demo.run import run_demo
    from moiety.records.saving import check_writable

    check_writable(output, is_folder=True)
    keeps_files(output, DEMO_KEEPS)
    lines: dict[str, Callable[[int, int], None]] = {}

    def told(what: str, done: int, total: int) -> None:
        lines.setdefault(what, progress_line(what))(done, total)

    say(f"open {run_demo(output, on_progress=told)}")


def check_outputs(folder: Path, cache: str | None) -> None:
    """Try the folders that a verb writes before it does any work.

    Args:
        folder: Where the runs are written.
        cache: Folder that keeps features of clips; None: there is none.

    Raises:
        OSError: a folder cannot be written; see :func:`moiety.records.saving.check_writable`.
    """
    output_folder(folder)
    output_folder(Path(cache) if cache else None)


def keeps_runs(folder: Path, cache: str | None) -> None:
    """Tell what stands on the disk to go on from, should Ctrl-C stop the verb.

    Args:
        folder: Where the runs are written.
        cache: Folder that keeps features of clips; None: there is none.
    """
    places = [(folder, "runs/*/result.json", "the finished runs"), (folder, "runs/*/fold*/result.json", "the folds")]
    places += [(Path(cache), "*/*.safetensors", "the features of the clips that were read")] if cache else []
    stop.keeps = lambda: next((what for place, pattern, what in places if any(place.glob(pattern))), "")


def load(name: str, overrides: list[str] | None, settings: list[str] | None) -> IntentRecipe:
    """Read a recipe by path or shipped name (``hazumi`` stands for ``intent/hazumi``) and apply overrides.

    Raises:
        FileNotFoundError: there is no such recipe.
        ValueError: it is not for intents, or its values do not fit.
    """
    from moiety.cli.recipes import shipped
    from moiety.intent.recipe import load_intent_recipe

    path = find_recipe(f"intent/{name}" if f"intent/{name}" in shipped() and not Path(name).is_file() else name)
    if not is_intent(path):
        raise ValueError(f"{path} is no recipe for intents (its data has no kind); give it to `moiety train`")
    return load_intent_recipe(path, [*(overrides or ()), *(settings or ())])


def show_tables(result: Any) -> None:
    """Show the tables of a comparison, or its plan as long as no run is finished."""
    from moiety.intent.compare.tables import (
        caption,
        contrast_table,
        cost_table,
        hidden_table,
        notes,
        plan_table,
        score_table,
    )

    drawn = {"plan": plan_table(result)}
    if result.runs:
        drawn = {
            "scores, %": score_table(result, narrow=True),
            "scores with a modality hidden, %": hidden_table(result),
            "contrasts": contrast_table(result),
            "cost": cost_table(result),
        }
    for title, (head, *lines) in drawn.items():
        if lines:
            show(table(title, head, lines))
    show(caption(result), *notes(result))


def of_clips(path: Path, cache: Path | None, on_error: str) -> dict[str, Any]:
    """Options for reading clips.

    Raises:
        ValueError: options are given, but `path` is a data folder, which holds no clips.
    """
    if path.is_dir():
        if cache is not None or on_error != "raise":
            raise ValueError(f"--cache and --on-error belong to clips, and {path} is a data folder; leave them out")
        return {}
    return {"cache": cache, "on_error": on_error, "on_progress": progress_line("clips")}
