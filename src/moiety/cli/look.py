"""``moiety ground`` and ``chat``: look at one picture, or at many questions, with a model."""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moiety.cli.door import calm_libraries, progress_line, say
from moiety.cli.options import AsJson, ProcessorOption, output_folder
from moiety.cli.screen import show, show_json

if TYPE_CHECKING:
    from moiety.vlm.images import Images
    from moiety.vlm.rows import Row

ModelFolder = Annotated[str, typer.Argument(metavar="MODEL", help="Model folder or Hugging Face id.")]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:1; default: a GPU where there is one, else the CPU.")
]
ImagesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--images",
        help="Folder or .tar of pictures; default: the folder of the rows. May be repeated: all are searched.",
    ),
]


def load_both(
    folder: str, device: str | None, dtype: str | None = None, processor: str | None = None
) -> tuple[Any, Any]:
    """Model and processor of a folder, or of two; the template needs no training marks here."""
    from moiety.devices import device_named
    from moiety.vlm.model import load
    from moiety.vlm.templates import load_processor

    calm_libraries()
    chosen = device_named(device)
    return load(folder, dtype, device=chosen).eval(), load_processor(folder, marks=False, processor=processor)


def pictures_of(rows: Sequence[Row], data: Sequence[Path], images: Sequence[str] | None) -> Images:
    """Where the pictures of `rows` are: the given places, or beside the rows; checked before a model is loaded.

    Raises:
        FileNotFoundError: a place does not exist, or a picture is in none of them.
    """
    from moiety.vlm.images import Images

    places = list(images or dict.fromkeys(str(path.parent) for path in data))
    found = Images(places)
    for row in rows:
        for name in row.images:
            if isinstance(name, str) and name not in found:
                where = ", ".join(places[:3])
                given = f"not in --images {where}" if images else f"not beside the rows, in {where}"
                raise FileNotFoundError(
                    f"picture {name[-40:]!r} of row {row.id[:40]!r} is {given}; give --images FOLDER_OR_TAR, several "
                    "are searched; names in rows are paths inside it"
                )
    return found


def ground(
    model: ModelFolder,
    data: Annotated[
        list[Path], typer.Argument(metavar="DATA...", help="Conversation files whose rows hold the right answers.")
    ],
    images: ImagesOption = None,
    limit: Annotated[int | None, typer.Option(metavar="N", min=1, help="Read the first N rows only.")] = None,
    reference: Annotated[
        str | None, typer.Option(help="A second model, whose attention is subtracted from that of MODEL.")
    ] = None,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for the page, picture and numbers.", callback=output_folder),
    ] = Path("ground"),
    device: DeviceOption = None,
    processor: ProcessorOption = None,
    as_json: AsJson = False,
) -> None:
    """Measure, layer by layer, whether a model answers from the pictures and the given text, or from memory."""
    from moiety.lens.ground.metrics import ground as read_rows_of
    from moiety.lens.ground.report import write_ground_report
    from moiety.vlm.rows import load_rows

    rows = load_rows(data)[:limit]
    found = pictures_of(rows, data, images)
    numbers = [
        read_rows_of(
            *load_both(name, device, processor=processor), rows, found, progress=progress_line(f"{role}: questions")
        )
        for role, name in (("model", model), ("reference", reference))
        if name is not None
    ]
    report = write_ground_report(numbers[0], output, model, numbers[-1] if reference else None, reference)
    if as_json:
        show_json(dataclasses.asdict(report))
        return
    show(report.table())
    say(f"open {report.page}")


def chat(
    model: ModelFolder,
    image: Annotated[Path | None, typer.Option(help="Picture that the first question is about.")] = None,
    max_new_tokens: Annotated[int, typer.Option(metavar="N", min=1, help="Longest answer, in tokens.")] = 128,
    device: DeviceOption = None,
    processor: ProcessorOption = None,
) -> None:
    """Talk with a model about pictures, in a terminal or through a pipe."""
    from moiety.chat import HELP, Conversation, run_chat
    from moiety.vlm.images import open_picture

    first = None if image is None else open_picture(image)  # before the model: a wrong path should not cost its loading
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")  # a stray byte in a pipe costs one letter, not the conversation
    conversation = Conversation(*load_both(model, device, processor=processor), max_new_tokens=max_new_tokens)
    if first is not None:
        conversation.add_image(first)
    say(HELP)
    run_chat(conversation, prompt="> " if sys.stdin.isatty() else "")
