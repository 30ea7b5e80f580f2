"""Sizes of the decoder behind a config, counted on the meta device, for designs of activated parameters."""

from __future__ import annotations

from typing import Any

import torch

from moiety.moe.asymoe.activated import DecoderShape
from moiety.vlm.decoders import decoder_of, output_layer, token_embeddings
from moiety.vlm.loading import dense_class


def decoder_shape(config: Any) -> DecoderShape:
    """The dense decoder that a vision-language config describes; of a sparse config, the one it was made from.

    Nothing is estimated: what this family has beside the matrices of a Llama decoder stands in ``extra``.

    Raises:
        ValueError: the config is of no vision-language model.
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
    """A stock config; ours carry two fields more and a type of their own over it."""
    if not hasattr(type(config), "moe"):
        return config
    base: Any = type(config).__bases__[0]
    ours = ("model_type", "architectures", "moe", "provenance")
    return base(**{key: value for key, value in config.to_dict().items() if key not in ours})
