"""The numbers behind the pictures, under the names that all tables and files use."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from moiety.groups import ExpertGroups
from moiety.lens.trace.observe import PHASES, Observation
from moiety.moe import statistics
from moiety.moe.statistics import Tally

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class RoutingNumbers:
    """Statistics of one observation, or of a whole run, one array for each phase and name.

    Names and axes, where `groups` are modality groups in the order of ``ExpertGroups.names``: ``load_share``,
    ``weight_share`` (layers, groups, experts); ``co_select`` (layers, groups, experts, experts); ``inter_mix`` (layers,
    groups, inter-modality experts); ``inter_share``, ``entropy`` (in nats), ``normalised_entropy`` (0..1),
    ``max_violation``, ``top1`` and ``tokens`` (layers, groups).

    Args:
        layers: Sparse layers, the first axis of every array.
        phases: Phases that hold tokens, ``prefill`` first.
        arrays: ``(phase, name)`` -> array.
    """

    layers: list[int]
    phases: list[str]
    arrays: dict[tuple[str, str], np.ndarray]

    def of(self, phase: str, name: str) -> np.ndarray:
        """One array, ``(layers, ...)``."""
        return self.arrays[phase, name]

    def flat(self) -> dict[str, np.ndarray]:
        """Arrays by ``phase_name``, and the layers."""
        named = {f"{phase}_{name}": array for (phase, name), array in self.arrays.items()}
        return {"layers": np.array(self.layers), **named}


def numbers_of(observation: Observation) -> RoutingNumbers:
    """Compute every statistic for each phase that holds tokens."""
    return numbers_of_tallies(tallies_of(observation), observation.groups)


def tallies_of(observation: Observation) -> dict[str, dict[int, Tally]]:
    """Sums by phase and layer, in float64; phases without tokens are absent."""
    return {
        phase: {
            layer: in_float64(statistics.tally(observation.phases[phase][layer], observation.groups))
            for layer in observation.layers
        }
        for phase in PHASES
        if observation.phases[phase]
    }


def in_float64(count: Tally) -> Tally:
    """The same sums on the CPU in float64, so that counts of a whole run stay exact."""
    return Tally(*(getattr(count, part.name).double().cpu() for part in fields(Tally)))


def numbers_of_tallies(tallies: Mapping[str, Mapping[int, Tally]], groups: ExpertGroups) -> RoutingNumbers:
    """Every statistic of sums by phase and layer."""
    phases = [phase for phase in PHASES if tallies.get(phase)]
    layers = sorted(tallies[phases[0]]) if phases else []
    arrays: dict[tuple[str, str], np.ndarray] = {}
    for phase in phases:
        rows = [_statistics(tallies[phase][layer], groups) for layer in layers]
        for name in rows[0]:
            arrays[phase, name] = torch.stack([row[name] for row in rows]).numpy()
    return RoutingNumbers(layers, phases, arrays)


def _statistics(count: Tally, groups: ExpertGroups) -> dict[str, torch.Tensor]:
    return {
        "load_share": statistics.load_share(count),
        "weight_share": statistics.weight_share(count),
        "inter_share": statistics.inter_share(count, groups),
        "inter_mix": statistics.inter_mix(count, groups),
        "co_select": statistics.co_select(count),
        "entropy": statistics.entropy(count),
        "normalised_entropy": statistics.normalised_entropy(count, groups),
        "max_violation": statistics.max_violation(count, groups),
        "top1": statistics.top1(count),
        "tokens": count.tokens,
    }


def summary_rows(numbers: RoutingNumbers, groups: ExpertGroups) -> list[dict[str, Any]]:
    """One flat record for each layer, phase and modality group that holds tokens, for tables and JSON."""
    records = []
    for place, layer in enumerate(numbers.layers):
        for phase in numbers.phases:
            for row, name in enumerate(groups.names):
                if not numbers.of(phase, "tokens")[place, row]:
                    continue
                at = (place, row)
                records.append(
                    {
                        "layer": layer,
                        "phase": phase,
                        "modality_group": name,
                        "tokens": int(numbers.of(phase, "tokens")[at]),
                        "load_share": [round(float(share), 4) for share in numbers.of(phase, "load_share")[at]],
                        **{
                            key: round(float(numbers.of(phase, key)[at]), 4)
                            for key in ("inter_share", "normalised_entropy", "max_violation", "top1")
                        },
                    }
                )
    return records


def rows_table(title: str, rows: Sequence[Mapping[str, Any]], note: str = "") -> Table:
    """Records of :func:`summary_rows` as a table for the terminal."""
    from rich.table import Table

    drawn = Table(title=title, title_justify="left", caption=note or None, caption_justify="left")
    for name in ("layer", "phase", "modality", "tokens", "load of each expert %", "inter share", "entropy"):
        drawn.add_column(name, justify="left" if name in ("phase", "modality") else "right")
    for row in rows:
        drawn.add_row(
            str(row["layer"]),
            row["phase"],
            row["modality_group"],
            f"{row['tokens']:,}",
            " ".join(f"{100 * share:3.0f}" for share in row["load_share"]),
            f"{row['inter_share']:.2f}",
            f"{row['normalised_entropy']:.2f}",
        )
    return drawn


def write_numbers(numbers: RoutingNumbers, groups: ExpertGroups, header: dict[str, Any], folder: Path) -> list[Path]:
    """Write ``routing.npz`` (all arrays) and ``routing.json`` (header, one record for each layer, phase and group)."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays, table = folder / "routing.npz", folder / "routing.json"
    experts = np.array([groups.group_of_expert(index).name for index in range(groups.num_experts)])
    named: dict[str, Any] = {
        "header": np.array(json.dumps(header, ensure_ascii=False)),
        "modality_groups": np.array(groups.names),
        "expert_groups": experts,
        **numbers.flat(),
    }
    np.savez(arrays, **named)
    content = {**header, "rows": summary_rows(numbers, groups)}
    table.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return [arrays, table]
