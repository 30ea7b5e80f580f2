"""A tiny random Whisper, and the CTranslate2 file of it, written field by field as its converter does."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

TYPES = {"float32": 0, "int8": 1, "int16": 2, "int32": 3, "float16": 4}


def tiny_whisper() -> Any:
    """Two layers of width 16 in encoder and decoder; it hears 30 s as every Whisper does."""
    torch.manual_seed(0)
    config = transformers.WhisperConfig(
        vocab_size=60, num_mel_bins=80, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_source_positions=1500,
        max_target_positions=12, pad_token_id=1, bos_token_id=1, eos_token_id=1, decoder_start_token_id=1,
    )  # fmt: skip
    return transformers.WhisperModel(config).eval()


def variables_of(model: Any) -> dict[str, np.ndarray]:
    """The weights under the names of CTranslate2; queries, keys and values are one matrix there."""
    value = {name: tensor.detach().numpy() for name, tensor in model.state_dict().items()}
    found = {"encoder/num_heads": np.int16(2), "decoder/num_heads": np.int16(2), "decoder/pre_norm": np.int8(1),
             "decoder/embeddings/weight": value["decoder.embed_tokens.weight"]}  # fmt: skip

    def norm(old: str, new: str) -> None:
        found[f"{new}/gamma"], found[f"{new}/beta"] = value[f"{old}.weight"], value[f"{old}.bias"]

    def join(old: str, new: str, letters: str) -> None:
        bias = {letter: np.zeros(16, np.float32) if letter == "k" else value[f"{old}.{letter}_proj.bias"]
                for letter in letters}  # fmt: skip
        found[f"{new}/weight"] = np.concatenate([value[f"{old}.{letter}_proj.weight"] for letter in letters])
        found[f"{new}/bias"] = np.concatenate([bias[letter] for letter in letters])

    for part in ("encoder", "decoder"):
        found[f"{part}/position_encodings/encodings"] = value[f"{part}.embed_positions.weight"]
        norm(f"{part}.layer_norm", f"{part}/layer_norm")
        for layer in range(2):
            old, new = f"{part}.layers.{layer}", f"{part}/layer_{layer}"
            norm(f"{old}.self_attn_layer_norm", f"{new}/self_attention/layer_norm")
            norm(f"{old}.final_layer_norm", f"{new}/ffn/layer_norm")
            join(f"{old}.self_attn", f"{new}/self_attention/linear_0", "qkv")
            for kind in ("weight", "bias"):
                found[f"{new}/self_attention/linear_1/{kind}"] = value[f"{old}.self_attn.out_proj.{kind}"]
                found[f"{new}/ffn/linear_0/{kind}"] = value[f"{old}.fc1.{kind}"]
                found[f"{new}/ffn/linear_1/{kind}"] = value[f"{old}.fc2.{kind}"]
            if part == "decoder":
                norm(f"{old}.encoder_attn_layer_norm", f"{new}/attention/layer_norm")
                join(f"{old}.encoder_attn", f"{new}/attention/linear_0", "q")
                join(f"{old}.encoder_attn", f"{new}/attention/linear_1", "kv")
                for kind in ("weight", "bias"):
                    found[f"{new}/attention/linear_2/{kind}"] = value[f"{old}.encoder_attn.out_proj.{kind}"]
    for name in ("conv1", "conv2"):
        for kind in ("weight", "bias"):
            found[f"encoder/{name}/{kind}"] = value[f"encoder.{name}.{kind}"]
    return found


def write_ctranslate2(
    path: Path, variables: dict[str, Any], kind: str = "WhisperSpec", version: int = 6, type_id: int | None = None
) -> Path:
    """Version, kind, revision, then each variable: name, shape, type, bytes."""

    def word(text: str) -> bytes:
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    parts = [struct.pack("<I", version), word(kind), struct.pack("<II", 3, len(variables))]
    for name, value in variables.items():
        array = np.asarray(value)
        shape = struct.pack(f"<B{array.ndim}I", array.ndim, *array.shape)
        number = TYPES[array.dtype.name] if type_id is None else type_id
        parts += [word(name), shape, struct.pack("<BI", number, array.nbytes), array.tobytes()]
    path.write_bytes(b"".join([*parts, struct.pack("<I", 0)]))
    return path
