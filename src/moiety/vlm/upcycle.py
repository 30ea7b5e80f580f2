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
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moiety.groups import Modality
from moiety.moe.experts.bank import bank_in
from moiety.moe.routers import resolve
from moiety.recipe.recipe import MoESettings
from moiety.records.saving import refuse_existing, whole_folder
from moiety.vlm.activity import unit_activity, wants_activity
from moiety.vlm.adapters import base_of_adapters
from moiety.vlm.card import write_card
from moiety.vlm.configs import dense_ffn, name_of, refuse_sparse
from moiety.vlm.damage import refuse_damage
from moiety.vlm.decoders import base_of, token_embeddings
from moiety.vlm.loading import local_folder
from moiety.vlm.model import adopt, config_of, groups_of, load, moe_layers, settings_of
from moiety.vlm.positions import forget_offsets
from moiety.vlm.quantised import quantisation_of, quantised_by, refuse_quantised
from moiety.vlm.templates import control_ids, load_processor
from moiety.vlm.vocabulary import check_folder_vocabulary

logger = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
"""Largest difference of logits, relative to the largest dense logit, that a receipt accepts."""

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


@dataclass(frozen=True)
class ParityReceipt:
    """The difference between the logits of an upcycled model and those of its dense model.

    Args:
        max_difference: Largest absolute difference of logits.
        relative_difference: `max_difference` divided by the largest absolute dense logit.
        tolerance: Largest relative difference that is accepted.
        dtype: Type of the weights.
        batch: Description of the inputs that were compared.
        promised: Whether upcycling promises equality. If false, the tolerance was not enforced.
    """

    max_difference: float
    relative_difference: float
    tolerance: float
    dtype: str
    batch: str
    promised: bool = True

    def __str__(self) -> str:
        accepted = f"accepted: {self.tolerance:.0e}" if self.promised else "not enforced"
        return (
            f"parity receipt: logits differ from the dense model's by {self.max_difference:.2e} at most, "
            f"{self.relative_difference:.2e} relative ({accepted}, {self.dtype}; {self.batch})"
            + ("" if self.promised else "; such experts do not start as the dense model")
        )


class ParityError(RuntimeError):
    """The upcycled model does not compute the same logits as the dense model."""


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
    before = _logits(dense, probe)
    earlier = dict(getattr(dense.config, "provenance", None) or {})
    activity = unit_activity(dense, calibration) if wants_activity(dense.config, settings) else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        sparse = adopt(dense, settings, earlier, copy=True, activity=activity).eval()
    receipt = compare_logits(before, _logits(sparse, probe), sparse.dtype)
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


# -- the receipt -----------------------------------------------------------------------------------------------------
def probe_batch(model: Any) -> dict[str, Tensor]:
    """A fixed batch of embeddings, which needs no processor. Its rows are mixed, text only, image only, left-padded.

    Upcycling does not change tower and projector, so random vectors of the size of embeddings replace picture features.

    Returns:
        ``inputs_embeds (4, 24, hidden)``, ``attention_mask``, ``modality_ids`` and ``evidence_mask (4, 24)``.
    """
    table = token_embeddings(model)
    generator = torch.Generator().manual_seed(20250)
    batch, seq = 4, 24
    tokens = torch.randint(0, table.weight.shape[0], (batch, seq), generator=generator)
    embeds = table(tokens.to(table.weight.device)).detach()
    pictures = torch.randn(embeds.shape, generator=generator).to(embeds) * embeds.float().std().to(embeds.dtype)
    modality = torch.full((batch, seq), int(Modality.TEXT))
    modality[0, 4:14] = modality[2, :] = modality[3, 10:18] = int(Modality.IMAGE)
    mask = torch.ones(batch, seq, dtype=torch.long)
    mask[3, :5] = 0
    embeds = torch.where((modality == int(Modality.IMAGE)).to(embeds.device)[..., None], pictures, embeds)
    return {
        "inputs_embeds": embeds,
        "attention_mask": mask.to(embeds.device),
        "modality_ids": modality.to(embeds.device),
        "evidence_mask": mask.bool().to(embeds.device),
    }


@torch.no_grad()
def _logits(model: Any, probe: dict[str, Tensor]) -> Tensor:
    """Logits at the positions of the probe that are not padding, ``(positions, vocab)``."""
    if settings_of(model) is None:
        probe = {name: value for name, value in probe.items() if name in ("inputs_embeds", "attention_mask")}
    forget_offsets(base_of(model))
    logits = model(**probe, use_cache=False).logits
    return logits[probe["attention_mask"].bool()].float()


def compare_logits(dense: Tensor, sparse: Tensor, dtype: torch.dtype) -> ParityReceipt:
    """The receipt for the logits of a dense model and of its upcycled model.

    Args:
        dense: Logits before, ``(positions, vocab)``.
        sparse: Logits after, the same shape.
        dtype: Type of the weights; decides the tolerance.
    """
    difference = (dense - sparse).abs().max().item()
    largest = dense.abs().max().item()
    relative = difference / largest if largest else difference
    if not torch.isfinite(sparse).all() or not torch.isfinite(dense).all():
        relative = float("inf")
    name = str(dtype).removeprefix("torch.")
    return ParityReceipt(difference, relative, TOLERANCE[dtype], name, "4 rows: mixed, text, image, left-padded")


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
