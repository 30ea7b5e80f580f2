"""Metrics of grounding over a data file: where attention goes, which experts depend on evidence, how gates react."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from moiety.evaluate.run import evaluating
from moiety.groups import ExpertGroups, Modality
from moiety.lens.draw.points import Cloud, clouds_of, drawn_layers, joined_clouds
from moiety.lens.ground.forced import Forced, Reading, force, read
from moiety.moe.asymoe.grounding import (
    Slope,
    area_under_curve,
    attention_entropy,
    attention_on,
    evidence_dependence,
    grounding_ratio,
    sent_to,
    slope_over_depth,
)
from moiety.vlm.data import Encoder
from moiety.vlm.decoders import decoder_layers, eager_attention
from moiety.vlm.images import Images
from moiety.vlm.model import groups_of, settings_of
from moiety.vlm.rows import Row

Sample = dict[str, np.ndarray]
Progress = Callable[[int, int], None]
GATES = ("alpha", "score", "mass")
TAKEN_AWAY = {"exchanged": "pictures of another question", "mean_patch": "every patch set to their mean"}
"""The two ways in which evidence is taken away."""


@dataclass(frozen=True)
class Grounding:
    """Numbers of one model over its samples.

    Args:
        scheme: Routing scheme, ``dense`` included.
        groups: Expert groups; None for a dense model.
        layers: Decoder layers, 0-based.
        sparse_layers: Those with experts.
        types: Type of every sample.
        samples: Name -> one row a sample. Per decoder layer: ``text_entropy``, ``image_entropy`` (sums of normalised
            entropy over positions; ``…_nats``: not normalised, ``…_counted``: how many), ``context``, ``picture`` and
            ``answer`` (attention of the position that predicts the answer on all evidence, on pictures, and on what
            holds the answer; NaN where that is unknown). Per sparse layer and expert, summed over text tokens:
            ``on_evidence``, ``on_memory``, ``routed``, ``routed_mass``, ``routed_exchanged``, ``routed_mean_patch``.
            Per sparse layer, means over the positions that predict the answer: ``alpha``, ``score``, ``mass`` and the
            same with ``_exchanged``, ``_mean_patch``. NaN where a layer has none or the evidence could not be taken
            away.
        clouds: Points of pictures and phrases in the drawn layers; none without hyperbolic experts.
    """

    scheme: str
    groups: ExpertGroups | None
    layers: list[int]
    sparse_layers: list[int]
    types: list[str]
    samples: dict[str, np.ndarray] = field(repr=False)
    clouds: list[Cloud] = field(default_factory=list, repr=False)

    def entropy(self, modality: str) -> np.ndarray:
        """Mean normalised attention entropy of the positions of ``text`` or ``image``, ``(layers,)``; NaN of none."""
        total, count = self.samples[f"{modality}_entropy"].sum(0), self.samples[f"{modality}_counted"].sum()
        return total / count if count else np.full_like(total, np.nan)

    @property
    def entropy_slope(self) -> Slope | None:
        """Slope of the text entropy over the layers; None where the decoder has a single layer."""
        if len(self.layers) < 2:
            return None
        return slope_over_depth(self.samples["text_entropy"], self.samples["text_counted"])

    def attention(self, name: str) -> np.ndarray:
        """C (``context``), its part on ``picture``, or N (``answer``): mean over samples, ``(layers,)``."""
        return mean_of_known(self.samples[name])

    def grounding_ratio(self) -> np.ndarray:
        """F of every expert, ``(sparse layers, experts)``."""
        return grounding_ratio(self.samples["on_evidence"].sum(0), self.samples["on_memory"].sum(0))

    def dependence(self, taken_away: str = "exchanged") -> np.ndarray:
        """R of every expert, ``(sparse layers, experts)``; NaN where evidence could not be taken away."""
        known = ~np.isnan(self.samples[f"routed_{taken_away}"]).any(axis=(1, 2))
        if not known.any():
            return np.full(self.samples["routed"].shape[1:], np.nan)
        tokens = [self.samples[name][known].sum() for name in ("text_tokens", f"text_tokens_{taken_away}")]
        routed = [self.samples[name][known].sum(0) for name in ("routed", f"routed_{taken_away}")]
        return evidence_dependence(routed[0] / tokens[0], routed[1] / tokens[1])

    def gate(self, name: str, taken_away: str | None = None) -> np.ndarray:
        """Mean of a gate over the positions that predict the answer, ``(sparse layers,)``."""
        return mean_of_known(self.samples[name if taken_away is None else f"{name}_{taken_away}"])

    def gate_shift(self, name: str, taken_away: str = "exchanged") -> np.ndarray:
        """How much a gate reacts to evidence, ``(sparse layers,)``.

        For alpha: the mean of alpha without evidence minus alpha with evidence (d_alpha). For score and mass: with
        evidence minus without (d_s).
        """
        shift = self.samples[name] - self.samples[f"{name}_{taken_away}"]
        return mean_of_known(-shift if name == "alpha" else shift)

    def gate_area(self, name: str) -> np.ndarray:
        """Area under the curve of 1 - alpha, score or mass for samples of type conflict against absent, ``(sparse
        layers,)``; NaN where there are none of either."""
        values = 1 - self.samples[name] if name == "alpha" else self.samples[name]
        sides = [values[[kind == wanted for kind in self.types]] for wanted in ("conflict", "absent")]
        area = np.full(values.shape[1], np.nan)
        for layer in np.flatnonzero(~np.isnan(values).any(0)) if all(map(len, sides)) else ():
            area[layer] = area_under_curve(sides[0][:, layer], sides[1][:, layer])
        return area

    @property
    def has_gates(self) -> bool:
        """Whether the model weighs evidence."""
        return not np.isnan(self.samples["mass"]).all()


def ground(
    model: Any,
    processor: Any,
    rows: Sequence[Row],
    images: Images | Mapping[str, Image.Image],
    progress: Progress | None = None,
) -> Grounding:
    """Read every row as it is, with the pictures of another row, and with its pictures averaged.

    Args:
        model: A vision-language model, dense or sparse; its train or eval mode is restored.
        processor: Its processor.
        rows: Questions with answers; the answer is given to the model, not generated.
        images: Name -> picture.
        progress: Called with (rows read, rows) after each row.

    Raises:
        ValueError: there are no rows, or one has no answer.
    """
    if not rows:
        raise ValueError("no rows to read; give at least one question with its answer")
    encoder = Encoder(processor, images, max_length=0)  # nothing is trained, so there is no limit
    samples, clouds = [], []
    with evaluating(model), eager_attention(model):
        for number, row in enumerate(rows):
            sample, points = read_row(model, encoder, row, partner_of(rows, number))
            samples.append(sample)
            clouds.append(points)
            if progress is not None:
                progress(number + 1, len(rows))
    found = gathered(model, samples, [row.type or "" for row in rows])
    return replace(found, clouds=joined_clouds(clouds, ("pictures", "phrases")))


def gathered(model: Any, samples: Sequence[Sample], types: Sequence[str]) -> Grounding:
    """The numbers of several samples of one model."""
    settings, groups = settings_of(model), groups_of(model)
    num_layers = len(decoder_layers(model))
    return Grounding(
        "dense" if settings is None else settings.scheme,
        groups,
        list(range(num_layers)),
        [] if settings is None else settings.resolved_layers(num_layers),
        list(types),
        {name: np.stack([sample[name] for sample in samples]) for name in samples[0]},
    )


def partner_of(rows: Sequence[Row], number: int) -> Row | None:
    """The next row with as many pictures, all of them different; None if there is none, or the row has no picture."""
    row = rows[number]
    for other in [*rows[number + 1 :], *rows[:number]]:
        if row.images and len(other.images) == len(row.images) and not set(other.images) & set(row.images):
            return other
    return None


def read_row(model: Any, encoder: Encoder, row: Row, partner: Row | None) -> tuple[Sample, list[Cloud]]:
    """All numbers of one row, and its points where the model has hyperbolic experts.

    Args:
        model: The model, in eval mode.
        encoder: Makes the tensors of a row.
        row: The question.
        partner: The row whose pictures replace those of `row` when evidence is exchanged; None: no exchange.

    Raises:
        ValueError: the row has no answer.
    """
    answer = answer_of(row)
    forced = force(encoder, row, answer)
    reading = read(model, forced, attention=True, keeps_inputs=bool(drawn_layers(model)))
    sample, clouds = sample_of(model, forced, reading), clouds_of(model, forced, reading)
    found = None if partner is None else force(encoder, replace(row, images=partner.images), answer)
    exchanged = None if found is None else read(model, found)
    sample |= choices_and_gates(model, found or forced, exchanged, "_exchanged")
    averaged = read(model, forced, mean_patch=True) if row.images else None
    return sample | choices_and_gates(model, forced, averaged, "_mean_patch"), clouds


def answer_of(row: Row) -> str:
    """The answer that the model reads: the last turn of the row as it is written, else its first accepted answer.

    Raises:
        ValueError: the row has neither.
    """
    last = row.turns[-1]
    if last.role == "assistant":
        return last.text
    if not row.answers:
        raise ValueError(f"{row.place}: no answer to read; give 'answers' or a last turn of the assistant")
    return row.answers[0]


def sample_of(model: Any, forced: Forced, reading: Reading) -> Sample:
    """Numbers of the forward with its evidence."""
    assert reading.attention is not None
    sample: Sample = {}
    entropy, share, counted = attention_entropy(reading.attention)  # each (layers, seq)
    for name, modality in (("text", Modality.TEXT), ("image", Modality.IMAGE)):
        own = (forced.modality_ids == modality) & counted[0]
        sample[f"{name}_entropy"] = share[:, own].sum(-1).double().numpy()
        sample[f"{name}_entropy_nats"] = entropy[:, own].sum(-1).double().numpy()
        sample[f"{name}_counted"] = np.array(float(own.sum()))
    last = reading.attention[:, forced.prompt_length - 1]  # (layers, seq)
    sample["context"] = attention_on(last, forced.evidence).double().numpy()
    sample["picture"] = attention_on(last, forced.modality_ids != Modality.TEXT).double().numpy()
    answer = attention_on(last, forced.bearing).double().numpy()
    sample["answer"] = answer if forced.bearing.any() else np.full_like(answer, np.nan)
    on_evidence = attention_on(reading.attention, forced.evidence)  # (layers, seq)
    on_memory = attention_on(reading.attention, ~forced.evidence)
    sample |= choices_and_gates(model, forced, reading)
    num_experts = sample["routed"].shape[1]
    for name, attended in (("on_evidence", on_evidence), ("on_memory", on_memory)):
        rows = [
            (attended[layer] * forced.is_text) @ sent_to(routing.index.cpu(), num_experts).float()
            for layer, routing in reading.routing.items()
        ]
        sample[name] = torch.stack(rows).double().numpy() if rows else np.zeros((0, num_experts))
    return sample


def choices_and_gates(model: Any, forced: Forced, reading: Reading | None, suffix: str = "") -> Sample:
    """How often text tokens chose each expert, and the gates where the answer is predicted; NaN without a reading."""
    settings, groups = settings_of(model), groups_of(model)
    num_experts = 0 if groups is None else groups.num_experts
    num_layers = len(decoder_layers(model))
    layers = [] if settings is None else settings.resolved_layers(num_layers)
    routed = np.full((len(layers), num_experts), np.nan)
    mass, gates = routed.copy(), {name: np.full(len(layers), np.nan) for name in GATES}
    for place, layer in enumerate(layers if reading is not None else ()):
        assert reading is not None
        routing = reading.routing[layer]
        chosen = sent_to(routing.index.cpu(), num_experts) & forced.is_text.unsqueeze(-1)
        routed[place] = chosen.sum(0).numpy()
        extras = {name: value.detach().float().cpu() for name, value in routing.extras.items() if name in GATES}
        if "mass" in extras:
            mass[place] = (chosen.float().T @ extras["mass"]).numpy()
        for name, value in extras.items():
            gates[name][place] = value[forced.predicting].mean().item()
    text = np.array(float(forced.is_text.sum()))
    found = {"routed": routed, "text_tokens": text, **gates}
    if not suffix:
        found["routed_mass"] = mass
    return {f"{name}{suffix}": value for name, value in found.items()}


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """Mean over the samples that have a value; NaN if none has."""
    known = ~np.isnan(values)
    count = known.sum(0)
    total = np.where(known, values, 0).sum(0)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
