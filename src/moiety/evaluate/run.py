"""Answers questions in batches, by default with greedy decoding. Each answer is written to a file at once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LogitsProcessorList

from moiety.evaluate.batches import Shown, check_pictures, cut, windows
from moiety.evaluate.decoding import (
    HAS_RIVAL,
    collator_of_prompts,
    decoding_prompts,
    decoding_with,
    encoder_of_prompts,
    keywords_of_generate,
)
from moiety.evaluate.identities import told_apart
from moiety.evaluate.predictions import PredictionFile
from moiety.evaluate.recent import RecentPictures, processing_once
from moiety.evaluate.report import EvaluationResult, score_predictions
from moiety.evaluate.shared_pictures import Opened, Question, split_prompts
from moiety.evaluate.watch import Watch
from moiety.moe.asymoe.experts.evidence import EvidenceExperts, clamped_alpha
from moiety.recipe.evaluate import DecodingSettings
from moiety.vlm.data import Encoder
from moiety.vlm.images import Images, Pictures
from moiety.vlm.model import settings_of
from moiety.vlm.rows import Row

Progress = Callable[[int, int], None]
_Groups = Sequence[Sequence[Row]]
"""The rows of each prompt; rows with one prompt ask the same."""


def evaluate_model(
    model: nn.Module,
    processor: Any,
    rows: Sequence[Row],
    images: Images,
    *,
    batch_size: int = 32,
    max_new_tokens: int = 16,
    blank_image: bool = False,
    decoding: DecodingSettings | None = None,
    clamp_alpha: float | None = None,
    predictions: str | Path | None = None,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> EvaluationResult:
    """Let `model` answer `rows` (see :func:`answer_rows`), and score the answers for each type of question.

    Args:
        model: A vision-language model, dense or sparse. Its train or eval mode is restored.
        processor: Its processor, with a chat template.
        rows: Questions with answers. The model never sees a last turn of the assistant. Rows that share an id are told
            apart by what they ask, see :func:`moiety.evaluate.identities.told_apart`.
        images: Name -> picture.
        batch_size: Questions asked at once.
        max_new_tokens: Longest answer in tokens.
        blank_image: Replace each picture by a grey one of the same size: the question-only control.
        decoding: How an answer is chosen from scores; None: greedily.
        clamp_alpha: Force alpha of every evidence expert to this: 0 is evidence alone, 1 memory alone.
        predictions: JSON-lines file that answers are added to. A stopped run continues from it.
        watch: Sees every batch, see :mod:`moiety.lens.trace.gather`.
        progress: Called with (answers made, answers asked for) after each batch.
    """
    started, rows = time.perf_counter(), told_apart(rows)
    answers = answer_rows(
        *(model, processor, rows, images),
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        blank_image=blank_image,
        decoding=decoding,
        clamp_alpha=clamp_alpha,
        predictions=predictions,
        watch=watch,
        progress=progress,
    )
    return score_predictions(rows, answers, time.perf_counter() - started)


def answer_rows(
    model: nn.Module,
    processor: Any,
    rows: Sequence[Row],
    images: Pictures,
    *,
    batch_size: int,
    max_new_tokens: int,
    blank_image: bool = False,
    decoding: DecodingSettings | None = None,
    clamp_alpha: float | None = None,
    predictions: str | Path | None = None,
    made_for: Mapping[str, str] | None = None,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> dict[str, str]:
    """The model's answer to each row of :func:`told_apart`, id -> text; the first half of :func:`evaluate_model`.

    Answers depend neither on `batch_size` nor on how often the run was stopped. Equal questions about equal pictures
    are asked once. A written answer is kept. If `watch` has not seen its question, the question is asked again.

    Args:
        made_for: Names of what was asked; kept with `predictions`, so that a file made for other questions is refused.
            The other arguments are those of :func:`evaluate_model`.

    Raises:
        ValueError: no rows, one that stands twice, `predictions` was made with another model or other settings, or
            `clamp_alpha` is given for a model without evidence experts.
        BadRows: pictures are missing or cannot be decoded. The text names all such rows; no question is asked.
    """
    rows = told_apart(rows)
    decoding, progress = decoding or DecodingSettings(), progress or (lambda done, of: None)
    settings: dict[str, Any] = {**_changes(model, decoding, clamp_alpha), **(made_for or {})}
    if predictions is not None or watch is not None:
        settings |= {"weights": weights_digest(model), "max_new_tokens": max_new_tokens, "blank_image": blank_image}
    written, add = _store(predictions, settings, rows)
    encoder = encoder_of_prompts(processing_once(processor), RecentPictures(images))
    way = _Way(model, encoder, decoding, max_new_tokens, batch_size, blank_image, watch)
    with evaluating(model), clamped_alpha(clamp_alpha), (watch := watch or Watch()).over(rows, settings):
        todo = [row for row in rows if row.id not in written or watch.lacks(row)]
        num_done = len(rows) - len(todo)
        check_pictures(todo, images)
        shown = Shown(images, blank_image)
        for batch, said in way.answered(windows(todo, shown, batch_size), shown):
            texts = processor.batch_decode(said, skip_special_tokens=True)
            answers = {row.id: text.strip() for same, text in zip(batch, texts, strict=True) for row in same}
            add({name: text for name, text in answers.items() if name not in written})
            num_done += len(answers)
            progress(num_done, len(rows))
    return {row.id: written[row.id] for row in rows}


@dataclass(frozen=True)
class _Way:
    """How one run asks its questions. A picture is computed once, unless a watch or a rival needs whole prompts."""

    model: Any
    encoder: Encoder
    decoding: DecodingSettings
    max_new_tokens: int
    batch_size: int
    blank_image: bool
    watch: Watch | None

    def answered(self, windows: Iterable[_Groups], shown: Shown) -> Iterator[tuple[_Groups, torch.Tensor]]:
        """Batches of groups of equal questions, and the tokens of their answers, ``(groups, new tokens)``."""
        shares = self.watch is None and self.decoding.method not in HAS_RIVAL
        for window in windows:
            if shares:
                yield from self._sharing(window, shown)
                continue
            for batch in cut(window, self.batch_size):
                yield batch, self._whole(batch, self._prompts(batch))

    def _sharing(self, window: _Groups, shown: Shown) -> Iterator[tuple[_Groups, torch.Tensor]]:
        """The answers to one window. Questions of similar length are asked together, whatever their picture is."""
        prompts = (self._prompts([same])[0] for same in window)
        split = split_prompts(prompts, [shown(same[0]) for same in window])
        if split.openings:
            opened = Opened(self.model, split.openings, collator_of_prompts(self.encoder))
            for part in cut(sorted(split.questions, key=lambda one: len(one.rest["input_ids"])), self.batch_size):
                yield [window[one.number] for one in part], self._continued(opened, part)
        left = sorted(split.whole.items(), key=lambda one: len(one[1]["input_ids"]))
        for batch in cut(left, self.batch_size):
            groups = [window[number] for number, _ in batch]
            yield groups, self._whole(groups, [prompt for _, prompt in batch])

    def _prompts(self, batch: _Groups) -> list[dict[str, torch.Tensor]]:
        return decoding_prompts([same[0] for same in batch], self.encoder, self.decoding, self.blank_image)

    def _continued(self, opened: Opened, part: Sequence[Question]) -> torch.Tensor:
        """The answers to questions whose openings are computed."""
        length = opened.prompts(part)[0]["input_ids"].shape[1]
        with decoding_with(self.model, self.decoding) as processors:
            said = opened.answer(part, self.max_new_tokens, logits_processor=LogitsProcessorList(processors))
        return said[:, length:]

    def _whole(self, batch: _Groups, prompts: Sequence[Mapping[str, torch.Tensor]]) -> torch.Tensor:
        """The answers to whole prompts."""
        padded, watch = collator_of_prompts(self.encoder)(prompts), self.watch or Watch()
        with watch.recording() as trace:
            said = answer_ids(self.model, padded, self.max_new_tokens, self.decoding)
        watch.add(batch, padded, said, trace)
        return said


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode, and restore its mode at the end."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@torch.inference_mode()
def answer_ids(
    model: Any,
    batch: Mapping[str, torch.Tensor],
    max_new_tokens: int,
    decoding: DecodingSettings | None = None,
) -> torch.Tensor:
    """Tokens of the answers to one left-padded batch of prompts, ``(batch, new tokens)``.

    Args:
        model: Any model with `generate`.
        batch: Keywords of `generate`: ``input_ids (batch, seq)``, ``attention_mask (batch, seq)``, pixels.
        max_new_tokens: Longest answer in tokens.
        decoding: The method that `batch` was made for, see :func:`moiety.evaluate.decoding.decoding_prompts`.
    """
    decoding = decoding or DecodingSettings()
    on_device = keywords_of_generate(model, batch)
    with decoding_with(model, decoding) as processors:
        tokens = model.generate(
            **on_device,
            do_sample=False,
            num_beams=1,
            max_new_tokens=max_new_tokens,
            logits_processor=LogitsProcessorList(processors),
        )
    answers: torch.Tensor = tokens[:, on_device["input_ids"].shape[1] :]  # (batch, new tokens)
    return answers[: len(answers) // 2] if decoding.method in HAS_RIVAL else answers


def weights_digest(model: nn.Module) -> str:
    """Short fingerprint of a model's parameters: names, shapes and up to 64 evenly spaced values of each.

    It is fast for billions of parameters. Training changes it, and so does a type other than float32; saving and
    loading do not.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().flatten()
        values = flat[:: max(1, flat.numel() // 64)][:64].double().cpu()
        kind = "" if parameter.dtype == torch.float32 else f" {parameter.dtype}"  # the same numbers answer otherwise
        digest.update(f"{name} {tuple(parameter.shape)}{kind} {values.tolist()}".encode())
    return digest.hexdigest()[:16]


def _store(
    path: str | Path | None, settings: Mapping[str, Any], rows: Sequence[Row]
) -> tuple[dict[str, str], Callable[[Mapping[str, str]], None]]:
    """Answers that exist already (row id -> text), and a function that adds more. Without `path`: in memory."""
    if path is None:
        written: dict[str, str] = {}
        return written, written.update
    file = PredictionFile(path, settings, rows)
    return file.answers, file.add


def _changes(model: nn.Module, decoding: DecodingSettings, clamp_alpha: float | None) -> dict[str, str]:
    """The settings that differ from greedy decoding, in words. Greedy files of earlier releases stay valid.

    Raises:
        ValueError: `clamp_alpha` is given and the model has no evidence experts.
    """
    changes = {} if decoding.method == "greedy" else {"decoding": decoding.describe()}
    if clamp_alpha is None:
        return changes
    if not any(isinstance(module, EvidenceExperts) for module in model.modules()):
        settings = settings_of(model)
        scheme = "dense" if settings is None else settings.scheme
        raise ValueError(
            f"clamp_alpha forces the gate of evidence experts, and this model of scheme {scheme!r} has none; "
            "leave it out, or give a model of scheme asymoe with text_kind evidence"
        )
    return {**changes, "clamp_alpha": f"{clamp_alpha:g}"}
