"""Settings of an evaluation: which questions are asked, and how answers are decoded."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from moiety.recipe.section import Section, Switch

Method = Literal["greedy", "context_aware", "visual_contrastive", "dola"]

WEIGHT: dict[str, float] = {"context_aware": 1.0, "visual_contrastive": 1.0}
"""Contrast weight of each method that has one, where none is given."""
PLAUSIBILITY: dict[str, float] = {"visual_contrastive": 0.1, "dola": 0.1}
"""Plausibility cut of each method that has one, where none is given."""


class DecodingSettings(Section):
    """How an answer is decoded: greedily from the model's scores, or from scores that a contrast has changed.

    The contrastive methods are alternatives to an evidence expert that need no training. CAD and VCD cost a second
    forward for each token; DoLa costs some more evaluations of the output layer.
    """

    method: Method = Field("greedy", description="greedy, context_aware (CAD), visual_contrastive (VCD) or dola")
    weight: float | None = Field(
        None, ge=0, description="how far to move away from the scores without evidence; null: 1; 0: greedy"
    )
    plausibility: float | None = Field(
        None, ge=0, le=1, description="keep tokens at least this probable beside the likeliest one; null: 0.1; 0: all"
    )
    noise_step: int = Field(
        500, ge=0, lt=1000, description="visual_contrastive: diffusion steps that blur the picture, of 1000"
    )
    layers: Literal["low", "high"] = Field(
        "high", description="dola: even layers of the lower half (long answers) or of the upper half (short ones)"
    )
    divergence: Literal["published", "jensen_shannon"] = Field(
        "published", description="dola: how the early layer is chosen; published has both divergences reversed"
    )

    @model_validator(mode="after")
    def _fits_method(self) -> DecodingSettings:
        for name, known in (("weight", WEIGHT), ("plausibility", PLAUSIBILITY)):
            if getattr(self, name) is not None and self.method not in known:
                raise ValueError(f"decoding method {self.method!r} has no {name}; methods with one: {', '.join(known)}")
        return self

    @property
    def contrast_weight(self) -> float:
        """The given weight, or the default of the method; 0 if the method has no weight."""
        return WEIGHT.get(self.method, 0.0) if self.weight is None else self.weight

    @property
    def cut(self) -> float:
        """The given plausibility cut, or the default of the method; 0 if the method has none."""
        return PLAUSIBILITY.get(self.method, 0.0) if self.plausibility is None else self.plausibility

    def describe(self) -> str:
        """The method in words, with the settings that change its result.

        Example:
            >>> DecodingSettings(method="visual_contrastive").describe()
            'visual_contrastive, weight 1, plausibility 0.1, noise_step 500'
            >>> DecodingSettings().describe()
            'greedy'
        """
        parts: list[str] = [self.method]
        if self.method in WEIGHT:
            parts.append(f"weight {self.contrast_weight:g}")
        if self.method in PLAUSIBILITY:
            parts.append(f"plausibility {self.cut:g}")
        if self.method == "visual_contrastive":
            parts.append(f"noise_step {self.noise_step}")
        if self.method == "dola":
            parts.append(f"{self.layers} layers, {self.divergence} divergence")
        return ", ".join(parts)


class EvaluateSettings(Section):
    """Which questions are asked, and how."""

    data: list[str] = Field(default_factory=list, description="conversation files, relative to data.root")
    batch_size: int = Field(32, ge=1, description="questions asked at once")
    max_new_tokens: int = Field(16, ge=1, description="longest answer in tokens")
    limit: int | None = Field(None, ge=1, description="score the first N rows only")
    blank_image: Switch = Field(True, description="also score with blank images: the question-only control")
    texts: str | None = Field(
        None,
        description="compare: file of plain texts, one a line, relative to data.root, whose loss says how much "
        "language is kept; null: twelve sentences of moiety",
    )
    decoding: DecodingSettings = Field(default_factory=DecodingSettings)
