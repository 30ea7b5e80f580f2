"""Sizes of the decoder that a config describes, for counting activated parameters."""

from __future__ import annotations

from typing import Any

import torch

from moiety.moe.asymoe.activated import DecoderShape
from moiety.vlm.decoders import decoder_of, output_layer, token_embeddings
from moiety.vlm.loading import dense_class


def decoder_shape(config: Any) -> DecoderShape:
    """Sizes of the dense decoder that a vision-language config describes. A sparse config gives its dense original.

    The parameters are counted on a model without weights, not estimated. Parameters that a Llama decoder does not have
    stand in ``extra``.

    Raises:
        ValueError: the config belongs to no vision-language model.
    """
    dense = _dense_config(config)
    with torch.device("meta"):
        model = dense_class(dense, type(dense).__name__)(dense)
    text = dense.get_text_config()
    decoder, head, table = decoder_of(model), output_layer(model), token_embeddings(model)
    counted = sum(parameter.numel() for parameter in {*decoder.parameters(), *head.parameters()})
    shape = DecoderShape(
        hidden=text.hidden_size,
        ffn=text.intermediate_size,
        layers=text.num_hidden_layers,
        vocab=text.vocab_size,
        heads=text.num_attention_heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or text.num_attention_heads,
        tied=head.weight is table.weight,
        beside=sum(parameter.numel() for parameter in model.parameters()) - counted,
    )
    return shape.counted_as(counted)


def _dense_config(config: Any) -> Any:
    """The config of Hugging Face under a config of moiety, which adds two fields and has its own model type."""
    if not hasattr(type(config), "moe"):
        return config
    base: Any = type(config).dense_class
    ours = ("model_type", "architectures", "auto_map", "moe", "provenance")
    return base(**{key: value for key, value in config.to_dict().items() if key not in ours})
