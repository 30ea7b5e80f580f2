"""The loss of plain text without a picture: how much of its language a model still has.

.. math:: L = \\frac{1}{N} \\sum_{n=1}^{N} \\frac{1}{T_n - 1} \\sum_{t=2}^{T_n} -\\log p(x_{n,t} \\mid x_{n,<t})

over N texts of :math:`T_n` tokens. Upcycling that keeps the dense model keeps this number; training may change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from moiety.evaluate.run import evaluating
from moiety.vlm.asymoe.evidence import EvidenceRule
from moiety.vlm.configs import context_length, settings_of

SHIPPED = "plain_text.txt"
LONGEST = 1024
"""Tokens of one text that are read; what follows is left out."""


def read_texts(path: str | Path | None = None) -> list[str]:
    """Texts of a file, one a line; empty lines are left out.

    Args:
        path: A file in UTF-8. None: twelve sentences that come with moiety.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is not UTF-8, or it holds no text.
    """
    if path is None:
        content = (resources.files("moiety.evaluate") / SHIPPED).read_text(encoding="utf-8")
    else:
        try:
            content = Path(path).read_text(encoding="utf-8-sig")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"no file of plain texts at {path}; give one text a line") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not text in UTF-8 ({error.reason}); write one text a line in UTF-8") from error
    texts = [line.strip() for line in content.splitlines() if line.strip()]
    if not texts:
        raise ValueError(f"{path} holds no text; write one text a line")
    return texts


@torch.inference_mode()
def text_loss(model: Any, tokenizer: Any, texts: Sequence[str]) -> float:
    """Mean over `texts` of the mean loss of each token but the first, in nats; 0 is certainty, less is better.

    Args:
        model: A vision-language model, dense or sparse. Its train or eval mode is restored.
        tokenizer: Its tokenizer; it adds the tokens that it puts around every text.
        texts: Plain texts. A text of a single token is left out, and of a long one the first 1,024 are read.

    Raises:
        ValueError: no text has two tokens.
    """
    losses, room = [], min(LONGEST, context_length(model.config) or LONGEST)
    with evaluating(model):
        for text in texts:
            ids = torch.tensor([tokenizer(text)["input_ids"][:room]])  # (1, seq)
            if ids.shape[1] < 2:
                continue
            ids = ids.to(model.device)
            logits = model(
                input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False, **_read(model, ids)
            ).logits
            losses.append(torch.nn.functional.cross_entropy(logits[0, :-1].float(), ids[0, 1:]).item())
    if not losses:
        raise ValueError(f"none of {len(texts)} texts has two tokens, so no token can be predicted; give longer texts")
    return sum(losses) / len(losses)


def _read(model: Any, ids: Tensor) -> dict[str, Tensor]:
    """For scheme asymoe: the whole text but its control tokens is what the model was given to read."""
    settings = settings_of(model)
    rule = None if settings is None else EvidenceRule.of(model.config, settings)
    if rule is None:
        return {}
    return {"evidence_mask": ~torch.isin(ids, torch.tensor(rule.special_ids, dtype=ids.dtype, device=ids.device))}
