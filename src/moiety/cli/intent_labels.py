"""``moiety intent describe-labels``: write what each label means, or check a table that exists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from moiety.cli.door import CheckFailed, say
from moiety.cli.options import set_option
from moiety.cli.screen import show

DataSettings = Annotated[
    list[str] | None, set_option("data.target=ui_ternary", "data", where="For a data folder only.")
]


def describe_labels(
    labels: Annotated[
        Path, typer.Argument(metavar="LABELS", help="One label a line (.txt), a rows file, or a data folder.")
    ],
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    provider: Annotated[str, typer.Option(help="file, hf (local model) or openai (compatible server).")] = "file",
    source: Annotated[str, typer.Option(help="file: a JSON or YAML table; auto: the shipped one.")] = "auto",
    model: Annotated[str | None, typer.Option(help="hf: id or folder; openai: name at the server.")] = None,
    base_url: Annotated[str | None, typer.Option("--base-url", help="openai: where the server is.")] = None,
    key_variable: Annotated[str | None, typer.Option(help="openai: environment variable that holds the key.")] = None,
    domain: Annotated[str, typer.Option(help="Where the utterances come from, in a few words.")] = "",
    number: Annotated[int, typer.Option("--n", min=1, help="Descriptions of each label.")] = 3,
    field: Annotated[
        str, typer.Option(help="file: field that holds the text, for instance description_ja.")
    ] = "description",
    cache: Annotated[Path | None, typer.Option(help="Folder of earlier replies.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Only compare --source with the labels; exit code 1 if one lacks.")
    ] = False,
    settings: DataSettings = None,
) -> None:
    """Describe labels in sentences, from a file or by a language model, for semantic synchronisation."""
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
    """The file to write, tried before a model is asked.

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
    """Labels that a path stands for, in order, each once.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds no label.
    """
    from moiety.intent.data.rows import read_clip_rows
    from moiety.intent.data.sources import ROWS_FILES, read_source, source_at
    from moiety.records.text_files import read_text

    if not path.exists():
        raise FileNotFoundError(f"no labels at {path}; give a text file with one label a line, rows, or a data folder")
    if path.is_dir():
        data = read_source(source_at(path, settings or ()))
        found = [label for split in data.splits.values() for label in split.labels]
    elif path.suffix.lower() in ROWS_FILES:
        found = [row.label for row in read_clip_rows(path) if row.label is not None]
    else:
        found = [line.strip() for line in read_text(path).splitlines() if line.strip()]
    if not found:
        raise ValueError(f"{path} holds no label")
    return sorted(set(found))


def table_of(source: str, names: list[str]) -> Any:
    """What `--check` compares: a path, or the shipped table that knows most of the labels."""
    from moiety.intent.labels.descriptions import shipped_tables

    if source != "auto":
        return source
    best = max(shipped_tables().values(), key=lambda known: len(set(known) & set(names)))
    return {label: list(entry.descriptions) for label, entry in best.items()}
