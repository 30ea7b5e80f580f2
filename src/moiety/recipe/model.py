"""Where the dense model of a recipe comes from: an existing one, or a small one built from nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from moiety.recipe.section import Section, Switch


class ScratchSettings(Section):
    """A small vision-language model with new weights."""

    decoder: Literal["llama", "qwen2", "qwen3", "mistral"] = Field("qwen2", description="family of the decoder")
    vocab: int = Field(1024, ge=64, description="largest vocabulary of the tokenizer trained on the data")
    hidden: int = Field(192, ge=16, description="width of the decoder")
    ffn: int = Field(384, ge=16, description="inner width of its FFN")
    layers: int = Field(4, ge=1, description="layers of the decoder")
    heads: int = Field(6, ge=1, description="attention heads of the decoder")
    vision_hidden: int = Field(192, ge=16, description="width of the vision tower")
    vision_ffn: int = Field(384, ge=16, description="inner width of its FFN")
    vision_layers: int = Field(4, ge=1, description="layers of the vision tower")
    vision_heads: int = Field(6, ge=1, description="attention heads of the vision tower")
    image_size: int = Field(64, ge=8, description="width and height of a picture in pixels")
    patch_size: int = Field(
        8, ge=2, description="width and height of a patch in pixels; image_size must be a multiple of it"
    )
    image_mean: float = Field(
        0.5,
        ge=0,
        le=1,
        description="grey that is subtracted from every pixel, 0 black, 1 white; use that of the usual background",
    )
    image_std: float = Field(0.5, gt=0, description="number that pixels are divided by after image_mean is subtracted")
    embedding_gain: float = Field(
        1.0,
        gt=0,
        description="factor on new token embeddings and on the output of the projector; with a larger factor the first "
        "layers change them less, and training finds much sooner which picture token a word means",
    )

    @model_validator(mode="after")
    def _divisible(self) -> ScratchSettings:
        for width, heads, what in (
            (self.hidden, self.heads, "hidden"),
            (self.vision_hidden, self.vision_heads, "vision_hidden"),
        ):
            if width % (2 * heads):
                raise ValueError(f"{what}={width} must be a multiple of 2 x {heads} heads")
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size={self.image_size} must be a multiple of patch_size={self.patch_size}")
        return self


class ModelSettings(Section):
    """Where the dense model comes from: a Hugging Face folder or id, or a small new model."""

    source: str | None = Field(None, description="Hugging Face folder or id of a dense vision-language model")
    revision: str | None = Field(None, description="revision of `source`")
    scratch: ScratchSettings | None = Field(
        None, description="build a small model with new weights instead of `source`"
    )
    processor: str | None = Field(
        None, description="folder or id that holds the processor; null: the one of `source`, or of the new model"
    )
    template: str | None = Field(
        None, description="chat template with generation marks: plain, vicuna, llama3, chatml, phi3"
    )
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="precision of the weights")
    trained_projector: Switch = Field(
        False, description="say that the projector of `source` was trained, although its weights look like fresh ones"
    )
    allow_damage: Switch = Field(
        False, description="upcycle a trained model also with experts that do not start as its FFN and lose its answers"
    )

    @model_validator(mode="after")
    def _one_of(self) -> ModelSettings:
        if (self.source is None) == (self.scratch is None):
            raise ValueError("give exactly one of model.source (a dense Hugging Face model) and model.scratch")
        return self
