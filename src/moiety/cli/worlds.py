"""``moiety data make``: write a made world that a recipe trains on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moiety.cli.door import say

if TYPE_CHECKING:
    from moiety.worlds import WorldFiles

app = typer.Typer(no_args_is_help=True, help="Write the pictures and questions of a made world.")

Folder = Annotated[Path, typer.Argument(help="Where the files go; files of an earlier call are overwritten.")]
Train = Annotated[int, typer.Option(help="Training questions.")]
Test = Annotated[int, typer.Option(help="Test questions of each type.")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is drawn.")]


@app.command("conflict")
def conflict(
    folder: Folder,
    train: Train = 10_000,
    test: Test = 400,
    reading: Annotated[int, typer.Option(help="Questions of the first lesson, without usual colours.")] = 10_000,
    shown: Annotated[int, typer.Option(help="Shapes in a picture.")] = 1,
    seed: Seed = 0,
    agreement: Annotated[float, typer.Option(help="Share of shapes that have their usual colour, in (0, 1].")] = 0.98,
    noise: Annotated[float, typer.Option(help="Spread of the colours, in units of their distance from grey.")] = 0.0,
) -> None:
    """Shapes with usual colours, and pictures and sentences that say otherwise: memory against evidence."""
    from moiety.worlds import write_conflict

    sizes = {"num_train": train, "num_test": test, "num_reading": reading, "num_shown": shown}
    tell(write_conflict(folder, **sizes, seed=seed, agreement=agreement, noise=noise))


@app.command("containment")
def containment(
    folder: Folder,
    train: Train = 20_000,
    test: Test = 400,
    seed: Seed = 0,
    form: Annotated[str, typer.Option(help="is_a, part_of or mixed.")] = "is_a",
    names: Annotated[str, typer.Option(help="Words of kinds: named (arbitrary) or path.")] = "named",
    branching: Annotated[int, typer.Option(help="Children of each kind.")] = 3,
    depth: Annotated[int, typer.Option(help="Levels of the tree of kinds.")] = 4,
) -> None:
    """Statements about kinds, parts, or parts by kind: do they hold of the picture?"""
    from moiety.worlds import write_containment

    tell(
        write_containment(
            folder,
            form=form,  # type: ignore[arg-type]  # any text is refused there with what is known
            names=names,  # type: ignore[arg-type]
            num_train=train,
            num_test=test,
            branching=branching,
            depth=depth,
            seed=seed,
        )
    )


def tell(files: WorldFiles) -> None:
    """What was written and how large it is."""
    for path in (*files.conversations.values(), *files.images):
        say(f"{path}  {path.stat().st_size / 2**20:.1f} MiB")
