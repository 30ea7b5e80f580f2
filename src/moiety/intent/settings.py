"""Every setting of an intent classifier, flat, so that scikit-learn can search over each of them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from moiety.recipe.section import Section, Switch

Method = Literal["amess", "text", "concat", "mult", "mag"]


class IntentSettings(Section):
    """Fields of :class:`moiety.intent.IntentClassifier`; names, defaults and limits."""

    method: Method = Field("amess", description="A-MESS, or a baseline on the same inputs")
    modalities: tuple[str, ...] | None = Field(
        None, description="use these alone; null: all that the data has", strict=False
    )

    # -- width and depth
    hidden: int = Field(128, ge=8, description="width of every layer; 256 with a pretrained text encoder")
    num_heads: int = Field(4, ge=1)
    fusion_layers: int = Field(2, ge=0, description="blocks of anchor fusion (amess) or cross-attention (mult)")
    ffn_multiple: int = Field(4, ge=1)
    dropout: float = Field(0.1, ge=0, lt=1)

    # -- anchors
    num_anchors: int | dict[str, int] = Field(8, description="anchors of each modality, one number or by modality")
    anchor_score: Literal["attention", "norm", "cross", "gate", "random", "all", "none"] = "attention"
    anchor_weighting: Switch = Field(True, description="multiply anchors by 1 + weight, which lets scores learn")
    pooling: Literal["attention", "mean", "cls"] = "attention"
    text_shortcut: Switch = Field(True, description="join the text vector to the pooled anchors")
    modality_dropout: float | dict[str, float] = Field(0.0, description="chance of hiding a modality in training")

    # -- semantic synchronisation
    label_descriptions: Any = Field(
        "auto", description="auto: a shipped table with exactly these labels; a file; a mapping; null: none"
    )
    label_text: Literal["name_and_description", "name_only", "description_only", "with_cues"] = "name_and_description"
    label_encoder: str = Field(
        "hashing",
        description="hashing: character n-grams; a Hugging Face id or folder, frozen; "
        "or shared: the text encoder in training, asked again before every epoch",
    )
    sync_dim: int = Field(128, ge=2)
    distance: Literal["cosine", "squared_l2"] = "cosine"
    triplet_weight: float = Field(1.0, ge=0, description="0 switches semantic synchronisation off")
    margin: float = Field(0.3, ge=0)
    negative: Literal["hard", "semihard", "random"] = "hard"
    batch_triplet_weight: float = Field(0.0, ge=0)
    info_nce_weight: float = Field(0.0, ge=0)
    temperature: float = Field(0.1, gt=0)
    semantic_logit_weight: float = Field(0.0, ge=0, description="adds 10 x cosine to descriptions to the logits")

    # -- out of scope
    oos: Literal["doc", "msp", "energy", "max_logit", "distance", "auto"] | None = None
    oos_label: str | None = Field(None, description="label of rows that belong to no class")
    outlier_weight: float = Field(1.0, ge=0, description="weight of outlier exposure, where such rows are given")

    # -- inputs
    text_encoder: str = Field(
        "hashing",
        description="for samples with text but no text features: hashing (needs no model, and is weak), or a Hugging "
        "Face id or folder",
    )
    train_text_encoder: Switch = Field(
        False, description="the text encoder learns with the rest; otherwise it is frozen"
    )
    standardize: Literal["auto", "always", "never"] = Field("auto", description="z-scores of hand-made features")
    max_frames: dict[str, int] | None = Field(None, description="frames kept of longer samples")

    # -- training
    learning_rate: float = Field(5e-4, gt=0)
    encoder_learning_rate: float = Field(2e-5, gt=0, description="of a text encoder that learns")
    weight_decay: float = Field(0.01, ge=0)
    batch_size: int = Field(64, ge=1)
    max_epochs: int = Field(15, ge=1)
    patience: int = Field(8, ge=1, description="epochs without a better dev score before training stops")
    monitor: Literal["f1", "acc"] = "f1"
    warmup_share: float = Field(0.1, ge=0, le=1)
    max_grad_norm: float = Field(1.0, gt=0)
    validation_fraction: float = Field(0.1, gt=0, lt=1, description="split off where no dev set is given")
    class_weight: Literal["balanced"] | None = None
    device: str = "cpu"
    random_state: int = Field(0, ge=0)
    progress: Switch = False

    @model_validator(mode="after")
    def _encoders(self) -> IntentSettings:
        if self.train_text_encoder and self.text_encoder == "hashing":
            raise ValueError(
                "train_text_encoder needs a text_encoder that can learn, and hashing cannot; "
                "give a Hugging Face id or folder"
            )
        if self.label_encoder == "shared" and not self.reads_words:
            raise ValueError(
                "label_encoder 'shared' is the text encoder in training; set train_text_encoder=True and keep text "
                "among the modalities"
            )
        return self

    @property
    def reads_words(self) -> bool:
        """Whether a text encoder learns: it is asked for, and text is used."""
        return self.train_text_encoder and (self.modalities is None or "text" in self.modalities)

    def of_modality(self, setting: str, modality: str) -> Any:
        """A setting that may be given by modality; a modality that is not named gets the default of the field."""
        value = getattr(self, setting)
        default = type(self).model_fields[setting].default
        return value.get(modality, default) if isinstance(value, dict) else value
