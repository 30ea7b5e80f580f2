"""Settings of scheme ``asymoe``: the kinds of experts, their widths, and their losses beside that of the task.

Every number that the paper does not give is a field with one default. Three presets fill the other fields:
``recommended``, the defaults written here, with every part of the paper in a form that runs well; ``faithful``, the
paper's text read literally wherever it can run; ``lean``, evidence experts beside plain ones, taught by the task alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from moiety.recipe.section import Section, Switch, with_present_names

Preset = Literal["recommended", "faithful", "lean"]
HYPERBOLIC = ("lorentz", "euclidean", "product")
"""Kinds of inter-modality experts that compute on a manifold; ``euclidean`` is their flat control."""
SizePlan = Literal["dense_budget", "moiie_budget", "full"]

FAITHFUL: dict[str, Any] = {
    "size_plan": "moiie_budget",
    "context_heads": 1,
    "context_scale": "none",
    "context_output": False,
    "null_key": False,
    "gate_input": "x",
    "alpha_range": (0.0, 1.0),
    "score_bias": False,
    "inter_text_input": "cascade",
    "aperture": "eq15",
    "eta": 1.0,
    "rho0": 0.0,
    "negatives": "none",
    "cone_layers": "all",
    "balance_logits": "boosted",
    "gate_weight": 0.0,
}
"""What preset ``faithful`` puts in place of the defaults; ``moe.layers`` becomes ``odd`` as well."""

LEAN: dict[str, Any] = {"inter_kind": "ffn", "score": "off", "cone_weight": 0.0, "gate_weight": 0.0}
"""What preset ``lean`` puts in place of the defaults: evidence experts beside plain ones, nothing else."""

PRESETS: dict[str, dict[str, Any]] = {"recommended": {}, "faithful": FAITHFUL, "lean": LEAN}


class AsyMoESettings(Section):
    """Section ``moe.asymoe``. It is stored with the model, and the layers can be rebuilt from it alone."""

    former_names: ClassVar[Mapping[str, str]] = {
        f"order_{name}": f"cone_{name}" for name in ("weight", "layers", "margin", "detach")
    }

    preset: Preset = Field("recommended", description="fills every field of this section that is not given")

    # -- which experts -----------------------------------------------------------------------------------------------
    inter_kind: str = Field(
        "lorentz",
        description="kind of the inter-modality experts: lorentz, euclidean (its flat control), product (of several "
        "spaces), ffn, or a kind of a plug-in",
    )
    text_kind: str = Field(
        "evidence",
        description="kind of the text experts: evidence (two branches), context (ffn plus context attention), ffn, "
        "or a kind of a plug-in",
    )
    plain_text: int = Field(0, ge=0, description="number of plain text experts in addition to the others")
    evidence_layers: Literal["all", "deepest_half"] = Field(
        "all", description="sparse layers with evidence experts; the others get plain text experts"
    )

    # -- how wide; null: designed by size_plan ------------------------------------------------------------------------
    size_plan: SizePlan | None = Field(
        None,
        description="dense_budget: 25.45 % fewer activated parameters than dense; moiie_budget: than MoIIE; "
        "full: widths of the dense FFN, no saving, equal to it at step 0; null: full for a model that somebody else "
        "trained, dense_budget for one that moiety built from nothing or where a width is given",
    )
    hyp_dim: int | None = Field(None, ge=1, description="space coordinates of a hyperbolic expert")
    inter_ffn: int | None = Field(None, ge=1, description="inner width of an inter-modality expert of any kind")
    residual_ffn: int | None = Field(None, ge=1, description="inner width of the copied FFN of inter_residual")
    vision_ffn: int | None = Field(None, ge=1, description="inner width of a private vision (or audio) expert")
    evidence_dim: int | None = Field(
        None, ge=1, description="inner width of a text expert of any kind; in an evidence expert, of each branch"
    )
    context_dim: int | None = Field(None, ge=1, description="width of the context attention, all heads together")

    # -- context attention -------------------------------------------------------------------------------------------
    context_heads: int | None = Field(
        None,
        ge=1,
        description="number of heads; null: heads of width 64, or of width 32 where context_dim is below 128",
    )
    context_scale: Literal["head_dim", "none"] = Field(
        "head_dim", description="head_dim: divide the scores by sqrt(head_dim); none: do not"
    )
    context_output: Switch = Field(True, description="whether the context attention has an output projection W_O")
    null_key: Switch = Field(
        True, description="whether there is a learned key for tokens that nothing in the prompt supports"
    )

    # -- evidence experts and their place in routing -----------------------------------------------------------------
    evidence_form: Literal["gelu", "swiglu"] | None = Field(
        None, description="null: swiglu, which can copy a dense FFN, where size_plan is full, gelu otherwise"
    )
    gate_input: Literal["rich", "x"] = Field("rich", description="input of alpha: [x; a; |x-a|; e], or x alone")
    alpha_range: tuple[float, float] = Field((0.02, 0.98), description="lowest and highest alpha", strict=False)
    alpha_start: float = Field(0.3, gt=0, lt=1, description="value of alpha before training")
    alpha_mode: Literal["learned", "fixed", "target"] = Field("learned", description="fixed: alpha stays alpha_start")
    alpha_target: float = Field(0.3, ge=0, le=1, description="mean alpha that alpha_mode target pulls to")
    alpha_weight: float = Field(0.01, ge=0, description="weight of the pull in alpha_mode target")
    score_bias: Switch = Field(True, description="whether the evidence score has a bias")
    score: Literal["sigmoid", "mass", "off"] = Field(
        "sigmoid", description="evidence score that favours evidence experts; mass: times the evidence mass; off: none"
    )
    evidence_gain: float | Literal["learned"] = Field(
        1.0, description="how much an evidence score of 1 adds to the logits of evidence experts"
    )
    balance_logits: Literal["raw", "boosted"] = Field("raw", description="which scores the load-balancing loss uses")

    # -- hyperbolic experts ------------------------------------------------------------------------------------------
    curvature: float = Field(1.0, gt=0, description="kappa; the space has curvature -kappa")
    learn_curvature: Switch = Field(False, description="kappa learns, between 0.1 and 10")
    radius_cap: float = Field(3.0, gt=0, description="largest hyperbolic radius of a token")
    product_factors: int | None = Field(None, ge=1, description="factors of inter_kind product; null: hyp_dim / 32")
    inter_text_input: Literal["x", "cascade", "cascade_residual"] = Field(
        "x",
        description="input of inter-modality experts for text: x, the output E(x) of the text expert, or x + E(x)",
    )
    inter_residual: Switch | None = Field(
        None,
        description="add a copy of the dense FFN, to start equal to it; null: yes where size_plan is full",
    )

    # -- cone loss ---------------------------------------------------------------------------------------------------
    cone_weight: float = Field(0.1, ge=0, description="weight of the cone loss (entailment); 0 switches it off")
    cone_layers: Literal["mid_and_last", "all"] = Field("mid_and_last", description="sparse layers that it reads")
    aperture: Literal["meru", "eq15"] = Field("meru", description="how wide a cone is: as in MERU, or equation 15")
    cone_k: float = Field(0.1, gt=0, le=0.5, description="constant of the aperture")
    eta: float = Field(0.7, gt=0, description="factor on the aperture in pairs that belong together")
    rho0: float | None = Field(None, ge=0, description="radius that points are moved out by; null: from the aperture")
    cone_margin: float = Field(
        0.3, ge=0, description="smallest angle that a negative pair should have outside its cone"
    )
    negatives: Literal["both", "in_batch", "hard", "none"] = Field("both", description="which negative pairs are used")
    apex: Literal["vision", "text"] = Field("vision", description="which modality has the cone that contains the other")
    cone_detach: Switch = Field(False, description="whether the gradient of the cone loss stops at the hidden states")
    distance_weight: float = Field(0.0, ge=0, description="weight of the squared distance of a pair, at most 9")

    # -- gate objective and schedule ---------------------------------------------------------------------------------
    gate_weight: float = Field(1.0, ge=0, description="weight of the gate objective; 0 switches it off")
    gate_gradient: Literal["probes", "full"] = Field(
        "probes", description="what learns from the gate objective: the gates alone, or all parameters"
    )
    gate_masking: Literal["exchange", "mean_patch"] = Field(
        "exchange", description="how the evidence is removed: exchange pictures, or put the mean patch"
    )
    gate_margin: float = Field(0.1, ge=0, description="least difference between gates with and without evidence")
    gate_share: float = Field(
        0.125, gt=0, le=1, description="share of a batch that is read a second time, without evidence"
    )
    warmup_share: float = Field(
        0.1, ge=0, le=1, description="share of the steps in which the weights of cone loss and gate objective rise"
    )

    # -- what the model must know to tell evidence from the rest -----------------------------------------------------
    special_ids: list[int] | None = Field(None, description="control tokens, never evidence; null: from the tokenizer")

    @model_validator(mode="before")
    @classmethod
    def _preset(cls, tree: Any) -> Any:
        """Fill the fields that are not given from the preset."""
        tree = with_present_names(cls, tree)
        return {**PRESETS.get(str(tree.get("preset")), {}), **tree} if isinstance(tree, dict) else tree

    @field_validator("text_kind", mode="before")
    @classmethod
    def _old_names(cls, value: Any) -> Any:
        """Recipes and models of earlier releases call kind ``context`` by the name ``parallel``."""
        return "context" if value == "parallel" else value

    @model_validator(mode="after")
    def _alpha(self) -> AsyMoESettings:
        lo, hi = self.alpha_range
        if not 0 <= lo <= hi <= 1:
            raise ValueError(f"alpha_range must be [lowest, highest] within 0..1, got [{lo}, {hi}]")
        return self

    @property
    def sized(self) -> bool:
        """Whether every width is known."""
        widths = (self.hyp_dim, self.inter_ffn, self.vision_ffn, self.evidence_dim, self.context_dim)
        return None not in widths and not (self.has_residual and self.residual_ffn is None)

    @property
    def unsized(self) -> bool:
        """Whether no width is given."""
        widths = (self.hyp_dim, self.inter_ffn, self.residual_ffn, self.vision_ffn, self.evidence_dim, self.context_dim)
        return widths == (None,) * len(widths)

    @property
    def hyperbolic(self) -> bool:
        """Whether the inter-modality experts have coordinates of width ``hyp_dim``."""
        return self.inter_kind in HYPERBOLIC

    @property
    def has_residual(self) -> bool:
        """Whether an inter-modality expert is a copied FFN plus its branch."""
        wanted = self.size_plan == "full" if self.inter_residual is None else self.inter_residual
        return wanted and self.hyperbolic

    @property
    def form(self) -> Literal["gelu", "swiglu"]:
        """Form of the two branches of an evidence expert."""
        return self.evidence_form or ("swiglu" if self.size_plan == "full" else "gelu")

    @property
    def needs_context(self) -> bool:
        """Whether the layers read the evidence of the prompt."""
        return self.text_kind in ("evidence", "context")


def with_kinds(tree: dict[str, Any]) -> dict[str, Any]:
    """Section ``moe`` of scheme asymoe, with the kinds of two groups moved to where they are kept, ``moe.asymoe``.

    Args:
        tree: The section as it was written, ``asymoe`` given.

    Raises:
        ValueError: ``moe.kinds`` and ``moe.asymoe`` name different kinds for one group.
    """
    kinds, own = tree.get("kinds"), tree["asymoe"]
    fields = {"inter": "inter_kind", "text": "text_kind"}
    if not isinstance(kinds, dict) or not set(fields) & set(kinds):
        return tree
    own = dict(own if isinstance(own, dict) else own.model_dump())
    for group in set(fields) & set(kinds):
        kind, kept = kinds[group], own.setdefault(fields[group], kinds[group])
        if kept != kind:
            raise ValueError(
                f"moe.kinds.{group} is {kind!r} and moe.asymoe.{fields[group]} is {kept!r}; give the kind in one place"
            )
    rest = {group: kind for group, kind in kinds.items() if group not in fields}
    return tree | {"asymoe": own, "kinds": rest or None}
