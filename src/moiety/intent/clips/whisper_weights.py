"""Whisper out of a CTranslate2 file: an ordinary Hugging Face folder with the same numbers in float32."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

VERSIONS = (5, 6)
"""Versions of the file format that are read."""
ENGLISH_WORDS, ENGLISH_END = 51864, 50256
"""Size of the vocabulary of an English Whisper, and its end mark; that of the others stands one place later."""
_TYPES: tuple[str | None, ...] = ("float32", "int8", "int16", "int32", "float16")
_ATTENTION = {
    "encoder": (("self_attention", "self_attn", "qkv", 0), ("self_attention", "self_attn", "out", 1)),
    "decoder": (
        *(("self_attention", "self_attn", "qkv", 0), ("self_attention", "self_attn", "out", 1)),
        *(("attention", "encoder_attn", "q", 0), ("attention", "encoder_attn", "kv", 1)),
        ("attention", "encoder_attn", "out", 2),
    ),
}
_NORMS = {"self_attention": "self_attn_layer_norm", "attention": "encoder_attn_layer_norm", "ffn": "final_layer_norm"}
_LETTERS = {"q": "q_proj", "k": "k_proj", "v": "v_proj"}


def read_ctranslate2(path: str | Path) -> tuple[str, dict[str, np.ndarray]]:
    """Name of the model's kind, and name -> value of every variable of a CTranslate2 file (``model.bin``).

    Raises:
        ValueError: the file is no such file, is cut short, or its version or a type of number is not known here.
    """
    with Path(path).open("rb") as file:
        try:
            (version,) = _numbers(file, "I")
            if version not in VERSIONS:
                raise ValueError(f"{path} has version {version} of the CTranslate2 format; versions 5 and 6 are read")
            kind = _word(file)
            _, number = _numbers(file, "II")
            return kind, dict(_variable(file, str(path)) for _ in range(number))
        except (struct.error, UnicodeDecodeError) as error:
            raise ValueError(f"{path} is no whole CTranslate2 file ({error}); fetch it again") from error


def _numbers(file: BinaryIO, form: str) -> tuple[int, ...]:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))


def _word(file: BinaryIO) -> str:
    return file.read(_numbers(file, "H")[0]).rstrip(b"\0").decode()


def _variable(file: BinaryIO, where: str) -> tuple[str, np.ndarray]:
    name = _word(file)
    shape = _numbers(file, "I" * _numbers(file, "B")[0])
    kind, size = _numbers(file, "BI")
    if kind >= len(_TYPES):
        raise ValueError(f"{where}: {name} has numbers of kind {kind}, known are 0 to {len(_TYPES) - 1}; convert again")
    held = file.read(size)
    if len(held) < size:
        raise struct.error(f"{name} ends after {len(held)} of {size} bytes")
    return name, np.frombuffer(held, dtype=_TYPES[kind]).reshape(shape)


def whisper_from_ctranslate2(path: str | Path) -> Any:
    """A Hugging Face ``WhisperModel`` with the weights of a CTranslate2 file, in float32.

    Raises:
        ValueError: the file holds no Whisper, quantised weights, or not all weights of a Whisper.
    """
    from transformers import WhisperConfig, WhisperModel

    kind, held = read_ctranslate2(path)
    if kind != "WhisperSpec":
        raise ValueError(f"{path} holds a {kind}, expected a WhisperSpec; give the model.bin of a Whisper")
    small = [name for name, value in held.items() if value.dtype == np.int8 and value.ndim > 1]
    if small:
        raise ValueError(f"{path} is quantised ({small[0]} is int8); convert Whisper to float16 or float32")
    width, bins, _ = held["encoder/conv1/weight"].shape
    layers = {part: sum(name.startswith(part) and "/ffn/linear_0/bias" in name for name in held) for part in _ATTENTION}
    words = len(held["decoder/embeddings/weight"])
    end = min(ENGLISH_END + (words > ENGLISH_WORDS), words - 1)
    config = WhisperConfig(
        vocab_size=words,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        decoder_start_token_id=min(end + 1, words - 1),
        num_mel_bins=bins,
        d_model=width,
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        encoder_attention_heads=int(held["encoder/num_heads"]),
        decoder_attention_heads=int(held["decoder/num_heads"]),
        encoder_ffn_dim=len(held["encoder/layer_0/ffn/linear_0/bias"]),
        decoder_ffn_dim=len(held["decoder/layer_0/ffn/linear_0/bias"]),
        max_source_positions=len(held["encoder/position_encodings/encodings"]),
        max_target_positions=len(held["decoder/position_encodings/encodings"]),
    )
    model = WhisperModel(config)
    try:
        model.load_state_dict(_named(held, layers))
    except KeyError as error:
        raise ValueError(f"{path} is no whole Whisper: it lacks {error.args[0]}; fetch or convert it again") from error
    return model.eval()


def _named(held: Mapping[str, np.ndarray], layers: Mapping[str, int]) -> dict[str, Tensor]:
    """The variables under the names that Hugging Face gives them."""
    value = {name: torch.from_numpy(array.astype(np.float32)) for name, array in held.items() if array.ndim}
    found = {"decoder.embed_tokens.weight": value["decoder/embeddings/weight"]}
    for part, number in layers.items():
        found[f"{part}.embed_positions.weight"] = value[f"{part}/position_encodings/encodings"]
        found.update(_norm(value, f"{part}/layer_norm", f"{part}.layer_norm"))
        for layer in range(number):
            old, new = f"{part}/layer_{layer}", f"{part}.layers.{layer}"
            for block, name in _NORMS.items():
                if f"{old}/{block}/layer_norm/gamma" in value:
                    found.update(_norm(value, f"{old}/{block}/layer_norm", f"{new}.{name}"))
            for place in (0, 1):
                for kind in ("weight", "bias"):
                    found[f"{new}.fc{place + 1}.{kind}"] = value[f"{old}/ffn/linear_{place}/{kind}"]
            for block, name, letters, place in _ATTENTION[part]:
                found.update(_projections(value, f"{old}/{block}/linear_{place}", f"{new}.{name}", letters))
    for name in ("conv1", "conv2"):
        for kind in ("weight", "bias"):
            found[f"encoder.{name}.{kind}"] = value[f"encoder/{name}/{kind}"]
    return found


def _norm(value: Mapping[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    return {f"{new}.weight": value[f"{old}/gamma"], f"{new}.bias": value[f"{old}/beta"]}


def _projections(value: Mapping[str, Tensor], old: str, new: str, letters: str) -> Iterator[tuple[str, Tensor]]:
    """One stacked matrix as the projections that it joins. Keys have no bias in Whisper: their part is 0."""
    names = ["out_proj"] if letters == "out" else [_LETTERS[letter] for letter in letters]
    parts = zip(names, value[f"{old}/weight"].chunk(len(names)), value[f"{old}/bias"].chunk(len(names)), strict=True)
    for name, weight, bias in parts:
        yield f"{new}.{name}.weight", weight
        if name != "k_proj":
            yield f"{new}.{name}.bias", bias
