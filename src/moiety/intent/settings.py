"""Every setting of an intent classifier, flat, so that scikit-learn can search over each of them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from moiety.recipe.section import Section, Switch

Method = Literal["amess", "text", "concat", "mult", "mag"]


class IntentSettings(Section):
    """The settings of :class:`moiety.intent.IntentClassifier`: names, defaults, ranges and what each one means.

    This list is the only one: recipes are checked against it, and the class shows it as its parameters.
    """

    method: Method = Field("amess", description="A-MESS, or a baseline that reads the same inputs")
    modalities: tuple[str, ...] | None = Field(
        None,
        description="modalities that are used, of text, video and audio; null: all that the data has",
        strict=False,
    )

    # -- width and depth
    hidden: int = Field(128, ge=8, description="width of every layer; take 256 with a pretrained text encoder")
    num_heads: int = Field(4, ge=1, description="attention heads; hidden must be a multiple of it")
    fusion_layers: int = Field(2, ge=0, description="blocks of anchor fusion (amess) or of cross-attention (mult)")
    ffn_multiple: int = Field(4, ge=1, description="inner width of a feed-forward part, in multiples of hidden")
    dropout: float = Field(0.1, ge=0, lt=1, description="probability that a unit is dropped in training")

    # -- anchors
    num_anchors: int | dict[str, int] = Field(
        8, description="anchors of each modality: one number for all, or a number for each modality"
    )
    anchor_score: Literal["attention", "norm", "cross", "gate", "random", "all", "none"] = Field(
        "attention",
        description="which frames become anchors: those with the most attention of the cls state, the largest norm, "
        "the largest cosine to another modality (cross), the highest learned score (gate), random ones, all, or none",
    )
    anchor_weighting: Switch = Field(
        True, description="multiply each anchor by 1 + its weight, so that the scores learn from the loss"
    )
    pooling: Literal["attention", "mean", "cls"] = Field(
        "attention", description="how the anchors become one vector: learned attention, their mean, or the cls states"
    )
    text_shortcut: Switch = Field(True, description="join the text vector to the pooled anchors")
    modality_dropout: float | dict[str, float] = Field(
        0.0,
        description="probability that a modality of a sample is hidden in training: one number, or one for each "
        "modality",
    )

    # -- semantic synchronisation
    label_descriptions: Any = Field(
        "auto",
        description="what each label means: a mapping label -> sentence, or a JSON or YAML file with one; auto: the "
        "shipped table that has exactly these labels; null: none",
    )
    label_text: Literal["name_and_description", "name_only", "description_only", "with_cues"] = Field(
        "name_and_description", description="which part of a label description is encoded"
    )
    label_encoder: str = Field(
        "hashing",
        description="what turns a description into a vector: hashing (character n-grams); a Hugging Face id or "
        "folder, frozen; or shared: the text encoder in training, which encodes the descriptions before every epoch",
    )
    sync_dim: int = Field(128, ge=2, description="width of the space that samples and descriptions share")
    distance: Literal["cosine", "squared_l2"] = Field(
        "cosine", description="distance between a sample and a description in that space"
    )
    triplet_weight: float = Field(
        1.0, ge=0, description="weight of the triplet loss; with the two weights below at 0 too, nothing synchronises"
    )
    margin: float = Field(0.3, ge=0, description="margin of the triplet losses, in units of the distance")
    negative: Literal["hard", "semihard", "random"] = Field(
        "hard",
        description="the other class of a triplet: the nearest, the nearest that is farther away than the right one, "
        "or a random one",
    )
    batch_triplet_weight: float = Field(
        0.0, ge=0, description="weight of the triplet loss that starts from the descriptions"
    )
    info_nce_weight: float = Field(0.0, ge=0, description="weight of InfoNCE over all descriptions")
    temperature: float = Field(0.1, gt=0, description="temperature of InfoNCE")
    semantic_logit_weight: float = Field(
        0.0, ge=0, description="predictions add this times 10 times the cosine to each description to the logits"
    )

    # -- out of scope
    oos: Literal["doc", "msp", "energy", "max_logit", "distance", "auto"] | None = Field(
        None,
        description="rule that calls a sample out of scope: doc (a threshold for each class), msp (largest "
        "probability), energy, max_logit, or distance to the descriptions; auto: doc where fit gets out-of-scope rows",
    )
    oos_label: str | None = Field(None, description="label of the rows that belong to no class")
    outlier_weight: float = Field(
        1.0, ge=0, description="weight of outlier exposure; it counts where fit gets out-of-scope rows"
    )

    # -- inputs
    text_encoder: str = Field(
        "hashing",
        description="reads the text of samples that bring no text features: hashing (needs no model, and is weak), or "
        "a Hugging Face id or folder",
    )
    train_text_encoder: Switch = Field(
        False, description="train the text encoder with the rest; otherwise it stays as it is"
    )
    word_blend: Switch = Field(
        False,
        description="mix the network's probabilities with those of TF-IDF and logistic regression on the text; the dev "
        "rows choose the share, which may be 0",
    )
    standardize: Literal["auto", "always", "never"] = Field(
        "auto", description="z-scores of the features; auto: of all but those of pretrained models"
    )
    max_frames: dict[str, int] | None = Field(
        None, description="modality -> number of frames that are kept of a longer sample; null: all are"
    )

    # -- training
    learning_rate: float = Field(5e-4, gt=0, description="largest learning rate of AdamW")
    encoder_learning_rate: float = Field(2e-5, gt=0, description="the same for a text encoder that learns")
    weight_decay: float = Field(0.01, ge=0, description="weight decay of the matrices")
    batch_size: int = Field(64, ge=1, description="samples of a batch")
    max_epochs: int = Field(15, ge=1, description="epochs at most")
    patience: int = Field(8, ge=1, description="epochs without a better dev score before training stops")
    monitor: Literal["f1", "acc"] = Field("f1", description="the dev score that chooses the best epoch")
    warmup_share: float = Field(
        0.1, ge=0, le=1, description="share of the steps in which the learning rate rises; then it falls to 0"
    )
    max_grad_norm: float = Field(1.0, gt=0, description="larger gradients are scaled down to this norm")
    validation_fraction: float = Field(
        0.1, gt=0, lt=1, description="share of the rows that chooses the best epoch where fit gets no dev rows"
    )
    class_weight: Literal["balanced"] | None = Field(
        None,
        description="how classes weigh in the loss; balanced: rare ones more, as in scikit-learn; null: all rows alike",
    )
    device: str = Field("cpu", description="where the network runs, for instance cpu or cuda")
    random_state: int = Field(0, ge=0, description="seed of weights, batches, dropout and the rows set aside")
    progress: Switch = Field(False, description="show a progress bar")

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
        if self.word_blend and self.oos is not None:
            raise ValueError("word_blend mixes probabilities, and rules of oos read the network's own; leave one out")
        return self

    @property
    def synchronises(self) -> bool:
        """Whether samples are drawn to label descriptions: method, weights and descriptions all ask for it."""
        weights = self.triplet_weight or self.batch_triplet_weight or self.info_nce_weight
        return self.method == "amess" and bool(weights) and self.label_descriptions is not None

    @property
    def reads_words(self) -> bool:
        """Whether a text encoder learns: it is asked for, and text is used."""
        return self.train_text_encoder and (self.modalities is None or "text" in self.modalities)

    def of_modality(self, setting: str, modality: str) -> Any:
        """A setting that may be given by modality; a modality that is not named gets the default of the field."""
        value = getattr(self, setting)
        default = type(self).model_fields[setting].default
        return value.get(modality, default) if isinstance(value, dict) else value
