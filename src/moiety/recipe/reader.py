"""Reads the YAML of recipes, with strict keys, real floats and dotted overrides.

YAML 1.1 reads ``1e-4`` as a string, and a later key silently replaces an earlier one. Neither is safe in a recipe.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from moiety.records.text_files import TextFileError, read_text


class RecipeError(ValueError):
    """A recipe cannot be used. The text lists every problem."""


class StrictLoader(yaml.SafeLoader):
    """A SafeLoader that reads ``1e-4`` as a float (YAML 1.1: a string) and refuses a key that is given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a dict, and raise an error for a key that is given twice."""
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, list | dict):
                raise RecipeError(f"key {key!r} is no name (line {key_node.start_mark.line + 1})")
            if key in seen:
                raise RecipeError(f"key {key!r} stands twice (line {key_node.start_mark.line + 1})")
            seen.add(key)
        return super().construct_mapping(node, deep)


StrictLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"),
    list("-+0123456789."),
)


EXAMPLE = "moe.top_k=2"
"""What an override looks like, where a recipe has no example of its own."""


def read_tree(
    path: str | Path, sections: Iterable[str], overrides: Sequence[str] = (), example: str = EXAMPLE
) -> dict[str, Any]:
    """Read a recipe file as a nested dict and apply dotted ``key=value`` overrides. Nothing is checked yet.

    Args:
        path: A YAML file.
        sections: Names of the sections that a recipe of this kind has, for the error text.
        overrides: Texts like ``moe.top_k=2``. A number or the name of an entry selects an entry of a list.
        example: An override that fits recipes of this kind, for the error text.

    Raises:
        FileNotFoundError: there is no such file.
        RecipeError: the file is not YAML, or not a mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no recipe at {path}; recipes are YAML files, see the folder recipes/")
    try:
        tree = yaml.load(read_text(path), Loader=StrictLoader)
    except TextFileError as error:
        raise RecipeError(str(error)) from error
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    except RecursionError as error:
        raise RecipeError(f"{path} is nested too deeply; a recipe needs some five levels") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"{path} holds {type(tree).__name__}, expected sections: {', '.join(sections)}")
    for override in overrides:
        apply_override(tree, override, example)
    return tree


def parse_value(text: str) -> Any:
    """Read one value of a ``key=value`` override as YAML would (``false`` is False, ``1e-4`` a float).

    Raises:
        RecipeError: the text is not YAML.
    """
    try:
        return yaml.load(text, Loader=StrictLoader)
    except (yaml.YAMLError, RecursionError) as error:
        raise RecipeError(f"{text[:40]!r} is not a YAML value: {error}") from error


def apply_override(tree: dict[str, Any], override: str, example: str = EXAMPLE) -> None:
    """Set one dotted key of the nested dict `tree`."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"override {override!r} is not of the form key=value, for instance {example}")
    *path, last = key.strip().split(".")
    node: Any = tree
    for depth, part in enumerate(path):
        if isinstance(node, list):
            node = node[_position(part, node, override)]
        else:
            node = node.setdefault(part, {})
            if node is None:
                raise RecipeError(f"override {override!r}: {'.'.join(path[: depth + 1])} is null in the recipe")
        if not isinstance(node, dict | list):
            raise RecipeError(f"override {override!r}: {'.'.join(path[: depth + 1])} is a value, not a section")
    if isinstance(node, list):
        node[_position(last, node, override)] = parse_value(text)
    else:
        node[last] = parse_value(text)


def _position(part: str, node: list[Any], override: str) -> int:
    """Index into a list of the recipe: a number, or the `name` of an entry."""
    names = [entry.get("name") if isinstance(entry, dict) else None for entry in node]
    if part in names:
        return names.index(part)
    if part.isdigit() and int(part) < len(node):
        return int(part)
    raise RecipeError(
        f"override {override!r}: no entry {part!r} in a list of {len(node)} ({[name for name in names if name]})"
    )
