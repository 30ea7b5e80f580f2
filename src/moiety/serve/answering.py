"""From a checked request to an answer: our prompt, transformers' chat handler, one model for all answers in turns.

The handler of ``transformers serve`` keeps the protocol: pieces of a stream, ends, token counts, a client that leaves.
The prompt is made by the same code as for ``moiety chat`` and ``evaluate``, so that a model answers all three alike.
docs/decisions/0011 says why the prompt of the handler is not used.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import jinja2
import torch
from openai.types.completion_usage import CompletionUsage
from PIL import Image
from starlette.responses import JSONResponse, Response
from torch import Tensor
from transformers import StoppingCriteriaList
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.utils import BaseGenerateManager, _StreamError

from moiety.evaluate.decoding import keywords_of_generate
from moiety.serve.answer import Answer, HandsOn
from moiety.serve.refusal import Refusal
from moiety.serve.request import ChatRequest, ImagePart, Limits
from moiety.serve.turns import Ended, Turns
from moiety.vlm.configs import context_length
from moiety.vlm.data import prompt_batch
from moiety.vlm.rows import IMAGE_MARK, Row, Turn
from moiety.vlm.templates import control_ids

logger = logging.getLogger(__name__)

CHARACTERS_A_TOKEN = 16
"""More characters than a token of any language has. A longer text is refused before tokenizing, which is slow."""
FAILED = "the model failed on this request; the log of the server says why"
STOPPING = "the server is being stopped; this answer is not complete, ask again later"


def row_of(request: ChatRequest) -> Row:
    """The conversation as a row of data. Parts of one message are joined by line breaks; pictures are numbered."""
    turns, num_images = [], 0
    for message in request.messages:
        texts = [IMAGE_MARK if isinstance(part, ImagePart) else part.text for part in message.content]
        num_images += sum(isinstance(part, ImagePart) for part in message.content)
        turns.append(Turn(message.role, "\n".join(texts)))
    return Row(id="request", turns=tuple(turns), images=tuple(map(str, range(num_images))))


def started(work: Callable[[], Any]) -> Future[Any]:
    """What `work` gives, made in a thread of its own, which never keeps the process alive."""
    made: Future[Any] = Future()

    def run() -> None:
        try:
            made.set_result(work())
        except BaseException as error:
            made.set_exception(error)

    threading.Thread(target=run, name="answer", daemon=True).start()
    return made


async def done(work: Callable[[], Any]) -> Any:
    """What `work` gives in a thread of its own; it goes on to its end when nobody waits for it any more."""
    return await asyncio.shield(asyncio.wrap_future(started(work)))


@contextmanager
def turn_of(turns: Turns, **about: Any) -> Iterator[Callable[[], None]]:
    """A turn of the model, as :meth:`Turns.taken` gives it.

    Raises:
        Refusal: the server stops, or the client has left.
    """
    try:
        with turns.taken(**about) as hand_on:
            yield hand_on
    except Ended as error:
        raise Refusal(503, STOPPING, code="stopping", kind="server_error") from error


class Generation(BaseGenerateManager):
    """How one request is answered: in a thread of its own, which takes turns with those of other requests.

    Args:
        turns: The model's time.
        running: Every answer in the making.
        request: Seed and stops.
    """

    def __init__(self, turns: Turns, running: weakref.WeakSet[Answer], request: ChatRequest) -> None:
        self.turns, self.running = turns, running
        self.seed, self.stops = request.seed, tuple(request.stop or ())
        self.answer: Answer | None = None

    def generate_streaming(
        self, model: Any, processor: Any, inputs: Any, gen_config: Any, request_id: str, response_parser: Any = None
    ) -> tuple[asyncio.Queue[Any], Any]:
        """A queue of pieces, which ends with None, and the answer, which counts tokens and can be cancelled."""
        loop, queue = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def send(piece: Any) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, piece)

        answer = self._new(processor, inputs, send)

        def run() -> None:
            try:
                self._generate(model, inputs, gen_config, answer)
                answer.finish()
                send(None)
            except Refusal as refusal:
                send(_StreamError(refusal.message))
            except Exception:
                logger.exception("an answer failed")
                send(_StreamError(FAILED))

        started(run)
        return queue, answer

    async def generate_non_streaming(
        self, model: Any, processor: Any, inputs: Any, gen_config: Any, request_id: str
    ) -> tuple[str, int, Any]:
        """Text, number of prompt tokens, ids of the answer."""
        answer = self._new(processor, inputs)
        try:
            await done(lambda: self._generate(model, inputs, gen_config, answer))
        finally:
            answer.cancel()  # a client that leaves stops its answer
        return answer.text, answer.prompt_length, answer.ids

    def stop(self) -> None:
        """Stop after the next token."""
        if self.answer is not None:
            self.answer.cancel()

    def _new(self, processor: Any, inputs: Any, send: Callable[[str], object] | None = None) -> Answer:
        self.answer = Answer(processor.tokenizer, inputs["input_ids"].shape[1], self.stops, send)
        self.running.add(self.answer)
        return self.answer

    def _generate(self, model: Any, inputs: Any, gen_config: Any, answer: Answer) -> None:
        begun = time.perf_counter()
        with turn_of(self.turns, given_up=lambda: answer.is_cancelled) as hand_on:
            if self.seed is not None:
                torch.manual_seed(self.seed)
            criteria = StoppingCriteriaList([answer, HandsOn(hand_on, model.device)])
            model.generate(**inputs, generation_config=gen_config, stopping_criteria=criteria)
        seconds = time.perf_counter() - begun
        logger.info("answered: prompt %d, answer %d tokens, %.1f s", answer.prompt_length, answer.total_tokens, seconds)


class ChatHandler(ChatCompletionHandler):
    """The chat handler of transformers with one model. Requests can neither load, unload nor exchange it.

    Args:
        model: A vision-language model, sparse or dense; put into eval mode.
        processor: Its processor, with a chat template.
        name: Name of the model in answers.
        limits: How much one request may ask.
    """

    def __init__(self, model: Any, processor: Any, name: str, limits: Limits) -> None:
        super().__init__(model_manager=None, generation_state=None)  # type: ignore[arg-type]  # both load by name
        self.model, self.processor, self.name, self.limits = model.eval(), processor, name, limits
        self.room = context_length(model.config)
        known = control_ids(processor)
        tokens = processor.tokenizer.convert_ids_to_tokens(sorted(known))
        self.control = tuple(dict.fromkeys([IMAGE_MARK, *filter(None, tokens)]))
        self.turns = Turns()
        self.running: weakref.WeakSet[Answer] = weakref.WeakSet()

    async def answer(
        self, request: ChatRequest, pictures: Sequence[Image.Image], request_id: str
    ) -> tuple[Response, Generation]:
        """Answer a request that passed every check that needs no model.

        Returns:
            The response, and the generation, which can be stopped.

        Raises:
            Refusal: the prompt cannot be made, or is longer than the model reads.
        """
        inputs = await done(lambda: self._prepared(request, pictures))
        config = self.generation_config(request, inputs["input_ids"].shape[1])
        generation = Generation(self.turns, self.running, request)
        about = (request_id, self.model, self.processor, self.name, inputs, config, generation)
        return self._streaming(*about) if request.stream else await self._non_streaming(*about), generation

    def prepare(self, request: ChatRequest, pictures: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Keywords of ``generate``, each ``(1, seq)`` or one for each picture, made as for every other command.

        Raises:
            Refusal: the text is too long, or template or processor do not take these turns or pictures.
        """
        named, row = {str(number): picture for number, picture in enumerate(pictures)}, row_of(request)
        size = sum(len(turn.text) for turn in row.turns)
        if self.room is not None and size > CHARACTERS_A_TOKEN * self.room:
            raise Refusal(
                400,
                f"{size:,} characters of text; this model reads {self.room:,} tokens",
                "messages",
                "context_length_exceeded",
            )
        try:
            batch = prompt_batch([row], self.processor, named)
        except (ValueError, jinja2.TemplateError) as error:
            raise Refusal(400, f"no prompt can be made of these messages: {error}", "messages") from error
        return keywords_of_generate(self.model, batch)

    def generation_config(self, request: ChatRequest, prompt_length: int) -> Any:
        """The model's own generation settings, changed by those of the request; greedy unless a temperature is given.

        Raises:
            Refusal: prompt and answer are longer than the model reads.
        """
        room, wanted = self.room, request.max_new_tokens(self.limits)
        if room is not None and prompt_length + wanted > room:
            if prompt_length >= room or request.max_tokens or request.max_completion_tokens:
                raise Refusal(
                    400,
                    f"a prompt of {prompt_length:,} tokens and an answer of {wanted:,}; this model reads {room:,}",
                    "messages",
                    "context_length_exceeded",
                )
            wanted = room - prompt_length
        config = copy.deepcopy(self.model.generation_config)
        sample = bool(request.temperature)
        config.do_sample, config.num_beams, config.max_new_tokens = sample, 1, wanted
        config.disable_compile = True  # graphs of a compiled model belong to one thread; each answer has its own
        config.temperature, config.top_p, config.top_k = (
            (request.temperature, request.top_p, 0) if sample else (None,) * 3
        )
        return config

    def stop(self) -> None:
        """End every answer at its next token, and let none begin."""
        self.turns.end()

    def _prepared(self, request: ChatRequest, pictures: Sequence[Image.Image]) -> dict[str, Tensor]:
        """As :meth:`prepare`, in a turn: tokenizers take one text at a time."""
        with turn_of(self.turns, is_brief=True):
            return self.prepare(request, pictures)

    async def _non_streaming(
        self, request_id: str, model: Any, processor: Any, model_id: str, inputs: Any, gen_config: Any,
        gen_manager: Any, tools: Any = None,
    ) -> JSONResponse:  # fmt: skip
        """As in transformers, but the answer is not parsed for tool calls."""
        text, num_prompt, ids = await gen_manager.generate_non_streaming(
            model, processor, inputs, gen_config, request_id
        )
        usage = CompletionUsage(
            prompt_tokens=num_prompt, completion_tokens=len(ids), total_tokens=num_prompt + len(ids)
        )
        cut = len(ids) >= gen_config.max_new_tokens
        return JSONResponse(
            self._build_completion(request_id, text, model_id, finish_reason="length" if cut else "stop", usage=usage)
        )
