"""Recipes: strict models of every section, and the reader that turns one YAML file into a :class:`Recipe`.

Every check on a value stands here. A recipe with several mistakes gets one report that names them all.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from moiety.groups import DEFAULT_MODALITY_GROUPS
from moiety.recipe.asymoe import AsyMoESettings, with_kinds
from moiety.recipe.compare import CompareSettings, merged
from moiety.recipe.evaluate import EvaluateSettings
from moiety.recipe.model import ModelSettings, ScratchSettings
from moiety.recipe.reader import RecipeError, parse_value, read_tree
from moiety.recipe.section import Section, Switch, sections_in

__all__ = [
    "PARTS",
    "ModelSettings",
    "Part",
    "Recipe",
    "RecipeError",
    "ScratchSettings",
    "load_recipe",
    "parse_recipe",
    "parse_value",
]

Part = Literal["vision_tower", "projector", "embeddings", "decoder", "router", "experts", "head"]
PARTS: tuple[str, ...] = ("vision_tower", "projector", "embeddings", "decoder", "router", "experts", "head")


class MoESettings(Section):
    """Everything that rebuilds the sparse layers of a model; stored as ``moe`` in its ``config.json``."""

    scheme: str = Field("moiie", description="routing scheme: a key of moe.routers.ROUTERS, or a scheme of a plug-in")
    experts: dict[str, int] | None = Field(
        None, description="expert group -> number of experts; null: the default of the scheme"
    )
    kinds: dict[str, str] | None = Field(
        None,
        description="expert group -> kind of its experts: ffn, or a kind of a plug-in; null: the kinds of the scheme",
    )
    top_k: int | None = Field(
        None, ge=1, description="experts per token; null: the default of the scheme (2 where a gate chooses)"
    )
    norm_topk: Switch = Field(True, description="renormalise the chosen probabilities to sum to 1")
    expert_ffn: int | None = Field(None, ge=1, description="inner width of one expert; null: that of the dense FFN")
    layers: Literal["odd", "even", "all"] | list[int] = Field("odd", description="0-based layers that become sparse")
    mask_rule: Literal["exact", "last_token_as_text"] = Field("exact", description="which token is an image token")
    delimiters_as_vision: Switch = Field(False, description="count image start and end marks as image tokens")
    modality_groups: dict[int, str] = Field(
        default_factory=lambda: {int(k): v for k, v in DEFAULT_MODALITY_GROUPS.items()},
        description="modality id (0 text, 1 image, 2 video, 3 audio) -> modality group",
    )
    router_dtype: Literal["model", "float32"] = Field("model", description="precision of the gate product")
    router_init_std: float = Field(0.02, ge=0, description="standard deviation of new gate weights")
    gate_start: Literal["random", "centred"] | None = Field(
        None,
        description="centred: the first sparse stage takes the mean input of each modality out of new gates, so that "
        "all experts are used from the start; null: centred, but random for a model that moiety built from nothing",
    )
    router_jitter: float = Field(0.0, ge=0, lt=1, description="training noise: block input times U(1-eps, 1+eps)")
    balance: Literal["loss", "bias", "both"] = Field(
        "loss",
        description="what spreads the load: the load-balancing loss, a bias of each expert and modality group that "
        "counts in the choice alone, or both",
    )
    bias_rate: float = Field(0.001, gt=0, description="move of the selection bias after each step, in units of scores")
    aux_coef: float | dict[str, float] = Field(
        0.001, description="weight of the load-balancing loss: one number, or one for each modality group"
    )
    aux_scope: Literal["joint_layers", "per_layer"] | None = Field(
        None,
        description="average over layers before or after shares and probabilities are multiplied; null: per_layer, but "
        "joint_layers for a model that moiety built from nothing",
    )
    aux_stats: Literal["local", "global"] = Field(
        "local", description="load statistics of one rank, or summed over all ranks"
    )
    z_loss_coef: float = Field(0.0, ge=0, description="weight of the router z-loss; 1e-3 is usual when on")
    asymoe: AsyMoESettings | None = Field(None, description="only for scheme asymoe; null: its recommended preset")

    @model_validator(mode="before")
    @classmethod
    def _asymoe(cls, tree: Any) -> Any:
        """Scheme asymoe has settings of its own, and sparse layers where its preset puts them."""
        if not isinstance(tree, dict) or tree.get("scheme") != "asymoe":
            return tree
        own = tree.get("asymoe") or {}
        preset = own.get("preset") if isinstance(own, dict) else own.preset
        return with_kinds({"layers": "odd" if preset == "faithful" else "all", **tree, "asymoe": own})

    @field_validator("layers")
    @classmethod
    def _layers(cls, value: Any) -> Any:
        if isinstance(value, list) and (sorted(set(value)) != value or (value and value[0] < 0)):
            raise ValueError(f"an explicit layer list must be ascending, distinct and >= 0, got {value}")
        return value

    @field_validator("modality_groups", mode="before")
    @classmethod
    def _json_keys(cls, value: Any) -> Any:
        """JSON turns integer keys into strings; take them back."""
        if isinstance(value, dict):
            return {int(k) if isinstance(k, str) and k.isdigit() else k: v for k, v in value.items()}
        return value

    @model_validator(mode="after")
    def _asymoe_alone(self) -> MoESettings:
        if self.asymoe is not None and self.scheme != "asymoe":
            raise ValueError(f"moe.asymoe belongs to scheme asymoe; moe.scheme is {self.scheme!r}, so leave it out")
        return self

    def resolved_layers(self, num_layers: int) -> list[int]:
        """The 0-based layers of a decoder with `num_layers` that become sparse.

        Raises:
            ValueError: an explicit list names a layer that the decoder does not have.
        """
        if isinstance(self.layers, list):
            if self.layers and self.layers[-1] >= num_layers:
                raise ValueError(
                    f"moe.layers names layer {self.layers[-1]}, the decoder has layers 0..{num_layers - 1}"
                )
            return list(self.layers)
        start, step = {"odd": (1, 2), "even": (0, 2), "all": (0, 1)}[self.layers]
        return list(range(start, num_layers, step))


class DataSettings(Section):
    """How rows are read; paths are relative to `root`."""

    root: str = Field(".", description="folder that all data paths are relative to")
    made_by: str | None = Field(
        None, description="command that writes the files, shown where they are missing; {root} stands for data.root"
    )
    images: list[str] = Field(default_factory=list, description="image folders and .tar files, searched in order")
    max_length: int = Field(2048, ge=8, description="longest sequence in tokens, image tokens included")
    on_bad_row: Literal["stop", "skip"] = Field(
        "stop",
        description="what happens to bad rows before training starts: an error that names all, or they are left out",
    )
    skip: str | None = Field(
        None, description="file with rows that no stage reads; `moiety data check --fix-list` writes it"
    )
    merge_turns: Switch = Field(False, description="join the rows of one picture into one conversation")
    cache_features: str | None = Field(
        None,
        description="folder that keeps what a frozen vision tower makes of each picture, so that it is computed once "
        "for all epochs, schemes and seeds; relative to the working folder, as `output` is; null: computed every step",
    )
    labels: Literal["assistant", "prefix"] = Field(
        "assistant", description="how the trained parts of a conversation are found"
    )


class TrainSettings(Section):
    """One training run; names and meanings are those of transformers.TrainingArguments."""

    learning_rate: float = Field(2e-5, gt=0, description="highest learning rate")
    learning_rates: dict[Part, float] = Field(
        default_factory=dict, description="learning rate by part, over learning_rate"
    )
    num_train_epochs: float = Field(1.0, gt=0, description="passes over the rows")
    max_steps: int = Field(-1, description="overrides num_train_epochs when positive")
    per_device_train_batch_size: int = Field(8, ge=1, description="rows of one micro-batch")
    gradient_accumulation_steps: int = Field(1, ge=1, description="micro-batches of one optimizer step")
    warmup_ratio: float = Field(0.03, ge=0, le=1, description="share of the steps in which the learning rate rises")
    lr_scheduler_type: str = Field("cosine", description="schedule of the learning rate: cosine, linear, constant, …")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of matrices; norms and biases get none")
    max_grad_norm: float = Field(1.0, ge=0, description="longer gradients are scaled down to it; 0: never")
    bf16: Switch = Field(False, description="compute in bfloat16 while the weights stay in float32")
    gradient_checkpointing: Switch = Field(False, description="less memory for more time")
    logging_steps: int = Field(10, ge=1, description="steps between two lines of the log")
    save_steps: int = Field(200, ge=1, description="steps between checkpoints that a stopped run resumes from")
    save_total_limit: int = Field(2, ge=1, description="checkpoints that are kept")
    dataloader_num_workers: int = Field(0, ge=0, description="processes that encode rows; 0: the training process does")
    train_sampling_strategy: Literal["random", "group_by_length"] = Field(
        "random", description="group_by_length puts rows of like length into one batch, which saves padding"
    )
    starved_share: float = Field(
        0.01, ge=0, le=1, description="alarm when an expert gets less than this share of an even load"
    )


class StageSettings(Section):
    """One training stage: which parts learn from which rows. Its result is one Hugging Face folder."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="name of the stage and of its folder in output")
    data: list[str] = Field(min_length=1, description="conversation files, relative to data.root")
    trains: list[Part] = Field(min_length=1, description="parts that learn; all others are frozen")
    sparse: Switch = Field(
        False, description="make the model sparse as section moe says before this stage, unless it is sparse already"
    )
    recovers: Switch = Field(False, description="this sparse stage brings back what schemes lost at the start")
    merge_turns: Switch | None = Field(None, description="overrides data.merge_turns")
    train: TrainSettings = Field(default_factory=TrainSettings)


class Recipe(Section):
    """A recipe: everything that one run needs, in one YAML file."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$", description="name of the recipe in tables and reports")
    title: str = Field("", description="title of the report of a comparison; empty: name and schemes of the recipe")
    output: str = Field(description="folder for all results")
    seed: int = Field(0, ge=0, description="seed of new weights, of the order of rows and of noise")
    model: ModelSettings
    moe: MoESettings = Field(default_factory=MoESettings)
    data: DataSettings = Field(default_factory=DataSettings)
    stages: list[StageSettings] = Field(min_length=1)
    evaluate: EvaluateSettings = Field(default_factory=EvaluateSettings)
    compare: CompareSettings = Field(default_factory=CompareSettings)

    @model_validator(mode="after")
    def _stages(self) -> Recipe:
        names = [stage.name for stage in self.stages]
        if len(set(names)) != len(names):
            raise ValueError(f"stage names must be distinct, got {names}")
        if idle := [stage.name for stage in self.stages if stage.recovers and not stage.sparse]:
            raise ValueError(f"stage {idle[0]!r} is dense, so no scheme has lost anything; leave `recovers` out")
        sparse = [stage.sparse for stage in self.stages]
        if sparse != sorted(sparse):
            raise ValueError("a dense stage cannot follow a sparse one: experts are never merged back")
        return self

    @model_validator(mode="after")
    def _variants(self) -> Recipe:
        problems = []
        for name, variant in self.compare.variants.items():
            sections: dict[str, tuple[type[Section], dict[str, Any]]] = {
                "moe": (MoESettings, variant.over(self.moe.model_dump())),
                "evaluate": (EvaluateSettings, merged(self.evaluate.model_dump(), variant.evaluate)),
            }
            for section, (model, tree) in sections.items():
                try:
                    model.model_validate(tree)
                except ValidationError as error:
                    problems.append(describe_errors(error, f"compare.variants.{name}.{section}", model))
        if problems:
            raise ValueError("\n".join(problems))
        return self


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply dotted ``key=value`` overrides.

    Args:
        path: A YAML file.
        overrides: Texts like ``moe.top_k=2`` or ``stages.1.train.learning_rate=1e-4``; numbers index lists.

    Raises:
        FileNotFoundError: there is no such file.
        RecipeError: the file is not YAML, a key is unknown (the nearest one is named) or a value does not fit.
    """
    return parse_recipe(read_tree(path, Recipe.model_fields, overrides), str(path))


def parse_recipe(tree: dict[str, Any], where: str = "recipe") -> Recipe:
    """Check a nested dict against the schema; `where` names it in errors.

    Raises:
        RecipeError: with every problem at once.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(describe_errors(error, where, Recipe)) from error


def describe_errors(error: ValidationError, where: str, model: type[BaseModel]) -> str:
    """All problems of a failed validation, one on each line: place, what was given, what was expected."""
    lines = []
    for problem in error.errors():
        place = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            key = str(problem["loc"][-1])
            close = difflib.get_close_matches(key, _fields(model, problem["loc"][:-1]), n=1)
            lines.append(f"{place}: unknown key" + (f"; did you mean {close[0]!r}?" if close else ""))
        elif problem["type"] == "missing":
            lines.append(f"{place}: missing")
        else:
            given = problem["input"]
            shown = f" (given {given!r})" if not isinstance(given, dict) else ""
            lines.append(f"{place or where}: {problem['msg'].removeprefix('Value error, ')}{shown}")
    return f"{where}: {len(lines)} problem{'s' * (len(lines) > 1)}\n" + "\n".join(f"  {line}" for line in lines)


def _fields(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """Field names of the section that `loc` leads to."""
    for part in loc:
        if isinstance(part, int) or part not in model.model_fields:
            continue
        for candidate in sections_in(model.model_fields[part].annotation):
            model = candidate
    return list(model.model_fields)
