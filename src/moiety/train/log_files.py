"""The log of a run on disk: JSON lines, the same as CSV, and pictures of the losses and of the loads of experts."""

from __future__ import annotations

import csv
import itertools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

LINES, TABLE, CURVE, LOADS = "log.jsonl", "log.csv", "loss.png", "loads.png"
_LOADS = "layer_loads/"


class LogFiles(TrainerCallback):
    """Writes every log of the trainer into a folder. A resumed run first deletes the lines after its checkpoint.

    A line holds averages over the steps since the line before. The first line of a run that was resumed in between
    averages only the steps after its checkpoint. Its field ``averages_from`` is the first of these steps.

    Args:
        folder: Where ``log.jsonl`` and ``log.csv`` go.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._resumed_at: int | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Keep the lines up to the step that the run starts from."""
        if state.is_world_process_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            kept = [line for line in read_log(self.folder) if line["step"] <= state.global_step]
            begun = kept[-1]["step"] if kept else 0
            self._resumed_at = state.global_step if state.global_step > begun else None  # in the middle of a line
            aside = self.folder / (LINES + ".writing")
            aside.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
            os.replace(aside, self.folder / LINES)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """The last step is always logged."""
        control.should_log = control.should_log or state.global_step >= state.max_steps
        return control

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add one line; the closing summary of the trainer is kept in the stage record instead."""
        if state.is_world_process_zero and logs and "loss" in logs:
            part = {} if self._resumed_at is None else {"averages_from": self._resumed_at + 1}
            self._resumed_at = None
            with open(self.folder / LINES, "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": state.global_step, **part, **logs}) + "\n")

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write the table and the pictures."""
        if state.is_world_process_zero:
            write_table(self.folder)
            draw_curve(self.folder)
            draw_loads(self.folder)


def read_log(folder: Path) -> list[dict[str, Any]]:
    """All lines of ``log.jsonl``; a last line that a killed run left half written is dropped."""
    path = folder / LINES
    if not path.is_file():
        return []
    *whole, _ = path.read_text(encoding="utf-8").split("\n")
    return [{_present(name): value for name, value in json.loads(line).items()} for line in whole]


def _present(name: str) -> str:
    """The present name of a number in the log. ``cone/…`` was called ``order/…`` in earlier releases."""
    return name.replace("order/", "cone/", 1) if name.startswith("order/") else name


def write_table(folder: Path) -> None:
    """The log as CSV: one column per number, in order of first appearance; lists stay in the JSON lines."""
    lines = read_log(folder)
    columns = list(dict.fromkeys(key for line in lines for key, value in line.items() if not isinstance(value, list)))
    with open(folder / TABLE, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(lines)


def draw_curve(folder: Path) -> None:
    """Cross-entropy over steps; below it, where the run has them, load-balancing losses, then cone loss and gates."""
    from matplotlib.figure import Figure

    lines = read_log(folder)
    keys = sorted({key for line in lines for key in line})
    panels = [
        ("cross-entropy", ["cross_entropy"]),
        ("load-balancing loss", [key for key in keys if key.startswith("load_balancing_loss/")]),
        ("cone and gate loss", [key for key in keys if key.startswith(("cone/", "gate/")) and key.endswith("loss")]),
    ]
    panels = [(title, shown) for title, shown in panels if shown]
    figure = Figure(figsize=(7, 2 + 1.5 * len(panels)), layout="constrained")
    for axes, (title, shown) in zip(
        figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], panels, strict=True
    ):
        for key in shown:
            drawn = [line for line in lines if key in line]
            label = key.removeprefix("load_balancing_loss/").replace("_", " ")
            axes.plot([line["step"] for line in drawn], [line[key] for line in drawn], label=label)
        axes.set_ylabel(title)
        if len(panels) > 1 and title != "cross-entropy":
            axes.legend()
    figure.axes[-1].set_xlabel("optimizer step")
    figure.savefig(folder / CURVE, dpi=120, metadata={"Software": None})


def draw_loads(folder: Path) -> None:
    """The load of every expert in every layer over the steps, relative to an even load; nothing for a dense model.

    There is one panel for each modality group. It holds one block for each expert that the group sees. In a block a row
    is a sparse layer, the first one on top, and a column is a logging step. White is an even load, red is less and blue
    is more.
    """
    from matplotlib.colors import TwoSlopeNorm
    from matplotlib.figure import Figure

    lines = [line for line in read_log(folder) if any(key.startswith(_LOADS) for key in line)]
    names = sorted({key.removeprefix(_LOADS) for line in lines for key in line if key.startswith(_LOADS)})
    if not names:
        return
    experts = {name: _experts_of(lines, name) for name in names}
    layers = len(next(line[_LOADS + names[0]] for line in lines if _LOADS + names[0] in line))
    most = max(map(len, experts.values()))
    figure = Figure(figsize=(8, len(names) * max(2.5, 0.5 + 0.1 * layers * most)))
    height = figure.get_figheight()
    figure.subplots_adjust(left=0.14, right=0.98, bottom=0.5 / height, top=1 - 0.3 / height, hspace=0.3)
    panels = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    for axes, name in zip(panels, names, strict=True):
        drawn = [line for line in lines if _LOADS + name in line]
        steps = [line["step"] for line in drawn]
        places = range(len(experts[name]))
        rows = [[line[_LOADS + name][layer][place] for line in drawn] for place in places for layer in range(layers)]
        edges = [steps[0] - 0.5, *[(a + b) / 2 for a, b in itertools.pairwise(steps)], steps[-1] + 0.5]
        mesh = axes.pcolormesh(edges, range(len(rows) + 1), rows, cmap="RdBu", norm=TwoSlopeNorm(1, 0, max(2, most)))
        axes.invert_yaxis()
        axes.hlines([layers * place for place in places[1:]], edges[0], edges[-1], colors="black", linewidth=0.8)
        labels = [expert.replace("_", " ") for expert in experts[name]]
        axes.set_yticks([layers * (place + 0.5) for place in places], labels, fontsize=8)
        axes.set_title(f"{name} tokens: expert, and in each block its {layers} layers", fontsize=9)
        figure.colorbar(mesh, ax=axes, label="load / even load")
    panels[-1].set_xlabel("optimizer step")
    figure.savefig(folder / LOADS, dpi=100, metadata={"Software": None})


def _experts_of(lines: Sequence[Mapping[str, Any]], name: str) -> list[str]:
    """Experts that a modality group sees, as ``0_vision``, in the order of the loads of a layer."""
    line = next(line for line in lines if _LOADS + name in line)
    return [key.removeprefix(f"load/{name}/") for key in line if key.startswith(f"load/{name}/")]
