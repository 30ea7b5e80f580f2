"""What the experts did between two logging steps, and an alarm when an expert gets almost no tokens.

Everything is summed on the device. One vector moves to the host at each logging step.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from moiety.groups import ExpertGroups
from moiety.moe.losses import AuxiliaryLosses
from moiety.moe.statistics import (
    Tally,
    inter_share,
    least_load,
    load_share,
    max_violation,
    normalised_entropy,
    relative_load,
    tally,
)
from moiety.moe.trace import RoutingTrace
from moiety.train.asymoe.measures import MEASURES
from moiety.train.asymoe.objectives import AsymmetricLosses

logger = logging.getLogger(__name__)

Reduce = Callable[[Tensor], Tensor]
_SCALARS = ("steps", "tokens", "trained_tokens", "cross_entropy", "z_loss")


class DeviceSums:
    """Named sums in one flat vector, so that they travel and are reduced over ranks in one piece.

    Args:
        shapes: Name -> shape.
        device: Where they are kept.

    Example:
        >>> sums = DeviceSums({"loss": (), "load": (2,)}, torch.device("cpu"))
        >>> sums["load"][1] += 3
        >>> {name: value.tolist() for name, value in sums.read().items()}
        {'loss': 0.0, 'load': [0.0, 3.0]}
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]], device: torch.device) -> None:
        self._shapes = dict(shapes)
        wide = torch.float32 if device.type == "mps" else torch.float64  # counts stay exact up to 2**53
        self.flat = torch.zeros(sum(map(math.prod, shapes.values())), device=device, dtype=wide)
        self._views = self._split(self.flat)

    def __getitem__(self, name: str) -> Tensor:
        return self._views[name]

    def __setitem__(self, name: str, value: Tensor) -> None:
        """Lets ``sums[name] += x`` work; the sum itself is changed in place."""

    def read(self, reduce: Reduce | None = None) -> dict[str, Tensor]:
        """The sums on the host, summed over ranks by `reduce` (None: one rank)."""
        return self._split((self.flat.clone() if reduce is None else reduce(self.flat.clone())).cpu())

    def _split(self, flat: Tensor) -> dict[str, Tensor]:
        pieces = flat.split([math.prod(shape) for shape in self._shapes.values()])
        return {name: piece.view(shape) for (name, shape), piece in zip(self._shapes.items(), pieces, strict=True)}


class RoutingMeter:
    """Losses, loads and tokens of one logging window, and the tokens of the whole run.

    Args:
        groups: Expert table of the model, None for a dense one.
        layers: Indices of the sparse decoder layers.
        device: Where the sums are kept.
        starved_share: An expert starves below this share of an even load.
        reduce: Sums a vector over ranks; None: one rank.
    """

    def __init__(
        self,
        groups: ExpertGroups | None,
        layers: Sequence[int],
        device: torch.device,
        starved_share: float,
        reduce: Reduce | None = None,
    ) -> None:
        self.groups, self.layers, self.starved_share, self._reduce = groups, tuple(layers), starved_share, reduce
        self.starving: set[tuple[int, int, int]] = set()
        self.totals = {"tokens": 0, "trained_tokens": 0}
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(_SCALARS, ())
        if groups is not None:
            pairs = (len(self.layers), len(groups.names))
            experts = groups.num_experts
            wide = {"slots": (experts,), "weight": (experts,), "together": (experts, experts)}
            shapes |= {f"tally.{part.name}": (*pairs, *wide.get(part.name, ())) for part in fields(Tally)}
            shapes |= {f"balance.{name}": () for name in groups.gate_names}
            shapes |= {f"asymmetric.{name}": (2,) for name in MEASURES}  # sum and count
        self._sums = DeviceSums(shapes, device)
        self._since = self._started = time.perf_counter()
        self._seconds_before = 0.0

    def start(self, counters: Mapping[str, float]) -> None:
        """Begin to measure. `counters` are those of the checkpoint that the run continues from, or empty."""
        self.totals |= {name: int(counters.get(name, 0)) for name in self.totals}
        self._seconds_before = counters.get("seconds", 0.0)
        self._since = self._started = time.perf_counter()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Context whose time does not count for the speed, such as writing a checkpoint."""
        begin = time.perf_counter()
        yield
        passed = time.perf_counter() - begin
        self._since, self._started = self._since + passed, self._started + passed

    # -- one micro-batch ----------------------------------------------------------------------------------------------
    @torch.no_grad()
    def add(
        self,
        inputs: Mapping[str, Any],
        cross_entropy: Tensor,
        losses: AuxiliaryLosses | None,
        trace: RoutingTrace,
        share: float,
        asymmetric: AsymmetricLosses | None = None,
    ) -> None:
        """Count one micro-batch.

        Args:
            inputs: The batch: ``input_ids``, ``labels`` and ``attention_mask``, each ``(batch, seq)``.
            cross_entropy: Its part of the loss of the optimizer step.
            losses: Routing losses of this micro-batch.
            trace: Routing decisions of this micro-batch.
            share: One divided by the number of micro-batches of the step.
            asymmetric: Further losses of scheme asymoe.
        """
        mask, labels = inputs.get("attention_mask"), inputs.get("labels")
        self._sums["steps"] += share
        self._sums["tokens"] += inputs["input_ids"].numel() if mask is None else mask.sum()
        if labels is not None:
            self._sums["trained_tokens"] += labels[..., 1:].ne(-100).sum()
        self._sums["cross_entropy"] += cross_entropy
        if losses is None or self.groups is None:
            return
        self._sums["z_loss"] += losses.z * share
        for name, loss in losses.balance.items():
            self._sums[f"balance.{name}"] += loss * share
        measures = {} if asymmetric is None else asymmetric.measures
        if losses.alpha is not None:
            measures = {**measures, "evidence/alpha_target_loss": (losses.alpha, 1.0)}
        for name, measure in measures.items():
            for place in range(2):
                self._sums[f"asymmetric.{name}"][place] += measure[place]
        for layer_index, routings in trace.by_layer().items():
            place, count = self.layers.index(layer_index), tally(routings, self.groups)
            for part in fields(Tally):
                self._sums[f"tally.{part.name}"][place] += getattr(count, part.name)

    # -- one logging step ---------------------------------------------------------------------------------------------
    def window(self, step: int) -> dict[str, Any]:
        """Numbers of the window that ends at optimizer step `step`; the next window starts here.

        Returns:
            ``cross_entropy``, tokens and speed and, for a sparse model, ``z_loss``, ``load_balancing_loss/<gate>`` and
            per modality group *g* with tokens ``load/g/<expert>`` (shares of its slots, summing to 1),
            ``inter_share/g``, ``entropy/g`` (0..1, 1 is an even choice) and ``max_load/g`` (largest load over the
            mean); loads are those of all layers together. By layer: ``least_load/g``, the smallest load of an expert in
            any layer relative to an even load, ``least_load_at/g``, which expert that is, and ``layer_loads/g``, the
            relative loads as lists ``(layers, experts)``. In scheme asymoe the means of :data:`MEASURES` over what
            there was to measure. ``alarms`` names the experts that began to starve.
        """
        sums = self._sums.read(self._reduce)
        self._sums.flat.zero_()
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        steps = sums["steps"].item() or 1.0
        for name in self.totals:
            self.totals[name] += int(sums[name].item())
        found: dict[str, Any] = {
            "cross_entropy": sums["cross_entropy"].item() / steps,
            **self.totals,
            "tokens_per_second": sums["tokens"].item() / max(seconds, 1e-9),
        }
        if self.groups is not None:
            found["z_loss"] = sums["z_loss"].item() / steps
            found |= {f"load_balancing_loss/{n}": sums[f"balance.{n}"].item() / steps for n in self.groups.gate_names}
            seen = {name: sums[f"asymmetric.{name}"].tolist() for name in MEASURES}
            found |= {name: total / count for name, (total, count) in seen.items() if count}
            parts = {part.name: sums[f"tally.{part.name}"] for part in fields(Tally)}  # (layers, …)
            found |= loads(Tally(**{name: part.sum(0) for name, part in parts.items()}), self.groups)
            tallies = [
                Tally(**{name: part[place] for name, part in parts.items()}) for place in range(len(self.layers))
            ]
            found |= layer_loads(tallies, self.groups, self.layers)
            found["alarms"] = self._starved(tallies, step)
        return found

    def counters(self) -> dict[str, float]:
        """Tokens and seconds of the whole run until now, the open window and stopped runs included."""
        sums = self._sums.read(self._reduce)
        tokens = {name: total + int(sums[name].item()) for name, total in self.totals.items()}
        return {**tokens, "seconds": self._seconds_before + time.perf_counter() - self._started}

    def _starved(self, tallies: Sequence[Tally], step: int) -> list[str]:
        """The text of a new alarm, if there is one; it names the worst expert and counts the others.

        Each layer and each modality group is judged alone: what text sends to an expert says nothing about pictures. A
        window in which even a starving expert is expected to get less than one slot proves nothing.
        """
        assert self.groups is not None
        begun: list[tuple[float, int, int, int]] = []
        for place, count in enumerate(tallies):
            load = relative_load(count, self.groups)  # (groups, experts)
            for group, name in enumerate(self.groups.names):
                visible = self.groups.visible(name)
                if count.slots[group].sum() / len(visible) * self.starved_share < 1:
                    continue
                for expert in visible:
                    where, share = (self.layers[place], group, expert), load[group, expert].item()
                    if share >= self.starved_share:
                        self.starving.discard(where)
                    elif where not in self.starving:
                        self.starving.add(where)
                        begun.append((share, *where))
        if not begun:
            return []
        share, layer, group, expert = min(begun)
        others = f"; {len(begun) - 1} more began to starve" if len(begun) > 1 else ""
        text = (
            f"step {step}: expert {expert} ({self.groups.group_of_expert(expert).name}) of layer {layer} starves: "
            f"{share:.2%} of an even load of {self.groups.names[group]} tokens, alarm below {self.starved_share:.2%}"
            f"{others}. A larger moe.aux_coef, moe.aux_scope=per_layer or a smaller learning rate of the router "
            "spreads the load"
        )
        logger.warning("%s", text)
        return [text]


def layer_loads(tallies: Sequence[Tally], groups: ExpertGroups, layers: Sequence[int]) -> dict[str, Any]:
    """Loads of single layers for the log; modality groups without tokens are left out.

    Args:
        tallies: One for each sparse layer.
        groups: Expert table of the scheme.
        layers: Decoder layers of `tallies`.
    """
    found: dict[str, Any] = {}
    for group, name in enumerate(groups.names):
        if not tallies[0].tokens[group]:
            continue
        visible = groups.visible(name)
        rows = [
            [round(relative_load(count, groups)[group, expert].item(), 4) for expert in visible] for count in tallies
        ]
        least = [least_load(count, groups) for count in tallies]
        place = min(range(len(tallies)), key=lambda number: least[number][0][group].item())
        expert = int(least[place][1][group])
        found[f"least_load/{name}"] = least[place][0][group].item()
        found[f"least_load_at/{name}"] = f"layer {layers[place]}, {expert}_{groups.group_of_expert(expert).name}"
        found[f"layer_loads/{name}"] = rows
    return found


def loads(count: Tally, groups: ExpertGroups) -> dict[str, float]:
    """Named shares of one tally for the log; modality groups without tokens are left out."""
    share, inter = load_share(count), inter_share(count, groups)
    even, largest = normalised_entropy(count, groups), max_violation(count, groups)
    found = {}
    for place, name in enumerate(groups.names):
        if count.tokens[place]:
            for expert in groups.visible(name):
                found[f"load/{name}/{expert}_{groups.group_of_expert(expert).name}"] = share[place, expert].item()
            found[f"inter_share/{name}"] = inter[place].item()
            found[f"entropy/{name}"] = even[place].item()
            found[f"max_load/{name}"] = largest[place].item() + 1
    return found
