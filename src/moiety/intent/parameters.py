"""Settings of a pydantic model as the parameters of a scikit-learn estimator: one list, and everything follows from it.

scikit-learn reads the parameters of an estimator from the signature of its ``__init__``, and shows what each one means
from the section "Parameters" of the docstring of its class. Both are made here, so that neither can say anything else
than what the settings allow.
"""

from __future__ import annotations

import inspect
import re
import textwrap
import types
import typing
from collections.abc import Callable
from typing import Any, TypeVar

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel
from pydantic.fields import FieldInfo

Estimator = TypeVar("Estimator", bound=type)
PLACE = "{parameters}"
"""Where in the docstring of the class the list goes."""


def with_parameters_of(settings: type[BaseModel]) -> Callable[[Estimator], Estimator]:
    """A decorator: the class takes the fields of `settings` as keyword arguments, and its docstring lists them.

    Args:
        settings: Every field has a default and a description.
    """

    def decorate(estimator: Estimator) -> Estimator:
        estimator.__init__.__signature__ = signature_of(settings)  # type: ignore[misc]
        estimator.__doc__ = inspect.cleandoc(estimator.__doc__ or "").replace(PLACE, parameters_text(settings))
        return estimator

    return decorate


def signature_of(settings: type[BaseModel]) -> inspect.Signature:
    """The signature of an ``__init__`` that takes each field as a keyword argument with its default."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    fields = [
        inspect.Parameter(name, keyword, default=default_of(field), annotation=field.annotation)
        for name, field in settings.model_fields.items()
    ]
    return inspect.Signature([inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD), *fields])


def default_of(field: FieldInfo) -> Any:
    """The default of a setting; a new copy of it where it is a list or a mapping.

    Args:
        field: A field of the settings; every one has a default, as scikit-learn asks of its parameters.
    """
    return field.get_default(call_default_factory=True)


def parameters_text(settings: type[BaseModel]) -> str:
    """One entry for each field, as numpydoc writes it: name, kind and range, default; below it the description."""
    entries = []
    for name, field in settings.model_fields.items():
        meaning = re.sub(r"\bnull\b", "None", field.description or "")  # recipes are YAML, parameters are Python
        text = textwrap.fill(f"{meaning.rstrip('.')}.", 96, break_on_hyphens=False)
        head = f"{name} : {_kind(field.annotation, field.metadata)}, default={default_of(field)!r}"
        entries.append(f"{head}\n{textwrap.indent(text[:1].upper() + text[1:], '    ')}")
    return "\n".join(entries)


def _kind(annotation: Any, limits: list[Any]) -> str:
    """A type in words, with its range.

    Example:
        >>> _kind(float, [Ge(0), Lt(1)]), _kind(dict[str, int] | None, []), _kind(typing.Literal["f1", "acc"], [])
        ('float in [0, 1)', 'dict of str to int or None', "{'f1', 'acc'}")
    """
    if typing.get_origin(annotation) is typing.Annotated:
        return _kind(typing.get_args(annotation)[0], limits)
    parts = typing.get_args(annotation)
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        return " or ".join(_kind(part, limits) for part in parts)
    if typing.get_origin(annotation) is typing.Literal:
        return "{" + ", ".join(map(repr, parts)) + "}"
    if typing.get_origin(annotation) is dict:
        return "dict of str to " + _kind(parts[1], [])
    if typing.get_origin(annotation) is tuple:
        return "tuple of str"
    if annotation is Any:
        return "str, dict, path or None"
    name = "None" if annotation is types.NoneType else annotation.__name__
    return f"{name} in {_range(limits)}" if limits and annotation in (int, float) else name


def _range(limits: list[Any]) -> str:
    """An interval: a round bracket where the end itself is not allowed.

    Example:
        >>> _range([Ge(1)]), _range([Gt(0), Le(1)])
        ('[1, inf)', '(0, 1]')
    """
    low, high = "(-inf", "inf)"
    for limit in limits:
        if isinstance(limit, Ge | Gt):
            low = f"[{limit.ge}" if isinstance(limit, Ge) else f"({limit.gt}"
        elif isinstance(limit, Le | Lt):
            high = f"{limit.le}]" if isinstance(limit, Le) else f"{limit.lt})"
    return f"{low}, {high}"
