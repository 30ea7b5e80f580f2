"""Answers questions in batches, by default with greedy decoding. Each answer is written to a file at once."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import LogitsProcessorList

from moiety.evaluate.decoding import (
    CONTEXT,
    HAS_RIVAL,
    collator_of_prompts,
    decoding_prompts,
    decoding_with,
    encoder_of_prompts,
    keywords_of_generate,
)
from moiety.evaluate.identities import prompt_turns, told_apart
from moiety.evaluate.predictions import PredictionFile
from moiety.evaluate.report import EvaluationResult, score_predictions
from moiety.evaluate.shared_pictures import SharedPrompts, shared_prompts
from moiety.evaluate.watch import Watch
from moiety.moe.asymoe.experts.evidence import EvidenceExperts, clamped_alpha
from moiety.recipe.evaluate import DecodingSettings
from moiety.vlm.contracts import cache_in, cache_keyword
from moiety.vlm.images import Images, Pictures
from moiety.vlm.model import settings_of
from moiety.vlm.positions import select_rows
from moiety.vlm.problems import BadRows, Problem
from moiety.vlm.rows import Row

Progress = Callable[[int, int], None]


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
    shares = watch is None and decoding.method == "greedy"  # a watch sees whole prompts, and so do rivals
    encoder = encoder_of_prompts(processor, images)
    collate = collator_of_prompts(encoder)
    with evaluating(model), clamped_alpha(clamp_alpha), (watch := watch or Watch()).over(rows, settings):
        todo = [row for row in rows if row.id not in written or watch.lacks(row)]
        num_done = len(rows) - len(todo)
        check_pictures(todo, images)
        shown = _Shown(images, blank_image)
        for batch in _batches(todo, shown, batch_size):
            asked = decoding_prompts([same[0] for same in batch], encoder, decoding, blank_image)
            shared = shared_prompts(asked, [shown(same[0]) for same in batch], collate) if shares else None
            if shared is not None:
                said = answer_shared(model, shared, max_new_tokens)
            else:
                prompts = collate(asked)
                with watch.recording() as trace:
                    said = answer_ids(model, prompts, max_new_tokens, decoding)
                watch.add(batch, prompts, said, trace)
            texts = processor.batch_decode(said, skip_special_tokens=True)
            answers = {row.id: text.strip() for same, text in zip(batch, texts, strict=True) for row in same}
            add({name: text for name, text in answers.items() if name not in written})
            num_done += len(answers)
            progress(num_done, len(rows))
    return {row.id: written[row.id] for row in rows}


def check_pictures(rows: Sequence[Row], images: Pictures) -> None:
    """Decode every picture once, so that a bad one is known before the first question is asked.

    Args:
        rows: Rows that will be asked.
        images: Name -> picture.

    Raises:
        BadRows: a picture is missing or cannot be decoded. The text names every such row.
    """
    faults: dict[str, str] = {}
    for name in dict.fromkeys(name for row in rows for name in row.images):
        try:
            images[name]
        except (OSError, KeyError, ValueError) as error:
            faults[name] = f"picture {name!r} is missing" if isinstance(error, KeyError) else str(error)
    problems = [
        Problem(row.file, row.line, row.id, faults[name], row.column)
        for row in rows
        for name in dict.fromkeys(row.images)
        if name in faults
    ]
    if problems:
        raise BadRows(problems, "rows cannot be asked; mend the pictures or take the rows out")


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


@torch.inference_mode()
def answer_shared(model: Any, prompts: SharedPrompts, max_new_tokens: int) -> torch.Tensor:
    """Tokens of the greedy answers to one batch of shared prompts, ``(questions, new tokens)``.

    Args:
        model: Any model with `generate`.
        prompts: Of :func:`moiety.evaluate.shared_pictures.shared_prompts`.
        max_new_tokens: Longest answer in tokens.
    """
    options: dict[str, Any] = {"do_sample": False, "num_beams": 1}
    opened = model.generate(
        **keywords_of_generate(model, prompts.openings), **options, max_new_tokens=1, return_dict_in_generate=True
    )
    cache = cache_in(opened)
    select_rows(model.base_model, cache, prompts.opening_of.to(model.device))
    asked = keywords_of_generate(model, prompts.questions)
    tokens = model.generate(**asked, **options, **{cache_keyword(): cache}, max_new_tokens=max_new_tokens)
    return tokens[:, asked["input_ids"].shape[1] :]


def weights_digest(model: nn.Module) -> str:
    """Short fingerprint of a model's parameters: names, shapes and up to 64 evenly spaced values of each.

    It is fast for billions of parameters. Training changes it; saving and loading do not.
    """
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().flatten()
        values = flat[:: max(1, flat.numel() // 64)][:64].double().cpu()
        digest.update(f"{name} {tuple(parameter.shape)} {values.tolist()}".encode())
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


class _Shown:
    """What a row shows: the names of its pictures or, if they are replaced by blank ones, their sizes."""

    def __init__(self, images: Pictures, blank_image: bool) -> None:
        self._images, self._blank = images, blank_image
        self._sizes: dict[str, tuple[int, int]] = {}

    def __call__(self, row: Row) -> tuple[Hashable, ...]:
        return tuple(self._size(name) if self._blank else name for name in row.images)

    def _size(self, name: str) -> tuple[int, int]:
        if name not in self._sizes:
            self._sizes[name] = self._images[name].size
        return self._sizes[name]


def _batches(rows: Sequence[Row], shown: _Shown, batch_size: int) -> Iterator[list[list[Row]]]:
    """Batches of groups of rows that get the same answer.

    Questions about one picture come together, because their openings are computed once. Pictures with questions of
    similar length come together, so that little is padded.
    """
    groups: dict[Hashable, list[Row]] = {}
    for row in rows:
        turns = tuple((turn.role, turn.text) for turn in prompt_turns(row))
        groups.setdefault((turns, shown(row), row.extra.get(CONTEXT)), []).append(row)
    of_picture: dict[Hashable, list[list[Row]]] = {}
    for same in groups.values():
        of_picture.setdefault(shown(same[0]) or same[0].id, []).append(same)
    for questions in of_picture.values():
        questions.sort(key=_size)
    ordered = sorted(of_picture.values(), key=lambda questions: _size(questions[-1]))
    batch: list[list[Row]] = []
    for questions in ordered:
        if batch and len(batch) + len(questions) > batch_size:
            yield batch
            batch = []
        batch += questions
        while len(batch) > batch_size:
            yield batch[:batch_size]
            batch = batch[batch_size:]
    if batch:
        yield batch


def _size(same: Sequence[Row]) -> tuple[int, int]:
    """Number of pictures and of characters of a question."""
    return len(same[0].images), sum(len(turn.text) for turn in prompt_turns(same[0]))
