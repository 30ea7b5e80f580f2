"""Tables of label descriptions: sentences that say what each label means, and the vectors of these sentences."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from moiety.groups import nearest_name
from moiety.intent.data.encoders import HASHING, encode_texts
from moiety.recipe.reader import RecipeError, StrictLoader
from moiety.records.text_files import read_text

SHARED = "shared"


@dataclass(frozen=True)
class LabelDescription:
    """What one label means.

    Args:
        label: The label in the data.
        descriptions: One or more sentences.
        name: A readable name; None: the label itself.
        cues: Non-verbal signs, such as voice and gesture.
    """

    label: str
    descriptions: tuple[str, ...]
    name: str | None = None
    cues: str | None = None

    def texts(self, form: str = "name_and_description") -> list[str]:
        """The texts that are encoded, one for each description.

        Args:
            form: ``name_and_description``, ``name_only``, ``description_only`` or ``with_cues``.

        Example:
            >>> LabelDescription("Thank", ("Shows gratitude.",)).texts()
            ['Thank. Shows gratitude.']
        """
        name = self.name or self.label
        if form == "name_only":
            return [name]
        cues = f" {self.cues}." if form == "with_cues" and self.cues else ""
        head = "" if form == "description_only" else f"{name}. "
        return [f"{head}{description}{cues}" for description in self.descriptions]


def read_table(tree: Any, where: str, field: str = "description") -> dict[str, LabelDescription]:
    """A table of descriptions from parsed JSON or YAML: a list of entries, or a mapping label -> sentence(s).

    Args:
        tree: The parsed file.
        where: Its name in errors.
        field: The field of an entry that holds the text, for instance ``description_ja``.

    Raises:
        ValueError: an entry has no label or no text, a label is given twice, or a text is blank.
    """
    if isinstance(tree, Mapping):
        tree = tree["labels"] if "labels" in tree else [{"label": key, field: value} for key, value in tree.items()]
    if not isinstance(tree, Sequence) or isinstance(tree, str):
        raise ValueError(f"{where} holds {type(tree).__name__}, expected a list of {{label, description}}")
    table: dict[str, LabelDescription] = {}
    for number, entry in enumerate(tree, 1):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("label"), str):
            raise ValueError(f"{where}: entry {number} has no label; expected {{label, {field}}}")
        label, text = entry["label"], entry.get(field, entry.get("description"))
        texts = (text,) if isinstance(text, str) else tuple(text or ())
        if not texts or not all(isinstance(part, str) and part.strip() for part in texts):
            raise ValueError(f"{where}: label {label!r} has no {field}; give a sentence or a list of sentences")
        if label in table:
            raise ValueError(f"{where}: label {label!r} is given twice; give it once, with a list of sentences")
        table[label] = LabelDescription(label, texts, entry.get("name"), entry.get("cues"))
    return table


def shipped_tables(field: str = "description") -> dict[str, dict[str, LabelDescription]]:
    """The tables that are shipped with moiety: ``mintrec`` (20 labels), ``mintrec2`` (30), ``hazumi_da`` (11)."""
    tree = json.loads(resources.files("moiety.intent.labels").joinpath("label_descriptions.json").read_text("utf-8"))
    table = read_table(tree, "label_descriptions.json", field)
    return {name: {label: table[label] for label in labels} for name, labels in tree["sets"].items()}


def load_table(source: Any, field: str = "description") -> dict[str, LabelDescription]:
    """A table of descriptions from a file or a mapping.

    Args:
        source: A path of JSON or YAML, or a mapping label -> sentence(s).
        field: The field of an entry that holds the text.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a table.
    """
    if isinstance(source, Mapping):
        return read_table(source, "label_descriptions", field)
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(
            f"no label descriptions at {path}; write a JSON or YAML file, label -> sentence, or let "
            "'moiety intent describe-labels' write one"
        )
    return read_table(_parsed(read_text(path), path), str(path), field)


def _parsed(text: str, path: Path) -> Any:
    """The content of a JSON or YAML file; a key that is given twice is an error in both.

    Raises:
        ValueError: the text is neither.
    """
    if text.lstrip()[:1] in ("{", "["):
        try:
            return json.loads(text, object_pairs_hook=_unrepeated)
        except json.JSONDecodeError as error:
            if path.suffix.lower() == ".json":
                raise ValueError(f"{path} is no JSON ({error.msg} in line {error.lineno})") from error
        except RecursionError as error:
            raise ValueError(f"{path} is no table: nested too deep") from error
    try:
        return yaml.load(text, Loader=StrictLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" in line {mark.line + 1}"
        raise ValueError(f"{path} is no JSON or YAML ({getattr(error, 'problem', None) or error}{where})") from error
    except RecipeError as error:
        raise ValueError(f"{path}: {error}") from error


def _unrepeated(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise RecipeError(f"{', '.join(twice[:5])} is given twice; give it once")
    return dict(pairs)


def descriptions_for(source: Any, classes: Sequence[str], field: str = "description") -> dict[str, LabelDescription]:
    """Descriptions of exactly `classes`.

    Args:
        source: ``auto``: the shipped table with exactly these labels. A path of JSON or YAML. Or a mapping
            label -> sentence(s).
        classes: The labels of the data.
        field: The field of an entry that holds the text, for instance ``description_ja``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the table does not describe some classes, or no shipped table fits.
    """
    if isinstance(source, str) and source == "auto":
        for table in shipped_tables(field).values():
            if set(table) >= set(classes) and len(table) - len(classes) <= 1:  # one label may mean out of scope
                return {label: table[label] for label in classes}
        raise ValueError(
            f"no shipped table describes the {len(classes)} labels {', '.join(sorted(classes)[:5])}, …; "
            "pass label_descriptions=FILE (moiety intent describe-labels writes one) or a mapping label -> sentence, "
            "or set triplet_weight=0"
        )
    table = load_table(source, field)
    missing = [label for label in classes if label not in table]
    if missing:
        hints = [f"{label!r} ({nearest_name(label, table)})" for label in missing[:3]]
        extra = sorted(set(table) - set(classes))
        raise ValueError(
            f"no description of {len(missing)} of {len(classes)} labels: {'; '.join(hints)}"
            + (f". The table describes labels that the data does not have: {', '.join(extra)}" if extra else "")
            + ". Add the missing ones, or let 'moiety intent describe-labels' write a table"
        )
    return {label: table[label] for label in classes}


def encode_descriptions(
    table: Mapping[str, LabelDescription],
    form: str = "name_and_description",
    encoder: str | Callable[[Sequence[str]], Tensor] = HASHING,
) -> Tensor:
    """One vector for each class, ``(classes, dim)``: the mean over its descriptions, in the order of `table`.

    Args:
        table: Label -> its descriptions.
        form: As :meth:`LabelDescription.texts` takes it.
        encoder: As :func:`moiety.intent.data.encoders.encode_texts` takes it, or a function from texts to vectors
            ``(texts, dim)``.
    """
    vectors = partial(encode_texts, encoder=encoder) if isinstance(encoder, str) else encoder
    return torch.stack([vectors(entry.texts(form)).mean(0) for entry in table.values()])
