"""Tokenizer and embedding table: every token needs a row of the table, otherwise training ends in an index error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoTokenizer

_SHOWN = 5


def check_vocabulary(tokenizer: Any, folder: str | Path, **options: Any) -> None:
    """Compare a tokenizer with the embedding table that the config beside it describes.

    A table with more rows than tokens is usual and sound. Without a config there is nothing to compare.

    Args:
        tokenizer: Of the processor in `folder`.
        folder: Hugging Face folder or id.
        options: Passed to ``AutoConfig.from_pretrained`` (``revision``, ``token``).

    Raises:
        ValueError: tokens have no row; names them and says how to resize.
    """
    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False, **options)
        num_rows = config.get_text_config().vocab_size
    except (
        OSError,
        ValueError,
        KeyError,
        AttributeError,
    ):  # the code that loads the model reports what is wrong with it
        return
    known = tokenizer.get_added_vocab() if tokenizer.vocab_size <= num_rows else tokenizer.get_vocab()
    beyond = sorted((number, token) for token, number in known.items() if number >= num_rows)
    if not beyond:
        return
    named = ", ".join(f"{token!r} ({number})" for number, token in beyond[:_SHOWN])
    raise ValueError(
        f"{len(beyond)} tokens of the tokenizer in {folder} have no row in the embedding table, which has {num_rows}: "
        f"{named}{', …' if len(beyond) > _SHOWN else ''}. Resize the table once and write it down: "
        f"model = moiety.load({str(folder)!r}); model.resize_token_embeddings({beyond[-1][0] + 1}); "
        f"model.save_pretrained({str(folder)!r})"
    )


def check_folder_vocabulary(folder: Path) -> None:
    """As :func:`check_vocabulary` for a folder whose processor is not wanted; one without a tokenizer passes.

    Raises:
        ValueError: tokens have no row.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError):
        return
    check_vocabulary(tokenizer, folder)
