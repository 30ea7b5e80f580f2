"""Recipes of the intent wing: one YAML file names the data, the model, the seeds, and what is compared."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from moiety.groups import nearest_name
from moiety.intent.data.hazumi import HAZUMI_TARGETS
from moiety.intent.data.samples import MODALITIES, check_hidden
from moiety.intent.network.baselines import METHODS
from moiety.intent.settings import IntentSettings
from moiety.recipe.compare import Members, check_contrasts, check_folder_names, contrast_weights
from moiety.recipe.reader import RecipeError, read_tree
from moiety.recipe.recipe import describe_errors
from moiety.recipe.section import Section

FLOORS = ("logistic", "majority")
"""Simple methods that every other one has to exceed; see :mod:`moiety.intent.compare.floors`. They need no seed."""
MEASURES = ("acc", "f1", "prec", "rec", "weighted_f1", "weighted_prec")

_OF_KIND: dict[str, tuple[str, ...]] = {
    "hazumi": ("target", "view", "history"),
    "mintrec": ("on_missing",),
    "mintrec2": ("on_missing",),
    "clips": ("audio", "video", "text", "cache", "on_error"),
}
_OF_EVERY_KIND = ("kind", "path", "train", "choose", "score", "folds")


class IntentDataSettings(Section):
    """Where the utterances come from, which of them teach, which choose the best epoch, and which are scored."""

    kind: Literal["hazumi", "mintrec", "mintrec2", "clips"]
    path: str = Field(description="folder of the data set, or rows file that names clips")
    train: str = Field("train", description="split that teaches")
    choose: str | None = Field(
        "dev",
        description="split that chooses the best epoch; null: a tenth of the training rows is set aside for that, as "
        "whole persons where the data names them",
    )
    score: str = Field("test", description="split that is scored")
    folds: int | None = Field(
        None,
        ge=2,
        description="number of folds, used instead of choose and score: every person (group, session) of split train "
        "is scored once, by models that never saw that person; verdicts are then about persons",
    )

    # -- hazumi
    target: str = Field("da", description="what is recognised: da, ui_ternary or tc_ternary")
    view: Literal["exchange", "history", "tokens"] = "exchange"
    history: int = Field(8, ge=1, description="number of exchanges in view history")
    # -- mintrec, mintrec2
    on_missing: Literal["stop", "mask"] = Field(
        "stop", description="rows without features: stop with an error, or treat them as absent (mask)"
    )
    # -- clips
    audio: str | dict[str, Any] | None = Field("prosody", description="extractor of the sound")
    video: str | dict[str, Any] | None = Field("motion", description="extractor of the pictures")
    text: str | dict[str, Any] | None = Field(
        "hashing", description="extractor of the words; hashing: setting text_encoder reads them"
    )
    cache: str | None = Field(None, description="folder that keeps extracted features")
    on_error: Literal["raise", "skip", "mask"] = Field("raise", description="what to do when a clip cannot be read")

    @field_validator("target")
    @classmethod
    def _known_target(cls, target: str) -> str:
        if target not in HAZUMI_TARGETS:
            raise ValueError(f"unknown target {target!r}; {nearest_name(target, HAZUMI_TARGETS)}")
        return target

    @model_validator(mode="after")
    def _of_this_kind(self) -> IntentDataSettings:
        of_this_kind = (*_OF_EVERY_KIND, *_OF_KIND[self.kind])
        for name in sorted(self.model_fields_set):
            if name not in of_this_kind:
                other = next(kind for kind, names in _OF_KIND.items() if name in names)
                raise ValueError(f"{name} belongs to data of kind {other}; kind is {self.kind!r}, so leave it out")
        return self

    @model_validator(mode="after")
    def _folds_choose_by_themselves(self) -> IntentDataSettings:
        if self.folds is not None:
            named = [name for name in ("choose", "score") if name in self.model_fields_set]
            named = [name for name in named if getattr(self, name) not in (None, self.train)]
            if named:
                raise ValueError(
                    f"folds is {self.folds}: the persons of each fold are scored and some of the others choose, so "
                    f"leave {' and '.join(named)} out (or override: data.choose=null data.score={self.train})"
                )
            object.__setattr__(self, "choose", None)
            object.__setattr__(self, "score", self.train)
        return self

    def given(self) -> dict[str, Any]:
        """The settings that matter for this kind of data, as JSON values."""
        tree = self.model_dump(mode="json")
        return {name: tree[name] for name in (*_OF_EVERY_KIND, *_OF_KIND[self.kind])}


class IntentVariant(Section):
    """One more line of a comparison: the method of section model with a few settings changed."""

    method: str | None = Field(None, description="method or floor; null: that of section model")
    model: dict[str, Any] = Field(default_factory=dict, description="settings that replace those of section model")
    data: dict[str, Any] = Field(
        default_factory=dict, description="how the same rows are read: view and history, or extractors"
    )
    note: str = Field("", description="what the variant shows; the report quotes it")

    @model_validator(mode="after")
    def _one_place(self) -> IntentVariant:
        if "method" in self.model:
            raise ValueError("the method of a variant is given inside `model`; give it as `method`, beside `model`")
        readings = ("view", "history", "audio", "video", "text")
        other = [name for name in self.data if name not in readings]
        if other:
            raise ValueError(
                f"data of a variant names {', '.join(other)}, but all variants read the same rows; "
                f"only {', '.join(readings)} may differ"
            )
        return self


class IntentCompareSettings(Section):
    """Which methods and variants are compared, and how."""

    methods: list[str] = Field(
        default_factory=lambda: ["amess", "concat", "mult", "mag", "text", *FLOORS],
        description="methods, floors and names of variants, in the order of the table",
        min_length=1,
    )
    variants: dict[str, IntentVariant] = Field(default_factory=dict)
    contrasts: dict[str, Members] = Field(
        default_factory=dict,
        description="name -> [first, second], or name -> {member: weight} with weights that sum to 0",
    )
    measures: list[str] = Field(
        default_factory=lambda: ["acc", "f1"],
        description="measures of the tables; each contrast is corrected over them",
        min_length=1,
    )
    hide: list[str] = Field(
        default_factory=lambda: [*MODALITIES],
        description="modalities that are hidden when scored, one entry for each table column; join several with +",
    )
    keep_models: Literal["all", "first_seed", "none"] = Field(
        "first_seed", description="which runs keep their model folder on the disk"
    )

    _folder_names = field_validator("variants")(check_folder_names)
    _weights = field_validator("contrasts")(check_contrasts)

    @field_validator("methods", "measures", "hide")
    @classmethod
    def _distinct(cls, names: list[str]) -> list[str]:
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise ValueError(f"{twice[0]!r} is listed twice; list it once")
        return names

    @field_validator("measures")
    @classmethod
    def _measures(cls, names: list[str]) -> list[str]:
        for name in names:
            if name not in MEASURES:
                raise ValueError(f"unknown measure {name!r}; {nearest_name(name, MEASURES)}")
        return names

    @field_validator("hide")
    @classmethod
    def _modalities(cls, names: list[str]) -> list[str]:
        for name in names:
            hidden_names(name)
        return names

    @model_validator(mode="after")
    def _known(self) -> IntentCompareSettings:
        known = [*METHODS, *FLOORS, *self.variants]
        shadowed = [name for name in self.variants if name in METHODS or name in FLOORS]
        if shadowed:
            raise ValueError(f"variant {shadowed[0]!r} has the name of a method; choose another name")
        for name in self.methods:
            if name not in known:
                raise ValueError(f"compare.methods names {name!r}; {nearest_name(name, known)}")
        for contrast in self.contrasts:
            for name in self.weights(contrast):
                if name not in known:
                    raise ValueError(f"contrast {contrast!r} names {name!r}; {nearest_name(name, known)}")
        for name, variant in self.variants.items():
            if variant.method is not None and variant.method not in (*METHODS, *FLOORS):
                raise ValueError(
                    f"variant {name!r} has method {variant.method!r}; "
                    + nearest_name(variant.method, (*METHODS, *FLOORS))
                )
        return self

    def weights(self, contrast: str) -> dict[str, float]:
        """Name -> weight of one contrast; see :func:`moiety.recipe.compare.contrast_weights`."""
        return contrast_weights(self.contrasts[contrast])


class IntentRecipe(Section):
    """Everything of one experiment: the data, the model, the seeds, and what is compared.

    Raises:
        ValidationError: a value or a name is wrong, also inside a variant; all problems are named at once.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    output: str = Field(description="folder for all results")
    data: IntentDataSettings
    model: IntentSettings = Field(default_factory=lambda: IntentSettings())
    seeds: list[int] = Field(default_factory=lambda: [0, 1, 2, 3, 4], min_length=1)
    compare: IntentCompareSettings = Field(default_factory=lambda: IntentCompareSettings())

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, seeds: list[int]) -> list[int]:
        if len(set(seeds)) != len(seeds) or min(seeds) < 0:
            raise ValueError(f"seeds must be distinct and 0 or more, got {seeds}")
        return seeds

    @model_validator(mode="after")
    def _folds_know_all_classes(self) -> IntentRecipe:
        if self.data.folds is not None and (self.model.oos is not None or self.model.oos_label is not None):
            raise ValueError("data.folds grades rows of known classes only; leave model.oos and model.oos_label out")
        return self

    @model_validator(mode="after")
    def _variants(self) -> IntentRecipe:
        problems = []
        for name in self.compare.variants:
            for section, build in (("model", self.model_of), ("data", self.data_of)):
                model = IntentSettings if section == "model" else IntentDataSettings
                try:
                    build(name)
                except ValidationError as error:
                    problems.append(describe_errors(error, f"compare.variants.{name}.{section}", model))
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def method_of(self, name: str) -> str:
        """Method or floor behind a name of the table.

        Args:
            name: A method, a floor, or a variant.
        """
        variant = self.compare.variants.get(name)
        if variant is None:
            return name
        return variant.method or self.model.method

    def model_of(self, name: str) -> IntentSettings:
        """Settings of the model behind a name of the table; for a floor, those that say how it reads features."""
        method, variant = self.method_of(name), self.compare.variants.get(name)
        tree = self.model.model_dump() | (dict(variant.model) if variant else {})
        return IntentSettings.model_validate(tree | ({} if method in FLOORS else {"method": method}))

    def data_of(self, name: str) -> IntentDataSettings:
        """How the rows are read for a name of the table."""
        variant = self.compare.variants.get(name)
        return IntentDataSettings.model_validate(self.data.given() | (dict(variant.data) if variant else {}))


def load_intent_recipe(path: str | Path, overrides: Sequence[str] = ()) -> IntentRecipe:
    """Read a recipe and apply dotted ``key=value`` overrides.

    Raises:
        FileNotFoundError: there is no such file.
        RecipeError: the file is not YAML, a key is unknown (the nearest one is named) or a value does not fit; every
            problem is listed.
    """
    return parse_intent_recipe(read_tree(path, IntentRecipe.model_fields, overrides, "model.hidden=64"), str(path))


def parse_intent_recipe(tree: dict[str, Any], where: str = "recipe") -> IntentRecipe:
    """Check a nested dict against the schema; `where` names it in errors.

    Raises:
        RecipeError: with every problem at once.
    """
    try:
        return IntentRecipe.model_validate(tree)
    except ValidationError as error:
        raise RecipeError(describe_errors(error, where, IntentRecipe)) from error


def hidden_names(joined: str) -> tuple[str, ...]:
    """The modalities of one entry of ``compare.hide``.

    Raises:
        ValueError: one is unknown, or all are hidden.

    Example:
        >>> hidden_names("audio+video")
        ('audio', 'video')
    """
    names = tuple(part.strip() for part in joined.split("+"))
    check_hidden(names)
    if len(set(names)) == len(MODALITIES):
        raise ValueError(f"{joined!r} hides every modality; leave at least one")
    return names
