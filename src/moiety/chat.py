"""A conversation about pictures in the terminal, or through a pipe."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch
from PIL import Image
from transformers import TextStreamer

from moiety.vlm.data import prompt_batch
from moiety.vlm.images import open_picture
from moiety.vlm.rows import IMAGE_MARK, Row, Turn

HELP = "/image PATH adds a picture to your next question · /reset starts anew · /quit leaves"


class Conversation:
    """Turns and pictures so far, and the model that answers.

    Args:
        model: A vision-language model, sparse or dense.
        processor: Its processor, with a chat template.
        max_new_tokens: Longest answer.
    """

    def __init__(self, model: Any, processor: Any, *, max_new_tokens: int = 128) -> None:
        self.model = model.eval()
        self.processor = processor
        self.max_new_tokens = max_new_tokens
        self.reset()

    def reset(self) -> None:
        """Forget all turns and pictures."""
        self.turns: list[Turn] = []
        self.images: dict[str, Image.Image] = {}
        self._waiting: list[str] = []

    def add_image(self, path: str | Path) -> None:
        """Show a picture with the next question.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is not a picture.
        """
        picture = open_picture(path)
        name = f"picture-{len(self.images)}"
        self.images[name] = picture
        self._waiting.append(name)

    def ask(self, question: str, on_text: Callable[[str], object] | None = None) -> str:
        """Answer one question in the light of all turns before.

        Args:
            question: What the person says.
            on_text: Called with every piece of the answer as it is made.
        """
        marks = f"{IMAGE_MARK}\n" * len(self._waiting)
        turns = [*self.turns, Turn("user", marks + question)]
        row = Row(id="chat", turns=tuple(turns), images=tuple(self.images))
        batch = prompt_batch([row], self.processor, self.images)
        with torch.no_grad():
            made = self.model.generate(
                **{name: value.to(self.model.device) for name, value in batch.items() if name != "modality_ids"},
                max_new_tokens=self.max_new_tokens,
                do_sample=False,
                num_beams=1,
                streamer=PieceStreamer(self.processor.tokenizer, on_text) if on_text else None,
            )
        ids = made[0, batch["input_ids"].shape[1] :]
        answer = self.processor.tokenizer.decode(ids, skip_special_tokens=True).strip()
        self.turns = [*turns, Turn("assistant", answer)]
        self._waiting = []
        return answer


class PieceStreamer(TextStreamer):
    """Hands every finished piece of text to a function instead of printing it."""

    def __init__(self, tokenizer: Any, on_text: Callable[[str], object]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by transformers with each piece."""
        self.on_text(text)


def run_chat(
    conversation: Conversation,
    *,
    source: IO[str] | None = None,
    write: Callable[[str], object] | None = None,
    prompt: str = "",
) -> int:
    """Read lines until the end of input or ``/quit``; a mistake costs one message, never the conversation.

    Args:
        conversation: Where turns are kept.
        source: Lines of the person; default: stdin, a terminal or a pipe.
        write: Receives everything that is to be shown; default: stdout.
        prompt: Shown before each line is read, for terminals.

    Returns:
        Number of questions answered.
    """
    source = sys.stdin if source is None else source
    write = _to_stdout if write is None else write
    answered = 0
    while True:
        write(prompt)
        line = source.readline()
        if not line or line.strip() == "/quit":
            return answered
        if line.strip().startswith("/"):
            write(command(conversation, line.strip()) + "\n")
        elif line.strip():
            conversation.ask(line.strip(), write)
            write("\n")
            answered += 1


def command(conversation: Conversation, line: str) -> str:
    """Carry out a line that begins with a slash; the result is what to tell the person."""
    word, _, rest = line.partition(" ")
    if word == "/reset":
        conversation.reset()
        return "starting anew"
    if word == "/image" and rest.strip():
        try:
            conversation.add_image(rest.strip())
        except (FileNotFoundError, ValueError) as error:
            return f"error: {error}"
        return f"{rest.strip()} goes with your next question"
    if word == "/image":
        return "error: /image needs a path, for instance /image photo.jpg"
    return HELP if word == "/help" else f"error: unknown command {word}; {HELP}"


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
