"""One answer in the making: its text so far, what of it is final, and when it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import StoppingCriteria


def settled(text: str, stops: Sequence[str], *, last: bool) -> str:
    """The part of an answer that will not change any more, without outer blanks and up to the first of `stops`.

    Args:
        text: The answer so far.
        stops: Texts that end an answer and do not belong to it.
        last: Whether no token follows any more.

    Example:
        >>> settled(" two dogs ", [], last=False), settled("two END", [" END"], last=True)
        ('two dogs', 'two')
        >>> settled("two E", ["END"], last=False), settled("two E", ["END"], last=True)
        ('two', 'two E')
    """
    places = [text.find(stop) for stop in stops if stop in text]
    if places:
        return text[: min(places)].strip()
    if not last:  # half a character, the beginning of a stop
        text = text.rstrip("\ufffd")
        begun = [size for stop in stops for size in range(1, len(stop)) if text.endswith(stop[:size])]
        text = text[: len(text) - max(begun, default=0)]
    return text.strip()


class Answer(StoppingCriteria):
    """Reads the tokens of one answer after each step, sends what is settled, and says when to stop.

    Args:
        tokenizer: Decodes the answer.
        prompt_length: Tokens before the answer.
        stops: Texts that end it and do not belong to it.
        send: Called with each further piece; None: nobody is waiting for pieces.
    """

    def __init__(
        self, tokenizer: Any, prompt_length: int, stops: Sequence[str], send: Callable[[str], object] | None = None
    ) -> None:
        self.tokenizer, self.prompt_length, self.stops, self.send = tokenizer, prompt_length, stops, send
        self.ids: list[int] = []
        self.sent = ""
        self._cancelled = threading.Event()

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """Tokens so far ``(1, seq)`` -> whether to stop ``(1,)``."""
        self.ids = input_ids[0, self.prompt_length :].tolist()
        stop = self._cancelled.is_set()
        if self.stops or self.send:
            text = self._decoded()
            stop = stop or any(word in text for word in self.stops)
            self._tell(settled(text, self.stops, last=False))
        return torch.full((input_ids.shape[0],), stop, dtype=torch.bool, device=input_ids.device)

    @property
    def text(self) -> str:
        """The whole answer, once no token follows any more."""
        return settled(self._decoded(), self.stops, last=True)

    @property
    def total_tokens(self) -> int:
        """Tokens made so far, the end of the turn among them."""
        return len(self.ids)

    @property
    def is_cancelled(self) -> bool:
        """Whether the client has left."""
        return self._cancelled.is_set()

    def finish(self) -> None:
        """Send the rest."""
        self._tell(self.text)

    def cancel(self) -> None:
        """Stop after the next token: the client has left."""
        self._cancelled.set()

    def _decoded(self) -> str:
        return self.tokenizer.decode(self.ids, skip_special_tokens=True)

    def _tell(self, text: str) -> None:
        if self.send is not None and len(text) > len(self.sent) and text.startswith(self.sent):
            self.send(text[len(self.sent) :])
            self.sent = text


class HandsOn(StoppingCriteria):
    """Lets other answers make a token after each token of this one; it never ends an answer.

    The others use the same random numbers, so their state is put back: a seed fixes an answer, whoever else asks
    (on CPU and CUDA).

    Args:
        hand_on: Of :meth:`moiety.serve.turns.Turns.taken`.
        device: Device of the model, where sampling draws its random numbers.
    """

    def __init__(self, hand_on: Callable[[], None], device: torch.device) -> None:
        self.hand_on = hand_on
        self.devices = [device] if device.type == "cuda" else []

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        """Tokens so far ``(1, seq)`` -> False ``(1,)``."""
        with torch.random.fork_rng(self.devices):
            self.hand_on()
        return torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
