"""Routers and kinds of experts that other packages bring.

There are two ways in, and both work for every command and for ``import moiety``:

- An installed package names its classes as *entry points* of the group ``moiety.routers`` or ``moiety.experts``.
- ``--plugin MODULE`` names a module. It is imported and puts its classes into ``ROUTERS`` or ``EXPERTS`` itself. The
  environment variable :data:`VARIABLE` holds the names, so that processes that a command starts import them too.

An entry point is imported when a recipe asks for its name. It is never imported from the working folder, because that
may be the folder of a model from an unknown source.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any, TypeVar

from moiety.groups import nearest_name

VARIABLE = "MOIETY_PLUGINS"
"""Environment variable with the modules to import, separated by commas."""
ROUTER_GROUP, EXPERT_GROUP = "moiety.routers", "moiety.experts"
Kind = TypeVar("Kind")


def use_plugin(module: str) -> None:
    """Import a module that brings routers or experts, in this process and in every process that it starts later.

    Raises:
        ValueError: the module does not exist, or it cannot be imported.
    """
    names = [*plugin_modules(), module]
    import_plugins(names)
    os.environ[VARIABLE] = ",".join(dict.fromkeys(names))


def plugin_modules() -> list[str]:
    """Names of the plug-in modules that were given so far."""
    return [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]


def import_plugins(names: list[str] | None = None) -> None:
    """Import plug-in modules; a module that is imported already costs nothing.

    Args:
        names: The modules. None: those that were given so far.

    Raises:
        ValueError: a module does not exist, or it cannot be imported.
    """
    for name in plugin_modules() if names is None else names:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ValueError(
                f"the plug-in module {name!r} cannot be imported ({type(error).__name__}: {error}); install its "
                f"package, or put its folder on PYTHONPATH. It was named by --plugin or {VARIABLE}"
            ) from error


def known_names(table: MutableMapping[str, Any], group: str) -> list[str]:
    """Names that a recipe may give: those in `table`, including those that plug-ins added, and the entry points."""
    import_plugins()
    return [*table, *(name for name in _entry_points(group) if name not in table)]


def find(name: str, table: MutableMapping[str, type[Kind]], group: str, base: type[Any]) -> type[Kind]:
    """The class called `name`. If an entry point provides it, the class is imported and put into `table`.

    Args:
        name: As a recipe gives it.
        table: ``ROUTERS`` or ``EXPERTS``.
        group: The group of entry points that belongs to `table`.
        base: The class that the found class must inherit from.

    Raises:
        ValueError: the name is unknown, or the package that provides it cannot be imported.
        TypeError: the entry point leads to something that does not inherit from `base`.
    """
    if name not in table:
        import_plugins()
    if name not in table and name in _entry_points(group):
        table[name] = _loaded(_entry_points(group)[name], base)
    if name not in table:
        told = nearest_name(name, known_names(table, group))
        raise ValueError(
            f"{told}{'' if told.endswith('?') else '.'} If a package of your own brings {name!r}: install it "
            f"(entry points of group {group!r} found: {_listed(_entry_points(group))}) or name its module with "
            f"--plugin (named: {_listed(plugin_modules())})"
        )
    return table[name]


def _loaded(entry: importlib.metadata.EntryPoint, base: type[Any]) -> type[Any]:
    origin = f"entry point {entry.name!r} of group {entry.group!r} ({entry.value})"
    try:
        found = entry.load()
    except Exception as error:
        raise ValueError(f"{origin} cannot be imported ({type(error).__name__}: {error})") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise TypeError(
            f"{origin} is {found!r}; it must be a class that inherits from {base.__module__}.{base.__name__}"
        )
    return found


def _entry_points(group: str) -> dict[str, importlib.metadata.EntryPoint]:
    """Entry points of installed packages by name, without those in the working folder."""
    here = Path.cwd().resolve()
    found = {}
    for package in importlib.metadata.distributions():
        if Path(str(package.locate_file(""))).resolve() == here:
            continue
        found.update({entry.name: entry for entry in package.entry_points if entry.group == group})
    return found


def _listed(names: Any) -> str:
    return ", ".join(names) or "none"
