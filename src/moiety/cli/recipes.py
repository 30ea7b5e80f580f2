"""``moiety recipes``: list, copy and check the recipes that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from moiety.cli.door import CheckFailed, say
from moiety.cli.options import AsJson, output_file, set_option
from moiety.cli.screen import show, show_json, table

app = typer.Typer(
    no_args_is_help=True, help="List, copy and check the recipes that come with moiety, and print all keys of a recipe."
)


def shipped() -> dict[str, Path]:
    """Name -> file of every recipe in the package; those of the intent wing are called ``intent/<name>``."""
    folder = Path(__file__).parents[1] / "recipes"
    found = [*sorted(folder.glob("*.yaml")), *sorted(folder.glob("intent/*.yaml"))]
    return {path.relative_to(folder).with_suffix("").as_posix(): path for path in found}


def is_intent(path: Path) -> bool:
    """Whether a recipe is of the intent wing: its data has a kind."""
    from moiety.recipe.reader import read_tree

    data = read_tree(path, ()).get("data")
    return isinstance(data, dict) and "kind" in data


def find_recipe(name: str) -> Path:
    """The recipe file a person means: a path, or the name of a shipped recipe.

    Raises:
        FileNotFoundError: neither exists.
    """
    from moiety.groups import nearest_name

    path = Path(name)
    if path.is_file():
        return path
    known = shipped()
    if name in known:
        return known[name]
    raise FileNotFoundError(
        f"no recipe file {name} and no recipe of that name in the package; " + nearest_name(name, known)
    )


def load(name: str, overrides: list[str] | None = None) -> Any:
    """Read a recipe by path or shipped name, apply overrides and check that its scheme can be built."""
    from moiety.recipe.recipe import load_recipe

    path = find_recipe(name)
    if is_intent(path):
        raise ValueError(f"{path} is a recipe for intents; give it to `moiety intent fit` or `moiety intent compare`")
    recipe = load_recipe(path, overrides or ())
    check_scheme(recipe, path)
    return recipe


def check_scheme(recipe: Any, path: Path) -> None:
    """Refuse a recipe whose expert groups cannot be built, before anything is loaded.

    Raises:
        RecipeError: the scheme is unknown, or its groups or top_k do not fit.
    """
    from moiety.moe.routers import resolve
    from moiety.recipe.recipe import RecipeError

    if recipe.moe.scheme == "dense":
        return
    try:
        resolve(recipe.moe)
    except (ValueError, KeyError) as error:
        text = error.args[0] if error.args else error
        raise RecipeError(f"{path}: 1 problem\n  moe: {text}") from error


def summary(path: Path) -> str:
    """First comment of a recipe file: what it is for."""
    first = path.read_text(encoding="utf-8").split("\n", 1)[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


@app.command("ls")
def ls(as_json: AsJson = False) -> None:
    """List the recipes of the package."""
    found = [{"name": name, "about": summary(path), "path": path} for name, path in shipped().items()]
    if as_json:
        show_json(found)
    else:
        show(table("recipes", ("name", "about"), [(entry["name"], entry["about"]) for entry in found]))
        say("copy one with `moiety recipes cp NAME`, or give its name to `moiety train` or `moiety intent fit`")


@app.command("cp")
def cp(
    name: Annotated[str, typer.Argument(help="Name of a shipped recipe.")],
    destination: Annotated[Path, typer.Argument(help="Folder or file to write.")] = Path("."),
    overwrite: Annotated[bool, typer.Option(help="Replace a file that exists already.")] = False,
) -> None:
    """Copy a recipe of the package, so that you can edit it."""
    source = find_recipe(name)
    target = destination / source.name if destination.is_dir() else destination
    if target.exists() and not overwrite:
        raise FileExistsError(f"{target} exists; choose another name or give --overwrite")
    output_file(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    say(f"wrote {target}")


@app.command("validate")
def validate(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE...", help="Recipe files or shipped names.")],
    overrides: Annotated[list[str] | None, set_option("moe.top_k=2", where="It applies to every RECIPE given.")] = None,
) -> None:
    """Check the keys, values and schemes of recipes, and that the scheme can be built. Exit code 1: a recipe fails."""
    failed = 0
    for name in recipes:
        try:
            if is_intent(find_recipe(name)):
                show(intent_line(name, overrides))
                continue
            from moiety.compare.variants import check_names

            recipe = load(name, overrides)
            check_names(recipe, recipe.compare.schemes)
        except (ValueError, FileNotFoundError) as error:
            say(f"error: {error}")
            failed += 1
        else:
            stages = ", ".join(f"{stage.name}{' (sparse)' * stage.sparse}" for stage in recipe.stages)
            show(f"{name}: ok · scheme {recipe.moe.scheme} · stages {stages}")
    if failed:
        raise CheckFailed


def intent_line(name: str, overrides: list[str] | None) -> str:
    """A recipe of the intent wing that is right, in one line."""
    from moiety.intent.recipe import load_intent_recipe

    recipe = load_intent_recipe(find_recipe(name), overrides or ())
    return f"{name}: ok · data {recipe.data.kind} · method {recipe.model.method} · {len(recipe.seeds)} seeds"


@app.command("keys")
def keys() -> None:
    """Print every key that a recipe may hold, with its values, default and meaning, as Markdown."""
    from moiety.cli.recipe_keys import recipe_page

    typer.echo(recipe_page(), nl=False)
