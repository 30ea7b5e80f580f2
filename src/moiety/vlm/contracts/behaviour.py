"""Checks of what a signature cannot show. They build and run tiny random models, in seconds and without a network.

A release may keep every name and change what a function does. These checks look for changes that gave wrong results
without an error before.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from moiety.moe.trace import recording
from moiety.recipe.recipe import MoESettings
from moiety.vlm.contracts.broken import ContractBroken
from moiety.vlm.decoder_calls import embeddings_changed
from moiety.vlm.decoders import attention_kept, decoder_layers, decoder_of
from moiety.vlm.model import moe_layers
from moiety.vlm.upcycle import upcycle

_IMAGE, _HIDDEN = 60, 32
_PROMPT = [1, _IMAGE, _IMAGE, _IMAGE, _IMAGE, 9, 21, 7]
CLOSE = 1e-4
"""Logits are about 1 here. They count as equal up to this difference; the measured difference is 3e-7."""


@dataclass(frozen=True)
class Behaviour:
    """One behaviour of a release that is tested.

    Args:
        library: Name of the package whose release is tested.
        name: The behaviour that is expected.
        holds: Function that raises an error if the behaviour is another one, and returns a number to show otherwise.
    """

    library: str
    name: str
    holds: Callable[[], str]

    def check(self) -> str:
        """Run the test and return what it measured.

        Raises:
            ContractBroken: the release behaves in another way.
        """
        try:
            return self.holds()
        except ContractBroken:
            raise
        except Exception as error:
            raise ContractBroken(self.library, f"{self.name}: {type(error).__name__}: {error}") from error


def tiny(scheme: str) -> Any:
    """A sparse LLaVA of two layers whose experts differ."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = LlamaConfig(
            vocab_size=64, hidden_size=_HIDDEN, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )  # fmt: skip
        tower = CLIPVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2, image_size=8, patch_size=4
        )
        dense = LlavaForConditionalGeneration(
            LlavaConfig(text_config=text, vision_config=tower, image_token_index=_IMAGE)
        )
        own = {"size_plan": "full"} if scheme == "asymoe" else None
        settings = MoESettings.model_validate({"scheme": scheme, "layers": "all", **({"asymoe": own} if own else {})})
        model = upcycle(dense, settings, in_place=True)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if any(f".mlp.{part}." in name for part in ("experts", "router", "context")):
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def prompt() -> dict[str, Tensor]:
    """A picture and a few words, ``(1, 8)``."""
    ids = torch.tensor([_PROMPT])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": torch.ones(1, 3, 8, 8)}


def _said(model: Any, **options: Any) -> Tensor:
    """Logits of every step of a greedy answer, ``(steps, vocab)``."""
    fixed = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True}
    made = model.generate(**prompt(), **fixed, output_logits=True, **options)
    return torch.cat(made.logits)


def _equal(found: Tensor, wanted: Tensor, what: str) -> str:
    difference = float((found - wanted).abs().max())
    if difference > CLOSE:
        raise ContractBroken("transformers", f"{what}: logits differ by {difference:.2g}; {CLOSE:g} is accepted")
    return f"{difference:.1g}"


def _cached(scheme: str) -> Callable[[], str]:
    def holds() -> str:
        model = tiny(scheme)
        return _equal(_said(model), _said(model, use_cache=False), f"{scheme} decodes with a cache as without")

    return holds


def _chunked() -> str:
    model = tiny("moiie")
    dense = LlavaForConditionalGeneration(model.config).eval()
    if not torch.allclose(_said(dense, prefill_chunk_size=3), _said(dense), atol=CLOSE):
        return "stock LLaVA cannot cut a prompt with pictures either"
    return _equal(_said(model, prefill_chunk_size=3), _said(model), "a prompt in chunks decodes as in one piece")


def _ids_given() -> str:
    model, batch = tiny("moiie"), prompt()
    ids = (batch["input_ids"] == _IMAGE).long()
    with recording() as trace:
        found = _said(model, modality_ids=ids)
    words = [routing.modality_group for _, routing in trace.entries if len(routing.modality_group) == 1]
    vision = moe_layers(model)[0].groups.names.index("vision")
    if not words or any(int(group) == vision for group in words):
        raise ContractBroken("transformers", "a decoded word went to the vision experts")
    return _equal(found, _said(model), "ids given by the caller decode as ids that are found")


def _attention() -> str:
    model, seq = tiny("moiie").eval(), len(_PROMPT)
    with torch.no_grad(), attention_kept(model) as kept:
        model(**prompt())
    if [tuple(weights.shape) for weights in kept] != [(seq, seq)] * len(decoder_layers(model)):
        raise ContractBroken("transformers", "eager attention gives no weights of every decoder layer")
    return _equal(torch.stack(kept).sum(dim=-1), torch.ones(len(kept), seq), "attention weights sum to 1")


def _embeddings() -> str:
    model = tiny("moiie").eval()
    with torch.no_grad():
        found = model(**prompt()).logits
        with embeddings_changed(decoder_of(model), torch.zeros_like):
            changed = model(**prompt()).logits
    if torch.equal(found, changed):
        raise ContractBroken("transformers", "the decoder no longer reads the embeddings of its call")
    return "changed"


BEHAVIOURS: tuple[Behaviour, ...] = (
    Behaviour("transformers", "moiie decodes with a cache as without", _cached("moiie")),
    Behaviour("transformers", "asymoe decodes with a cache as without", _cached("asymoe")),
    Behaviour("transformers", "a prompt in chunks decodes as in one piece", _chunked),
    Behaviour("transformers", "decoded words never reach vision experts", _ids_given),
    Behaviour("transformers", "eager attention gives its weights", _attention),
    Behaviour("transformers", "the decoder reads the embeddings of its call", _embeddings),
)
"""All behaviours that are tested, each in about a second."""
