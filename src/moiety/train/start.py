"""The model that a recipe starts from: an existing dense model, or a small one built from nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from moiety.recipe.recipe import Recipe, StageSettings
from moiety.records.saving import whole_folder
from moiety.train.ledger import discard_stage, finished_stage, read_record, text_digest, write_record
from moiety.train.progress import without_weight_bars
from moiety.vlm.assemble.join import ORIGIN
from moiety.vlm.damage import SCRATCH
from moiety.vlm.loading import local_folder
from moiety.vlm.rows import read_rows
from moiety.vlm.scratch import build_scratch
from moiety.vlm.skips import skips_of

_NAMED = 3


def require_files(recipe: Recipe, *, questions: bool = False) -> None:
    """Check that the data files of a recipe exist, before anything is trained.

    Args:
        recipe: Its stages name conversation files, its section ``data`` pictures.
        questions: Whether the files of section ``evaluate`` are needed as well.

    Raises:
        FileNotFoundError: a file is missing. The text names it, and the command that writes it if the recipe knows one.
    """
    root, settings = Path(recipe.data.root), recipe.data
    files = [name for stage in recipe.stages for name in stage.data]
    if questions:
        files += [*recipe.evaluate.data, *([recipe.evaluate.texts] if recipe.evaluate.texts else [])]
    missing = [name for name in dict.fromkeys([*files, *settings.images]) if not (root / name).exists()]
    if not missing:
        return
    more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
    remedy = "a recipe's files are relative to data.root: give data.root=FOLDER"
    if settings.made_by:
        remedy = f"write the data of this recipe with `{settings.made_by.format(root=settings.root)}`"
    what = "is" if len(missing) == 1 else "are"
    raise FileNotFoundError(f"{', '.join(missing[:_NAMED])}{more} {what} not in {root}; {remedy}")


def start_folder(recipe: Recipe, *, resume: bool = True) -> Path:
    """The dense model that the first stage starts from.

    Args:
        recipe: With ``model.source``, the folder (or the files of the Hub id). With ``model.scratch``, a small model is
            built in the output folder, and its tokenizer is trained on the texts of all stages.
        resume: Use a scratch model that exists already.

    Raises:
        FileNotFoundError: there is no such model or conversation file.
        StageChanged: the scratch model was built from other settings or texts.
    """
    if recipe.model.source is not None:
        return local_folder(recipe.model.source, recipe.model.revision)
    assert recipe.model.scratch is not None
    texts, folder = list(texts_of(recipe)), Path(recipe.output) / SCRATCH
    template = recipe.model.template or "plain"
    identity = {
        SCRATCH: recipe.model.scratch.model_dump(mode="json"),
        "template": template,
        "seed": recipe.seed,
        "texts": text_digest(texts),
    }
    if not resume:
        discard_stage(folder)
    if finished_stage(folder, SCRATCH, identity) is None:
        with without_weight_bars(), whole_folder(folder) as fresh:
            build_scratch(recipe.model.scratch, texts, fresh, template=template, seed=recipe.seed)
            write_record(fresh, identity, recipe, {})
    return folder


def texts_of(recipe: Recipe) -> Iterator[str]:
    """The texts of all readable rows of all stages. Each file is read once."""
    files = dict.fromkeys(name for stage in recipe.stages for name in stage.data)
    root = Path(recipe.data.root)
    rows, _ = read_rows([root / name for name in files], skips_of(recipe.data))
    for row in rows:
        for turn in row.turns:
            yield turn.text


def history_of(model: Any, source: Path) -> dict[str, Any]:
    """The history of a model: its ``origin`` (``scratch`` or ``outside``) and its ``stages``."""
    known = dict(getattr(model.config, "provenance", None) or {})
    record = read_record(source)
    built_here = record is not None and SCRATCH in record["identity"]
    known.setdefault("origin", SCRATCH if built_here else "outside")
    known.setdefault("stages", [])
    return known


def require_trained_projector(
    stage: StageSettings, history: dict[str, Any], source: Path, drawn: Callable[[], bool], *, marked: bool = False
) -> None:
    """Refuse a sparse stage for a model whose projector was never trained.

    In a model that was built from nothing or assembled from parts, the projector is random until a stage trains it. Of
    a model from outside nothing is known, so its weights are asked. After a stage that trains the projector, however
    short, nothing is asked.

    Args:
        stage: Settings of the stage.
        history: Of :func:`history_of`.
        source: Folder of the model, for the message.
        drawn: Whether the projector has the numbers that transformers drew, see :mod:`moiety.vlm.projector`.
        marked: The recipe says that somebody has trained it (``model.trained_projector``).

    Raises:
        RuntimeError: the projector was never trained, or looks so.
    """
    if not stage.sparse or marked or any("projector" in past["trains"] for past in history["stages"]):
        return
    if history["origin"] in (SCRATCH, ORIGIN):
        why = "was never trained: its pictures are noise"
    elif drawn():
        why = "looks as if it was never trained: its biases are zero and its weights have the spread of fresh ones"
    else:
        return
    raise RuntimeError(
        f"stage {stage.name!r} is sparse, but the projector of {source} {why}. Put a dense stage with "
        "`trains: [projector, ...]` before it, or say model.trained_projector=true if you know that it was trained"
    )
