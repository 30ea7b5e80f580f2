"""The page that lists every key of a recipe, written from the sections themselves: ``docs/recipe-keys.md``."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from moiety.recipe.recipe import Recipe
from moiety.recipe.section import sections_in

_HEAD = """# Keys of a recipe

A recipe is one YAML file. Every key it may hold stands here, with its values, its default and what it means; an unknown
key is an error that names the nearest one. On the command line a key is written with dots:
`moiety train RECIPE.yaml moe.top_k=2 stages.1.train.learning_rate=1e-4`. What the rows hold stands in [rows](rows.md).

This page is what `moiety recipes keys` prints, made from the sections in the code; a test holds it equal.
"""
_NAMES: dict[Any, str] = {str: "text", int: "whole number", float: "number", bool: "true, false", Any: "anything"}


def recipe_page() -> str:
    """The whole page, Markdown."""
    parts = [_HEAD]
    for path, section in sections_of(Recipe):
        title = f"`{path}`" if path else "The file itself"
        lines = [
            f"## {title}",
            "",
            _first_sentence(section),
            "",
            "| key | values | default | meaning |",
            "|---|---|---|---|",
        ]
        for name, field in section.model_fields.items():
            cells = (f"`{name}`", values_of(field), default_of(field), meaning_of(field))
            lines.append(" | ".join(cell.replace("|", r"\|") for cell in cells).join(("| ", " |")))
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def sections_of(section: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Dotted path and class of `section` and of those below it; ``N`` is a place in a list, ``NAME`` a free key."""
    yield path, section
    for name, field in section.model_fields.items():
        for inner in sections_in(field.annotation):
            origin = get_origin(field.annotation)
            kind = ".N" if origin is list else ".NAME" if origin is dict else ""
            yield from sections_of(inner, f"{path}.{name}{kind}".lstrip("."))


def values_of(field: FieldInfo) -> str:
    """What a key may hold, in words.

    Example:
        >>> values_of(Recipe.model_fields["seed"])
        'whole number, ≥ 0'
    """
    limits = [_limit(one) for one in field.metadata]
    return ", ".join([_kind(field.annotation), *(limit for limit in limits if limit)])


def default_of(field: FieldInfo) -> str:
    """The default as YAML would hold it.

    Example:
        >>> default_of(Recipe.model_fields["seed"]), default_of(Recipe.model_fields["name"])
        ('`0`', 'must be given')
    """
    if field.is_required():
        return "must be given"
    default = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(default, BaseModel):
        return "its own defaults"
    assert default is not PydanticUndefined
    return f"`{json.dumps(default)}`"


def meaning_of(field: FieldInfo) -> str:
    """The description of a key; of a section its first sentence."""
    inner = sections_in(field.annotation)
    return field.description or (_first_sentence(inner[0]) if inner else "")


def _first_sentence(section: type[BaseModel]) -> str:
    return " ".join((section.__doc__ or "").split("\n\n")[0].split())


def _kind(annotation: Any) -> str:
    inner = get_args(annotation)
    origin = get_origin(annotation)
    if sections_in(annotation) == [annotation]:
        return "a section"
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in inner)
    if origin in (Union, types.UnionType):
        return " or ".join("`null`" if one is type(None) else _kind(one) for one in inner)
    if origin is list:
        return f"list of: {_kind(inner[0])}"
    if origin is tuple:
        return f"{len(inner)} of: {_kind(inner[0])}"
    if origin is dict:
        return f"{_kind(inner[0])} → {_kind(inner[1])}"
    if hasattr(annotation, "__metadata__"):
        return _kind(inner[0])
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _limit(constraint: Any) -> str:
    """One bound of a value, in signs."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "at least"}
    found = [
        f"{sign} {getattr(constraint, key)}"
        for key, sign in signs.items()
        if getattr(constraint, key, None) is not None
    ]
    return ", ".join(found)
