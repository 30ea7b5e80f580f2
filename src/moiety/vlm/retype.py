"""Objects of Hugging Face that get a mixin in front of their class, in place: their state stays where it is."""

from __future__ import annotations

import functools
from typing import Any


@functools.cache
def retyped(original: Any, mixin: Any) -> Any:
    """`original` with `mixin` in front, under the same name: look-ups by class name keep working.

    A mixin may have a function ``over(original)`` that gives methods for this class alone.
    """
    namespace = {
        **(mixin.over(original) if hasattr(mixin, "over") else {}),
        "__module__": original.__module__,
        "__qualname__": original.__qualname__,
        "_retyped_from": (original, mixin),
    }
    return type(original.__name__, (mixin, original), namespace)


def original_class(thing: Any) -> Any:
    """Hugging Face's own class of `thing`, whatever mixin of ours stands in front of it."""
    cls: Any = type(thing)
    return getattr(cls, "_retyped_from", (cls,))[0]


def retype(thing: Any, mixin: type) -> None:
    """Put `mixin` in front of the class of `thing`, unless it stands there; another mixin of ours makes room."""
    if not isinstance(thing, mixin):  # of a dense model of ours the base is re-typed already
        thing.__class__ = retyped(original_class(thing), mixin)


def reduce(thing: Any) -> Any:
    """Pickle by the original class and the mixin: the retyped class stands in no module under its own name."""
    return _blank, thing._retyped_from, thing.__getstate__()


def _blank(original: type, mixin: type) -> Any:
    cls = retyped(original, mixin)
    return cls.__new__(cls)
