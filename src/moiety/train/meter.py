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
from moiety.moe.statistics import Tally, inter_share, load_share, max_violation, normalised_entropy, tally
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
        self.starving: set[tuple[int, int]] = set()
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
            mean); loads are those of all layers together. In scheme asymoe the means of :data:`MEASURES` over what
            there was to measure. ``alarms`` lists the experts that began to starve.
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
            found |= loads(
                Tally(**{part.name: sums[f"tally.{part.name}"].sum(0) for part in fields(Tally)}), self.groups
            )
            found["alarms"] = self._starved(sums["tally.slots"], step)
        return found

    def counters(self) -> dict[str, float]:
        """Tokens and seconds of the whole run until now, the open window and stopped runs included."""
        sums = self._sums.read(self._reduce)
        tokens = {name: total + int(sums[name].item()) for name, total in self.totals.items()}
        return {**tokens, "seconds": self._seconds_before + time.perf_counter() - self._started}

    def _starved(self, slots: Tensor, step: int) -> list[str]:
        """Texts of new alarms; `slots` is ``(layers, modality groups, experts)``.

        An even load is what an expert gets when every modality group spreads its slots over the experts it sees. A
        window in which even a starving expert is expected to get less than one slot proves nothing.
        """
        assert self.groups is not None
        open_to = torch.tensor(self.groups.allowed, dtype=slots.dtype)  # (modality groups, experts)
        even = slots.sum(-1) @ (open_to / open_to.sum(-1, keepdim=True))  # (layers, experts)
        load, floor = slots.sum(1), even * self.starved_share
        judged = floor >= 1
        alarms = []
        for place, expert in (judged & (load < floor)).nonzero().tolist():
            where = (self.layers[place], expert)
            if where in self.starving:
                continue
            self.starving.add(where)
            alarms.append(
                f"step {step}: expert {expert} ({self.groups.group_of_expert(expert).name}) of layer {where[0]} "
                f"starves: {load[place, expert] / even[place, expert]:.2%} of an even load, alarm below "
                f"{self.starved_share:.2%}. "
                "A larger moe.aux_coef or a smaller learning rate of the router spreads the load"
            )
            logger.warning("%s", alarms[-1])
        for place, expert in (judged & (load >= floor)).nonzero().tolist():
            self.starving.discard((self.layers[place], expert))
        return alarms


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
