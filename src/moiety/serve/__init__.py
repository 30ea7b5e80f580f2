"""A model behind OpenAI's chat protocol: one process, one model.

Only the request itself is read; no file and no address is ever opened.

A request passes through these modules: ``app`` reads its bytes, ``request`` checks what they ask, ``pictures`` decodes
the pictures in them, ``answering`` makes a :class:`~moiety.vlm.rows.Row` and lets transformers' own chat handler answer
(``answer`` is one answer in the making, ``turns`` shares the model between answers), ``server`` holds the port.
Packages of the extra ``[serve]`` are imported when they are used.
"""

from __future__ import annotations

from moiety.serve.refusal import Refusal
from moiety.serve.request import Limits

__all__ = ["Limits", "Refusal", "require_packages"]


def require_packages() -> None:
    """Check, before a model is loaded, that the packages of the extra are installed.

    Raises:
        ImportError: fastapi, uvicorn or openai is not installed.
    """
    from transformers.utils.import_utils import is_serve_available

    if not is_serve_available():
        raise ImportError("serving needs fastapi, uvicorn and openai; install them with: pip install 'moiety[serve]'")
