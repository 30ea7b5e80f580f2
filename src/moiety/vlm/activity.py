r"""How much each inner unit of a dense FFN says, so that narrower experts keep the units that matter.

An expert that is narrower than the dense FFN has to leave units out. Unit *i* adds
:math:`h_i W^{down}_{:,i}` to the output, with :math:`h_i = act(w^{gate}_i x)\,(w^{up}_i x)`. What it adds on average is
:math:`\sqrt{E[h_i^2]}\,\lVert W^{down}_{:,i}\rVert`. The first factor is measured here on a batch. The norms of the
weights alone are a bad guide in a trained model: SmolLM2-135M with experts of half the width has a text loss of 7.0 if
units are chosen by norms, of 3.9 by activity, and of 3.4 as the dense model (docs/results.md).

Source:
    Sun et al. 2023, "A simple and effective pruning approach for large language models" (Wanda), eq. 1, here for whole
    columns of the down projection.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from moiety.groups import Modality
from moiety.recipe.recipe import MoESettings
from moiety.vlm.configs import dense_ffn, from_outside, resolved, settings_of
from moiety.vlm.decoders import base_of, text_decoder
from moiety.vlm.positions import forget_offsets
from moiety.vlm.receipt import random_embeddings

_ROWS, _LENGTH = 24, 64


def wants_activity(config: Any, settings: MoESettings) -> bool:
    """Whether upcycling leaves units out of a model that somebody trained.

    Models that moiety built from nothing keep the rule of their published tables, which looks at weights alone.

    Args:
        config: Of the dense model.
        settings: What it becomes.
    """
    if settings.scheme == "dense" or not from_outside(config):
        return False
    found = resolved(settings, config)
    own, ffn = found.asymoe, dense_ffn(config)
    widths = [found.expert_ffn]
    if own is not None:
        widths = [own.residual_ffn if own.has_residual else own.inter_ffn, own.vision_ffn, own.evidence_dim]
    return any(width is not None and width < ffn for width in widths)


@torch.no_grad()
def unit_activity(model: Any, batch: Mapping[str, Tensor] | None = None) -> dict[int, Tensor]:
    """Root mean square of what each inner unit of each dense FFN hands to the down projection.

    Args:
        model: A dense model in eval mode.
        batch: Keywords of one forward; None: :func:`random_batch`. Padding is left out.

    Returns:
        Decoder layer -> ``(ffn,)``, float32.
    """
    batch = random_batch(model) if batch is None else batch
    if settings_of(model) is None:
        batch = {name: value for name, value in batch.items() if name not in ("modality_ids", "evidence_mask")}
    kept = batch["attention_mask"].bool() if "attention_mask" in batch else None
    found: dict[int, Tensor] = {}

    def hook(layer: int) -> Any:
        def measure(_: Any, args: tuple[Tensor, ...]) -> None:
            inner = args[0]
            rows = inner[kept] if kept is not None and kept.shape == inner.shape[:-1] else inner.flatten(0, -2)
            found[layer] = rows.float().square().mean(0).sqrt()

        return measure

    layers: Any = text_decoder(base_of(model)).layers
    handles = [layer.mlp.down_proj.register_forward_pre_hook(hook(place)) for place, layer in enumerate(layers)]
    try:
        forget_offsets(base_of(model))
        model(**batch, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return found


def random_batch(model: Any) -> dict[str, Tensor]:
    """Random tokens, and random vectors of their size in the place of pictures. It needs no data and no processor.

    Returns:
        ``inputs_embeds (24, 64, hidden)``, ``attention_mask`` and ``modality_ids (24, 64)``; every second row begins
        with 32 picture tokens.
    """
    modality = torch.full((_ROWS, _LENGTH), int(Modality.TEXT))
    modality[::2, : _LENGTH // 2] = int(Modality.IMAGE)
    embeds = random_embeddings(model, modality, seed=2311)
    return {
        "inputs_embeds": embeds,
        "attention_mask": torch.ones_like(modality).to(embeds.device),
        "modality_ids": modality.to(embeds.device),
    }
