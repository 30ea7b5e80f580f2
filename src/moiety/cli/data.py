"""``moiety data``: check and count rows before a model learns from them, and make worlds of data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moiety.cli import worlds
from moiety.cli.door import CheckFailed, progress_line, say
from moiety.cli.options import AsJson, ProcessorOption, output_file, set_option
from moiety.cli.recipes import load
from moiety.cli.screen import show, show_json, table

if TYPE_CHECKING:
    from moiety.groups import ExpertGroups
    from moiety.recipe.recipe import MoESettings, Recipe, StageSettings
    from moiety.train.memory import StageMemory
    from moiety.vlm.check import DataReport
    from moiety.vlm.data import Encoder
    from moiety.vlm.skips import Skips

app = typer.Typer(
    no_args_is_help=True,
    help="Check and count the rows of conversation files, open questions, and make worlds of data.",
)
app.add_typer(worlds.app, name="make")
BARS = 12
CONVERSATIONS = (".json", ".jsonl", ".ndjson", ".parquet")

What = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE|FILE", help="A recipe (file or name), or one conversation file (.json, .jsonl, .parquet)."
    ),
]
ImagesOption = Annotated[
    list[str] | None, typer.Option("--images", help="Folder or .tar of pictures. For a FILE only.")
]
ModelOption = Annotated[
    str | None, typer.Option("--model", help="Model whose processor reads the rows. For a FILE only.")
]
LengthOption = Annotated[int, typer.Option(help="Longest row, in tokens. For a FILE only.")]
SetOption = Annotated[list[str] | None, set_option("data.max_length=1024", where="For a RECIPE only.")]


@dataclass(frozen=True)
class Reading:
    """Files that are read together, and how they are read: one stage of a recipe, its questions, or one file."""

    name: str
    files: list[Path]
    encoder: Encoder
    merge_turns: bool = False
    seed: int | None = None
    groups: ExpertGroups | None = None
    skip: Skips | None = None
    stages: tuple[StageSettings, ...] = ()
    recipe: Recipe | None = None

    def report(self) -> DataReport:
        """Check every row."""
        from moiety.vlm.check import check_files
        from moiety.vlm.skips import NO_SKIPS

        return check_files(
            self.files,
            self.encoder,
            merge_turns=self.merge_turns,
            seed=self.seed,
            groups=self.groups,
            skip=self.skip or NO_SKIPS,
            on_progress=progress_line(f"{self.name}: rows"),
        )


@app.command("check")
def check(
    what: What,
    images: ImagesOption = None,
    model: ModelOption = None,
    processor: ProcessorOption = None,
    max_length: LengthOption = 2048,
    settings: SetOption = None,
    fix_list: Annotated[
        Path | None,
        typer.Option(help="Write the bad rows to this file: file, line, fingerprint.", callback=output_file),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show one row as the model reads it, then every bad row with its line. The exit code is 1 if a row is bad."""
    from moiety.train.memory import memory_table
    from moiety.vlm.check import describe_sample
    from moiety.vlm.problems import num_bad
    from moiety.vlm.skips import write_skips

    reports = [
        (reading, reading.report()) for reading in readings(what, images, model, max_length, settings, processor)
    ]
    needs = memory_needed(reports)
    problems = list(dict.fromkeys(problem for _, report in reports for problem in report.problems))
    notes = list(dict.fromkeys(note for _, report in reports for note in report.notes))
    if fix_list is not None:
        say(f"wrote {write_skips(fix_list, problems)} rows to {fix_list}; data.skip of a recipe leaves them out")
    if as_json:
        rows = {reading.name: numbers_of(report) for reading, report in reports}
        memory = {name: asdict(found) | {"total": found.total} for name, found in needs.items()}
        show_json({"rows": rows, "problems": [asdict(found) for found in problems], "notes": notes, "memory": memory})
    else:
        shown = next(((reading, report.good[0]) for reading, report in reports if report.good), None)
        if shown is not None:
            show(describe_sample(shown[1], shown[0].encoder), "")
        show(overview(reports))
        if needs:
            show("", memory_table(needs))
        for line in (*(f"note: {note}" for note in notes), *map(str, problems)):
            typer.echo(line)
        show(f"{len(problems)} problems in {num_bad(problems)} rows" if problems else "no problems")
    if problems:
        raise CheckFailed


@app.command("stats")
def stats(
    what: What,
    images: ImagesOption = None,
    model: ModelOption = None,
    processor: ProcessorOption = None,
    max_length: LengthOption = 2048,
    settings: SetOption = None,
    as_json: AsJson = False,
) -> None:
    """Count rows, types of question and tokens, and draw the lengths of the rows. Bad rows are counted separately."""
    reports = [
        (reading, reading.report()) for reading in readings(what, images, model, max_length, settings, processor)
    ]
    if as_json:
        show_json({reading.name: numbers_of(report) for reading, report in reports})
        return
    show(overview(reports))
    for reading, report in reports:
        show("", table(f"{reading.name}: kinds", ("type", "#rows"), sorted(report.types.items())))
        if report.lengths:
            show("", *histogram(f"{reading.name}: tokens of a row", report.lengths))


@app.command("open")
def open_questions(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Conversation file (.json, .jsonl, .parquet).")],
    target: Annotated[
        Path, typer.Argument(metavar="NEW", help="File to write the open questions to (.jsonl).", callback=output_file)
    ],
    instruction: Annotated[
        str, typer.Option(help="Last line of each new question.")
    ] = "Answer with one word or a short phrase.",
) -> None:
    """Write multiple-choice questions without their options to a new file; answers become words. FILE stays."""
    from moiety.evaluate.opening import open_choices

    made = open_choices(source, target, instruction)
    say(f"wrote {target}: {made.num_opened} questions without their options, {made.num_kept} rows as they were")


def overview(reports: Sequence[tuple[Reading, DataReport]]) -> Any:
    """One line for each reading."""
    columns = ("what", "#rows", "#bad", "#longest", "#mean length", "#trained tokens", "tokens by modality")
    rows = []
    for reading, report in reports:
        found = numbers_of(report)
        tokens = ", ".join(f"{name} {count:,}" for name, count in found["tokens"].items())
        rows.append(
            [reading.name, *(found[key] for key in ("rows", "bad", "longest", "mean_length", "trained_tokens")), tokens]
        )
    return table("rows", columns, rows)


def numbers_of(report: DataReport) -> dict[str, Any]:
    """The numbers of a report as plain data."""
    from moiety.vlm.problems import num_bad

    lengths = report.lengths
    return {
        "rows": report.num_rows,
        "bad": num_bad(report.problems),
        "longest": max(lengths, default=0),
        "mean_length": round(sum(lengths) / len(lengths), 1) if lengths else 0.0,
        "trained_tokens": sum(report.num_trained),
        "tokens": report.tokens,
        "types": report.types,
    }


def histogram(title: str, lengths: Sequence[int]) -> list[str]:
    """Lines of a bar chart of `lengths`, at most :data:`BARS` bars.

    Example:
        >>> for line in histogram("tokens of a row", [3, 3, 4]):
        ...     print(line.strip())
        tokens of a row
        3-3   ████████████████████████████████████████ 2
        4-4   ████████████████████ 1
    """
    low, high = min(lengths), max(lengths)
    step = max(1, -(-(high - low + 1) // BARS))
    counts = [0] * ((high - low) // step + 1)
    for length in lengths:
        counts[(length - low) // step] += 1
    lines = [title]
    for place, count in enumerate(counts):
        first = low + place * step
        lines.append(f"{first:>6}-{first + step - 1:<3} {'█' * round(40 * count / max(counts))} {count}")
    return lines


def readings(
    what: str,
    images: list[str] | None,
    model: str | None,
    max_length: int,
    settings: list[str] | None,
    processor: str | None = None,
) -> list[Reading]:
    """The files that `what` names: one conversation file, or everything that a recipe reads.

    Raises:
        ValueError: an option was given that has no effect on such an input.
    """
    from moiety.vlm.data import Encoder
    from moiety.vlm.images import Images

    path = Path(what)
    if path.suffix in CONVERSATIONS:
        if settings:
            raise ValueError(f"--set {settings[0]} changes a key of a recipe, and {path} is a conversation file")
        encoder = Encoder(processor_for(path, model, processor), Images(images or [path.parent]), max_length)
        return [Reading(path.name, [path], encoder)]
    if processor is not None:
        raise ValueError(f"--processor is for a FILE; a recipe names it: --set model.processor={processor}")
    return recipe_readings(load(what, settings))


def recipe_readings(recipe: Recipe) -> list[Reading]:
    """Every stage of a recipe and its questions."""
    from moiety.moe.routers import resolve
    from moiety.vlm.data import Encoder
    from moiety.vlm.images import Images
    from moiety.vlm.skips import skips_of

    root, data = Path(recipe.data.root), recipe.data
    encoder = Encoder(
        recipe_processor(recipe), Images([root / name for name in data.images]), data.max_length, data.labels
    )
    together: dict[tuple[tuple[str, ...], bool], list[StageSettings]] = {}
    for stage in recipe.stages:  # stages that read the same files in the same way are read once
        merge = data.merge_turns if stage.merge_turns is None else stage.merge_turns
        together.setdefault((tuple(stage.data), merge), []).append(stage)
    found = []
    skip = skips_of(data)
    for (names, merge), stages in together.items():
        sparse = any(stage.sparse for stage in stages) and recipe.moe.scheme != "dense"
        title = f"stage{'s' * (len(stages) > 1)} {', '.join(stage.name for stage in stages)}"
        groups = resolve(recipe.moe)[1] if sparse else None
        files = [root / name for name in names]
        found.append(Reading(title, files, encoder, merge, recipe.seed, groups, skip, tuple(stages), recipe))
    if recipe.evaluate.data:
        found.append(Reading("evaluate", [root / name for name in recipe.evaluate.data], encoder))
    return found


def memory_needed(reports: Sequence[tuple[Reading, DataReport]]) -> dict[str, StageMemory]:
    """Stage -> what it needs in memory for a batch of its longest good rows. A single file has no stages."""
    from moiety.train.memory import memory_of
    from moiety.train.plan import dtype_of, encoder_of

    found = {}
    for reading, report in reports:
        longest = sorted(zip(report.lengths, range(len(report.good)), strict=True), reverse=True)
        for stage in reading.stages:
            assert reading.recipe is not None
            encoder = encoder_of(reading.recipe, reading.encoder.processor)
            rows = [report.good[place] for _, place in longest[: stage.train.per_device_train_batch_size]]
            config, moe = config_of_recipe(reading.recipe)
            batch = [encoder.encode(row) for row in rows]
            dtype = dtype_of(reading.recipe)
            found[stage.name] = memory_of(
                config, moe if stage.sparse else None, stage, batch, encoder.pad_token_id, dtype
            )
    return found


def config_of_recipe(recipe: Recipe) -> tuple[Any, MoESettings | None]:
    """The config of the model that a recipe starts from, and the settings it is to be made sparse with."""
    from moiety.vlm.loading import local_folder
    from moiety.vlm.model import config_of
    from moiety.vlm.scratch import scratch_model

    moe = None if recipe.moe.scheme == "dense" else recipe.moe
    if recipe.model.source is not None:
        return config_of(local_folder(recipe.model.source, recipe.model.revision)), moe
    assert recipe.model.scratch is not None
    return scratch_model(recipe.model.scratch, recipe_processor(recipe), recipe.seed).config, moe


def recipe_processor(recipe: Recipe) -> Any:
    """The processor that a recipe trains with. For a model from nothing, it is made again from the same texts."""
    from moiety.train.start import texts_of
    from moiety.vlm.scratch import scratch_processor
    from moiety.vlm.templates import load_processor

    model = recipe.model
    if model.source is not None:
        options: dict[str, Any] = {} if model.revision is None else {"revision": model.revision}
        options |= {"marks": recipe.data.labels == "assistant", "processor": model.processor}
        return load_processor(model.source, model.template, **options)
    assert model.scratch is not None
    return scratch_processor(model.scratch, texts_of(recipe), model.template or "plain")


def processor_for(path: Path, model: str | None, processor: str | None = None) -> Any:
    """The processor of `model` or of a folder of its own, or a small one made from the texts of the file."""
    from moiety.recipe.recipe import ScratchSettings
    from moiety.vlm.rows import read_rows
    from moiety.vlm.scratch import scratch_processor
    from moiety.vlm.templates import load_processor

    if model is not None:
        return load_processor(model, processor=processor)
    if processor is not None:
        raise ValueError(f"--processor {processor} reads rows for a model; give that as well: --model FOLDER")
    say("without --model, rows are read with a small tokenizer made from this file; your model will give other lengths")
    texts = [turn.text for row in read_rows([path])[0] for turn in row.turns]
    return scratch_processor(ScratchSettings(), texts, "plain")
