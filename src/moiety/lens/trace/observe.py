"""Ask a model one question about one picture and keep every routing decision, prefill and decode apart."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from moiety.evaluate.decoding import keywords_of_generate
from moiety.groups import ExpertGroups, Modality
from moiety.moe.trace import Routing, RoutingTrace, recording
from moiety.vlm.data import prompt_batch
from moiety.vlm.images import as_rgb, open_picture
from moiety.vlm.model import groups_of, settings_of
from moiety.vlm.rows import IMAGE_MARK, Row, Turn

PICTURE = "picture"
PHASES = ("prefill", "decode")


@dataclass(frozen=True)
class Observation:
    """One question, its answer, and the routing of all their tokens.

    Args:
        scheme: Routing scheme of the model.
        groups: Its expert groups.
        question: The question.
        answer: The answer of the model, as text.
        words: Text of each of the ``seq`` prompt positions; empty for patches.
        is_image: True at prompt positions that hold a patch, ``(seq,)``.
        generated: Text of every answer token that the model read again; the last token of an answer never is.
        phases: Phase -> layer index -> one :class:`Routing` over all its tokens, on the CPU. The prefill holds ``seq``
            tokens; ``decode`` is empty if the answer has a single token.
        picture: The picture as the model saw it, resized and cropped; the given one if that cannot be shown.
        grid: Rows and columns of the patches; None if they do not form one square.
        note: Why there is no grid; empty if there is one.
    """

    scheme: str
    groups: ExpertGroups
    question: str
    answer: str
    words: list[str]
    is_image: np.ndarray
    generated: list[str]
    phases: dict[str, dict[int, Routing]]
    picture: Image.Image
    grid: tuple[int, int] | None
    note: str

    @property
    def layers(self) -> list[int]:
        """Indices of the sparse layers, ascending."""
        return sorted(self.phases["prefill"])


def observe(
    model: Any, processor: Any, image: Image.Image | str | Path, question: str, *, max_new_tokens: int = 32
) -> Observation:
    """Greedy answer of `model` to `question` about `image`, with the routing of every token.

    Raises:
        FileNotFoundError: there is no picture at the path.
        ValueError: the model is dense, the question is empty, or the file is no picture.
    """
    settings, groups = settings_of(model), groups_of(model)
    if settings is None or groups is None:
        raise ValueError(
            "this model is dense: it has no experts to look at; make it sparse first with `moiety upcycle`"
        )
    if not question.strip():
        raise ValueError("the question is empty; ask something about the picture")
    picture = as_rgb(image) if isinstance(image, Image.Image) else open_picture(image)
    row = Row(id="inspect", turns=(Turn("user", f"{IMAGE_MARK}\n{question}"),), images=(PICTURE,))
    batch = prompt_batch([row], processor, {PICTURE: picture})
    with recording() as trace:
        ids = generate(model, batch, max_new_tokens)
    seq = batch["input_ids"].shape[1]
    tokenizer = processor.tokenizer
    is_image = (batch["modality_ids"][0] == Modality.IMAGE).numpy()
    prompt = ["" if patch else word for patch, word in zip(is_image, pieces(tokenizer, ids[:seq]), strict=True)]
    phases = split(trace, seq)
    read_again = next(iter(phases["decode"].values())).index.shape[0] if phases["decode"] else 0
    seen = as_seen(processor, batch)
    grid, note = grid_of(int(is_image.sum()), seen is not None)
    return Observation(
        scheme=settings.scheme,
        groups=groups,
        question=question,
        answer=tokenizer.decode(ids[seq:], skip_special_tokens=True).strip(),
        words=prompt,
        is_image=is_image,
        generated=pieces(tokenizer, ids[seq : seq + read_again]),
        phases=phases,
        picture=seen or picture,
        grid=grid,
        note=note,
    )


def generate(model: Any, batch: Mapping[str, torch.Tensor], max_new_tokens: int) -> list[int]:
    """The token ids of one prompt and of its greedy answer.

    The model finds the modality ids itself, by the rule that it was trained with.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            made = model.generate(
                **keywords_of_generate(model, batch),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                use_cache=True,
            )
    finally:
        model.train(was_training)
    ids: list[int] = made[0].tolist()
    return ids


def split(trace: RoutingTrace, seq: int) -> dict[str, dict[int, Routing]]:
    """Separate the one prefill of each layer from its decode steps.

    Raises:
        RuntimeError: the first decision of a layer does not cover the prompt, so the two phases cannot be separated.
    """
    prefill, decode = {}, {}
    for layer, routings in trace.by_layer().items():
        first, *rest = (on_cpu(routing) for routing in routings)
        if first.index.shape[0] != seq:
            raise RuntimeError(
                f"layer {layer} read {first.index.shape[0]} tokens at first, the prompt has {seq}; "
                "prefill in chunks cannot be separated from decode"
            )
        prefill[layer] = first
        if rest:
            decode[layer] = joined(rest)
    return {"prefill": prefill, "decode": decode}


def on_cpu(routing: Routing) -> Routing:
    """The same decision, moved off the accelerator and out of the autograd graph."""
    return replace(
        routing,
        logits=routing.logits.detach().float().cpu(),
        index=routing.index.cpu(),
        weights=routing.weights.detach().float().cpu(),
        modality_group=routing.modality_group.cpu(),
        extras={name: value.detach().float().cpu() for name, value in routing.extras.items()},
    )


def joined(routings: list[Routing]) -> Routing:
    """One decision over the tokens of all given ones, in order."""

    def whole(of: Callable[[Routing], torch.Tensor]) -> torch.Tensor:
        return torch.cat([of(routing) for routing in routings])

    return Routing(
        logits=whole(lambda routing: routing.logits),
        index=whole(lambda routing: routing.index),
        weights=whole(lambda routing: routing.weights),
        modality_group=whole(lambda routing: routing.modality_group),
        extras={name: torch.cat([routing.extras[name] for routing in routings]) for name in routings[0].extras},
    )


def pieces(tokenizer: Any, ids: list[int]) -> list[str]:
    """The text of each token by itself."""
    return [tokenizer.decode([token]) for token in ids]


def as_seen(processor: Any, batch: Mapping[str, torch.Tensor]) -> Image.Image | None:
    """The picture that the vision tower got, without normalisation; None if it did not go in as one picture."""
    pixels = batch.get("pixel_values")
    if pixels is None or pixels.ndim != 4 or pixels.shape[0] != 1 or pixels.shape[1] != 3:
        return None
    values = pixels[0].float().cpu()
    reader = processor.image_processor
    mean, std = (getattr(reader, name, None) for name in ("image_mean", "image_std"))
    if getattr(reader, "do_normalize", True) and mean is not None and std is not None:
        values = values * torch.tensor(std).view(3, 1, 1) + torch.tensor(mean).view(3, 1, 1)
    array = (values.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return Image.fromarray(array)


def grid_of(num_patches: int, whole: bool) -> tuple[tuple[int, int] | None, str]:
    """Patch grid of a picture that went in as a whole, or None and the reason.

    Example:
        >>> grid_of(64, True)
        ((8, 8), '')
        >>> grid_of(65, True)
        (None, '65 image tokens do not form a square; they are drawn as a strip in reading order')
    """
    side = math.isqrt(num_patches)
    if not whole:
        return None, f"the model takes pictures in pieces; {num_patches} image tokens are drawn in reading order"
    if num_patches == 0 or side * side != num_patches:
        return None, f"{num_patches} image tokens do not form a square; they are drawn as a strip in reading order"
    return (side, side), ""
