"""``moiety intent``: train, ask, grade and compare classifiers of intents from text, audio and video."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moiety.cli import intent_labels
from moiety.cli.door import progress_line, say
from moiety.cli.options import AsJson, DryRun, RecipeName, numbers, set_option, split
from moiety.cli.recipes import find_recipe, is_intent
from moiety.cli.screen import show, show_json, table

if TYPE_CHECKING:
    from moiety.intent.compare.grading import Graded
    from moiety.intent.data.published import Split
    from moiety.intent.recipe import IntentRecipe

app = typer.Typer(
    no_args_is_help=True,
    help="Intents from text, audio and video: fit, predict, evaluate, compare, describe-labels, demo.",
)
app.command("describe-labels")(intent_labels.describe_labels)

ModelFolder = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder that `moiety intent fit` wrote.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Dotted overrides, for instance data.path=rows.jsonl model.hidden=64."
    ),
]
Seeds = Annotated[str | None, typer.Option(help="Comma-separated seeds, over the recipe's.")]
SetOption = Annotated[list[str] | None, set_option("model.hidden=64")]
DataSettings = Annotated[
    list[str] | None, set_option("data.target=ui_ternary", "data", where="For a data folder only.")
]
Cache = Annotated[Path | None, typer.Option(help="Folder that keeps features of clips.")]
OnError = Annotated[str, typer.Option(help="Clips that cannot be read: raise, skip, or mask (that modality alone).")]


@app.command("fit")
def fit(
    recipe: RecipeName,
    overrides: Overrides = None,
    settings: SetOption = None,
    seeds: Seeds = None,
    as_json: AsJson = False,
) -> None:
    """Train the recipe's model with each seed and keep every model; finished seeds are kept."""
    from moiety.intent.compare.run import run_intent_fit

    read = load(recipe, overrides, settings)
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
    methods: Annotated[str | None, typer.Option(help="Methods and variants with commas, over the recipe's.")] = None,
    seeds: Seeds = None,
    dry_run: DryRun = False,
) -> None:
    """Train and score methods and variants on the same rows; write table, pictures and report. Resumes."""
    from moiety.intent.compare.run import run_intent_compare

    read = load(recipe, overrides, settings)
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
    given: Annotated[Path, typer.Argument(metavar="INPUT", help="A clip, a rows file or a data folder.")],
    text: Annotated[str | None, typer.Option(help="What is said in the one clip.")] = None,
    part: Annotated[str | None, typer.Option("--split", help="Part of rows or folder; all by default.")] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Add which frames mattered, and when they were.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write JSON lines here instead of stdout.")] = None,
    settings: DataSettings = None,
    cache: Cache = None,
    on_error: OnError = "raise",
) -> None:
    """Say what the speaker wants in each clip or row: JSON lines with label, probability, top 3, oos score."""
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
    part: Annotated[str | None, typer.Option("--split", help="Default: test, else dev, else all rows.")] = None,
    hide: Annotated[str | None, typer.Option(help="Modalities taken away, with commas: audio,video.")] = None,
    masks: Annotated[bool, typer.Option("--masks", help="Grade every set of modalities left in.")] = False,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder for pictures and grades; default: its own for each model and data."
        ),
    ] = None,
    settings: DataSettings = None,
    cache: Cache = None,
    on_error: OnError = "raise",
    as_json: AsJson = False,
) -> None:
    """Grade a model: every measure, confusion matrix and embedding as pictures."""
    from moiety.intent.answers import samples_at
    from moiety.intent.classifier import IntentClassifier
    from moiety.intent.compare.grading import grade, subsets
    from moiety.intent.compare.pictures import draw_model
    from moiety.intent.data.samples import check_hidden
    from moiety.records.saving import check_writable

    hidden = tuple(split(hide) or ())
    if masks and hidden:
        raise ValueError("--hide and --masks exclude each other: --masks takes every set of modalities away in turn")
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
    """Make spoken clips, learn their intents and write a report: minutes on two cores."""
    from moiety.intent.demo.run import run_demo
    from moiety.records.saving import check_writable

    check_writable(output, is_folder=True)
    lines: dict[str, Callable[[int, int], None]] = {}

    def told(what: str, done: int, total: int) -> None:
        lines.setdefault(what, progress_line(what))(done, total)

    say(f"open {run_demo(output, on_progress=told)}")


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
    """The tables of a comparison, or its plan before any run is finished."""
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
            "modalities taken away when scored, %": hidden_table(result),
            "contrasts": contrast_table(result),
            "cost": cost_table(result),
        }
    for title, (head, *lines) in drawn.items():
        if lines:
            show(table(title, head, lines))
    show(caption(result), *notes(result))


def of_clips(path: Path, cache: Path | None, on_error: str) -> dict[str, Any]:
    """Options for reading clips; a data folder has none."""
    if path.is_dir():
        if cache is not None or on_error != "raise":
            raise ValueError(f"--cache and --on-error belong to clips, and {path} is a data folder")
        return {}
    return {"cache": cache, "on_error": on_error, "on_progress": progress_line("clips")}


def check_inputs(dims: Iterable[str], rows: Split, hidden: Sequence[str], data: Path) -> None:
    """Refuse a folder in which a modality of the model is absent altogether, unless that was asked for; rows: say it.

    Raises:
        ValueError: the grades would be those of another question; says which files would do.
    """
    from moiety.intent.data.published import FEATURES
    from moiety.intent.data.sources import has_input

    asked = [name for name in dims if name not in hidden]
    absent = [name for name in asked if not any(has_input(sample, (name,)) for sample in rows.samples)]
    if not absent or absent == asked:
        return
    files = [f"{name}: one of {', '.join(FEATURES[name])}" for name in absent if name in FEATURES]
    is_mintrec = (data / "in-scope").is_dir() or (data / "train.tsv").is_file()
    expected = f" (expected {'; '.join(files)})" if files and is_mintrec else ""
    told = f"no row of {data} has {' or '.join(absent)}, which the model reads{expected}"
    if data.is_dir():
        raise ValueError(f"{told}; add it, or grade without it: --hide {','.join([*hidden, *absent])}")
    say(f"{told}: these are grades without it")


def evaluation_folder(model: Path, data: Path, how: Sequence[str]) -> Path:
    """Where grades go unless a folder is named: the same for the same question, another for every other one.

    Args:
        model: Folder of the model; its name is often ``model``, so the folder above it stands in front.
        data: What it is asked about.
        how: Split, hidden modalities and settings.
    """
    import hashlib

    whole = model.resolve()
    asked = "\0".join([str(whole), str(data.resolve()), *how])
    name = "-".join([*whole.parts[-2:], data.resolve().stem]).strip("/")
    return Path("runs/intent/evaluate") / f"{name}-{hashlib.sha256(asked.encode()).hexdigest()[:8]}"


def default_split(data: Path, settings: Sequence[str] = ()) -> str | None:
    """The part that is graded where none is named."""
    from moiety.intent.data.rows import read_clip_rows
    from moiety.intent.data.sources import ROWS_FILES, read_source, source_at

    if data.suffix.lower() in ROWS_FILES:
        known = {row.split for row in read_clip_rows(data)}
    else:
        known = {name for name, rows in read_source(source_at(data, settings)).splits.items() if len(rows)}
    return next((name for name in ("test", "dev") if name in known), None)


def left_in(names: Sequence[str], hidden: Sequence[str]) -> str:
    """What a line of grades is called: the modalities that were left in."""
    return "+".join(name for name in names if name not in hidden)


def count_of(graded: Graded) -> dict[str, float]:
    """How many rows stand behind grades."""
    return {"rows": len(graded.truth), "rows_without_input": graded.without_input}


def grade_table(title: str, trees: dict[str, dict[str, float]]) -> Any:
    """One set of modalities a line, every measure a column, in percent."""
    measures = list(dict.fromkeys(name for tree in trees.values() for name in tree))
    counts = ("rows", "rows_without_input")
    lines = [
        [name, *(tree.get(key) if key in counts or key not in tree else f"{100 * tree[key]:.2f}" for key in measures)]
        for name, tree in trees.items()
    ]
    return table(title, ["modalities", *(f"#{name.replace('_', ' ')}" for name in measures)], lines)


def write_grades(folder: Path, trees: dict[str, dict[str, float]]) -> None:
    """``grades.json`` beside the pictures."""
    import json

    from moiety.records.saving import write_atomically

    write_atomically(folder / "grades.json", json.dumps(trees, indent=1) + "\n")
    say(f"wrote {folder / 'grades.json'}")
