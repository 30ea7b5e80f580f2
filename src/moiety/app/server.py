"""Starts the page on this machine and serves it until somebody stops the process."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moiety.app.examples import write_examples
from moiety.serve.hosts import Hosts


def check_app(host: str, port: int) -> int:
    """Check gradio and the port before the model is loaded.

    Args:
        host: Address to listen at.
        port: Port to listen at; 0 takes any free one.

    Returns:
        The port.

    Raises:
        ImportError: gradio is not installed.
        ValueError: the address does not belong to this machine, or the port is in use.
    """
    if importlib.util.find_spec("gradio") is None:
        raise ImportError('the app needs gradio, which is not installed: pip install "moiety[app]"')
    if not 0 <= port <= 65535:
        raise ValueError(f"--port {port}: expected 1 to 65535, or 0 for any free port")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            raise ValueError(
                f"cannot listen at {host}, port {port} ({error.strerror or error}); choose another --port, or --host "
                "127.0.0.1 for this machine alone and 0.0.0.0 for its network"
            ) from error
        chosen: int = trial.getsockname()[1]
    return chosen


def run_app(
    model: Any,
    processor: Any,
    name: str,
    *,
    host: str,
    port: int,
    share: bool,
    max_new_tokens: int,
    names: Iterable[str] = (),
    on_start: Callable[[str, str | None], object],
) -> None:
    """Serve the page until the process is told to stop, then delete the pictures that people uploaded.

    Nothing outside this machine is contacted, unless `share` asks for a public address.

    Args:
        model: Sparse or dense.
        processor: Its processor.
        name: Name of the model on the page.
        host: Address to listen at.
        port: See :func:`check_app`.
        share: Whether gradio opens a tunnel through its own server, which makes the page public.
        max_new_tokens: Longest answer in tokens, until somebody moves the slider.
        names: Further host names that the page answers to, beside `host` and those of the loopback.
        on_start: Called once the page can be opened, with its address and the public address or None.

    Raises:
        KeyboardInterrupt: somebody stopped it, with Ctrl-C or a termination signal.
    """
    with tempfile.TemporaryDirectory(prefix="moiety-app-") as folder:
        os.environ.update(GRADIO_ANALYTICS_ENABLED="False", GRADIO_TEMP_DIR=folder)  # read when gradio is imported
        from moiety.app.page import Page, launch

        page = Page(model, processor, name, write_examples(Path(folder)), max_new_tokens, Path(folder))
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # a terminated app also deletes its files
        blocks, address, public = launch(page, Hosts(host, names), host=host, port=port, share=share)
        try:
            on_start(address, public)
            threading.Event().wait()
        finally:
            page.turns.end()
            blocks.server.force_exit = True  # uvicorn would wait for pages that are still open
            blocks.close(verbose=False)


def leave_within(seconds: float, status: int) -> None:
    """End this process after `seconds`, even if a thread still computes or reads.

    Args:
        seconds: Time to tidy up.
        status: Exit status.
    """
    last = threading.Timer(seconds, os._exit, [status])
    last.daemon = True
    last.start()
