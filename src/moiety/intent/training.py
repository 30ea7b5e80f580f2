"""One training run of an intent network: batches, losses, learning rate, and the best epoch on the dev rows."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from moiety.devices import device_named
from moiety.intent.data.samples import IntentBatch, IntentSample
from moiety.intent.metrics import closed_set_metrics
from moiety.intent.network.model import IntentNetwork, IntentOutput
from moiety.intent.network.openset import outlier_exposure_loss
from moiety.intent.network.synchronise import batch_triplet_loss, distances, info_nce_loss, synchrony, triplet_loss
from moiety.intent.settings import IntentSettings

MakeBatch = Callable[[Sequence[IntentSample]], IntentBatch]
BETTER = 1e-6
"""A dev score must rise at least this much to count as better."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Samples with class positions.

    Args:
        samples: The utterances.
        y: Class of each, ``(samples,)``.
    """

    samples: Sequence[IntentSample]
    y: Tensor

    def __len__(self) -> int:
        return len(self.samples)


def losses_of(
    network: IntentNetwork, batch: IntentBatch, y: Tensor, settings: IntentSettings, class_weight: Tensor | None = None
) -> dict[str, Tensor]:
    """The terms of the loss on in-scope rows, each times its weight. The loss is their sum.

    Args:
        network: The network, in training mode.
        batch: In-scope rows.
        y: Their classes, ``(samples,)``.
        settings: Weights and kinds of the terms.
        class_weight: Weight of each class in the cross-entropy, ``(classes,)``; None: all are 1.
    """
    output = network(batch)
    losses = {"cross_entropy": F.cross_entropy(output.logits.float(), y, class_weight)}
    if network.projections is None:
        return losses
    f, g = network.synchronised(output.embedding)
    distance = distances(f, g, settings.distance)
    if settings.triplet_weight:
        losses["triplet"] = settings.triplet_weight * triplet_loss(distance, y, settings.margin, settings.negative)
    if settings.batch_triplet_weight:
        losses["batch_triplet"] = settings.batch_triplet_weight * batch_triplet_loss(distance, y, settings.margin)
    if settings.info_nce_weight:
        losses["info_nce"] = settings.info_nce_weight * info_nce_loss(f, g, y, settings.temperature)
    return losses


def optimizer_for(network: nn.Module, settings: IntentSettings) -> torch.optim.Optimizer:
    """AdamW. Only matrices are decayed; a text encoder has a learning rate for itself, ``encoder_learning_rate``."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((name.startswith("reader."), parameter.ndim > 1), []).append(parameter)
    grouped = (
        {
            "params": parameters,
            "lr": settings.encoder_learning_rate if pretrained else settings.learning_rate,
            "weight_decay": settings.weight_decay if decayed else 0.0,
        }
        for (pretrained, decayed), parameters in groups.items()
    )
    return torch.optim.AdamW(grouped, fused=True)


def schedule_for(optimizer: torch.optim.Optimizer, steps: int, warmup_share: float) -> LambdaLR:
    """Learning rates of a run: a linear rise over a share of the steps, then a linear fall to 0.

    The first step has the rate of step 1, not of step 0, which would be 0 and teach nothing.

    Args:
        optimizer: Its learning rates are the highest ones.
        steps: Optimizer steps of the run.
        warmup_share: Share of them in which the rate rises, 0..1.
    """
    from transformers import get_linear_schedule_with_warmup

    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]  # a schedule that does not start at step 0 wants it said
    rise: Any = warmup_share * steps  # not rounded to whole steps
    schedule: LambdaLR = get_linear_schedule_with_warmup(optimizer, rise, steps, last_epoch=0)
    return schedule


def shuffled(number: int, size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Numbers of the rows of each batch of one epoch. Every row is in one batch; the last batch may be shorter.

    Args:
        number: Number of rows.
        size: Rows in a batch, at least 1.
        generator: Draws the order.
    """
    order = torch.randperm(number, generator=generator).tolist()
    for start in range(0, number, size):
        yield order[start : start + size]


@torch.no_grad()
def outputs_of(
    network: IntentNetwork, samples: Sequence[IntentSample], make: MakeBatch, batch_size: int, device: str
) -> Iterator[IntentOutput]:
    """What the network makes of each batch of the samples, in their order and in evaluation mode."""
    network.eval()
    for start in range(0, len(samples), batch_size):
        yield network(make(samples[start : start + batch_size]).to(device))


def predict_logits(
    network: IntentNetwork, samples: Sequence[IntentSample], make: MakeBatch, batch_size: int, device: str
) -> tuple[Tensor, Tensor]:
    """Logits ``(samples, classes)`` and embeddings ``(samples, width)``, in evaluation mode, on the CPU."""
    logits, embeddings = [], []
    for output in outputs_of(network, samples, make, batch_size, device):
        logits.append(output.logits.cpu())
        embeddings.append(output.embedding.cpu())
    return torch.cat(logits), torch.cat(embeddings)


def train(
    network: IntentNetwork,
    rows: Rows,
    dev: Rows,
    make: MakeBatch,
    settings: IntentSettings,
    outside: Sequence[IntentSample] = (),
    describe: Callable[[], Tensor | None] | None = None,
) -> tuple[list[dict[str, Any]], int]:
    """Train a network in place, and leave it with the weights of the best epoch.

    Args:
        network: The network; it is moved to ``settings.device``.
        rows: In-scope training rows.
        dev: In-scope rows that choose the best epoch, by ``settings.monitor``.
        make: Function from samples to a batch.
        settings: Learning rate, loss weights, seed and so on.
        outside: Rows known to be out of scope; each step takes one batch of them, over and over.
        describe: Function that encodes the label descriptions again before every epoch; None: they stay as they are.

    Returns:
        Losses and dev scores of each epoch, and the number of the best epoch, from 1.

    Raises:
        FloatingPointError: the loss is not finite.
    """
    network.to(device_named(settings.device))
    history: list[dict[str, Any]] = []
    generator = torch.Generator().manual_seed(settings.random_state)
    optimizer = optimizer_for(network, settings)
    steps = settings.max_epochs * math.ceil(len(rows) / settings.batch_size)
    schedule = schedule_for(optimizer, steps, settings.warmup_share)
    weight = class_weights(rows.y, network.head.out_features, settings.class_weight)
    foreign = _round_and_round(outside, settings.batch_size, generator) if outside and settings.outlier_weight else None
    best, best_epoch, best_state = -1.0, 0, copy.deepcopy(network.state_dict())
    bar = tqdm(range(1, settings.max_epochs + 1), desc=settings.method, disable=not settings.progress, unit="epoch")
    for epoch in bar:
        if describe is not None:
            network.label_embeddings = describe()
        sums = _epoch(network, rows, make, settings, (optimizer, schedule), generator, weight, foreign)
        grades = grades_of(network, dev, make, settings)
        history.append({"epoch": epoch, **sums, **{f"dev_{name}": value for name, value in grades.items()}})
        if grades[settings.monitor] >= best + BETTER:
            best, best_epoch, best_state = grades[settings.monitor], epoch, copy.deepcopy(network.state_dict())
        bar.set_postfix_str(f"dev {settings.monitor} {grades[settings.monitor]:.3f}, best {best:.3f}")
        if epoch - best_epoch >= settings.patience:
            break
    network.load_state_dict(best_state)
    network.eval()
    return history, best_epoch


def _epoch(
    network: IntentNetwork,
    rows: Rows,
    make: MakeBatch,
    settings: IntentSettings,
    steppers: tuple[torch.optim.Optimizer, Any],
    generator: torch.Generator,
    weight: Tensor | None,
    foreign: Iterator[list[IntentSample]] | None,
) -> dict[str, float]:
    """One epoch: every row is in one step. Returns the mean of each term of the loss."""
    network.train()
    optimizer, schedule = steppers
    sums: dict[str, float] = {}
    for chosen in shuffled(len(rows), settings.batch_size, generator):
        batch = _drop_modalities(make([rows.samples[i] for i in chosen]), settings, generator).to(settings.device)
        losses = losses_of(network, batch, rows.y[chosen].to(settings.device), settings, weight)
        if foreign is not None:
            outside = network(make(next(foreign)).to(settings.device)).logits
            losses["outlier"] = settings.outlier_weight * outlier_exposure_loss(outside)
        total = torch.stack(list(losses.values())).sum()
        if not torch.isfinite(total):
            terms = ", ".join(f"{name} {value.item():g}" for name, value in losses.items())
            raise FloatingPointError(
                f"the loss is not finite ({terms}); lower learning_rate, or set standardize='always'"
            )
        optimizer.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(network.parameters(), settings.max_grad_norm)
        optimizer.step()
        schedule.step()
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + value.item() * len(chosen) / len(rows)
    return sums


@torch.no_grad()
def grades_of(network: IntentNetwork, dev: Rows, make: MakeBatch, settings: IntentSettings) -> dict[str, float]:
    """Accuracy and macro F1 on the dev rows, without an out-of-scope rule, and how well samples match descriptions."""
    logits, embedding = predict_logits(network, dev.samples, make, settings.batch_size, settings.device)
    found = closed_set_metrics(dev.y.numpy(), logits.argmax(1).numpy())
    grades = {"acc": found["acc"], "f1": found["f1"]}
    if network.projections is not None:
        f, g = network.synchronised(embedding.to(settings.device))
        grades |= synchrony(distances(f, g, settings.distance).cpu(), g.cpu(), dev.y, settings.margin)
    return grades


def class_weights(y: Tensor, num_classes: int, kind: str | None) -> Tensor | None:
    """The weight of each class in the loss, ``(classes,)`` float32; None: all rows weigh alike.

    Args:
        y: Class of each training row; a class without rows gets weight 0.
        num_classes: Number of classes.
        kind: ``balanced``: weights inverse to the frequency of the classes, with mean 1 over the rows. None: none.
    """
    if kind is None:
        return None
    present, weights = np.unique(y.numpy()), np.zeros(num_classes)
    share = len(present) / num_classes  # scikit-learn divides by the number of classes that it is given
    weights[present] = compute_class_weight(kind, classes=present, y=y.numpy()) * share
    return torch.tensor(weights, dtype=torch.float32)


def _drop_modalities(batch: IntentBatch, settings: IntentSettings, generator: torch.Generator) -> IntentBatch:
    """Hide modalities at random (``modality_dropout``); each sample keeps at least one."""
    dropped, left = {}, torch.stack([batch.present(name) for name in batch.modalities]).sum(0)
    for name in batch.modalities:
        chance = settings.of_modality("modality_dropout", name)
        if chance:
            gone = (torch.rand(len(batch), generator=generator) < chance) & batch.present(name) & (left > 1)
            left = left - gone.long()
            dropped[name] = gone
    return batch.hiding(dropped) if dropped else batch


def _round_and_round(
    samples: Sequence[IntentSample], size: int, generator: torch.Generator
) -> Iterator[list[IntentSample]]:
    while True:
        for chosen in shuffled(len(samples), size, generator):
            yield [samples[i] for i in chosen]
