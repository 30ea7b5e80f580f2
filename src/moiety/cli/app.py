"""``moiety demo-app``: a page to talk with a model about a picture, with live routing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from moiety.cli.door import say
from moiety.cli.look import DeviceOption, ModelFolder, load_both


def demo_app(
    model: ModelFolder,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0: every address of this machine.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(help="Port; 0: any that is free.")] = 7860,
    share: Annotated[
        bool, typer.Option("--share", help="Make the page public through gradio's server; off unless asked for.")
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer to begin with.")] = 64,
    device: DeviceOption = None,
) -> None:
    """Open a page: picture, question, answer, and beside it which expert read what."""
    from moiety.app.server import check_app, run_app

    chosen = check_app(host, port)
    loaded = load_both(model, device)

    def told(address: str, public: str | None) -> None:
        say(f"open {address} · Ctrl-C stops")
        if public is not None:
            say(f"everybody with this address can use it, for a week at most: {public}")

    name = Path(model).name or str(model)
    run_app(*loaded, name, host=host, port=chosen, share=share, max_new_tokens=max_new_tokens, on_start=told)
