"""Routing losses count once a step, whatever the accumulation (I12, trap 13); ranks are in test_ranks.py."""

from pathlib import Path

import pytest
import torch
from toy import COLOURS, encoded, gradients, largest_difference, row, scratch_folder, sparse_model
from transformers import Trainer, TrainingArguments

from moiety.moe.losses import auxiliary_losses
from moiety.moe.trace import recording
from moiety.recipe.recipe import TrainSettings
from moiety.train import MoietyTrainer, RoutingLossMixin, training_arguments
from moiety.vlm.model import groups_of, settings_of

PAIR = [row("a", "red.png", "Which colour?", "red"), row("b", None, "Repeat the word blue.", "blue blue")]
DOMINANT = {"aux_coef": 5.0, "z_loss_coef": 0.5}


def test_accumulation_changes_no_gradient(world: Path, tmp_path: Path) -> None:
    once, _ = gradients(world, PAIR, 2, 1, tmp_path, **DOMINANT)
    four, _ = gradients(world, PAIR * 4, 2, 4, tmp_path, **DOMINANT)
    assert largest_difference(four, once) < 1e-5  # measured 6e-7


def test_the_routing_losses_are_in_the_gradient(world: Path, tmp_path: Path) -> None:
    """Without this, equality under accumulation would prove nothing."""
    without, _ = gradients(world, PAIR, 2, 1, tmp_path, aux_coef=0.0)
    with_losses, _ = gradients(world, PAIR, 2, 1, tmp_path, **DOMINANT)
    router = "model.language_model.layers.1.mlp.router.gates.text.weight"
    assert (with_losses[router] - without[router]).abs().max() > 10 * without[router].abs().max()


def test_a_loss_that_is_not_scaled_by_items_is_divided_by_the_trainer(world: Path, tmp_path: Path) -> None:
    """Without an item count the Trainer divides the sum; the routing losses must not be divided twice."""

    class Unscaled(MoietyTrainer):
        loss_is_scaled_for_ga = False

        def _get_num_items_in_batch(self, *args: object) -> None:
            return None

    (once, _), (four, _) = (
        gradients(world, PAIR * number, 2, number, tmp_path, cls=Unscaled, **DOMINANT) for number in (1, 4)
    )
    assert largest_difference(four, once) < 1e-5


def test_evaluation_is_cross_entropy_alone(world: Path, tmp_path: Path) -> None:
    """D18."""
    model = sparse_model(world, **DOMINANT)
    dataset, collator = encoded(world, scratch_folder(world), PAIR)
    args = training_arguments(TrainSettings(), tmp_path, quiet=True, save_strategy="no")
    trainer = MoietyTrainer(model, args, train_dataset=dataset, eval_dataset=dataset, data_collator=collator)
    batch = collator(dataset)
    with torch.no_grad():
        expected = model.eval()(**batch).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_the_sum_of_its_parts_once(world: Path, tmp_path: Path) -> None:
    model = sparse_model(world, **DOMINANT).train()
    dataset, collator = encoded(world, scratch_folder(world), PAIR)
    args = training_arguments(TrainSettings(), tmp_path, quiet=True, save_strategy="no")
    trainer = MoietyTrainer(model, args, train_dataset=dataset, data_collator=collator)
    batch = collator(dataset)
    with recording() as trace:
        plain = model(**{key: value for key, value in batch.items() if key != "labels"})
    losses = auxiliary_losses(trace, groups_of(model), settings_of(model))
    cross_entropy = model.loss_function(plain.logits, batch["labels"], vocab_size=plain.logits.shape[-1])
    expected = cross_entropy + losses.total
    assert trainer.compute_loss(model, batch).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_second_forward_without_gradient_does_not_count(world: Path, tmp_path: Path) -> None:
    """TRL makes one for its metrics; the gradient of the routing losses would be half of what it should be."""

    class Metrics(Trainer):
        def compute_loss(self, model: torch.nn.Module, inputs: dict, *args: object, **options: object) -> object:
            result = super().compute_loss(model, inputs, *args, **options)
            with torch.no_grad():
                model(**inputs)
            return result

    class LooksAgain(MoietyTrainer, Metrics):
        pass

    once, _ = gradients(world, PAIR, 2, 1, tmp_path, **DOMINANT)
    twice, _ = gradients(world, PAIR, 2, 1, tmp_path, cls=LooksAgain, **DOMINANT)
    assert largest_difference(twice, once) < 1e-6


def test_a_lost_trace_is_an_error(world: Path, tmp_path: Path) -> None:
    class Parallel(torch.nn.Module):
        """Runs the model in another thread, as torch.nn.DataParallel does."""

        def __init__(self, model: torch.nn.Module) -> None:
            super().__init__()
            self.model = model

        def forward(self, **batch: torch.Tensor) -> object:
            import concurrent.futures

            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                return pool.submit(lambda: self.model(**batch)).result()

    model = sparse_model(world).train()
    dataset, collator = encoded(world, scratch_folder(world), PAIR)
    args = training_arguments(TrainSettings(), tmp_path, quiet=True, save_strategy="no")
    trainer = MoietyTrainer(model, args, train_dataset=dataset, data_collator=collator)
    with pytest.raises(RuntimeError, match=r"none of its layers recorded a routing decision.*torchrun"):
        trainer.compute_loss(Parallel(model).train(), collator(dataset))


def test_the_mixin_alone_fits_before_the_stock_trainer(world: Path, tmp_path: Path) -> None:
    class Mixed(RoutingLossMixin, Trainer):
        pass

    seen: list[float] = []
    for cls in (Trainer, Mixed):
        model = sparse_model(world, **DOMINANT)
        dataset, collator = encoded(
            world, scratch_folder(world), [row(c, f"{c}.png", "Which?", c) for c in COLOURS] * 2
        )
        args = training_arguments(
            TrainSettings(per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=1),
            tmp_path, quiet=True, save_strategy="no",
        )  # fmt: skip
        trainer = cls(model, args, train_dataset=dataset, data_collator=collator)
        trainer.train()
        seen.append(trainer.state.log_history[0]["loss"])
    assert isinstance(args, TrainingArguments)
    # added in the model, the routing losses (about 11 here) count once for each of the four micro-batches
    assert seen[0] > seen[1] + 20
