"""What happens when the program that reads our output stops reading, as ``head`` does after its lines."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from collections.abc import Iterator

CLOSED = 128 + 13
"""Exit code that a shell reports for a program that was ended by SIGPIPE (signal 13)."""


@contextlib.contextmanager
def ends_with_its_reader() -> Iterator[None]:
    """End quietly, with the exit code of other Unix tools, when the reader of stdout or stderr has gone.

    The signal itself stays ignored, as Python sets it: a server must not end when one of its clients goes away.

    Raises:
        SystemExit: with :data:`CLOSED`; no message is written, because nobody would read it.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # a short output reaches the pipe only here
    except BrokenPipeError:
        if not output_is_closed():
            raise
    except SystemExit as end:
        if not isinstance(end.__context__, BrokenPipeError):  # rich and click leave this way when a pipe is closed
            raise
    else:
        return
    _write_nowhere()
    raise SystemExit(CLOSED)


def output_is_closed() -> bool:
    """Whether the reader of stdout or stderr has gone."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()  # what could not be written may still be in the buffer, and then it fails again
            number = stream.fileno()
        except BrokenPipeError:
            return True
        except (OSError, ValueError):  # a test or a notebook put something there that is no file
            continue
        if hasattr(select, "poll"):  # a long text may be lost from the buffer: then only the system knows
            poll = select.poll()
            poll.register(number, 0)
            if any(event & select.POLLERR for _, event in poll.poll(0)):
                return True
    return False


def _write_nowhere() -> None:
    """Let both streams write to the null device, so that the flush at the end of the process finds no closed pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in (1, 2):
        os.dup2(nowhere, number)
    os.close(nowhere)
