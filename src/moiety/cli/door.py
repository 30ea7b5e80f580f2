"""What all verbs share: the options of every verb, readable error texts, and the exit codes.

Exit codes: 0 done · 1 a check found problems, or moiety itself has an error (shown with its traceback) · 2 the user
gave something that cannot be used (one block of text, no traceback) · 130 stopped with Ctrl-C · 141 the program that
reads our output has stopped reading (no message, as other Unix tools).
"""

from __future__ import annotations

import itertools
import logging
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from moiety.cli.letters import write_what_can_be_shown
from moiety.cli.pipes import ends_with_its_reader, output_is_closed

STOPPED = 130
NARROW = 80
"""Columns of a terminal below which help is printed without boxes."""
# An error with its last frame in one of these packages was raised on purpose, with a text for the user.
SPEAKING_PACKAGES = {"moiety", "pydantic"}


class CheckFailed(Exception):
    """A check ran to its end and found problems. They have been printed already."""


class Door(TyperGroup):
    """The root of all verbs: turns errors into one readable block and an exit code."""

    def main(self, *args: Any, **more: Any) -> Any:
        """Run the command as typer does; with any encoding of the terminal, and silently if a pipe is closed."""
        write_what_can_be_shown()
        if shutil.get_terminal_size().columns < NARROW:
            help_without_boxes(self)
        with ends_with_its_reader():
            return super().main(*args, **more)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Accept the options of every verb (``--debug``, ``--quiet``, ``--plugin``) behind the verb as well."""
        own, rest = options_of_every_verb(args)
        return super().parse_args(ctx, [*own, *rest])

    def invoke(self, ctx: Any) -> Any:
        """Run a verb.

        Raises:
            typer.Exit: with one of the exit codes at the top of this file.
        """
        stop.begin()
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stopped:
            say(farewell(ctx.invoked_subcommand, stop.kept()))
            raise typer.Exit(STOPPED) from stopped
        except CheckFailed as failed:
            raise typer.Exit(1) from failed
        except Exception as error:
            if isinstance(error, BrokenPipeError) and output_is_closed():
                raise
            if ctx.params.get("debug") or not is_for_the_user(error):
                raise
            say(error_block(error))
            raise typer.Exit(2) from error


def help_without_boxes(command: Any) -> None:
    """Make a command, and all commands below it, print help and usage errors as plain text.

    In a narrow terminal the boxes of typer cut the names of options and keys; the plain layout wraps between words.
    The list of commands shows the whole first paragraph of each command.
    """
    command.rich_markup_mode = None
    for below in getattr(command, "commands", {}).values():
        below.short_help = below.short_help or " ".join((below.help or "").split("\n\n")[0].split())
        help_without_boxes(below)


def options_of_every_verb(args: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split words into the options of every verb and the rest. Words after ``--`` are not touched.

    Example:
        >>> options_of_every_verb(["train", "recipe.yaml", "--plugin", "nearest", "--quiet"])
        (['--plugin', 'nearest', '--quiet'], ['train', 'recipe.yaml'])
    """
    own: list[str] = []
    rest: list[str] = []
    words = iter(args)
    for word in words:
        if word == "--":
            rest += [word, *words]
        elif word == "--plugin":
            own += [word, *itertools.islice(words, 1)]
        elif word in ("--debug", "--quiet") or word.startswith("--plugin="):
            own.append(word)
        else:
            rest.append(word)
    return own, rest


def is_for_the_user(error: Exception) -> bool:
    """Whether the text of `error` was written for the user: the system raised it for a file, or moiety raised it."""
    if isinstance(error, OSError):
        return True
    if not isinstance(error, ValueError | TypeError | KeyError | IndexError | RuntimeError | ImportError):
        return False
    frames = list(traceback.walk_tb(error.__traceback__))
    return bool(frames) and frames[-1][0].f_globals.get("__name__", "").split(".")[0] in SPEAKING_PACKAGES


def error_block(error: Exception) -> str:
    """The text of `error` for the user. A KeyError loses its quotes; other texts stay as they are."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return f"error: {text or type(error).__name__}"


def farewell(verb: str | None, kept: str | None = None) -> str:
    """The last line after Ctrl-C: how the user can continue.

    Args:
        verb: The verb that was stopped.
        kept: What is on the disk to continue from, as the verb told :data:`stop`. Empty: nothing yet. None: this verb
            never keeps anything.
    """
    if kept:
        return f"stopped; give the same `moiety {verb}` command again to go on from {kept}"
    return (
        "stopped" if kept is None else f"stopped; nothing was kept yet: the same `moiety {verb}` command begins again"
    )


class Stop:
    """Remembers that Ctrl-C was pressed, and what the stopped verb has kept on the disk.

    A library can swallow the exception of Ctrl-C in the middle of an import or of a callback. Code that reports
    progress therefore calls :meth:`check`, which raises the exception again.
    """

    def __init__(self) -> None:
        self.asked = False
        self.keeps: Callable[[], str | None] = lambda: None

    def begin(self) -> None:
        """Reset the state when a verb begins. If the process ignores Ctrl-C, it goes on ignoring it."""
        self.asked, self.keeps = False, lambda: None
        heard = signal.getsignal(signal.SIGINT) in (signal.default_int_handler, self._note)
        if heard and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._note)

    def check(self) -> None:
        """End the work if Ctrl-C was pressed and its exception was swallowed.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed.
        """
        if self.asked:
            raise KeyboardInterrupt

    def kept(self) -> str | None:
        """What is on the disk to continue from."""
        return self.keeps()

    def _note(self, number: int, frame: Any) -> None:
        self.asked = True
        signal.default_int_handler(number, frame)


stop = Stop()


def keeps_files(folder: Path, kinds: Mapping[str, str]) -> None:
    """Tell :data:`stop` which files the running verb keeps.

    Args:
        folder: Folder that the verb writes to.
        kinds: Pattern of files in the folder -> description of what they hold. The first pattern with a file is named.
    """
    stop.keeps = lambda: next((what for pattern, what in kinds.items() if any(folder.glob(pattern))), "")


def say(text: str) -> None:
    """Print one message for the user on stderr; stdout is for results."""
    typer.echo(text, err=True)


class Speaker(logging.Handler):
    """Prints the log messages of the library."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        say(self.format(record))


def progress_line(what: str) -> Callable[[int, int], None]:
    """A function of (done, total) that shows progress on stderr: one changing line; in a file, ten lines."""
    last = -1

    def update(done: int, total: int) -> None:
        nonlocal last
        stop.check()
        terminal = sys.stderr.isatty()
        place = (200 if terminal else 10) * done // max(1, total)
        if place == last or (done < total and place == 0 and not terminal):
            return
        last = place
        line = f"{what} {done:,}/{total:,}"
        sys.stderr.write(f"\r{line}" + "\n" * (done == total) if terminal else f"{line}\n")
        sys.stderr.flush()

    return update


def calm_libraries() -> None:
    """Switch off the progress bars for reading and writing weights; they would hide the messages of a verb."""
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def _begin(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of every error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress messages on stderr.")] = False,
    plugin: Annotated[
        list[str] | None,
        typer.Option("--plugin", metavar="MODULE", help="Import a module that brings routers or experts; may repeat."),
    ] = None,
) -> None:
    """Sparse vision-language models whose router knows which tokens are picture and which are text."""
    logger = logging.getLogger("moiety")
    logger.handlers[:] = [Speaker()]
    logger.setLevel(logging.WARNING if quiet else logging.INFO)
    for module in plugin or ():
        from moiety.moe.plugins import use_plugin

        use_plugin(module)


def new_app() -> typer.Typer:
    """The empty root application."""
    app = typer.Typer(
        cls=Door,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_begin)
    return app
