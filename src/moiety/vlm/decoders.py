"""The text decoder of a Hugging Face model: where it stands, and how to see what its layers read and attend to.

No module outside ``vlm`` uses an attribute of a decoder. A module that needs one of these facts asks here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

logger = logging.getLogger(__name__)

DECODERS = ("language_model", "text_model")
"""Names under which families keep their text decoder."""
HEAD, EMBEDDINGS = "lm_head", "embed_tokens"
"""Names of the output layer, on the outermost model, and of the token embeddings, inside the decoder."""


def base_of(model: Any) -> nn.Module:
    """The multimodal base model (tower, projector and decoder) inside an outermost model, adapted by peft or not."""
    # the base_model of a PeftModel is its adapter, so the adapted model comes first
    inside = model.get_base_model() if hasattr(model, "get_base_model") else model
    base: nn.Module = inside.base_model
    return base


def text_decoder(base: nn.Module) -> nn.Module:
    """The stack of decoder layers inside a multimodal base model.

    Raises:
        TypeError: there is none under a known name.
    """
    for name in DECODERS:
        decoder = getattr(base, name, None)
        if decoder is not None and isinstance(getattr(decoder, "layers", None), nn.ModuleList):
            return decoder
    raise TypeError(
        f"{type(base).__name__} has no decoder with .layers under {' or '.join(f'.{name}' for name in DECODERS)}; "
        "teach vlm/decoders.py where its decoder is"
    )


def decoder_of(model: Any) -> nn.Module:
    """The text decoder of an outermost model; see :func:`text_decoder`."""
    return text_decoder(base_of(model))


def decoder_layers(model: Any) -> nn.ModuleList:
    """The decoder layers of an outermost model, in order; see :func:`text_decoder`."""
    decoder: Any = decoder_of(model)
    layers: nn.ModuleList = decoder.layers
    return layers


def output_layer(model: Any) -> nn.Linear:
    """The layer that turns the last hidden state into scores of tokens, ``(…, hidden) -> (…, vocab)``."""
    layer: nn.Linear = model.get_output_embeddings()
    return layer


def token_embeddings(model: Any) -> nn.Embedding:
    """The table of token embeddings, ``(vocab, hidden)``."""
    table: nn.Embedding = model.get_input_embeddings()
    return table


def activation_of(config: Any) -> Any:
    """Activation of the dense FFN by the config of a text decoder: its name, or the module itself."""
    return getattr(config, "hidden_activation", None) or config.hidden_act


def on_layer_input(layer: nn.Module, see: Callable[[Tensor], None]) -> RemovableHandle:
    """Show `see` the hidden states, ``(batch, seq, hidden)``, that a decoder layer reads, in each forward.

    Returns:
        The handle that takes the hook off again.
    """

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        see(args[0] if args else kwargs["hidden_states"])

    return layer.register_forward_pre_hook(hook, with_kwargs=True)


@contextmanager
def attention_kept(model: Any) -> Iterator[list[Tensor]]:
    """Keep the attention weights of every decoder layer in a forward over a batch of one.

    The list gets one entry for each layer: the mean over heads, ``(seq, seq)``, on the CPU. The weights are taken where
    the decoder computes them, because a forward that is asked for them asks the vision tower as well.
    """
    kept: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
        kept.append(output[1][0].float().mean(dim=0).cpu())  # (1, heads, seq, seq) -> (seq, seq)

    with eager_attention(model), ExitStack() as hooks:
        for layer in decoder_layers(model):
            attention: Any = layer.self_attn
            hooks.callback(attention.register_forward_hook(keep).remove)
        yield kept


@contextmanager
def eager_attention(model: Any) -> Iterator[None]:
    """Let the decoder use eager attention, the only one that gives weights, and restore its own way afterwards."""
    decoder: Any = decoder_of(model)
    before = decoder.config._attn_implementation
    if before == "eager":
        yield
        return
    logger.info("attention weights: the decoder runs with eager attention instead of %s meanwhile", before)
    decoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        decoder.set_attn_implementation(before)
