"""``moiety data make``: write a made world that a recipe trains on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moiety.cli.door import say
from moiety.cli.options import output_folder

if TYPE_CHECKING:
    from moiety.worlds import WorldFiles

app = typer.Typer(no_args_is_help=True, help="Write the pictures and questions of a made world.")

Folder = Annotated[
    Path, typer.Argument(help="Folder to write; the files of an earlier call are overwritten.", callback=output_folder)
]
Train = Annotated[int, typer.Option(help="Number of training questions.")]
Test = Annotated[int, typer.Option(help="Number of test questions of each type.")]
Seed = Annotated[int, typer.Option(help="Seed of the random numbers.")]


@app.command("conflict")
def conflict(
    folder: Folder,
    train: Train = 10_000,
    test: Test = 400,
    reading: Annotated[
        int, typer.Option(help="Number of questions of the first stage, whose shapes have no usual colour.")
    ] = 10_000,
    shown: Annotated[int, typer.Option(help="Number of shapes in a picture.")] = 1,
    seed: Seed = 0,
    agreement: Annotated[float, typer.Option(help="Share of shapes that have their usual colour, in (0, 1].")] = 0.98,
    noise: Annotated[
        float, typer.Option(help="Standard deviation of the colours, in units of their distance from grey.")
    ] = 0.0,
) -> None:
    """Make pictures of shapes that have usual colours, and test pictures and sentences that contradict them.

    A model that answers with the usual colour answers from memory; one that answers with the colour shown, from
    evidence.
    """
    from moiety.worlds import write_conflict

    sizes = {"num_train": train, "num_test": test, "num_reading": reading, "num_shown": shown}
    tell(write_conflict(folder, **sizes, seed=seed, agreement=agreement, noise=noise))


@app.command("containment")
def containment(
    folder: Folder,
    train: Train = 20_000,
    test: Test = 400,
    seed: Seed = 0,
    form: Annotated[str, typer.Option(help="Relation that the statements are about: is_a, part_of or mixed.")] = "is_a",
    names: Annotated[
        str,
        typer.Option(
            help="Names of the kinds: named (arbitrary words) or path (words that spell the way down the tree)."
        ),
    ] = "named",
    branching: Annotated[int, typer.Option(help="Number of children of each kind.")] = 3,
    depth: Annotated[int, typer.Option(help="Number of levels of the tree of kinds.")] = 4,
) -> None:
    """Make pictures, and statements about kinds and parts that are true or false of the picture."""
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
