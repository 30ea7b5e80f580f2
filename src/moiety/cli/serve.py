"""``moiety serve``: a model behind OpenAI's chat protocol."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from moiety.cli.door import say
from moiety.cli.look import DeviceOption, ModelFolder, load_both
from moiety.cli.options import ProcessorOption


def serve(
    model: ModelFolder,
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Port to listen at; 0 takes any port that is free.")
    ] = 8000,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(help="A further host name under which clients reach the server; may be repeated."),
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the model in the protocol; default: the name of its folder.")
    ] = None,
    device: DeviceOption = None,
    processor: ProcessorOption = None,
    max_new_tokens: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Longest answer, in tokens; also the length where a request names none."),
    ] = 512,
    max_images: Annotated[int, typer.Option(metavar="N", min=0, help="Most pictures in one request.")] = 16,
    max_body_mb: Annotated[
        int, typer.Option(metavar="N", min=1, help="Largest request in MiB, pictures included.")
    ] = 32,
    key_variable: Annotated[
        str | None, typer.Option(help="Name of the environment variable that holds the key which clients must send.")
    ] = None,
) -> None:
    """Let programs talk with one model, in OpenAI's chat protocol. No file and no address in a request is opened."""
    from moiety.serve import Limits, require_packages

    require_packages()
    from moiety.serve.hosts import Hosts
    from moiety.serve.server import Server, address_of, is_open_to_others, open_port

    key = _key(key_variable)
    with open_port(host, port) as bound:
        from moiety.serve.answering import ChatHandler

        limits = Limits(max_new_tokens=max_new_tokens, max_images=max_images, max_body_bytes=max_body_mb * 2**20)
        handler = ChatHandler(
            *load_both(model, device, processor=processor), name or Path(model).resolve().name, limits
        )

        def ready() -> None:
            say(f"{handler.name} answers at {address_of(bound)}/v1 (OpenAI's chat protocol); stop with Ctrl-C")
            say(f"try: curl {address_of(bound)}/v1/models")
            if is_open_to_others(bound):
                say(f"warning: other machines can reach {host}; {_danger(key)}")

        Server(handler, bound, key, ready, Hosts(host, allow_host or ())).run()


def _key(variable: str | None) -> str | None:
    """The key in an environment variable, never one on the command line, where every user of a machine can read it.

    Raises:
        ValueError: the variable is empty or not set.
    """
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"--key-variable {variable}: the environment holds no such variable, or an empty one")
    return key


def _danger(key: str | None) -> str:
    ask = "whoever sends the key may ask" if key else "anybody there may ask, because no --key-variable was given"
    return f"{ask}, and nothing is encrypted"
