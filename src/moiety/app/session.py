"""The conversation of one person about one picture, and the routing of the last answer."""

from __future__ import annotations

import io
import queue
import threading
import time
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError

from moiety.app.received import content_of
from moiety.chat import UNANSWERED, Conversation
from moiety.groups import Modality
from moiety.lens.numbers import RoutingNumbers, numbers_of
from moiety.lens.trace.observe import Observation, as_seen, grid_of, pieces, split
from moiety.moe.trace import RoutingTrace, recording
from moiety.serve.turns import Ended, Turns
from moiety.vlm.images import decode
from moiety.vlm.model import groups_of, settings_of
from moiety.vlm.rows import IMAGE_MARK

MOST_PIXELS = 64_000_000
"""Pixels of the largest picture that is read. The largest cameras make so many; more cost gigabytes to decode."""
SECONDS_BETWEEN = 0.1
"""Seconds between two updates of a growing answer; an update for each token would be too many for a page."""
STOPPED = "Stopped."
NO_PICTURE = "There is no picture yet: choose one, or take an example."
NO_QUESTION = "There is no question yet: type one."
ANSWERING = "An answer is still being made: wait until it ends, or stop it."
CLOSING = "The app is being stopped."


@dataclass(frozen=True)
class Reading:
    """The routing of the last answer: every decision, and their statistics."""

    observation: Observation
    numbers: RoutingNumbers


@dataclass(frozen=True)
class Said:
    """What to show while an answer is made, and when it is finished.

    Args:
        history: Turns so far, each with ``role`` and ``content``; the last one may still grow.
        note: A line about the answer, or the reason why there is none.
        is_error: Whether `note` says why there is no answer.
    """

    history: list[dict[str, str]]
    note: str = ""
    is_error: bool = False


class Session:
    """A conversation about one picture. Another picture starts another conversation.

    Args:
        model: Sparse or dense; a dense one answers and has no reading.
        processor: Its processor.
        folder: Where pictures may lie; a file elsewhere is never opened.
        turns: The model's time, shared with other sessions; None: this is the only session.
    """

    def __init__(self, model: Any, processor: Any, folder: Path, turns: Turns | None = None) -> None:
        self.conversation = Conversation(model, processor)
        self.folder, self.turns = folder, turns or Turns()
        self.file: str | None = None
        self.reading: Reading | None = None
        self._answering = False
        self._wanted = ""

    def stop(self) -> None:
        """End the answer that is being made, if there is one, at its next token; its question is forgotten."""
        self._wanted = self._wanted or "stop"

    def clear(self) -> None:
        """Forget picture, turns and reading; an answer that is being made is stopped first."""
        self._wanted = "clear"
        if not self._answering:
            self._forget()

    def _forget(self) -> None:
        self.conversation.reset()
        self.file, self.reading = None, None

    def ask(self, file: str | None, question: str | None, max_new_tokens: int) -> Iterator[Said]:
        """Answer a question about the picture in a file, piece by piece. Every error becomes a note.

        Args:
            file: Picture in the folder of the page; None: none was chosen.
            question: What to ask.
            max_new_tokens: Longest answer.
        """
        if not file:
            yield Said(self.history(), NO_PICTURE, is_error=True)
            return
        if not question or not question.strip():
            yield Said(self.history(), NO_QUESTION, is_error=True)
            return
        if self._answering:
            yield Said(self.history(), ANSWERING, is_error=True)
            return
        self._answering, self._wanted = True, ""
        try:
            self._show(file)
            yield from self._answer(question.strip(), max_new_tokens)
        except UNANSWERED as error:
            text = str(error)
            yield Said(self.history(), f"{text[:1].upper()}{text[1:]}.", is_error=True)
        except Ended:
            yield Said(self.history(), CLOSING, is_error=True)
        finally:
            self._answering = False
            if self._wanted == "clear":
                self._forget()

    def history(self) -> list[dict[str, str]]:
        """Turns so far, without the marks of pictures."""
        return [
            {"role": turn.role, "content": turn.text.replace(IMAGE_MARK, "").strip()}
            for turn in self.conversation.turns
        ]

    def _show(self, file: str) -> None:
        """Start a conversation about the picture in `file`, unless it is already about that picture."""
        if file != self.file:
            picture = picture_in(file, self.folder)
            self._forget()
            self.conversation.add_image(picture)
            self.file = file

    def _answer(self, question: str, max_new_tokens: int) -> Iterator[Said]:
        talk, trace = self.conversation, RoutingTrace()
        talk.max_new_tokens = max_new_tokens
        before = [*self.history(), {"role": "user", "content": question}]
        started, text = time.perf_counter(), ""

        def work(on_text: Callable[[str], object]) -> None:
            with self.turns.taken() as hand_on, recording(trace):

                def told(piece: str) -> None:
                    on_text(piece)
                    hand_on()

                talk.ask(question, told)

        yield Said([*before, {"role": "assistant", "content": "…"}], "Reading …")
        shown = started
        pieces_made = as_they_come(work)
        for piece in pieces_made:
            if self._wanted:
                pieces_made.close()
                yield Said([] if self._wanted == "clear" else self.history(), STOPPED)
                return
            text += piece
            if time.perf_counter() - shown >= SECONDS_BETWEEN:
                shown = time.perf_counter()
                yield Said([*before, {"role": "assistant", "content": text or "…"}], "Answering …")
        self.reading = reading_of(talk, trace, question)
        seconds = time.perf_counter() - started
        history = self.history()
        history[-1]["content"] = history[-1]["content"] or "(no answer)"
        num_prompt = talk.batch["input_ids"].shape[1]
        made = len(talk.ids) - num_prompt
        yield Said(history, f"{num_prompt} tokens read, {made} made in {seconds:.1f} s")


class _Left(Exception):
    """Nobody waits for the rest of the answer."""


def as_they_come(work: Callable[[Callable[[str], object]], None]) -> Generator[str, None, None]:
    """Run `work` in a thread of its own and yield the pieces of text that it passes to its argument.

    An error of `work` is raised here. When the reader goes away, the work ends at its next piece.
    """
    made: queue.SimpleQueue[str | Exception | None] = queue.SimpleQueue()
    left = threading.Event()

    def hand_over(piece: str) -> None:
        if left.is_set():
            raise _Left
        made.put(piece)

    def run() -> None:
        try:
            work(hand_over)
            made.put(None)
        except Exception as error:
            made.put(error)

    worker = threading.Thread(target=run, daemon=True)
    worker.start()
    try:
        while (piece := made.get()) is not None:
            if isinstance(piece, Exception):
                raise piece
            yield piece
    finally:
        left.set()
        worker.join()


def picture_in(file: str | Path, folder: Path) -> Image.Image:
    """Read the picture in an uploaded file.

    Args:
        file: Path as a request names it.
        folder: Where uploaded files lie.

    Raises:
        ValueError: the file was not uploaded, is no picture, or has too many pixels.
    """
    name, content = Path(file).name, content_of(file, folder)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our own limit is lower
            with Image.open(io.BytesIO(content)) as opened:
                width, height = opened.size
    except Image.DecompressionBombError:
        width, height = MOST_PIXELS, 2
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"the file {name} is no picture that can be read; PNG, JPEG, WebP, GIF and BMP can") from error
    if width * height > MOST_PIXELS:
        raise ValueError(f"the picture {name} has more than {MOST_PIXELS // 1_000_000} million pixels; make it smaller")
    return decode(content, name)


def reading_of(talk: Conversation, trace: RoutingTrace, question: str) -> Reading | None:
    """The routing of the last answer of a conversation about one picture; None for a dense model."""
    settings, groups = settings_of(talk.model), groups_of(talk.model)
    if settings is None or groups is None:
        return None
    tokenizer, seq = talk.processor.tokenizer, talk.batch["input_ids"].shape[1]
    is_image = (talk.batch["modality_ids"][0] == Modality.IMAGE).numpy()
    phases = split(trace, seq)
    read_again = next(iter(phases["decode"].values())).index.shape[0] if phases["decode"] else 0
    seen = as_seen(talk.processor, talk.batch)
    grid, note = grid_of(int(is_image.sum()), seen is not None)
    words = pieces(tokenizer, talk.ids[:seq])
    observation = Observation(
        scheme=settings.scheme,
        groups=groups,
        question=question,
        answer=talk.turns[-1].text,
        words=["" if patch else word for patch, word in zip(is_image, words, strict=True)],
        is_image=is_image,
        generated=pieces(tokenizer, talk.ids[seq : seq + read_again]),
        phases=phases,
        picture=seen or next(iter(talk.images.values())),
        grid=grid,
        note=note,
    )
    return Reading(observation, numbers_of(observation))
