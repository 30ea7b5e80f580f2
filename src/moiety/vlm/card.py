"""The model card beside a checkpoint: what the model is, how it was made, and what it scores."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import ModelCardData

from moiety.records.pages import counted
from moiety.records.saving import write_atomically
from moiety.vlm.decoders import decoder_layers
from moiety.vlm.model import groups_of, moe_layers
from moiety.vlm.parameters import count_parameters

CARD = "README.md"
NOT_EVALUATED = (
    "Not evaluated yet: `moiety evaluate FOLDER QUESTIONS.jsonl --images PICTURES --card` adds a table here."
)
USE = """## Use

```python
import moiety.vlm  # makes the model type known to transformers
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("FOLDER")
processor = AutoProcessor.from_pretrained("FOLDER")
```

`moiety demo-app FOLDER` opens a page where you can talk to the model. It shows which expert reads each patch and
word."""
_BEGIN, _END = "<!-- results: begin -->", "<!-- results: end -->"


@dataclass(frozen=True)
class Training:
    """What a card says about the stage that made a checkpoint.

    Args:
        recipe: The whole recipe, as plain values.
        files: Conversation file -> short hash of its content.
        rows: Rows that the model learned from.
        rows_skipped: Rows that were left out.
        loss: Cross-entropy of the last logging step.
        alarms: Warnings of the training.
    """

    recipe: Mapping[str, Any]
    files: Mapping[str, str] = field(default_factory=dict)
    rows: int = 0
    rows_skipped: int = 0
    loss: float | None = None
    alarms: Sequence[str] = ()


def write_card(folder: str | Path, model: Any, training: Training | None = None) -> None:
    """Write ``README.md`` into a model folder, in the form of the Hugging Face Hub.

    Args:
        folder: A folder that holds, or is about to hold, the model.
        model: The model, with its history in ``config.provenance``.
        training: The stage that made it. None: the model was upcycled and not trained.
    """
    history = getattr(model.config, "provenance", None) or {}
    parts = [
        _front_matter(model, history),
        f"# {_family(model)}, {'dense' if _scheme(model) == 'dense' else f'{_scheme(model)} experts'}",
        _opening(model, history),
        USE,
        "## Results",
        f"{_BEGIN}\n{NOT_EVALUATED}\n{_END}",
        "## Model",
        _table(("property", "value"), _facts(model, history)),
        *_made(history),
        *([] if training is None else _data(training)),
    ]
    write_atomically(Path(folder) / CARD, "\n\n".join(parts) + "\n")


def add_results(folder: str | Path, title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Path:
    """Put a table of results into the card of a model folder. It replaces a table with the same title.

    Args:
        folder: Model folder whose card :func:`write_card` wrote.
        title: Heading of the table, such as the name of the questions.
        heads: Columns.
        rows: Cells.

    Raises:
        FileNotFoundError: there is no card.
        ValueError: the card has no place for results.
    """
    path = Path(folder) / CARD
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {CARD}; moiety writes one beside each checkpoint it makes")
    text = path.read_text(encoding="utf-8")
    if _BEGIN not in text or _END not in text:
        raise ValueError(f"{path} has no marks {_BEGIN} and {_END}; put both lines where the results should stand")
    before, rest = text.split(_BEGIN, 1)
    inside, after = rest.split(_END, 1)
    kept = [block for block in re.split(r"(?m)^(?=### )", inside.strip()) if block.startswith("### ")]
    kept = [block.strip() for block in kept if block.splitlines()[0] != f"### {title}"]
    blocks = [*kept, f"### {title}\n\n{_table(heads, rows)}"]
    write_atomically(path, before + _BEGIN + "\n" + "\n\n".join(blocks) + "\n" + _END + after)
    return path


def _front_matter(model: Any, history: Mapping[str, Any]) -> str:
    scheme = _scheme(model)
    tags = ["moiety", *(["mixture-of-experts"] if moe_layers(model) else []), scheme]
    parts = _parts(history)
    sources = [part["source"] for part in parts] or [(history.get("upcycled") or {}).get("source")]
    # only an id of the Hub means something to other people; a folder of this machine does not
    bases = [name for name in sources if isinstance(name, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", name)]
    licences: Any = list(dict.fromkeys(part.get("licence") for part in parts))
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-text-to-text",
        tags=tags,
        base_model=(bases if len(bases) > 1 else bases[0]) if bases else None,
        license=(licences if len(licences) > 1 else licences[0]) if licences and None not in licences else None,
    )
    return f"---\n{data.to_yaml()}\n---"


def _parts(history: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The language model and the vision tower of an assembly; none for another model."""
    found = history.get("assembled")
    return [found[name] for name in ("language", "tower")] if found else []


def _scheme(model: Any) -> str:
    return str((getattr(model.config, "moe", None) or {}).get("scheme", "dense"))


def _family(model: Any) -> str:
    """The usual name of the architecture, from the name of its class."""
    return type(model).__name__.removeprefix("Moiety").removesuffix("ForConditionalGeneration")


def _opening(model: Any, history: Mapping[str, Any]) -> str:
    """What the model is, how large it is, and which stages trained it."""
    count, groups, layers = count_parameters(model), groups_of(model), moe_layers(model)
    what = f"A vision-language model of the {_family(model)} architecture, in the form that moiety writes."
    if groups is not None:
        depth = len(decoder_layers(model))
        what = (
            f"A vision-language model of the {_family(model)} architecture. In {len(layers)} of its {depth} decoder "
            f"layers each token goes to {layers[0].top_k} of the experts open to its modality: {groups.describe()}."
        )
    size = f"It has {count.total:,} parameters, and one token passes through {count.activated:,} of them (activated)."
    trained = [stage["name"] for stage in history.get("stages") or []]
    done = (
        f"It was trained in {counted(len(trained), 'stage')}: {', '.join(trained)}."
        if trained
        else "It was not trained by moiety."
    )
    return f"{what} {size} {done} Nothing was measured except what the tables below show."


def _facts(model: Any, history: Mapping[str, Any]) -> list[tuple[str, str]]:
    count, groups, layers = count_parameters(model), groups_of(model), moe_layers(model)
    facts = [("base", _base(history)), ("scheme", count.scheme)]
    if groups is not None:
        chosen = ", ".join(str(layer.layer_index) for layer in layers)
        facts += [("experts of a sparse layer", groups.describe()), ("chosen by a token", str(layers[0].top_k))]
        facts += [("sparse layers, counted from 0", chosen)]
    facts += [("parameters", f"{count.total:,}"), ("activated by one token", f"{count.activated:,}")]
    if len(set(count.activated_by_group.values())) > 1:
        facts += [(f"activated by a {name} token", f"{value:,}") for name, value in count.activated_by_group.items()]
    return [*facts, ("weights", str(model.dtype).removeprefix("torch."))]


def _base(history: Mapping[str, Any]) -> str:
    """What the model started from, without the folders of this machine."""
    if history.get("origin") == "scratch":
        return "none: the model was built from nothing; see the stages"
    source = (history.get("upcycled") or {}).get("source")
    parts = history.get("assembled")
    if source is None and parts:
        return " and ".join(str(parts[part]["source"]) for part in ("language", "tower"))
    source = source or history.get("origin")
    return Path(str(source)).name if source else "unknown"


def _made(history: Mapping[str, Any]) -> list[str]:
    """How the model was made: upcycling with its parity receipt, then the stages."""
    parts = ["## How it was made", *_assembled(history)]
    receipt = (history.get("upcycled") or {}).get("receipt")
    if receipt is not None:
        promise = (
            ""
            if receipt["promised"]
            else "; this is expected, because experts of another width cannot copy the dense FFN"
        )
        rule, off = history["upcycled"]["copy_rule"] or "class and config only", receipt["relative_difference"]
        parts.append(
            f"Upcycled ({rule}). Its logits then differed from the dense model's by {off:.1e} (relative){promise}."
        )
    stages = history.get("stages") or []
    if stages:
        rows = [
            (
                *(str(stage[key]) for key in ("name", "scheme", "seed")),
                *(f"{stage[key]:,}" for key in ("steps", "tokens")),
                ", ".join(stage["trains"]),
            )
            for stage in stages
        ]
        parts.append(_table(("stage", "scheme", "seed", "steps", "tokens", "what learned"), rows))
    return parts if len(parts) > 1 else [*parts, "Its history is not known."]


def _assembled(history: Mapping[str, Any]) -> list[str]:
    """The parts of an assembled model with their licences, and whether its projector was trained."""
    found = history.get("assembled")
    if not found:
        return []
    rows = [
        (name, part["source"], part.get("licence") or "not stated", part.get("packed") or "–")
        for name, part in ((name, found[name]) for name in ("language", "tower"))
    ]
    trained = any("projector" in stage["trains"] for stage in history.get("stages") or [])
    said = "" if trained else " No stage has trained the projector yet, so this model cannot use pictures."
    off = found["receipt"]["relative_difference"]
    return [
        "Assembled from two trained models and a new projector. On text alone, its logits then differed from those of "
        f"the language model by {off:.1e} (relative).{said}",
        _table(("part", "made of", "licence", "packed as"), rows),
    ]


def _data(training: Training) -> list[str]:
    rows = [(name, digest) for name, digest in training.files.items()]
    skipped = f", {training.rows_skipped:,} left out" if training.rows_skipped else ""
    parts = ["## Data", f"The last stage learned from {training.rows:,} rows{skipped}."]
    parts += [_table(("file", "sha256, first digits"), rows)] if rows else []
    if training.loss is not None:
        parts.append(f"The cross-entropy at the end of training was {training.loss:.4f}.")
    alarms = "\n".join(f"- {alarm}" for alarm in dict.fromkeys(training.alarms))
    parts += [f"Warnings of the training:\n\n{alarms}"] if alarms else []
    recipe = yaml.safe_dump(_portable(dict(training.recipe)), sort_keys=False, allow_unicode=True, width=120).rstrip()
    return [*parts, "## Recipe", f"<details><summary>all settings</summary>\n\n```yaml\n{recipe}\n```\n\n</details>"]


def _portable(tree: Any) -> Any:
    """The same settings, with only the last name of each absolute path."""
    if isinstance(tree, Mapping):
        return {key: _portable(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_portable(value) for value in tree]
    return Path(tree).name if isinstance(tree, str) and Path(tree).is_absolute() else tree


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table. A column that holds only numbers is aligned to the right."""
    right = [
        bool(rows) and all(re.fullmatch(r"[-+−]?[\d.,]+( \[.*\])?|–|", row[n]) for row in rows)
        for n in range(len(heads))
    ]
    lines = [heads, ["---:" if number else "---" for number in right], *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
