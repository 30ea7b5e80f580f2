"""A conversation about pictures in the terminal, or through a pipe."""

from __future__ import annotations

import contextlib
import importlib
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
from PIL import Image
from transformers import TextStreamer

from moiety.vlm.configs import context_length
from moiety.vlm.data import prompt_batch
from moiety.vlm.images import as_rgb, open_picture
from moiety.vlm.rows import IMAGE_MARK, Row, Turn

HELP = "/image PATH adds a picture to your next question · /reset starts again · /quit leaves"
STOPPED = "\nstopped; the question is forgotten, and its pictures go with the next one\n"
LEAVING = "\nCtrl-C stops an answer; /quit or Ctrl-D leaves\n"
# Errors that are no fault of the program: a picture or text that does not fit, a device without free memory.
UNANSWERED = (ValueError, torch.OutOfMemoryError)


class Conversation:
    """Turns and pictures so far, and the model that answers.

    The last prompt stays in ``batch``, and prompt and answer in ``ids``, so that their routing can be drawn.

    Args:
        model: A vision-language model, sparse or dense.
        processor: Its processor, with a chat template.
        max_new_tokens: Longest answer in tokens.
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
        self.batch: dict[str, torch.Tensor] = {}
        self.ids: list[int] = []

    def add_image(self, picture: Image.Image | str | Path) -> None:
        """Show a picture, or the one in a file, with the next question.

        Raises:
            OSError: there is no such file, or it cannot be read.
            ValueError: it is not a picture.
        """
        picture = as_rgb(picture) if isinstance(picture, Image.Image) else open_picture(picture)
        name = f"picture-{len(self.images)}"
        self.images[name] = picture
        self._waiting.append(name)

    def ask(self, question: str, on_text: Callable[[str], object] | None = None) -> str:
        """Answer one question, given all turns before it.

        A question that is not answered for any reason leaves the conversation as it was.

        Args:
            question: The question.
            on_text: Called after each token with the text that the token completed, which may be empty. An error that
                it raises ends the answer.

        Raises:
            ValueError: the question is empty or holds an image mark, or the conversation is too long for the model.
        """
        if not question.strip():
            raise ValueError("the question is empty; ask something")
        if IMAGE_MARK in question:
            raise ValueError(
                f"the question holds {IMAGE_MARK}, the mark of a picture; leave it out and add the picture"
            )
        turns = [*self.turns, Turn("user", f"{IMAGE_MARK}\n" * len(self._waiting) + question)]
        row = Row(id="chat", turns=tuple(turns), images=tuple(self.images))
        batch = prompt_batch([row], self.processor, self.images)
        ids = self._generate(batch, on_text)
        made = ids[batch["input_ids"].shape[1] :]
        answer: str = self.processor.tokenizer.decode(made, skip_special_tokens=True).strip()
        self.batch, self.ids = batch, ids
        self.turns = [*turns, Turn("assistant", answer)]
        self._waiting = []
        return answer

    def forget_waiting(self) -> int:
        """Remove the pictures that wait for the next question, and return their number."""
        for name in self._waiting:
            del self.images[name]
        count, self._waiting = len(self._waiting), []
        return count

    def _generate(self, batch: Mapping[str, torch.Tensor], on_text: Callable[[str], object] | None) -> list[int]:
        """The token ids of a prompt and of its greedy answer."""
        room = self.room_for_answer(batch["input_ids"].shape[1])
        with torch.no_grad():
            made = self.model.generate(
                **{name: value.to(self.model.device) for name, value in batch.items() if name != "modality_ids"},
                max_new_tokens=min(self.max_new_tokens, room),
                do_sample=False,
                num_beams=1,
                streamer=PieceStreamer(self.processor.tokenizer, on_text) if on_text else None,
            )
        ids: list[int] = made[0].tolist()
        return ids

    def room_for_answer(self, prompt_length: int) -> int:
        """How many tokens the answer to a prompt may have.

        Raises:
            ValueError: the prompt leaves no room.
        """
        context = context_length(self.model.config)
        if context is None:
            return self.max_new_tokens
        if prompt_length >= context:
            raise ValueError(
                f"the conversation has {prompt_length:,} tokens, pictures included, and the model reads at most "
                f"{context:,}; start again or ask something shorter"
            )
        return int(context - prompt_length)


class PieceStreamer(TextStreamer):
    """Passes each finished piece of text to a function instead of printing it.

    The function is called for every token, with an empty piece if the token completes no word, so that it can end an
    answer at any token.
    """

    def __init__(self, tokenizer: Any, on_text: Callable[[str], object]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self.on_text = on_text

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Called by transformers after each token, and at the end with the rest."""
        self.on_text(text)


def run_chat(
    conversation: Conversation,
    *,
    source: IO[str] | None = None,
    write: Callable[[str], object] | None = None,
    prompt: str = "",
) -> int:
    """Read lines until the end of input or ``/quit``. A mistake costs one message, never the conversation.

    Args:
        conversation: Keeps the turns.
        source: Lines to read; default: stdin, a terminal or a pipe.
        write: Shows a text; default: writes to stdout.
        prompt: Shown before each line is read. With a prompt, Ctrl-C stops only the answer that is being made.

    Returns:
        Number of questions answered.

    Raises:
        KeyboardInterrupt: Ctrl-C where there is no prompt.
    """
    write = _to_stdout if write is None else write
    read = _typed if source is None and prompt and sys.stdin.isatty() else _reader(source or sys.stdin, write)
    answered = 0
    while True:
        try:
            line = read(prompt)
        except KeyboardInterrupt:
            if not prompt:
                raise
            write(LEAVING)
            continue
        if not line or line.strip() == "/quit":
            write("\n" if prompt and not line else "")
            return answered
        if line.strip().startswith("/"):
            write(command(conversation, line.strip()) + "\n")
        elif line.strip():
            answered += _answer(conversation, line.strip(), write, may_stop=bool(prompt))


def _answer(conversation: Conversation, question: str, write: Callable[[str], object], may_stop: bool) -> bool:
    """Answer one line. False, and the reason is shown, if it cannot be answered."""
    begun = False

    def show(piece: str) -> None:
        nonlocal begun
        piece = piece if begun else piece.lstrip()  # many tokenizers begin each word with a space
        begun = begun or bool(piece)
        write(piece)

    try:
        said = conversation.ask(question, show)
    except UNANSWERED as error:
        dropped = " (its pictures are forgotten)" if conversation.forget_waiting() else ""
        write(f"error: {error}{dropped}\n")
        return False
    except KeyboardInterrupt:
        if not may_stop:
            raise
        write(STOPPED)
        return False
    write("\n" if said else "(no answer)\n")
    return True


def command(conversation: Conversation, line: str) -> str:
    """Carry out a line that begins with a slash, and return the text to show."""
    word, _, rest = line.partition(" ")
    if word == "/reset":
        conversation.reset()
        return "starting again"
    if word == "/image" and rest.strip():
        try:
            path = as_path(rest.strip())
            conversation.add_image(path)
        except (
            OSError,
            ValueError,
            RuntimeError,
        ) as error:  # RuntimeError: the home folder of an unknown user, ~gone/a.png
            return f"error: {error}"
        return f"{path} goes with your next question"
    if word == "/image":
        return "error: /image needs a path, for instance /image photo.jpg"
    return HELP if word == "/help" else f"error: unknown command {word}; {HELP}"


def as_path(text: str) -> str:
    """The path in a line, without the quotes and backslashes that a terminal adds to a file dropped on it.

    Example:
        >>> as_path("my photo.jpg"), as_path("'my photo.jpg'"), as_path("my\\\\ photo.jpg")
        ('my photo.jpg', 'my photo.jpg', 'my photo.jpg')
    """
    if Path(text).exists():
        return text
    try:
        parts = shlex.split(text)
    except ValueError:  # an opening quote without a closing one
        return text
    return parts[0] if len(parts) == 1 else text


def _reader(source: IO[str], write: Callable[[str], object]) -> Callable[[str], str]:
    """A function that reads lines from a file or a pipe."""

    def read(prompt: str) -> str:
        write(prompt)
        return source.readline()

    return read


def _typed(prompt: str) -> str:
    """A line from a terminal, with arrow keys and history where Python has them; empty at Ctrl-D."""
    with contextlib.suppress(ImportError):
        importlib.import_module("readline")
    try:
        return input(prompt) + "\n"
    except EOFError:
        return ""


def _to_stdout(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
