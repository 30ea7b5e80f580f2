"""Joining a language model and a vision tower into a dense LLaVA, whose projector has yet to learn.

This is how LLaVA itself began (Liu et al. 2023, 2304.08485, section 4.2): both parts keep their weights, and a new
two-layer projector stands between them. What the language model says of text alone must not change: that is measured,
and the result stands in the config as its receipt.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

from moiety.records.saving import refuse_existing, whole_folder
from moiety.vlm.assemble.language import Language, read_language
from moiety.vlm.assemble.tower import Tower, read_tower
from moiety.vlm.card import write_card
from moiety.vlm.decoders import output_layer, token_embeddings
from moiety.vlm.receipt import ParityError, ParityReceipt, compare_logits
from moiety.vlm.rows import IMAGE_MARK
from moiety.vlm.templates import TEMPLATES, stop_at_end_of_turn, use_template
from moiety.vlm.upcycle import hash_weights

logger = logging.getLogger(__name__)

ORIGIN = "assembled"
"""Origin of such a model in its history: no stage has trained its projector yet."""
PAD = "<pad>"
_ROWS_BY = 64
_PROBE = (
    "The capital of France is Paris, and the largest planet of the solar system is Jupiter.",
    "def area(width, height):\n    return width * height\n\n# 3 + 4 = 7",
)


def assemble(
    language: str | Path,
    tower: str | Path,
    destination: str | Path,
    *,
    image_size: int | None = None,
    template: str | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    overwrite: bool = False,
) -> ParityReceipt:
    """Write a dense LLaVA folder made of a language model and a vision tower.

    Args:
        language: Causal language model: a folder, a Hub id or a GGUF file.
        tower: Vision tower: a folder or Hub id of CLIP, SigLIP or DINOv2.
        destination: Folder to write; it is written whole or not at all.
        image_size: Height and width of pictures in pixels; None: as the tower was trained. DINOv2 alone takes others.
        template: Name of a chat template; None: see :func:`fitting_template`.
        dtype: Type of all weights.
        seed: Draws the weights of the projector.
        overwrite: Replace `destination` if it exists.

    Returns:
        The receipt: how far the logits of text alone are from those of the language model.

    Raises:
        FileExistsError: `destination` exists.
        FileNotFoundError: a part is not there.
        ImportError: a part needs a package that is not installed.
        ValueError: a part is of another kind, damaged, quantised or pickled, or an option does not fit it.
        ParityError: the language model would answer otherwise inside a LLaVA.
    """
    destination = Path(destination)
    refuse_existing(destination, overwrite)
    words, sight = read_language(language, dtype=dtype), read_tower(tower, side=image_size, dtype=dtype)
    name = template or fitting_template(words.tokenizer)
    with torch.random.fork_rng(devices=[]):  # the caller's random state is untouched
        torch.manual_seed(seed)
        model, processor, receipt = join(words, sight, template=name)
    parts = {"language": _language_part(language, words), "tower": _part(tower, sight.folder)}
    told = {"moiety_version": importlib.metadata.version("moiety"), **parts, "template": name, "seed": seed}
    model.config.provenance = {"origin": ORIGIN, "assembled": {**told, "receipt": asdict(receipt)}, "stages": []}
    with whole_folder(destination) as fresh:
        model.save_pretrained(fresh)
        processor.save_pretrained(fresh)
        for part, folder in (("language", words.folder), ("tower", sight.folder)):
            _copy_licences(folder, fresh, part)
        write_card(fresh, model)
    return receipt


def join(language: Language, tower: Tower, *, template: str) -> tuple[Any, Any, ParityReceipt]:
    """Model, processor and receipt of two parts in memory. The modules of both parts become those of the model.

    The projector is drawn from the global random state.

    Raises:
        ParityError: the answers to text alone would change.
        ValueError: the template does not fit the tokenizer.
    """
    probe, before = text_logits(language.model, language.tokenizer)
    tokenizer, decoder = with_image_token(language), language.model
    processor = LlavaProcessor(
        image_processor=tower.image_processor,
        tokenizer=tokenizer,
        patch_size=tower.patch,
        vision_feature_select_strategy=tower.family.strategy,
        num_additional_image_tokens=tower.family.extra_tokens,
        image_token=IMAGE_MARK,
    )
    use_template(processor, template)
    for part in (decoder, tower.model):
        part.config.name_or_path = ""  # a folder of this machine means nothing to others; the history names the parts
    config = LlavaConfig(
        vision_config=tower.model.config,
        text_config=decoder.config,
        image_token_index=tokenizer.convert_tokens_to_ids(IMAGE_MARK),
        image_seq_length=tower.num_patches,
        vision_feature_layer=tower.family.feature_layer,
        vision_feature_select_strategy=tower.family.strategy,
        tie_word_embeddings=bool(decoder.config.tie_word_embeddings),
    )
    config.dtype = decoder.dtype
    with torch.device("meta"):  # every part of it is given real tensors below
        model: Any = LlavaForConditionalGeneration(config)
    projector = new_projector(type(model.model.multi_modal_projector), config, tower, decoder)
    model.model.vision_tower, model.model.language_model = tower.model, decoder.base_model
    model.model.multi_modal_projector = projector
    model.lm_head = output_layer(decoder)
    model.generation_config = generation_of(decoder, tokenizer)
    stop_at_end_of_turn(model, processor, template)
    model.eval()
    with torch.no_grad():
        after = model(**probe, use_cache=False).logits[probe["attention_mask"].bool()].float()
    receipt = compare_logits(before, after[:, : before.shape[1]], decoder.dtype)
    receipt = replace(receipt, batch=f"{len(_PROBE)} texts without a picture")
    refuse_other_answers(receipt, type(decoder).__name__)
    return model, processor, receipt


def refuse_other_answers(receipt: ParityReceipt, name: str) -> None:
    """Stop where the language model called `name` would not say inside a LLaVA what it said before.

    Raises:
        ParityError: it would not.
    """
    if receipt.relative_difference > receipt.tolerance:
        raise ParityError(
            f"as the decoder of a LLaVA this language model would answer otherwise; {receipt}. "
            f"{name} changes its logits behind the decoder, and a LLaVA does not; "
            "take a language model of the Llama, Mistral or Qwen kind"
        )


@torch.no_grad()
def text_logits(model: Any, tokenizer: Any) -> tuple[dict[str, Tensor], Tensor]:
    """Fixed texts as a batch, and what a language model says of them: logits at the real positions.

    Returns:
        ``input_ids`` and ``attention_mask (texts, seq)``; logits ``(positions, vocab)``.
    """
    encoded = [tokenizer(text)["input_ids"] for text in _PROBE]
    longest, fill = max(map(len, encoded)), encoded[0][0]
    probe = {
        "input_ids": torch.tensor([ids + [fill] * (longest - len(ids)) for ids in encoded]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids in encoded]),
    }
    return probe, model(**probe, use_cache=False).logits[probe["attention_mask"].bool()].float()


def with_image_token(language: Language) -> Any:
    """The tokenizer with an image token and a padding token; the embedding table gets a row for each new token.

    New rows are the mean of the old ones, so that a token nobody has trained yet is an ordinary word, not an outlier.
    """
    tokenizer, model = language.tokenizer, language.model
    known = tokenizer.get_vocab()
    tokenizer.add_tokens([mark for mark in (IMAGE_MARK,) if mark not in known], special_tokens=True)
    if tokenizer.pad_token is None:
        tokenizer.add_special_tokens({"pad_token": PAD})
    tokenizer.padding_side = "right"
    rows = token_embeddings(model).weight.shape[0]
    if len(tokenizer) > rows:
        model.resize_token_embeddings(len(tokenizer), pad_to_multiple_of=_ROWS_BY, mean_resizing=False)
        tables = (token_embeddings(model).weight, output_layer(model).weight)
        with torch.no_grad():
            for table in {id(one): one for one in tables}.values():
                table[rows:] = table[:rows].float().mean(0).to(table.dtype)
    return tokenizer


def new_projector(cls: Any, config: Any, tower: Tower, decoder: Any) -> nn.Module:
    """A projector with random weights, whose picture tokens are about as large as the embeddings of words.

    Args:
        cls: Class of the projector.
        config: Of the whole model.
        tower: Its features of four pictures of noise set the scale.
        decoder: Language model; its embeddings are the size to meet.
    """
    table = token_embeddings(decoder).weight.detach()
    with torch.no_grad():
        projector: Any = cls(config)
        noise = torch.randn(4, 3, tower.side, tower.side).to(table.dtype)
        states = tower.model(noise, output_hidden_states=True).hidden_states[tower.family.feature_layer].float()
        projector.linear_2.bias.zero_()
        spread = projector.linear_2(projector.act(projector.linear_1(states))).std()
        projector.linear_2.weight.mul_(table.float().std() / spread)
    return projector.to(table.dtype)


def fitting_template(tokenizer: Any) -> str:
    """Name of the chat template that a tokenizer was made for, told by the special tokens that it has.

    Raises:
        ValueError: none fits, as for a model that has learned no turns; says what to give.
    """
    known = tokenizer.get_vocab()
    for name, template in TEMPLATES.items():
        needed = {*template.tokens, template.end} - {None}
        if needed and needed <= known.keys():
            return name
    if tokenizer.eos_token is None:
        raise ValueError("the tokenizer has no end-of-sequence token, so no answer could end; give another model")
    return "vicuna"


def generation_of(decoder: Any, tokenizer: Any) -> GenerationConfig:
    """How the assembly generates: greedily, and it stops where the language model did."""
    given = decoder.generation_config
    ends = given.eos_token_id if given is not None and given.eos_token_id is not None else tokenizer.eos_token_id
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=ends, pad_token_id=tokenizer.pad_token_id, do_sample=False
    )


def _language_part(source: str | Path, words: Language) -> dict[str, Any]:
    """As :func:`_part`, and how the weights were packed, or which model the adapters were merged into."""
    part = _part(source, words.folder)
    if words.packed:
        part["packed"] = words.packed
    if words.adapters is not None:
        part |= {"weights_sha256": hash_weights(words.adapters), "adapters_of": words.folder.name}
        part["base_sha256"] = hash_weights(words.folder)
    return part


def _part(source: str | Path, folder: Path) -> dict[str, Any]:
    """What a history says of a part: its name without folders of this machine, the hash of its weights, its licence."""
    local = Path(source)
    name = local.name if local.exists() else str(source)
    if local.is_file():
        with local.open("rb") as file:
            sealed = {"weights_sha256": hashlib.file_digest(file, "sha256").hexdigest()}
    else:
        sealed = {"weights_sha256": hash_weights(folder)}
    return {"source": name, **sealed, "licence": licence_of(folder)}


def licence_of(folder: Path) -> str | None:
    """The licence that the card of a model folder names; None where it names none."""
    card = folder / "README.md"
    if not card.is_file():
        return None
    from huggingface_hub import ModelCard

    try:
        found: Mapping[str, Any] = ModelCard.load(card).data.to_dict()
    except Exception:  # a card is written by hand and may be anything
        return None
    licence = found.get("license")
    return licence if isinstance(licence, str) else None


def _copy_licences(source: Path, destination: Path, part: str) -> None:
    """Keep the licence files of a part, under a name that tells whose they are."""
    for path in sorted(source.glob("LICENSE*")):
        if path.is_file():
            shutil.copyfile(path, destination / f"{path.stem}.{part}{path.suffix}")
