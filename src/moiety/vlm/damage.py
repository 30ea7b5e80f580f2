"""A scheme may not destroy what a model has learned, unless somebody says that it may.

Experts that are narrower than the dense FFN, or of a kind that cannot copy it, do not start as the dense model. For a
model that was built from nothing that is the price of a fair comparison: its sparse stage learns everything anew. For a
model that somebody trained it is a loss. SmolLM2-135M says "The capital of France is Paris."; as scheme asymoe with
`size_plan: dense_budget` it says "eliveryelivery", at a text loss of 17.8 instead of 3.4 (docs/results.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from moiety.recipe.recipe import Recipe

SCRATCH = "scratch"
"""Origin of a model that moiety built from nothing, as its history names it."""


class DamageError(RuntimeError):
    """The sparse model has lost what the dense model had learned."""


def allows_damage(recipe: Recipe) -> bool:
    """Whether a recipe permits it: by ``model.allow_damage``, or because one of its stages brings back what is lost."""
    return recipe.model.allow_damage or any(stage.recovers for stage in recipe.stages)


def refuse_damage(model: Any, source: str | Path, *, allowed: bool = False) -> None:
    """Stop where upcycling has changed what a trained model computes.

    Args:
        model: A model that was just upcycled; its history holds the receipt.
        source: The dense model, for the message.
        allowed: Let it pass; the receipt in the history says what was lost.

    Raises:
        DamageError: the model is from outside, its experts do not start as its FFN, and its logits differ by more than
            the tolerance of the receipt.
    """
    history = model.config.provenance
    receipt, scheme = history["upcycled"]["receipt"], history["upcycled"]["scheme"]
    lost = not receipt["promised"] and receipt["relative_difference"] > receipt["tolerance"]
    if allowed or not lost or history.get("origin") == SCRATCH:
        return
    wide = "experts as wide as the FFN (leave moe.expert_ffn out) and moe.norm_topk=true"
    if scheme == "asymoe":
        wide = "moe.asymoe.size_plan=full"
    raise DamageError(
        f"{scheme} with these experts does not start as {source}: its logits differ by "
        f"{receipt['relative_difference']:.1e} relative, so what the dense model learned would be lost. Give {wide}, "
        "or allow it (--allow-damage, or model.allow_damage=true in a recipe) if training is meant to bring it back"
    )
