"""A model behind OpenAI's chat protocol: one process, one model, nothing read but what a request brings.

The way of a request: ``app`` reads its bytes, ``request`` says what they may ask, ``pictures`` decodes what they bring,
``answering`` makes a :class:`~moiety.vlm.rows.Row` of them and lets transformers' own chat handler answer, ``server``
holds the port. What needs the extra ``[serve]`` is imported when it is used.
"""

from __future__ import annotations

from moiety.serve.refusal import Refusal
from moiety.serve.request import Limits

__all__ = ["Limits", "Refusal", "require_packages"]


def require_packages() -> None:
    """Say what is missing before a model is loaded.

    Raises:
        ImportError: fastapi, uvicorn or openai is not installed.
    """
    from transformers.utils.import_utils import is_serve_available

    if not is_serve_available():
        raise ImportError("serving needs fastapi, uvicorn and openai; install them with: pip install 'moiety[serve]'")
