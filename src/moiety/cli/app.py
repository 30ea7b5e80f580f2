"""``moiety demo-app``: a page to talk with a model about a picture, with live routing."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from moiety.cli.door import STOPPED, say
from moiety.cli.look import DeviceOption, ModelFolder, load_both
from moiety.cli.options import ProcessorOption

SECONDS_TO_END = 5
"""After Ctrl-C or a termination signal, once the page is closed and its pictures are deleted."""


def demo_app(
    model: ModelFolder,
    host: Annotated[
        str, typer.Option(help="Address to listen at; 0.0.0.0 stands for every address of this machine.")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(help="Port to listen at; 0 takes any port that is free.")] = 7860,
    share: Annotated[bool, typer.Option("--share", help="Make the page public through a server of gradio.")] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further host name under which browsers reach the page; may be repeated.")
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(metavar="N", min=1, help="Longest answer, in tokens; it can be changed in the page.")
    ] = 64,
    device: DeviceOption = None,
    processor: ProcessorOption = None,
) -> None:
    """Open a page to talk with a model about a picture; the page shows which expert read which token."""
    from moiety.app.server import check_app, leave_within, run_app

    chosen = check_app(host, port)
    loaded = load_both(model, device, processor=processor)

    def told(address: str, public: str | None) -> None:
        say(f"open {address} · Ctrl-C stops")
        if public is not None:
            say(f"everybody with this address can use it, for a week at most: {public}")

    name = Path(model).name or str(model)
    words: dict[str, Any] = {"host": host, "port": chosen, "share": share, "max_new_tokens": max_new_tokens}
    try:
        run_app(*loaded, name, **words, names=allow_host or (), on_start=told)
    except KeyboardInterrupt:
        leave_within(SECONDS_TO_END, STOPPED)
        raise
