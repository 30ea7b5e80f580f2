"""The two losses that scheme ``asymoe`` adds to the task: the cone loss and the gate objective.

Both are computed from the inputs of the sparse layers, so the trace of a training forward keeps these inputs. Their
weights rise from 0 over the first steps. Like a routing loss, each is a mean over its micro-batch and counts once for
each optimizer step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from moiety.groups import ExpertGroups
from moiety.moe.trace import RoutingTrace
from moiety.recipe.asymoe import AsyMoESettings
from moiety.train.asymoe.cone_objective import ConeObjective, cone_layers
from moiety.train.asymoe.gate_objective import GateObjective, gate_measures, weighs_evidence
from moiety.train.asymoe.measures import Measures, gate_means
from moiety.vlm.decoder_calls import DecoderCall, kept_call
from moiety.vlm.decoders import decoder_layers, decoder_of
from moiety.vlm.model import moe_layers

TRAINER_KEYS = ("span_ids", "span_order", "image_key")
"""Entries of a batch that the trainer reads and the model does not."""


def split_batch(inputs: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A batch in two parts: the entries for the model, and the entries that only the trainer reads."""
    kept = {name: value for name, value in inputs.items() if name in TRAINER_KEYS}
    return {name: value for name, value in inputs.items() if name not in kept}, kept


def risen(step: int, num_steps: int, warmup_share: float) -> float:
    """Factor, 0..1, on the weights of the cone and gate losses at optimizer step `step`, counted from 0.

    Example:
        >>> [risen(step, 100, 0.1) for step in (0, 5, 10, 99)]
        [0.0, 0.5, 1.0, 1.0]
    """
    rises = warmup_share * num_steps
    return 1.0 if step >= rises else step / rises


@dataclass(frozen=True, eq=False)
class AsymmetricLosses:
    """Losses of one micro-batch.

    Args:
        total: Weighted sum, which is added to the task loss.
        measures: Numbers for the log.
    """

    total: Tensor
    measures: Measures = field(default_factory=dict)


class AsymmetricObjective:
    """Cone loss and gate objective of one model.

    Args:
        model: The sparse model, not wrapped.
        groups: Expert table of the model.
        settings: Section ``moe.asymoe``.
        seed: Seed that chooses, together with the step, which samples run again.
        autocast: Function that makes the autocast context of the second pass.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: ExpertGroups,
        settings: AsyMoESettings,
        seed: int = 0,
        autocast: Any = nullcontext,
    ) -> None:
        self.settings, self.groups = settings, groups
        layers, self._decoder = moe_layers(model), decoder_of(model)
        read = cone_layers(layers, len(decoder_layers(model)), settings)
        weighing = [layer for layer in layers if weighs_evidence(layer)] if settings.gate_weight else []
        self.cone = ConeObjective(read, groups, settings) if read else None
        self.gate = GateObjective(self._decoder, weighing, settings, seed, autocast) if weighing else None
        self.keeps_inputs = bool(read or weighing)

    @contextmanager
    def watching(self) -> Iterator[DecoderCall]:
        """Keep the call of the decoder that is made inside; the gate objective makes it again for some samples."""
        with nullcontext(DecoderCall()) if self.gate is None else kept_call(self._decoder) as kept:
            yield kept

    def losses(
        self,
        trace: RoutingTrace,
        inputs: Mapping[str, Any],
        trainer_inputs: Mapping[str, Tensor],
        kept: DecoderCall,
        step: int,
        num_steps: int,
    ) -> AsymmetricLosses:
        """Both losses of one micro-batch, and the numbers of the gates.

        Args:
            trace: Routing of the training forward, with the inputs of the layers.
            inputs: The part of the batch that the model got.
            trainer_inputs: The part of the batch that only the trainer reads.
            kept: Result of :meth:`watching`.
            step: Number of optimizer steps that are done.
            num_steps: Number of optimizer steps of the run.

        Raises:
            ValueError: the batch lacks modality ids, or the spans and picture numbers that the losses read.
        """
        self._check({**inputs, **trainer_inputs})
        routings = {layer: found[-1] for layer, found in trace.by_layer().items()}
        measures, own = gate_means(routings, self.groups), self.settings
        total = torch.zeros((), device=inputs["input_ids"].device)
        if self.cone is not None:
            cone = self.cone.loss(routings, inputs, trainer_inputs)
            total = total + own.cone_weight * cone.angle + own.distance_weight * cone.distance
            measures |= self.cone.measures(cone, routings)
        if self.gate is not None:
            gate = self.gate.loss(routings, inputs, trainer_inputs["image_key"], kept, step)
            total = total + own.gate_weight * gate.total
            measures |= gate_measures(gate)
        return AsymmetricLosses(risen(step, num_steps, own.warmup_share) * total, measures)

    def _check(self, batch: Mapping[str, Any]) -> None:
        needed = [*TRAINER_KEYS] if self.cone is not None else ["image_key"] if self.gate is not None else []
        missing = [name for name in ["modality_ids", *needed] if needed and name not in batch]
        if missing:
            raise ValueError(
                f"scheme asymoe learns from pictures and turns, but the batch has no {', '.join(missing)}; encode rows "
                "with moiety.vlm.data.Encoder(spans=True), or set moe.asymoe.cone_weight and gate_weight to 0"
            )
