"""What each scheme is before it is trained: whether it computes what the dense model does, and its loss on plain text.

One model is in memory at a time. What was measured is kept in ``runs/starts.json``, so a comparison that goes on does
not measure it again.
"""

from __future__ import annotations

import gc
import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from moiety.compare.plan import PlannedScheme
from moiety.compare.summary import DenseBase
from moiety.evaluate.plain_text import read_texts, text_loss
from moiety.recipe.recipe import MoESettings, Recipe
from moiety.records.json_reader import parse_json
from moiety.records.saving import write_atomically
from moiety.train.fingerprints import FileDigests, base_digests
from moiety.train.ledger import fingerprint_of, text_digest
from moiety.train.start import history_of, require_trained_projector
from moiety.vlm.damage import SCRATCH, DamageError, allows_damage, refuse_damage
from moiety.vlm.model import load
from moiety.vlm.parameters import on_meta
from moiety.vlm.projector import is_as_drawn, projector_in
from moiety.vlm.templates import load_processor
from moiety.vlm.upcycle import upcycle

STARTS = "starts.json"


def base_of_recipe(recipe: Recipe, folder: Path | None = None) -> DenseBase:
    """What a recipe says about its dense base, before anything is measured.

    Args:
        recipe: The recipe.
        folder: Where the base is; None while it does not exist.
    """
    given = recipe.model.source is not None
    recovery = next((stage.name for stage in recipe.stages if stage.recovers), "")
    origin = history_of(on_meta(folder, None), folder)["origin"] if given and folder is not None else SCRATCH
    return DenseBase(given, recovery, folder=folder, stops=origin != SCRATCH and not allows_damage(recipe))


def texts_to_keep(recipe: Recipe) -> list[str]:
    """Plain texts whose loss says how much language is kept; none where the recipe builds its base from nothing.

    Raises:
        FileNotFoundError, ValueError: see :func:`moiety.evaluate.plain_text.read_texts`.
    """
    if recipe.model.source is None:
        return []
    given = recipe.evaluate.texts
    return read_texts(None if given is None else Path(recipe.data.root) / given)


def measured(
    recipe: Recipe,
    base: Path,
    planned: Sequence[PlannedScheme],
    asked: Collection[str],
    texts: Sequence[str],
    memory: Path,
) -> tuple[list[PlannedScheme], float]:
    """The schemes with what they are at step 0, and the loss of the dense base on the same texts.

    Args:
        recipe: The recipe.
        base: Folder of the dense base.
        planned: The schemes.
        asked: Names of those to measure. The others have their values only if an earlier call measured them.
        texts: Plain texts.
        memory: File that measured values are kept in.

    Raises:
        DamageError: a scheme does not start as the dense model, and the recipe does not allow it.
    """
    known = _read(memory)
    common = {
        "base": fingerprint_of(base),
        "weights": base_digests(base, FileDigests(recipe.output)),
        "dtype": recipe.model.dtype,
        "seed": recipe.compare.seeds[0],
        "texts": text_digest(texts),
    }

    def start_of(name: str, settings: MoESettings | None, measure: bool) -> dict[str, Any] | None:
        moe = None if settings is None else settings.model_dump(mode="json", exclude_defaults=True)
        key = hashlib.sha256(json.dumps(common | {"moe": moe}, sort_keys=True).encode()).hexdigest()[:16]
        allowed = key in known and (known[key]["as_dense"] or allows_damage(recipe))
        if measure and not allowed:
            known[key] = _measure(recipe, base, name, settings, texts)
            write_atomically(memory, json.dumps(known, indent=1))
        return known.get(key)

    dense = start_of("dense", None, True)
    assert dense is not None
    starts = [start_of(scheme.name, scheme.settings, scheme.name in asked) for scheme in planned]
    return [_with(scheme, start) for scheme, start in zip(planned, starts, strict=True)], float(dense["text_loss"])


def _with(scheme: PlannedScheme, start: Mapping[str, Any] | None) -> PlannedScheme:
    if start is None:
        return scheme
    row = replace(scheme.row, starts_as_dense=bool(start["as_dense"]), start_text_loss=float(start["text_loss"]))
    return replace(scheme, row=row)


def refuse_before_training(recipe: Recipe, base: Path, planned: Sequence[PlannedScheme]) -> None:
    """Stop before any stage is trained where a given base cannot be used, or a scheme would lose what it knows.

    Args:
        recipe: The recipe.
        base: The model that the first stage starts from.
        planned: The schemes that were asked for.

    Raises:
        RuntimeError: nothing has trained the projector of the base, and no dense stage does.
        DamageError: a scheme does not start as the dense model, and the recipe does not allow it.
    """
    refuse_noise(recipe, base)
    for scheme in planned:
        if base_of_recipe(recipe).given and not scheme.row.starts_as_dense and not allows_damage(recipe):
            _measure(recipe, base, scheme.name, scheme.settings, ())


def refuse_noise(recipe: Recipe, base: Path) -> None:
    """Stop where nothing has trained the projector of the base, and no dense stage of the recipe does.

    Raises:
        RuntimeError: see :func:`moiety.train.start.require_trained_projector`.
    """
    if recipe.model.source is None or any("projector" in stage.trains for stage in recipe.stages if not stage.sparse):
        return
    empty, marked = on_meta(base, None), recipe.model.trained_projector
    history = history_of(empty, base)
    for stage in recipe.stages:
        require_trained_projector(
            stage, history, base, lambda: is_as_drawn(projector_in(base), empty.config), marked=marked
        )


def _measure(
    recipe: Recipe, base: Path, name: str, settings: MoESettings | None, texts: Sequence[str]
) -> dict[str, Any]:
    """Load the base, make it sparse as a run would, and measure it; without `texts` no loss. The model is freed."""
    model = load(base, dtype=recipe.model.dtype)
    processor = load_processor(base, recipe.model.template, marks=False, processor=recipe.model.processor)
    as_dense = True
    if settings is not None:
        origin = history_of(model, base)["origin"]
        model.config.provenance = {**(model.config.provenance or {}), "origin": origin}
        model = upcycle(model, settings, seed=recipe.compare.seeds[0], in_place=True, processor=processor)
        receipt = model.config.provenance["upcycled"]["receipt"]
        as_dense = receipt["promised"] or receipt["relative_difference"] <= receipt["tolerance"]
        _refuse(model, base, name, allowed=allows_damage(recipe))
    loss = text_loss(model, processor.tokenizer, texts) if texts else None
    del model
    gc.collect()
    return {"scheme": name, "as_dense": as_dense, "text_loss": loss}


def _refuse(model: Any, base: Path, name: str, *, allowed: bool) -> None:
    try:
        refuse_damage(model, base, allowed=allowed)
    except DamageError as error:
        raise DamageError(
            f"compare.schemes names {name!r}: {error}. If a sparse stage of the recipe is long enough to bring it "
            "back, give that stage `recovers: true`; else leave the scheme out of compare.schemes"
        ) from error


def _read(memory: Path) -> dict[str, Any]:
    try:
        return dict(parse_json(memory.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # lost or damaged: measured again
        return {}
