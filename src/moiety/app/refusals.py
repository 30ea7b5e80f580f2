"""Requests that gradio cannot read: one line for the operator, no traceback, and a short text for the visitor."""

from __future__ import annotations

import logging
from typing import Any

from moiety.app.received import NotGiven

logger = logging.getLogger(__name__)

UNREADABLE = "this request does not fit the page; reload the page and try again"
LONGEST_LINE = 200


def refuse_in_one_line(blocks: Any) -> None:
    """Let `blocks` refuse inputs that cannot be read with one log line; errors of our own functions keep theirs.

    gradio reads the inputs of a request before it calls any function of the page, and prints a traceback where they do
    not fit. Its error texts can name paths of this machine, so a visitor gets :data:`UNREADABLE` instead.

    Args:
        blocks: The gradio blocks of a page; the method with which they read inputs is wrapped.
    """
    import gradio as gr

    read = blocks.preprocess_data

    async def preprocess_data(*given: Any, **named: Any) -> Any:
        try:
            return await read(*given, **named)
        except Exception as error:
            said = " ".join(f"{type(error).__name__}: {getattr(error, 'message', error)}".split())
            logger.warning("a request was refused (%s)", said[:LONGEST_LINE])
            text = str(error) if isinstance(error, NotGiven) else UNREADABLE
            raise gr.Error(text, print_exception=False) from error

    blocks.preprocess_data = preprocess_data
