"""``moiety upcycle`` and ``moiety params``: make a model sparse, and count what it has."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moiety.cli.door import calm_libraries, say
from moiety.cli.options import DTYPES, AsJson, DtypeOption, keys_of, output_folder, set_option
from moiety.cli.screen import show, show_json, table

if TYPE_CHECKING:
    from moiety.recipe.recipe import MoESettings
    from moiety.vlm.parameters import ParameterCount

USUAL_STAGES = {
    "1: projector": ["projector"],
    "2: all": ["vision_tower", "projector", "embeddings", "decoder", "router", "experts", "head"],
}


def upcycle(
    source: Annotated[str, typer.Argument(metavar="SRC", help="Dense model: a Hugging Face folder or id.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="Folder to write.", callback=output_folder)],
    scheme: Annotated[str, typer.Option(help="Routing scheme, for instance moiie or vanilla.")] = "moiie",
    experts: Annotated[
        str | None, typer.Option(help="Number of experts in each group, for instance vision=1,inter=2,text=1.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Number of experts that one token passes through.")] = None,
    layers: Annotated[
        str | None,
        typer.Option(
            help="Layers to make sparse: odd, even, all, or numbers from 0, such as 1,3. Default: the scheme's own."
        ),
    ] = None,
    settings: Annotated[list[str] | None, set_option("moe.norm_topk=false", "moe")] = None,
    seed: Annotated[int, typer.Option(metavar="N", min=0, help="Seed of the router weights.")] = 0,
    revision: Annotated[str | None, typer.Option(help="Revision of a Hugging Face id.")] = None,
    processor: Annotated[
        str | None, typer.Option(metavar="DIR", help="Folder or id that holds the processor, if SRC holds none.")
    ] = None,
    dtype: DtypeOption = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace DST if it exists.")] = False,
    allow_damage: Annotated[
        bool, typer.Option("--allow-damage", help="Write the model also if it has lost what SRC had learned.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count parameters and memory, and write nothing.")] = False,
) -> None:
    """Make a dense model sparse: copy its FFNs into experts.

    The logits of both models are compared, and the result (the receipt) is written into the new config.json. Experts
    that are narrower than the FFN lose what a trained model had learned, and are refused.
    """
    from moiety.vlm.model import config_of
    from moiety.vlm.quantised import quantised_by, refuse_quantised
    from moiety.vlm.upcycle import upcycle_folder

    moe = moe_settings(scheme, experts, top_k, layers, settings)
    if destination.exists() and not (overwrite or dry_run):
        raise FileExistsError(f"{destination} exists; choose another folder or give --overwrite")
    calm_libraries()
    refuse_quantised(quantised_by(config_of(source)), source)
    show_plan(source, moe)
    if dry_run:
        say("dry run: nothing was written")
        return
    logging.getLogger("moiety.vlm.upcycle").setLevel(logging.WARNING)  # the receipt is printed below
    options: dict[str, Any] = {"revision": revision, "overwrite": overwrite, "allow_damage": allow_damage, "seed": seed}
    receipt = upcycle_folder(source, destination, moe, processor=processor, dtype=dtype, **options)
    show(str(receipt))
    say(f"wrote {destination}")


def show_plan(source: str, moe: MoESettings) -> None:
    """Print what a sparse model will have: parameters, widths of scheme asymoe, and memory of both usual stages."""
    from moiety.vlm.parameters import count_parameters

    dense, sparse = count_parameters(source), count_parameters(source, moe)
    show(count_table(f"{source} as {moe.scheme}", {"dense": dense, moe.scheme: sparse}))
    if moe.scheme == "asymoe":
        show_design(source, moe)
    show(memory_table({"1: projector": dense, "2: all": sparse}))


def params(
    what: Annotated[
        str, typer.Argument(metavar="MODEL|RECIPE", help="Model folder or Hugging Face id, or recipe file or name.")
    ],
    settings: Annotated[
        list[str] | None,
        set_option("moe.top_k=2", where="For a RECIPE; with --scheme, keys below moe for a MODEL too."),
    ] = None,
    scheme: Annotated[
        str | None, typer.Option(help="Count the dense model as it would be with this routing scheme.")
    ] = None,
    layers: Annotated[
        str | None,
        typer.Option(help="With --scheme, the sparse layers: odd, even, all, or numbers from 0, such as 1,3,5."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Count the parameters of a model, or of the model that a recipe makes.

    Shown are all parameters, those that one token of each modality activates, each part, and the expert width at which
    every other scheme activates as many. For scheme asymoe, the widths of the design and what they save are shown too.
    """
    from moiety.vlm.parameters import count_parameters

    config, moe = config_and_settings(what, settings if scheme is None else None)
    if scheme is not None:
        config, moe = dense_config(config), moe_settings(scheme, None, None, layers, keys_of("moe", settings))
    published, strict = (count_parameters(config, moe, name) for name in ("published", "strict"))
    dense = dense_config(config)
    schemes = scheme_rows(dense, moe or settings_in(config))
    if as_json:
        from moiety.vlm.asymoe.designs import design_of

        design = asdict(design_of(dense, moe or settings_in(config))) if published.scheme == "asymoe" else None
        found = {"published": vars(published), "strict": vars(strict), "schemes": schemes}
        show_json(found if design is None else {**found, "design": design})
        return
    show(count_table(f"{what}: {published.scheme}", {"published": published, "strict": strict}))
    say("published counts the whole vision tower, strict leaves out what no token uses")
    if published.scheme == "asymoe":
        show_design(dense, moe or settings_in(config))
    columns = ("scheme", "experts", "#top_k", "#expert width", "#activated", "#total", "#difference %")
    show(
        table(
            f"equal activated parameters ({published.scheme} as it is)",
            columns,
            [list(row.values()) for row in schemes],
        )
    )


def moe_settings(
    scheme: str, experts: str | None, top_k: int | None, layers: str | None, overrides: Sequence[str] | None
) -> MoESettings:
    """Settings of the sparse layers from the words of the command line.

    Raises:
        RecipeError: a value does not fit, or a key is unknown.
    """
    from pydantic import ValidationError

    from moiety.recipe.reader import apply_override
    from moiety.recipe.recipe import MoESettings, RecipeError, describe_errors

    tree: dict[str, Any] = {"scheme": scheme, "top_k": top_k}
    if layers is not None:
        tree["layers"] = layer_list(layers)
    if experts is not None:
        tree["experts"] = counts(experts)
    for override in overrides or ():
        apply_override(tree, override)
    try:
        return MoESettings.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(describe_errors(error, "moe", MoESettings)) from error


def layer_list(text: str) -> str | list[int]:
    """``odd`` stays a word, ``1,3`` becomes a list.

    Example:
        >>> layer_list("odd"), layer_list("1,3")
        ('odd', [1, 3])
    """
    return [int(part) for part in text.split(",")] if re.fullmatch(r"\d+(,\d+)*", text) else text


def counts(text: str) -> dict[str, int]:
    """``vision=1,inter=2`` as a dict.

    Raises:
        ValueError: a part is not of the form name=number.
    """
    found = {}
    for part in text.split(","):
        name, equals, number = part.strip().partition("=")
        if not equals or not name or not number.isdigit():
            raise ValueError(
                f"--experts: {part!r} is not of the form group=count, for instance vision=1,inter=2,text=1"
            )
        found[name] = int(number)
    return found


def count_table(title: str, columns: dict[str, ParameterCount]) -> Any:
    """Counts side by side: total, activated, activated by each modality group, parts."""
    found = list(columns.values())
    rows: list[list[Any]] = [
        ["total", *(count.total for count in found)],
        ["activated by one token", *(count.activated for count in found)],
    ]
    groups = dict.fromkeys(name for count in found for name in count.activated_by_group if name != "all")
    for name in groups:
        rows.append([f"  {name} token", *(count.activated_by_group.get(name, count.activated) for count in found)])
    parts = dict.fromkeys(name for count in found for name in count.by_part)
    rows += [[str(part), *(count.by_part.get(part, 0) for count in found)] for part in parts]
    return table(title, ("parameters", *(f"#{name}" for name in columns)), rows)


def show_design(source: Any, settings: MoESettings) -> None:
    """The widths of scheme asymoe, what each part of a layer costs a token, and what each set of experts saves."""
    from moiety.vlm.asymoe.designs import design_of
    from moiety.vlm.model import config_of

    design = design_of(config_of(source) if isinstance(source, str) else source, settings)
    show(table(f"design {design.plan}", ("width", "#value"), [list(width) for width in design.widths.items()]))
    parts = [list(part) for part in design.parts.items()]
    show(table("one sparse layer", ("part", "#parameters of one token"), parts))
    rows = []
    for found in design.sets:
        savings = [f"{100 * share:.2f}" for kind in ("decoder", "whole") for share in found.saving[kind].values()]
        rows.append([found.token, found.experts, found.decoder, *savings[:2], found.whole, *savings[2:]])
    below = ("#% below dense", "#% below MoIIE")
    show(
        table(
            f"what one token activates; dense decoder {design.dense:,}, with MoIIE in these layers {design.moiie:,}",
            ("token", "experts", "#decoder", *below, "#with tower, projector", *below),
            rows,
        )
    )
    say("compare the numbers of the largest set of experts that a token can choose")


def memory_table(stages: dict[str, ParameterCount]) -> Any:
    """GiB of weights, gradients and AdamW moments of the two usual stages."""
    import torch

    from moiety.vlm.parameters import stage_memory

    rows = [
        [name, *(stage_memory(count, USUAL_STAGES[name], getattr(torch, dtype)) for dtype in DTYPES)]  # type: ignore[arg-type]
        for name, count in stages.items()
    ]
    return table("GiB without activations", ("stage and what it trains", *(f"#{name}" for name in DTYPES)), rows)


def config_and_settings(what: str, overrides: list[str] | None) -> tuple[Any, MoESettings | None]:
    """The config a model folder or a recipe stands for, and the settings it is to be made sparse with."""
    from moiety.cli.data import config_of_recipe
    from moiety.cli.recipes import load, shipped
    from moiety.vlm.model import config_of

    if Path(what).is_dir() or (not what.endswith((".yaml", ".yml")) and what not in shipped()):
        if overrides:
            raise ValueError(
                f"--set {overrides[0]} changes a key of a recipe, and {what} is a model; give --scheme as "
                "well to count the dense model with other settings"
            )
        return config_of(what), None
    return config_of_recipe(load(what, overrides))


def settings_in(config: Any) -> MoESettings:
    """The settings a config was made with; dense for a stock config."""
    from moiety.recipe.recipe import MoESettings

    tree = getattr(config, "moe", None)
    return MoESettings(scheme="dense") if tree is None else MoESettings.model_validate(tree)


def dense_config(config: Any) -> Any:
    """The same config without sparse layers."""
    import copy

    from moiety.recipe.recipe import MoESettings

    if getattr(config, "moe", None) is None:
        return config
    dense = copy.deepcopy(config)
    dense.moe = MoESettings(scheme="dense").model_dump()
    return dense


def scheme_rows(dense: Any, reference: MoESettings) -> list[dict[str, Any]]:
    """Every scheme over the same dense model, with the expert width that activates as much as `reference`."""
    from moiety.moe.routers import resolve, scheme_names
    from moiety.recipe.recipe import MoESettings
    from moiety.vlm.configs import dense_ffn
    from moiety.vlm.parameters import count_parameters

    same: dict[str, Any] = {"layers": reference.layers, "modality_groups": reference.modality_groups}
    ffn = dense_ffn(dense)
    own = count_parameters(dense, reference).activated
    rows: list[dict[str, Any]] = []
    for scheme in scheme_names():
        settings = reference if scheme == reference.scheme else MoESettings(scheme=scheme, **same)
        row: dict[str, Any] = {"scheme": scheme, "experts": "", "top_k": None, "expert_ffn": ffn}
        rows.append({**row, "activated": None, "total": None, "difference_percent": None})
        if scheme != "dense":
            _, groups, top_k = resolve(settings)
            rows[-1] |= {"experts": groups.describe(), "top_k": top_k, "expert_ffn": None}
        try:
            settings = settings if scheme == reference.scheme else as_much_as(reference, settings, dense, own)
        except ValueError as error:
            say(f"{scheme} cannot activate as much: {error}")
            continue
        count = count_parameters(dense, settings)
        if scheme not in ("dense", "asymoe"):
            rows[-1]["expert_ffn"] = settings.expert_ffn or ffn
        rows[-1] |= {"activated": count.activated, "total": count.total}
        rows[-1]["difference_percent"] = 100 * (count.activated - own) / own
    return rows


def as_much_as(reference: MoESettings, settings: MoESettings, dense: Any, activated: int) -> MoESettings:
    """`settings` at the width that makes them equal to `reference`, which activates `activated` parameters."""
    from moiety.vlm.configs import dense_ffn
    from moiety.vlm.parameters import equal_settings, expert_ffn_for, of_one_width

    if settings.scheme == "dense" or not of_one_width(settings, reference):
        return equal_settings(settings, dense, activated)
    width = expert_ffn_for(settings, reference, dense_ffn(dense))
    return settings.model_copy(update={"expert_ffn": width})
