"""The parity receipt: the logits of a dense model beside those of the model that was made of it, on a fixed batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from moiety.groups import Modality
from moiety.vlm.configs import settings_of
from moiety.vlm.decoders import base_of, token_embeddings
from moiety.vlm.positions import forget_offsets

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
"""Largest difference of logits, relative to the largest dense logit, that a receipt accepts."""


@dataclass(frozen=True)
class ParityReceipt:
    """The difference between the logits of an upcycled model and those of its dense model.

    Args:
        max_difference: Largest absolute difference of logits.
        relative_difference: `max_difference` divided by the largest absolute dense logit.
        tolerance: Largest relative difference that is accepted.
        dtype: Type of the weights.
        batch: Description of the inputs that were compared.
        promised: Whether upcycling promises equality. If false, the tolerance was not enforced.
    """

    max_difference: float
    relative_difference: float
    tolerance: float
    dtype: str
    batch: str
    promised: bool = True

    def __str__(self) -> str:
        accepted = f"accepted: {self.tolerance:.0e}" if self.promised else "not enforced"
        return (
            f"parity receipt: logits differ from the dense model's by {self.max_difference:.2e} at most, "
            f"{self.relative_difference:.2e} relative ({accepted}, {self.dtype}; {self.batch})"
            + ("" if self.promised else "; such experts do not start as the dense model")
        )


class ParityError(RuntimeError):
    """The upcycled model does not compute the same logits as the dense model."""


def probe_batch(model: Any) -> dict[str, Tensor]:
    """A fixed batch of embeddings, which needs no processor. Its rows are mixed, text only, image only, left-padded.

    Upcycling does not change tower and projector, so random vectors of the size of embeddings replace picture features.

    Returns:
        ``inputs_embeds (4, 24, hidden)``, ``attention_mask``, ``modality_ids`` and ``evidence_mask (4, 24)``.
    """
    batch, seq = 4, 24
    modality = torch.full((batch, seq), int(Modality.TEXT))
    modality[0, 4:14] = modality[2, :] = modality[3, 10:18] = int(Modality.IMAGE)
    mask = torch.ones(batch, seq, dtype=torch.long)
    mask[3, :5] = 0
    embeds = random_embeddings(model, modality, seed=20250)
    return {
        "inputs_embeds": embeds,
        "attention_mask": mask.to(embeds.device),
        "modality_ids": modality.to(embeds.device),
        "evidence_mask": mask.bool().to(embeds.device),
    }


def random_embeddings(model: Any, modality_ids: Tensor, seed: int) -> Tensor:
    """Embeddings of random tokens, and random vectors of their size in the place of pictures.

    Args:
        model: The model whose table is read.
        modality_ids: ``(batch, seq)``.
        seed: Of tokens and vectors.

    Returns:
        ``(batch, seq, hidden)``, on the device and in the type of the table.
    """
    table = token_embeddings(model)
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, table.weight.shape[0], modality_ids.shape, generator=generator)
    embeds = table(tokens.to(table.weight.device)).detach()
    pictures = torch.randn(embeds.shape, generator=generator).to(embeds) * embeds.float().std().to(embeds.dtype)
    return torch.where((modality_ids == int(Modality.IMAGE)).to(embeds.device)[..., None], pictures, embeds)


@torch.no_grad()
def logits_of(model: Any, probe: dict[str, Tensor]) -> Tensor:
    """Logits at the positions of the probe that are not padding, ``(positions, vocab)``."""
    if settings_of(model) is None:
        probe = {name: value for name, value in probe.items() if name in ("inputs_embeds", "attention_mask")}
    forget_offsets(base_of(model))
    logits = model(**probe, use_cache=False).logits
    return logits[probe["attention_mask"].bool()].float()


@torch.no_grad()
def own_rounding(model: Any, probe: dict[str, Tensor], logits: Tensor) -> float:
    """How far rounding alone moves the logits of a model in half precision; 0 in float32 and float64.

    The embeddings of the probe are moved by half an epsilon, up or down at random. The result is the largest move of a
    logit, relative to the largest logit. A trained model with large hidden values rounds coarsely: SmolLM2-135M, with
    values of 22,516, moves by 0.068 in bfloat16, and its logits differ by 0.10 from those in float32.

    Args:
        model: The dense model.
        probe: Of :func:`probe_batch`.
        logits: Of `model` on `probe`.
    """
    embeds = probe["inputs_embeds"]
    if embeds.dtype not in (torch.bfloat16, torch.float16):
        return 0.0
    signs = torch.randint(0, 2, embeds.shape, generator=torch.Generator().manual_seed(0)).to(embeds.device) * 2 - 1
    moved = (embeds.float() * (1 + signs * torch.finfo(embeds.dtype).eps / 2)).to(embeds.dtype)
    found = logits_of(model, {**probe, "inputs_embeds": moved})
    return float((found - logits).abs().max() / logits.abs().max())


def compare_logits(dense: Tensor, sparse: Tensor, dtype: torch.dtype, rounding: float = 0.0) -> ParityReceipt:
    """The receipt for the logits of a dense model and of its upcycled model.

    Args:
        dense: Logits before, ``(positions, vocab)``.
        sparse: Logits after, the same shape.
        dtype: Type of the weights; decides the tolerance.
        rounding: Of :func:`own_rounding`; twice as much is accepted, if that is more than the tolerance of `dtype`.
    """
    difference = (dense - sparse).abs().max().item()
    largest = dense.abs().max().item()
    relative = difference / largest if largest else difference
    if not torch.isfinite(sparse).all() or not torch.isfinite(dense).all():
        relative = float("inf")
    name = str(dtype).removeprefix("torch.")
    tolerance = max(TOLERANCE[dtype], 2 * rounding)
    return ParityReceipt(difference, relative, tolerance, name, "4 rows: mixed, text, image, left-padded")
