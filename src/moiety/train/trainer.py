"""The Trainer of moiety: routing losses, learning rates for each part, logs of every expert, exact resume."""

from __future__ import annotations

import math
import os
import pickle
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import PreTrainedModel, PrinterCallback, ProgressCallback, Trainer, TrainingArguments

from moiety.recipe.recipe import PARTS
from moiety.train import checkpoints
from moiety.train.arguments import check_arguments
from moiety.train.asymoe.rates import SCALE_RATE, is_scale, is_undecayed
from moiety.train.checkpoints import CheckpointError
from moiety.train.labelled import only_labelled
from moiety.train.loss import RoutingLossMixin
from moiety.train.meter import RoutingMeter
from moiety.train.progress import LossBar
from moiety.train.resources import peak_memory_gib
from moiety.train.sampler import SeededSampler, SetsEpoch
from moiety.vlm.model import groups_of, moe_layers
from moiety.vlm.parts import part_of


class MoietyTrainer(RoutingLossMixin, Trainer):
    """``transformers.Trainer`` for dense and sparse models; options keep the names of ``TrainingArguments``.

    It differs from ``transformers.Trainer`` in this: routing losses have the same weight for any number of
    accumulation steps and ranks; each part of the model can have its own learning rate; losses, loads and entropy are
    logged for each modality group; a checkpoint is complete or absent, and a resumed run ends with the same weights as
    a run that was never stopped. It prints nothing but a progress bar.

    Args:
        model: A model with or without sparse layers.
        args: Training arguments.
        learning_rates: Part -> learning rate, over ``args.learning_rate``.
        starved_share: Alarm when an expert gets less than this share of an even load.
        options: As for ``transformers.Trainer``.

    Raises:
        ValueError: fp16, reentrant checkpointing or ``load_best_model_at_end`` is asked for.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: TrainingArguments,
        *,
        learning_rates: Mapping[str, float] | None = None,
        starved_share: float = 0.01,
        **options: Any,
    ) -> None:
        check_arguments(args)
        self.learning_rates = dict(learning_rates or {})
        self._writes_aside = False
        super().__init__(model=model, args=args, **options)
        layers = [layer.layer_index for layer in moe_layers(model)]
        many = args.world_size > 1
        self.meter = RoutingMeter(
            groups_of(model), layers, args.device, starved_share, self._sum_over_ranks if many else None
        )
        self.remove_callback(PrinterCallback)
        if self.pop_callback(ProgressCallback) is not None:
            self.add_callback(LossBar)

    def asked(self, model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """In training, logits of labelled positions alone are asked for; see :mod:`moiety.train.labelled`."""
        batch = dict(inputs)
        return only_labelled(self.accelerator.unwrap_model(model), batch) if model.training else batch

    def observe(self, *seen: Any) -> None:
        """Count one micro-batch for the logs."""
        self.meter.add(*seen)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log `logs`; at a logging step of training also what the experts did since the last one.

        Raises:
            FloatingPointError: the loss is not finite.
        """
        if "loss" in logs:
            self._check_finite(logs["loss"])
            rates = {f"learning_rate/{group['part']}": group["lr"] for group in self._groups() if "part" in group}
            logs |= {**self.meter.window(self.state.global_step), **rates, "peak_memory_gib": peak_memory_gib()}
        super().log(logs, start_time)

    def _check_finite(self, loss: float) -> None:
        if not math.isfinite(loss):
            raise FloatingPointError(
                f"the loss is {loss} at step {self.state.global_step}; lower the learning rate, add warm-up, or train "
                "in float32. No checkpoint was written since, so the run resumes from before it"
            )

    def floating_point_ops(self, inputs: Mapping[str, Any]) -> int:
        """Always 0: the estimate of transformers assumes that every token uses every expert, and it is slow."""
        return 0

    # -- order and learning rates -------------------------------------------------------------------------------------
    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        rows: Any = self.train_dataset if train_dataset is None else train_dataset
        grouped = self.args.train_sampling_strategy == "group_by_length" and hasattr(rows, "lengths")
        if not (grouped or self.args.train_sampling_strategy == "random") or not hasattr(rows, "__len__"):
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        batch = self.args.train_batch_size * self.args.world_size
        sampler = SeededSampler(len(rows), seed, rows.lengths if grouped else None, batch)
        self.pop_callback(SetsEpoch)
        self.add_callback(SetsEpoch(sampler))
        return sampler

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The optimizer of ``args.optim``; with `learning_rates`, one parameter group for each part and decay.

        Scales of scheme asymoe have groups of their own and learn at a tenth of the rate of their part.
        """
        model = self.model if model is None else model
        scales = any(is_scale(name) for name, _ in model.named_parameters())
        if self.optimizer is None and (self.learning_rates or scales):
            kind, options = self.optimizer_cls_and_kwargs or self.get_optimizer_cls_and_kwargs(self.args, model)
            self.optimizer = kind(self._parameters_by_part(model), **options)
        return super().create_optimizer(model)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names as in transformers, without the parameters of scheme asymoe that weigh or scale single numbers."""
        return [name for name in super().get_decay_parameter_names(model) if not is_undecayed(name)]

    def _parameters_by_part(self, model: nn.Module) -> list[dict[str, Any]]:
        decayed = set(self.get_decay_parameter_names(model))
        groups: dict[tuple[str, bool, bool], list[nn.Parameter]] = defaultdict(list)
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                groups[part_of(name), name in decayed, is_scale(name)].append(parameter)
        return [
            {
                "params": groups[part, decays, scale],
                "part": f"{part}.scales" if scale else part,
                "lr": self.learning_rates.get(part, self.args.learning_rate) * (SCALE_RATE if scale else 1),
                "weight_decay": self.args.weight_decay if decays else 0.0,
            }
            for part, decays, scale in sorted(groups, key=lambda key: (PARTS.index(key[0]), *key[1:]))
        ]

    def _groups(self) -> list[dict[str, Any]]:
        return [] if self.optimizer is None else self.optimizer.param_groups

    def _sum_over_ranks(self, vector: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(vector, reduction="sum")

    # -- checkpoints --------------------------------------------------------------------------------------------------
    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **options: Any) -> Any:
        """Train; ``resume_from_checkpoint=True`` takes the last whole checkpoint of ``args.output_dir``.

        Raises:
            CheckpointError: there is no checkpoint, or the given one is incomplete or does not fit the model.
        """
        if resume_from_checkpoint is True:
            last = checkpoints.last_whole(Path(str(self.args.output_dir)))
            if last is None:
                raise CheckpointError(f"no whole checkpoint in {self.args.output_dir}; train from the start instead")
            resume_from_checkpoint = str(last)
        self.meter.start(checkpoints.counters_of(Path(resume_from_checkpoint)) if resume_from_checkpoint else {})
        return super().train(resume_from_checkpoint, *args, **options)

    def _get_output_dir(self, trial: Any = None) -> str:
        folder = super()._get_output_dir(trial)
        return os.path.join(folder, checkpoints.ASIDE) if self._writes_aside else folder

    def _save_checkpoint(self, model: nn.Module, trial: Any = None) -> None:
        """Write a checkpoint to another folder, then move it into place.

        Raises:
            CheckpointError: writing failed, for instance on a full disk. Earlier checkpoints are intact.
            FloatingPointError: the loss is not finite.
        """
        self._check_finite(self._tr_loss.item())  # of all steps since the last log
        run = Path(super()._get_output_dir(trial))
        with self.meter.paused():
            try:
                self._save_aside(model, trial, run)
            except (OSError, SafetensorError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
                shutil.rmtree(run / checkpoints.ASIDE, ignore_errors=True)
                last = checkpoints.last_whole(run)
                kept, then = (f"{last} is intact", "continues from there") if last else (
                    "There is no earlier checkpoint", "begins this stage again"
                )  # fmt: skip
                reported = str(error).partition("\n")[0]
                raise CheckpointError(
                    f"checkpoint at step {self.state.global_step} could not be written to {run}: writing failed, the "
                    f"disk may be full (reported: {reported}). {kept}; free some space and run the same command again, "
                    f"which {then}"
                ) from error

    def _save_aside(self, model: nn.Module, trial: Any, run: Path) -> None:
        name, aside = f"checkpoint-{self.state.global_step}", run / checkpoints.ASIDE
        counters = self.meter.counters()
        if self.args.should_save:
            shutil.rmtree(aside, ignore_errors=True)  # left by a run that was killed while writing
        self.accelerator.wait_for_everyone()
        self._writes_aside = True
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._writes_aside = False
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            checkpoints.seal(aside / name, run / name, counters)
            aside.rmdir()
            checkpoints.drop_older(run, self.args.save_total_limit or 10**9)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        """Write the weights, under the names that they have in memory, and the processor. Arguments are not pickled."""
        sharded = getattr(self, "is_distributed_loading_by_transformers", False)  # then all ranks gather together
        if sharded or not isinstance(self.model, PreTrainedModel):
            super()._save(output_dir, state_dict)
        elif self.args.should_save:
            folder = str(output_dir if output_dir is not None else self.args.output_dir)
            self.model.save_pretrained(folder, state_dict=state_dict, save_original_format=False)
            if self.processing_class is not None:
                self.processing_class.save_pretrained(folder)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """Load every weight. The method of transformers accepts missing weights.

        Raises:
            CheckpointError: the checkpoint is incomplete or does not fit the model.
        """
        if self.is_fsdp_enabled or not isinstance(self.model, PreTrainedModel):
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        folder = Path(resume_from_checkpoint)
        problem = checkpoints.problem_of(folder)
        if problem is not None:
            raise CheckpointError(f"{folder} is not a whole checkpoint: {problem}; resume from another one")
        checkpoints.load_weights(self.model if model is None else model, folder)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is not None and not self.is_fsdp_enabled:
            ranks, rank = self.args.world_size, self.args.process_index
            random = "rng_state.pth" if ranks <= 1 else f"rng_state_{rank}.pth"
            missing = [
                name for name in ("optimizer.pt", "scheduler.pt", random) if not Path(checkpoint, name).is_file()
            ]
            if missing:
                raise CheckpointError(
                    f"{checkpoint} has no {', '.join(missing)}, so {ranks} process(es) cannot go on exactly where it "
                    "stopped; use as many processes as wrote it, or start afresh"
                )
        try:
            super()._load_optimizer_and_scheduler(checkpoint)
        except pickle.UnpicklingError as error:
            raise CheckpointError(
                f"{checkpoint} holds something else than tensors and numbers in its optimizer state, or is damaged; "
                "loading that could run any code. Delete this checkpoint to resume from an earlier one"
            ) from error
        except (RuntimeError, ValueError, EOFError, KeyError) as error:
            raise CheckpointError(
                f"optimizer state in {checkpoint} does not fit or is damaged ({str(error).splitlines()[0]}). Delete "
                "this checkpoint to resume from an earlier one"
            ) from error
