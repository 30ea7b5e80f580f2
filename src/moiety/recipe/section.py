"""The base class of the sections of a recipe, and what all sections share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, BeforeValidator, ConfigDict


def _zero_and_one(value: Any) -> Any:
    """Accept 0 and 1 for false and true, as people write them on a command line. Other numbers stay an error."""
    return bool(value) if type(value) is int and value in (0, 1) else value


Switch = Annotated[bool, BeforeValidator(_zero_and_one)]


class Section(BaseModel):
    """Base of all sections: unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    former_names: ClassVar[Mapping[str, str]] = {}
    """Former spelling of a key -> its present name. Recipes and stored configs may hold the former one."""


def with_present_names(section: type[BaseModel], tree: Any) -> Any:
    """The keys that were written in a section, each under its present name.

    Args:
        section: The class of the section; its ``former_names`` list the keys that were renamed.
        tree: What was written. If it is not a mapping, it is returned unchanged.

    Raises:
        ValueError: a key is given under both names.

    Example:
        >>> class Toy(Section):
        ...     former_names = {"order_weight": "cone_weight"}
        ...     cone_weight: float = 0.1
        >>> with_present_names(Toy, {"order_weight": 0.5})
        {'cone_weight': 0.5}
    """
    former = getattr(section, "former_names", {})
    if not isinstance(tree, Mapping) or not former.keys() & tree.keys():
        return tree
    for old, new in former.items():
        if old in tree and new in tree:
            raise ValueError(f"{old} is the former name of {new}, and both are given; keep {new} alone")
    return {former.get(key, key): value for key, value in tree.items()}


def with_defaults(section: type[BaseModel], tree: Mapping[str, Any]) -> dict[str, Any]:
    """A section that was written without its defaults, with the defaults filled in, as JSON values.

    Only the defaults of the fields are filled in. Validators with other rules, such as presets, ran when the section
    was read; the values that they chose differ from the defaults and were therefore written.

    Args:
        section: The class of the section.
        tree: What was written. It may hold all keys already.

    Example:
        >>> class Toy(Section):
        ...     top_k: int = 2
        ...     layers: str = "odd"
        >>> with_defaults(Toy, {"top_k": 1})
        {'top_k': 1, 'layers': 'odd'}
    """
    whole = section.model_construct().model_dump(mode="json")
    for key, value in with_present_names(section, tree).items():
        field = section.model_fields.get(key)
        inner = sections_in(field.annotation) if field is not None and isinstance(value, Mapping) else []
        whole[key] = with_defaults(inner[0], value) if inner else value
    return whole


def sections_in(annotation: Any) -> list[type[BaseModel]]:
    """The section classes in the annotation of a field."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in getattr(annotation, "__args__", ()) for found in sections_in(inner)]


def differences(then: Any, now: Any, path: str = "") -> list[str]:
    """Dotted keys whose values differ, with both values.

    Example:
        >>> differences({"a": {"b": 1}, "c": 2}, {"a": {"b": 3}, "c": 2})
        ['a.b was 1, is 3']
    """
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        keys = [*then, *(key for key in now if key not in then)]
        return [line for key in keys for line in differences(then.get(key), now.get(key), f"{path}.{key}".lstrip("."))]
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        pairs = enumerate(zip(then, now, strict=True))
        return [line for index, (a, b) in pairs for line in differences(a, b, f"{path}.{index}".lstrip("."))]
    return [] if then == now else [f"{path} was {then!r}, is {now!r}"]
