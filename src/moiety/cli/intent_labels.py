"""``moiety intent describe-labels``: write a table that says what each label means, or check one that exists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from moiety.cli.door import CheckFailed, keeps_files, say
from moiety.cli.options import set_option
from moiety.cli.screen import show

Labels = Annotated[
    Path,
    typer.Argument(metavar="LABELS", help="A .txt file with one label on each line, a rows file, or a data folder."),
]
Out = Annotated[Path | None, typer.Option(help="JSON file for the table.")]
Provider = Annotated[
    str,
    typer.Option(
        help="Who writes: file (a table that exists), hf (a local model), or openai (a server with that protocol)."
    ),
]
Source = Annotated[str, typer.Option(help="For file: a JSON or YAML table; auto: a shipped one.")]
ModelName = Annotated[
    str | None, typer.Option(help="For hf: Hugging Face id or folder; for openai: the model's name at the server.")
]
BaseUrl = Annotated[
    str | None,
    typer.Option("--base-url", help="For openai: address of the server, for instance http://localhost:8000/v1."),
]
KeyVariable = Annotated[str | None, typer.Option(help="For openai: the environment variable that holds the key.")]
Domain = Annotated[str, typer.Option(help="For a model: where the utterances come from, in a few words.")]
Number = Annotated[int, typer.Option("--n", min=1, help="For a model: number of descriptions of each label.")]
TextField = Annotated[str, typer.Option(help="For file: the field that holds the text, for instance description_ja.")]
Cache = Annotated[Path | None, typer.Option(help="For a model: folder that keeps its replies.")]
Check = Annotated[
    bool,
    typer.Option(
        "--check",
        help="Write nothing; list the labels that --source does not describe. Exit code 1 if there are any.",
    ),
]
DataSettings = Annotated[
    list[str] | None, set_option("data.target=ui_ternary", "data", where="For a data folder only.")
]


def describe_labels(
    labels: Labels,
    out: Out = None,
    provider: Provider = "file",
    source: Source = "auto",
    model: ModelName = None,
    base_url: BaseUrl = None,
    key_variable: KeyVariable = None,
    domain: Domain = "",
    number: Number = 3,
    field: TextField = "description",
    cache: Cache = None,
    check: Check = False,
    settings: DataSettings = None,
) -> None:
    """Describe what each label means, from a file or by a language model.

    The table is used for semantic synchronisation: model.label_descriptions=FILE in a recipe.
    """
    from moiety.intent.labels.providers import check_table, write_table
    from moiety.intent.labels.providers import describe_labels as describe

    names = labels_at(labels, settings)
    if check:
        found = check_table(table_of(source, names), names, field)
        for line in found.lines():
            typer.echo(line)
        show(f"{len(names)} labels, {len(found.missing)} without description")
        if not found.complete:
            raise CheckFailed
        return
    place = file_for(out)
    if cache is not None:
        keeps_files(cache, {"*.json": "the replies of the model"})
    written = describe(
        names,
        provider=provider,
        domain=domain,
        num=number,
        model=model,
        base_url=base_url,
        key_variable=key_variable,
        source=source,
        field=field,
        cache=cache,
        on_progress=lambda done, total, label: say(f"{done + 1}/{total} {label}"),
    )
    say(f"wrote {len(written['labels'])} descriptions to {write_table(written, place)}")


def file_for(out: Path | None) -> Path:
    """The file to write. Whether it can be written is tried before a model is asked.

    Raises:
        ValueError: none is given.
        OSError: it cannot be written.
    """
    from moiety.records.saving import check_writable

    if out is None:
        raise ValueError("give --out FILE for the table, or --check to compare only")
    check_writable(out)
    return out


def labels_at(path: Path, settings: list[str] | None) -> list[str]:
    """The labels that a path names, sorted, each once.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no label.
    """
    from moiety.intent.data.rows import read_clip_rows
    from moiety.intent.data.sources import ROWS_FILES, read_source, source_at
    from moiety.records.text_files import read_text

    if not path.exists():
        raise FileNotFoundError(
            f"no labels at {path}; give a text file with one label on each line, a rows file, or a data folder"
        )
    if path.is_dir():
        data = read_source(source_at(path, settings or ()))
        found = [label for split in data.splits.values() for label in split.labels]
    elif path.suffix.lower() in ROWS_FILES:
        found = [row.label for row in read_clip_rows(path) if row.label is not None]
    else:
        found = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not found:
        raise ValueError(f"{path} holds no label; write one label on each line")
    return sorted(set(found))


def table_of(source: str, names: list[str]) -> Any:
    """The table that `--check` compares with the labels: a path, or the shipped one that describes most of them."""
    from moiety.intent.labels.descriptions import shipped_tables

    if source != "auto":
        return source
    best = max(shipped_tables().values(), key=lambda known: len(set(known) & set(names)))
    return {label: list(entry.descriptions) for label, entry in best.items()}
