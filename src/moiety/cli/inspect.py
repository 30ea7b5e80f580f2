"""``moiety inspect``: one question with a model, or the saved trace of a whole run; two of them side by side."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from moiety.cli.door import say
from moiety.cli.look import DeviceOption, load_both
from moiety.cli.options import AsJson, ProcessorOption, output_folder, split
from moiety.cli.screen import show, show_json

TWO_FORMS = (
    "give MODEL IMAGE QUESTION, with --beside MODEL2 to compare; or --trace FILE alone, with --beside FILE2 to compare"
)


def inspect(
    model: Annotated[str | None, typer.Argument(metavar="MODEL", help="Model folder or Hugging Face id.")] = None,
    image: Annotated[Path | None, typer.Argument(metavar="IMAGE", help="A picture.")] = None,
    question: Annotated[str | None, typer.Argument(metavar="QUESTION", help="What to ask about it.")] = None,
    trace: Annotated[
        Path | None,
        typer.Option(
            help="In place of MODEL IMAGE QUESTION: the routing of a run that `moiety evaluate --trace` saved."
        ),
    ] = None,
    beside: Annotated[
        str | None, typer.Option(help="A second model to compare; with --trace, a second trace file.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="With --trace, the ids of the questions to show, with commas.")
    ] = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for the page, pictures and numbers.", callback=output_folder),
    ] = Path("inspect"),
    kind: Annotated[
        str, typer.Option("--format", help="Format of the static pictures: png; pdf or svg are written beside the png.")
    ] = "png",
    dpi: Annotated[int, typer.Option(help="Resolution of the PNG files, in dots per inch.")] = 130,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Longest answer, in tokens.")] = 32,
    device: DeviceOption = None,
    processor: ProcessorOption = None,
    as_json: AsJson = False,
) -> None:
    """Draw which expert read which token, for one question or for a whole run that was traced.

    The tokens of the prompt (prefill) and of the answer (decode) are drawn apart. Give MODEL IMAGE QUESTION, or
    --trace FILE.
    """
    if trace is None and model is not None and image is not None and question is not None and only is None:
        with _exporting(kind, dpi):
            ask(model, image, question, beside, output, max_new_tokens, device, as_json, processor)
    elif trace is not None and model is None:
        with _exporting(kind, dpi):
            open_traces([trace, *([Path(beside)] if beside else [])], only, output, as_json)
    else:
        raise ValueError(TWO_FORMS + ("" if only is None or trace is not None else "; --only is for traces"))


def _exporting(kind: str, dpi: int) -> AbstractContextManager[None]:
    from moiety.lens.draw.figure import Export, exporting

    return exporting(Export(kind, dpi))


def ask(
    model: str,
    image: Path,
    question: str,
    beside: str | None,
    output: Path,
    max_new_tokens: int,
    device: str | None,
    as_json: bool,
    processor: str | None = None,
) -> None:
    """Ask one question, of two models where there is a second one, and draw who read what."""
    from moiety.lens import inspect_beside, inspect_image
    from moiety.vlm.images import open_picture

    picture = open_picture(image)  # before the model: a wrong path should not cost the time to load one
    if beside is not None:
        check_sparse(beside)
    report = inspect_image(
        *load_both(model, device, processor=processor), picture, question, output, max_new_tokens=max_new_tokens
    )
    reports = [report]
    if beside is not None:
        other, reader = load_both(beside, device, processor=processor)
        reports.append(inspect_beside(report, other, reader, picture, max_new_tokens=max_new_tokens))
    if as_json:
        found = [dataclasses.asdict(one) for one in reports]
        show_json(found if len(found) > 1 else found[0])
        return
    show(f"question: {report.question}")
    for one in reports:
        show(f"answer:   {one.answer}", one.table())
    say(f"open {report.page}")


def check_sparse(model: str) -> None:
    """Refuse a dense second model before the first one is asked; only its config is read.

    Raises:
        ValueError: it is dense.
    """
    from moiety.vlm.model import config_of

    if (getattr(config_of(model), "moe", None) or {"scheme": "dense"})["scheme"] == "dense":
        raise ValueError(f"--beside {model} is dense: it has no experts to look at; give a sparse model")


def open_traces(paths: Sequence[Path], only: str | None, output: Path, as_json: bool) -> None:
    """Draw one saved trace, or two side by side; no model is read."""
    from moiety.lens import inspect_traces, read_trace
    from moiety.lens.numbers import rows_table, summary_rows

    traces = [read_trace(path) for path in paths]
    page, *charts = inspect_traces(traces, output, split(only))
    rows = [summary_rows(trace.numbers(), trace.groups) for trace in traces]
    if as_json:
        told = [
            {"model": one.model, "scheme": one.describe(), "questions": one.num_questions, "rows": own}
            for one, own in zip(traces, rows, strict=True)
        ]
        show_json({"page": page, "charts": charts, "traces": told})
        return
    for one, own in zip(traces, rows, strict=True):
        show(rows_table(f"{one.describe()}, {one.num_questions:,} questions", own, one.model))
    say(f"open {page}")
