"""A local causal language model as a writer of label descriptions, through transformers, with greedy decoding."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from moiety.devices import device_named
from moiety.intent.data.encoders import LOADING_ERRORS, first_line
from moiety.intent.labels.prompt import Message

DECODING: Mapping[str, Any] = {"max_new_tokens": 400}
_FILES = (".json", ".safetensors", ".jinja", ".txt", ".model")


class LocalWriter:
    """A causal language model from a Hugging Face id or folder. It is loaded when it is first asked.

    Args:
        model: Id or folder, with tokenizer and safetensors.
        decoding: ``max_new_tokens``; decoding is always greedy.
        device: Where the model runs.

    Raises:
        ValueError: there is no such model, or a decoding setting is unknown.
    """

    name = "hf"

    def __init__(self, model: str, decoding: Mapping[str, Any] | None = None, device: str = "cpu") -> None:
        unknown = sorted(set(decoding or {}) - set(DECODING))
        if unknown:
            raise ValueError(f"provider hf has no decoding setting {', '.join(unknown)}; known: {', '.join(DECODING)}")
        self.model, self.decoding, self.device = model, {**DECODING, **(decoding or {})}, device

    def settings(self) -> dict[str, Any]:
        """The settings that decide the reply, besides model and prompt: greedy decoding, length, and the weights."""
        return {"do_sample": False, **self.decoding, "weights": self._weights}

    @cached_property
    def _weights(self) -> str:
        """Commit of a Hub model, or hash of the files of a folder, because a folder may hold another model later."""
        from transformers import AutoConfig

        folder = Path(self.model)
        if not folder.is_dir():
            try:
                return str(AutoConfig.from_pretrained(self.model, trust_remote_code=False)._commit_hash)
            except LOADING_ERRORS as error:
                raise self._no_model(error) from error
        found = hashlib.sha256()
        for path in sorted(path for path in folder.iterdir() if path.suffix in _FILES):
            found.update(path.name.encode())
            with path.open("rb") as file:
                found.update(hashlib.file_digest(file, "sha256").digest())
        return found.hexdigest()

    @cached_property
    def _loaded(self) -> tuple[Any, Any]:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        try:
            tokenizer = AutoTokenizer.from_pretrained(self.model, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(self.model, use_safetensors=True, trust_remote_code=False)
        except LOADING_ERRORS as error:
            raise self._no_model(error) from error
        return tokenizer, model.eval().to(device_named(self.device))

    def _no_model(self, error: Exception) -> ValueError:
        kind = "folder" if Path(self.model).is_dir() else "Hugging Face id"
        return ValueError(
            f"no causal language model in the {kind} {self.model!r} ({first_line(error)}); give one with "
            "tokenizer and safetensors"
        )

    @torch.no_grad()
    def reply(self, messages: Sequence[Message]) -> str:
        """The reply of the model to a conversation, through the chat template of the tokenizer if it has one.

        Raises:
            ValueError: conversation and reply are longer than the context of the model.
        """
        from transformers import GenerationConfig

        tokenizer, model = self._loaded
        ids = _ids(tokenizer, messages).to(self.device)
        room, wanted = getattr(model.config, "max_position_embeddings", None), int(self.decoding["max_new_tokens"])
        if room is not None and ids.shape[1] + wanted > room:
            raise ValueError(
                f"the prompt has {ids.shape[1]} tokens and the answer may take {wanted}, {self.model} holds {room}; "
                "lower max_new_tokens or choose a model with a longer context"
            )
        stop = model.generation_config.eos_token_id
        stop = tokenizer.eos_token_id if stop is None else stop
        pad = tokenizer.pad_token_id
        if pad is None:
            pad = stop[0] if isinstance(stop, list) else stop
        # replaces the generation config of the model, whose temperature and penalties would be used otherwise
        model.generation_config = GenerationConfig(
            do_sample=False, max_new_tokens=wanted, eos_token_id=stop, pad_token_id=pad
        )
        made = model.generate(ids, attention_mask=torch.ones_like(ids))
        return str(tokenizer.decode(made[0, ids.shape[1] :], skip_special_tokens=True))


def _ids(tokenizer: Any, messages: Sequence[Message]) -> torch.Tensor:
    """Token ids of a conversation, ``(1, tokens)``."""
    if tokenizer.chat_template:
        options: dict[str, Any] = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True}
        # templates without thinking ignore this option; models with thinking reply in a tenth of the time
        return tokenizer.apply_chat_template(list(messages), enable_thinking=False, **options)["input_ids"]
    text = "\n\n".join(message["content"] for message in messages) + "\n\n"
    return tokenizer(text, return_tensors="pt")["input_ids"]
