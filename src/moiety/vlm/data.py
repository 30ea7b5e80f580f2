"""Turns a row into tensors (chat template, pictures, label mask, modality ids), and rows into a padded batch."""

from __future__ import annotations

import functools
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from moiety.groups import Modality
from moiety.vlm.asymoe.spans import evidence_mask, image_key, span_ids, span_order
from moiety.vlm.encoded import positions_in
from moiety.vlm.images import Pictures, as_rgb, plain_picture
from moiety.vlm.placeholders import PLACEHOLDERS, ids_from_placeholders, placeholder_ids
from moiety.vlm.rows import IMAGE_MARK, Row, Turn
from moiety.vlm.templates import control_ids, marks_answers

logger = logging.getLogger(__name__)

IGNORED_LABEL = -100
_PADDING = {"labels": IGNORED_LABEL}  # other tensors with one value for each position are padded with 0


class Encoder:
    """Turns one :class:`Row` into tensors.

    Only the tokens that the chat template marks as an answer of the assistant get labels, including the end-of-turn
    token. Image tokens are never trained.

    Args:
        processor: Result of :func:`moiety.vlm.templates.load_processor`.
        images: Look-up of pictures by name.
        max_length: Largest number of tokens in a row, image tokens included. A longer row is an error and is not cut.
        labels: ``assistant`` reads the generation marks of the template. ``prefix`` compares the tokens with and
            without each answer, for templates without marks.
        token_ids: Token id -> modality id, for a model that gives a modality to more tokens than the placeholders, such
            as picture delimiters. None: the placeholders of the processor.
        control: Ids of tokens that are never evidence. None: those of :func:`moiety.vlm.templates.control_ids`.
        spans: Add the turn of each token and the pictures of the row. Only a trainer needs them.

    Raises:
        ValueError: the processor names no placeholder.
    """

    def __init__(
        self,
        processor: Any,
        images: Pictures,
        max_length: int,
        labels: Literal["assistant", "prefix"] = "assistant",
        token_ids: Mapping[int, int] | None = None,
        control: Collection[int] | None = None,
        spans: bool = False,
    ) -> None:
        self.processor = processor
        self.images = images
        self.max_length = max_length
        self.labels = labels
        self.token_ids = placeholder_ids(processor) if token_ids is None else token_ids
        if not self.token_ids:
            raise ValueError(
                f"{type(processor).__name__} names none of {', '.join(PLACEHOLDERS)}: picture tokens cannot be found"
            )
        self.spans, self._given_control = spans, control
        self._openings: dict[str, Tensor] = {}

    @property
    def pad_token_id(self) -> int:
        """Token id that padding is written with; its value never reaches the model's result."""
        tokenizer = self.processor.tokenizer
        return tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id

    @functools.cached_property
    def control(self) -> frozenset[int]:
        """Token ids that are never evidence."""
        return control_ids(self.processor) if self._given_control is None else frozenset(self._given_control)

    def encode(self, row: Row) -> dict[str, Tensor]:
        """Tensors of one row for training, without padding.

        Returns:
            Per position, 1-D ``(seq,)``: ``input_ids``, ``labels`` (-100 where nothing is trained), ``modality_ids``,
            ``evidence_mask`` and further tensors of the processor. Per picture, with pictures or patches as the first
            axis: ``pixel_values`` and its companions; they are absent without pictures. With `spans`, also ``span_ids``
            and ``span_order`` per position and the scalar ``image_key``, see :mod:`moiety.vlm.asymoe.spans`.

        Raises:
            FileNotFoundError: a picture is missing.
            ValueError: marks and pictures differ in number, a picture cannot be read, no token would be trained, or
                the row is too long. The text names file, line and id.
        """
        messages = _messages(row, self._pictures(row))
        by_marks = self.labels == "assistant" or marks_answers(self.processor)
        tensors, answered = self._tokenise(messages, mask=by_marks)
        labelled = answered if self.labels == "assistant" else self._answers_by_prefix(messages, tensors["input_ids"])
        answered = answered if by_marks else labelled
        trained = labelled & (tensors["modality_ids"] == Modality.TEXT)
        length = len(tensors["input_ids"])
        if length > self.max_length:
            raise ValueError(
                f"{row.place}: {length} tokens, data.max_length is {self.max_length}; "
                f"raise it to {length} or shorten the row"
            )
        if not trained.any():
            raise ValueError(
                f"{row.place}: 0 trained tokens; the row has no answer, or the chat template marks none as said by "
                "the assistant (see model.template)"
            )
        tensors["labels"] = tensors["input_ids"].masked_fill(~trained, IGNORED_LABEL)
        read = tensors["input_ids"], tensors["modality_ids"], answered, self.control
        tensors["evidence_mask"] = evidence_mask(*read)
        if self.spans:
            tensors["span_ids"] = span_ids(*read, opening=self._opening(messages, tensors["input_ids"]))
            tensors["span_order"] = span_order(row, tensors["span_ids"])
            tensors["image_key"] = image_key(row.images)
        return tensors

    def encode_prompt(self, row: Row, blank_image: bool = False) -> dict[str, Tensor]:
        """Tensors of one row as from :meth:`encode`, without labels, up to the last answer. Answers are not evidence.

        Args:
            row: The row; its last turn is dropped if it is an answer.
            blank_image: Replace each picture by one of the same size in the processor's mean colour. This measures what
                can be answered without the picture.

        Raises:
            FileNotFoundError: a picture is missing.
            ValueError: marks and pictures differ in number, a picture cannot be decoded, or no question is left.
        """
        turns = row.turns[:-1] if row.turns[-1].role == "assistant" else row.turns
        if not turns or turns[-1].role != "user":
            raise ValueError(f"{row.place}: no question before the last answer")
        pictures = self._pictures(row)
        if blank_image:
            pictures = [plain_picture(picture.size, self._blank_colour()) for picture in pictures]
        messages = _messages(replace(row, turns=turns), pictures)
        tensors, answered = self._tokenise(messages, prompt=True, mask=len(turns) > 1 and marks_answers(self.processor))
        if len(turns) > 1 and not marks_answers(self.processor):
            try:
                answered = self._answers_by_prefix(messages, tensors["input_ids"])
            except ValueError:
                _say_answers_are_unknown()
        tensors["evidence_mask"] = evidence_mask(tensors["input_ids"], tensors["modality_ids"], answered, self.control)
        return tensors

    def _pictures(self, row: Row) -> list[Image.Image]:
        if row.num_marks != len(row.images):
            raise ValueError(
                f"{row.place}: {row.num_marks} {IMAGE_MARK} marks in the turns of the user, {len(row.images)} pictures"
                "; each picture needs one mark"
            )
        try:
            return [as_rgb(self.images[name]) for name in row.images]
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{row.place}: {error}") from error
        except (OSError, ValueError) as error:
            raise ValueError(f"{row.place}: {error}") from error

    def _tokenise(
        self, messages: list[dict[str, Any]], prompt: bool = False, mask: bool = False
    ) -> tuple[dict[str, Tensor], Tensor]:
        """All tensors of one conversation, and which positions the template marks as answers."""
        found = self.processor.apply_chat_template(
            messages,
            tokenize=True,
            return_dict=True,
            add_generation_prompt=prompt,
            return_assistant_tokens_mask=mask,
            return_tensors=None,  # lists: the mask is found ten times faster than in tensors
        ).convert_to_tensors("pt")
        shape = found["input_ids"].shape
        tensors = {key: value[0] if value.shape == shape else value for key, value in found.items()}
        del tensors["attention_mask"]
        answered = tensors.pop("assistant_masks", torch.zeros(shape[1])).bool()
        tensors["modality_ids"] = ids_from_placeholders(found["input_ids"], self.token_ids)[0]
        return tensors, answered

    def _answers_by_prefix(self, messages: list[dict[str, Any]], input_ids: Tensor) -> Tensor:
        """Positions of the answers, from the tokens of the conversation cut before and after each of them."""
        answered = torch.zeros_like(input_ids, dtype=torch.bool)
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._tokenise(messages[:number], prompt=True)[0]["input_ids"]
            after = self._tokenise(messages[: number + 1])[0]["input_ids"]
            if not (_begins(after, before) and _begins(input_ids, after)):
                raise ValueError(
                    f"labels by prefix: the tokens up to turn {number + 1} do not begin the tokens of the whole "
                    "conversation under this chat template; choose a template with generation marks (model.template)"
                )
            answered[len(before) : len(after)] = True
        return answered

    def _opening(self, messages: list[dict[str, Any]], input_ids: Tensor) -> int:
        """Number of tokens before the first question that do not depend on it: system sentence and first header."""
        system = messages[0]["content"][0]["text"] if messages[0]["role"] == "system" else ""
        if system not in self._openings:
            empty = {"role": "user", "content": [{"type": "text", "text": ""}]}  # some templates look at the first part
            try:
                found = self._tokenise([*messages[: messages[0]["role"] == "system"], empty])[0]["input_ids"]
            except ValueError:  # PaliGemma's processor refuses a text alone; in its prompts a picture comes first
                found = input_ids[:0]
            self._openings[system] = found
        shared = [int(a) == int(b) for a, b in zip(self._openings[system], input_ids, strict=False)]
        return [*shared, False].index(False)

    def _blank_colour(self) -> tuple[int, ...]:
        mean = getattr(self.processor.image_processor, "image_mean", None) or [0.5, 0.5, 0.5]
        return tuple(round(255 * value) for value in mean)


class ConversationDataset(Dataset[dict[str, Tensor]]):
    """Encoded rows. Each row is encoded when it is read.

    Args:
        rows: The conversations.
        encoder: How a row becomes tensors.
    """

    def __init__(self, rows: Sequence[Row], encoder: Encoder) -> None:
        self.rows = rows
        self.encoder = encoder

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.encoder.encode(self.rows[index])

    @property
    def lengths(self) -> list[int]:
        """Number of tokens of every row. All rows are encoded for this."""
        return [len(self[index]["input_ids"]) for index in range(len(self))]


class Collator:
    """Joins encoded rows into one batch. Positions are padded, and pictures are concatenated in the order of the rows.

    Args:
        pad_token_id: Id written on padding.
        padding_side: ``right`` for training, ``left`` for generation.
    """

    def __init__(self, pad_token_id: int, padding_side: Literal["left", "right"] = "right") -> None:
        if padding_side not in ("left", "right"):
            raise ValueError(f"padding_side must be 'left' or 'right', got {padding_side!r}")
        self.pad_token_id = pad_token_id
        self.padding_side = padding_side

    def __call__(self, rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """One batch.

        Returns:
            ``input_ids``, ``attention_mask``, ``modality_ids`` (0 on padding; the model puts -1 there by the mask),
            ``evidence_mask`` (false on padding) and ``labels`` if the rows have them, each ``(batch, seq)``. Picture
            tensors are present if a row has pictures. Scalars of the rows become ``(batch,)``.
        """
        positions = {key for row in rows for key in positions_in(row)}
        batch = {}
        for key in sorted(positions):
            filler = self.pad_token_id if key == "input_ids" else _PADDING.get(key, 0)
            values = [row.get(key, torch.zeros_like(row["input_ids"])) for row in rows]
            batch[key] = self._padded(values, filler)
        ones = [torch.ones_like(row["input_ids"]) for row in rows]
        batch["attention_mask"] = self._padded(ones, 0)
        scalars = {key for row in rows for key, value in row.items() if value.ndim == 0}
        batch |= {key: torch.stack([row[key] for row in rows]) for key in sorted(scalars)}
        for key in sorted({key for row in rows for key in row} - positions - scalars):
            batch[key] = _stacked([row[key] for row in rows if key in row])
        return batch

    def _padded(self, values: Sequence[Tensor], filler: int) -> Tensor:
        return torch.nn.utils.rnn.pad_sequence(
            list(values), batch_first=True, padding_value=filler, padding_side=self.padding_side
        )


def prompt_batch(
    rows: Sequence[Row],
    processor: Any,
    images: Pictures,
    blank_image: bool = False,
    control: Collection[int] | None = None,
) -> dict[str, Tensor]:
    """A left-padded batch (see :class:`Collator`) for generation: each row up to its last answer, with the prompt.

    Args:
        rows: The conversations.
        processor: Result of :func:`moiety.vlm.templates.load_processor`.
        images: Look-up of pictures by name.
        blank_image: See :meth:`Encoder.encode_prompt`.
        control: See :class:`Encoder`.

    Raises:
        FileNotFoundError: a picture is missing.
        ValueError: see :meth:`Encoder.encode_prompt`.
    """
    encoder = Encoder(processor, images, max_length=0, control=control)  # prompts have no limit of their own
    collate = Collator(encoder.pad_token_id, padding_side="left")
    return collate([encoder.encode_prompt(row, blank_image) for row in rows])


@functools.cache
def _say_answers_are_unknown() -> None:
    logger.warning(
        "the chat template does not say which tokens of a prompt are earlier answers, so they count as evidence; "
        "choose a template with generation marks (model.template) where scheme asymoe should tell them apart"
    )


def _messages(row: Row, pictures: Iterable[Image.Image]) -> list[dict[str, Any]]:
    """Turns as content parts; every image mark becomes a part with its picture, in order."""
    remaining = iter(pictures)
    return [{"role": turn.role, "content": _parts(turn, remaining)} for turn in row.turns]


def _parts(turn: Turn, pictures: Iterable[Image.Image]) -> list[dict[str, Any]]:
    if turn.role != "user":
        return [{"type": "text", "text": turn.text}]
    remaining = iter(pictures)
    parts: list[dict[str, Any]] = []
    for number, text in enumerate(turn.text.split(IMAGE_MARK)):
        if number:
            parts.append({"type": "image", "image": next(remaining)})
        if text:
            parts.append({"type": "text", "text": text})
    return parts


def _begins(whole: Tensor, part: Tensor) -> bool:
    return len(part) <= len(whole) and bool((whole[: len(part)] == part).all())


def _stacked(values: Sequence[Tensor]) -> Tensor:
    """Concatenate along the first axis; where other axes differ (several sizes or tiles), they are padded with 0."""
    shape = [max(sizes) for sizes in zip(*(value.shape[1:] for value in values), strict=True)]
    if any(list(value.shape[1:]) != shape for value in values):
        padded = []
        for value in values:
            room = value.new_zeros(value.shape[0], *shape)
            room[tuple(slice(size) for size in value.shape)] = value
            padded.append(room)
        values = padded
    return torch.cat(list(values))
