"""Upcycling: every expert of a sparse layer starts as a copy of the dense FFN it replaces.

With equal experts and weights that sum to 1, the sparse model computes the same as the dense one, for any router. This
is measured: the *parity receipt* compares the logits of both on a fixed batch and is kept in the config of the result.
Experts that are narrower cannot hold the dense FFN. Their receipt says that equality was not promised.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.metadata
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moiety.moe.experts.bank import bank_in
from moiety.moe.routers import resolve
from moiety.recipe.recipe import MoESettings
from moiety.records.saving import refuse_existing, whole_folder
from moiety.vlm.activity import unit_activity, wants_activity
from moiety.vlm.adapters import base_of_adapters
from moiety.vlm.card import write_card
from moiety.vlm.configs import dense_ffn, name_of, refuse_sparse
from moiety.vlm.damage import refuse_damage
from moiety.vlm.loading import local_folder
from moiety.vlm.model import adopt, config_of, groups_of, load, moe_layers, settings_of
from moiety.vlm.quantised import quantisation_of, quantised_by, refuse_quantised
from moiety.vlm.receipt import ParityError, ParityReceipt, compare_logits, logits_of, own_rounding, probe_batch
from moiety.vlm.templates import control_ids, load_processor
from moiety.vlm.vocabulary import check_folder_vocabulary

logger = logging.getLogger(__name__)

COPY_RULE = "every expert = the dense FFN; wider experts repeat its rows with zero down columns"
COPY_RULE_FULL = "vision, text and the FFN inside inter-modality experts = the dense FFN; branches add 0 at first"
COPY_RULE_SIZED = "narrower experts take the units of the dense FFN that say most; what cannot copy it starts anew"
PROCESSOR_FILES = (
    "*token*.json",
    "*token*.model",
    "vocab*",
    "merges.txt",
    "*.tiktoken",
    "*processor_config.json",
    "chat_template*",
    "LICENSE*",
)


def upcycle(
    model: Any,
    settings: MoESettings,
    *,
    seed: int = 0,
    in_place: bool = False,
    processor: Any = None,
    calibration: Mapping[str, Tensor] | None = None,
) -> Any:
    """Make a dense model sparse.

    Args:
        model: A dense vision-language model. Routers get new weights; all other tensors keep theirs.
        settings: Scheme, experts and layers. ``scheme: dense`` changes class and config only.
        seed: Seed of the router weights.
        in_place: Turn `model` itself into the result. This saves the memory of a second dense model.
        processor: Processor of the model. It names the control tokens, which scheme asymoe never treats as evidence.
        calibration: Keywords of one forward, on which narrower experts learn which units to keep; None: random tokens.

    Returns:
        The sparse model, in eval mode. ``model.config.provenance`` holds the receipt.

    Raises:
        ValueError: the settings do not fit the model, or the model is sparse already or quantised.
        TypeError: the decoder has no FFN that can be copied.
        ParityError: the logits differ by more than the tolerance, although the settings promise equality.
    """
    settings = with_special_ids(settings, processor)
    refuse_quantised(quantisation_of(model), model.name_or_path or type(model).__name__)
    refuse_sparse(model.config, name_of(model))
    if settings.scheme != "dense":
        resolve(settings)  # finds every mistake in the settings before the model is changed
    dense = model.eval() if in_place else copy.deepcopy(model).eval()
    probe = probe_batch(dense)
    before = logits_of(dense, probe)
    rounding = own_rounding(dense, probe, before)
    earlier = dict(getattr(dense.config, "provenance", None) or {})
    activity = unit_activity(dense, calibration) if wants_activity(dense.config, settings) else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sparse = adopt(dense, settings, earlier, copy=True, activity=activity).eval()
    receipt = compare_logits(before, logits_of(sparse, probe), sparse.dtype, rounding)
    receipt = replace(receipt, promised=starts_as_dense(sparse))
    logger.debug("%s", receipt)  # the provenance holds it, too
    if receipt.promised and receipt.relative_difference > receipt.tolerance:
        raise ParityError(f"upcycling changed the model; {receipt}. Please report the family {type(sparse).__name__}")
    sparse.config.provenance = {**earlier, **_history(sparse, receipt, seed)}
    return sparse


def with_special_ids(settings: MoESettings, processor: Any) -> MoESettings:
    """`settings` with the control tokens of `processor`, if scheme asymoe needs them and none are given."""
    own = settings.asymoe
    if own is None or own.special_ids is not None or processor is None:
        return settings
    return settings.model_copy(
        update={"asymoe": own.model_copy(update={"special_ids": sorted(control_ids(processor))})}
    )


def starts_as_dense(model: Any) -> bool:
    """Whether a model that was just upcycled promises the logits of the dense model; each bank answers for itself.

    Weights that do not sum to 1 change the output, so without ``norm_topk`` equality is not promised.
    """
    settings = settings_of(model)
    if settings is None:
        return True
    if not settings.norm_topk and resolve(settings)[0].has_gate:
        return False
    ffn = dense_ffn(model.config)
    return all(bank_in(layer.experts).starts_as_dense(ffn) for layer in moe_layers(model))


def _history(model: Any, receipt: ParityReceipt, seed: int) -> dict[str, Any]:
    groups = groups_of(model)
    return {
        "moiety_version": _version(),
        "upcycled": {
            "source": model.name_or_path or None,
            "scheme": model.config.moe["scheme"],
            "groups": groups.describe() if groups else None,
            "layers": [layer.layer_index for layer in moe_layers(model)],
            "copy_rule": _copy_rule(model, receipt) if groups else None,
            "seed": seed,
            "receipt": asdict(receipt),
        },
    }


def _copy_rule(model: Any, receipt: ParityReceipt) -> str:
    if not receipt.promised:
        return COPY_RULE_SIZED
    return COPY_RULE_FULL if model.config.moe["asymoe"] else COPY_RULE


def _version() -> str:
    try:
        return importlib.metadata.version("moiety")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


# -- folders ---------------------------------------------------------------------------------------------------------
def upcycle_folder(
    source: str | Path,
    destination: str | Path,
    settings: MoESettings,
    *,
    seed: int = 0,
    revision: str | None = None,
    overwrite: bool = False,
    allow_damage: bool = False,
    processor: str | Path | None = None,
    dtype: str | None = None,
) -> ParityReceipt:
    """Upcycle the model in a folder (or of a Hub id) into a new folder, together with its processor.

    Args:
        source: A dense Hugging Face model, a dense model of ours, or adapters of such a model, which are merged.
        destination: Folder to write. It is written completely or not at all.
        settings, seed: As for :func:`upcycle`.
        revision: Revision of a Hub id.
        overwrite: Replace `destination` if it exists.
        allow_damage: Write the model also if it has lost what the dense model had learned.
        processor: Folder or id that holds the processor; None: that of `source`, if it has one.
        dtype: Type of the new weights, ``float32`` or ``bfloat16``; None: as saved, which the receipt is measured in.

    Returns:
        The receipt. It is also written to ``provenance`` in ``config.json``.

    Raises:
        FileExistsError: `destination` exists.
        FileNotFoundError: there is no model at `source`, or no processor at `processor`.
        DamageError: the experts do not start as the dense model.
        ValueError: `source` is damaged, pickled, quantised, sparse, or has too many tokens; or the settings do not fit.
    """
    destination = Path(destination)
    refuse_existing(destination, overwrite)
    folder = local_folder(source, revision)
    _check_dense(folder, source)
    given = None if processor is None else load_processor(folder, marks=False, processor=processor)
    reader = given or _processor_in(folder, settings)
    model = upcycle(load(folder), settings, seed=seed, in_place=True, processor=reader)
    refuse_damage(model, source, allowed=allow_damage)
    history = model.config.provenance["upcycled"]
    history.update(source=str(source), revision=revision, weights_sha256=hash_weights(folder))
    places = [folder]
    base = base_of_adapters(folder)
    if base is not None:
        places.insert(0, local_folder(base))  # adapters may have a tokenizer of their own
        history.update(adapters_of=str(places[0]), base_sha256=hash_weights(places[0]))
    _write(model if dtype is None else model.to(getattr(torch, dtype)), destination, places, given)
    return ParityReceipt(**history["receipt"])


def _write(model: Any, destination: Path, places: Sequence[Path], processor: Any) -> None:
    """Write a sparse model with the processor files of `places`, or with a processor that was given."""
    with whole_folder(destination) as fresh:
        model.save_pretrained(fresh)
        for place in places:
            copy_processor(place, fresh)
        if processor is not None:
            processor.save_pretrained(fresh)
        write_card(fresh, model)


def _check_dense(folder: Path, source: str | Path) -> None:
    """Refuse what cannot be upcycled before its weights are read."""
    config = config_of(folder)
    refuse_quantised(quantised_by(config), str(source))
    refuse_sparse(config, source)
    check_folder_vocabulary(folder)


def _processor_in(folder: Path, settings: MoESettings) -> Any:
    """The processor of a folder; None where the settings do not need it or the folder has none."""
    if settings.asymoe is None or settings.asymoe.special_ids is not None:
        return None
    try:
        return load_processor(folder, marks=False)
    except (FileNotFoundError, ImportError, ValueError) as error:
        logger.warning("%s; special_ids stay unknown, give moe.asymoe.special_ids", error)
        return None


def hash_weights(folder: Path) -> str:
    """SHA-256 over names and contents of the weight files of a folder."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def copy_processor(source: Path, destination: Path) -> None:
    """Copy the files of tokenizer, processor and chat template."""
    for path in sorted(source.iterdir()):
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in PROCESSOR_FILES):
            shutil.copyfile(path, destination / path.name)
