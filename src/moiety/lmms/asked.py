"""Turns the questions of a task of lmms-eval into rows and settings, and answers them, without lmms-eval itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image
from transformers import GenerationConfig

from moiety.evaluate.decoding import keywords_of_generate
from moiety.evaluate.run import answer_rows, evaluating
from moiety.vlm.data import prompt_batch
from moiety.vlm.images import as_rgb, decode, open_picture
from moiety.vlm.rows import IMAGE_MARK, Row, parse_row

WITHOUT_MEANING = ("image_aspect_ratio",)
"""Settings that are ignored: they are meant for one family of models, and ours prepare pictures in their own way."""


@dataclass(frozen=True)
class Asked:
    """Generation settings of a task. Questions with equal settings are answered in one batch.

    Args:
        max_new_tokens: Longest answer in tokens.
        until: Texts that end an answer and do not belong to it.
        seed: Seed of sampled answers; None: the random numbers go on from their present state.
        options: Further fields of transformers' ``GenerationConfig``; empty: plain greedy decoding.
    """

    max_new_tokens: int
    until: tuple[str, ...] = ()
    seed: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def read_settings(given: Mapping[str, Any], max_new_tokens: int) -> Asked:
    """Read the ``generation_kwargs`` of a task. Decoding is greedy unless the task asks for something else.

    Args:
        given: As in the task; null values count as absent.
        max_new_tokens: Longest answer where the task names no length.

    Raises:
        ValueError: a setting is unknown and would be ignored, or a value has the wrong type.

    Example:
        >>> read_settings({"max_new_tokens": 16, "temperature": 0, "top_p": 1.0, "num_beams": 1, "until": ["."]}, 512)
        Asked(max_new_tokens=16, until=('.',), seed=None, options={})
        >>> read_settings({"temperature": 0.7}, 512).options
        {'do_sample': True, 'temperature': 0.7}
    """
    left: dict[str, Any] = {
        name: value for name, value in given.items() if value is not None and name not in WITHOUT_MEANING
    }
    length = left.pop("max_new_tokens", left.pop("max_gen_toks", max_new_tokens))
    if type(length) is not int or length < 1:
        raise ValueError(f"generation_kwargs: max_new_tokens must be a whole number from 1 on, got {length!r}")
    until = left.pop("until", ())
    until = [until] if isinstance(until, str) else until
    if not all(isinstance(text, str) for text in until):
        raise ValueError(f"generation_kwargs: until must be texts, got {until!r}")
    seed, temperature = left.pop("seed", None), float(left.pop("temperature", 0.0))
    if left.pop("do_sample", temperature > 0) and temperature > 0:
        left |= {"do_sample": True, "temperature": temperature}
    else:
        left = {name: value for name, value in left.items() if name not in ("top_p", "top_k")}
    if left.get("num_beams") == 1:
        del left["num_beams"]
    known = vars(GenerationConfig())
    for name in left:
        if name not in known or name.startswith("_"):
            raise ValueError(
                f"generation_kwargs: {name!r} is unknown to this model, and ignoring it would change what is "
                "scored; known: max_new_tokens, until, seed and the fields of transformers' GenerationConfig"
            )
    return Asked(length, tuple(text for text in until if text), seed, left)


def read_messages(messages: Sequence[Mapping[str, Any]], name: str) -> tuple[Row, dict[str, Image.Image]]:
    """Turn the messages of a task into one row and its pictures.

    Args:
        messages: Roles with parts of type text or image (``url``: a picture, its bytes, or a file on this machine).
        name: The id of the row.

    Raises:
        ValueError: a part is neither text nor picture, a text contains an image mark, or the structure is unknown.
        FileNotFoundError: a picture file does not exist.
    """
    pictures: dict[str, Image.Image] = {}
    spoken = []
    for message in messages:
        parts: list[dict[str, str]] = []
        content = message["content"]
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            if part["type"] == "image":
                parts.append({"type": "image", "image": f"{name}/{len(pictures)}"})
                pictures[f"{name}/{len(pictures)}"] = _picture(part["url"])
            elif part["type"] == "text" and IMAGE_MARK in part["text"]:
                raise ValueError(
                    f"row {name!r}: a text holds {IMAGE_MARK}, the mark of a picture: {part['text']!r:.80}"
                )
            elif part["type"] == "text":
                parts.append({"type": "text", "text": part["text"]})
            else:
                raise ValueError(f"row {name!r}: a part of type {part['type']!r}; moiety reads text and image")
        spoken.append({"role": message["role"], "content": parts})
    return parse_row({"id": name, "messages": spoken}), pictures


def answers(
    model: Any, processor: Any, rows: Sequence[Row], pictures: Mapping[str, Image.Image], asked: Asked, batch_size: int
) -> list[str]:
    """Answers in the order of `rows`. Plain greedy ones are made by :func:`moiety.evaluate.run.answer_rows`."""
    images = dict(pictures)
    if not asked.options:
        said = answer_rows(model, processor, rows, images, batch_size=batch_size, max_new_tokens=asked.max_new_tokens)
        return [_cut(said[row.id], asked.until) for row in rows]
    if asked.seed is not None:
        torch.manual_seed(asked.seed)
    texts: list[str] = []
    with evaluating(model), torch.inference_mode():
        for start in range(0, len(rows), batch_size):
            batch = prompt_batch(rows[start : start + batch_size], processor, images)
            made = model.generate(
                **keywords_of_generate(model, batch),
                **{"do_sample": False, **asked.options},
                max_new_tokens=asked.max_new_tokens,
            )
            texts += processor.batch_decode(made[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
    return [_cut(text.strip(), asked.until) for text in texts]


def _cut(text: str, until: Sequence[str]) -> str:
    """`text` up to the first of `until`."""
    return text[: min((text.find(stop) for stop in until if stop in text), default=len(text))].strip()


def _picture(given: Any) -> Image.Image:
    if isinstance(given, Image.Image):
        return as_rgb(given)
    if isinstance(given, bytes):
        return decode(given, "of a task")
    return open_picture(given)
