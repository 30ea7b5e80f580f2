"""The list of outside names that moiety relies on, and the check of each on the installed releases.

An entry says where a name stands, what must exist there, and which part of moiety needs it. If releases use several
names, all of them are listed, the newest first, and one of them must exist. A check imports the module and looks for
the names. It builds no model.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from moiety.vlm.contracts.broken import ContractBroken, installed
from moiety.vlm.contracts.calls import CACHE, MODALITY_TYPES, PICTURES

Names = tuple[str | tuple[str, ...], ...]
"""Names that must all exist. Of the names in a tuple, one must exist."""


@dataclass(frozen=True)
class Contract:
    """Outside names that belong together.

    Args:
        library: Name of the package.
        place: ``module:object``. The object is a class or a function, or a path with dots to one. Without an object,
            the module itself is meant.
        members: Attributes, methods or table entries that must exist.
        keywords: Parameters that the object, a function, must take.
        used_for: What moiety needs them for.
    """

    library: str
    place: str
    members: Names = ()
    keywords: Names = ()
    used_for: str = ""

    @property
    def name(self) -> str:
        """The name that `moiety env --check` shows."""
        return self.place.removeprefix(f"{self.library}.").replace(":", ".")

    def check(self) -> str:
        """The names that the installed release uses, where there are several; empty if no entry has several names.

        Raises:
            ContractBroken: something is gone.
        """
        owner = self._owner()
        found = [self._first(names, lambda name: _has(owner, name), "member") for names in self.members]
        if self.keywords:
            taken = inspect.signature(owner).parameters
            found += [self._first(names, taken.__contains__, "parameter") for names in self.keywords]
        chosen = [name for name, names in zip(found, (*self.members, *self.keywords), strict=True) if name != names]
        return ", ".join(chosen)

    def _owner(self) -> Any:
        module, _, path = self.place.partition(":")
        try:
            owner = importlib.import_module(module)
            for part in filter(None, path.split(".")):
                owner = getattr(owner, part)
        except (ImportError, AttributeError) as error:
            raise ContractBroken(self.library, f"{self.place} is gone ({error}); {self.used_for} needs it") from error
        return owner

    def _first(self, names: str | tuple[str, ...], has: Callable[[str], bool], kind: str) -> str:
        options = (names,) if isinstance(names, str) else names
        for name in options:
            if has(name):
                return name
        raise ContractBroken(
            self.library, f"{self.name} has no {kind} {' or '.join(options)}; {self.used_for} needs it"
        )


def _has(owner: Any, name: str) -> bool:
    if hasattr(owner, name):
        return True
    return isinstance(owner, Mapping) and name in owner


_TF = "transformers"
_CHAT = "transformers.cli.serving.chat_completion:ChatCompletionHandler"
_AUTO = "transformers.models.auto.modeling_auto:"
_BLANK = "steps of training without a picture"

CONTRACTS: tuple[Contract, ...] = (
    # the decoder
    Contract(
        _TF,
        "transformers:LlavaModel.forward",
        keywords=("input_ids", "attention_mask", "inputs_embeds", CACHE, PICTURES[0], PICTURES[2]),
        used_for="finding modality ids in the base model",
    ),
    Contract(
        _TF,
        "transformers.models.llama.modeling_llama:LlamaDecoderLayer.forward",
        keywords=("hidden_states", CACHE, "use_cache"),
        used_for="handing evidence to the layer of its cache",
    ),
    Contract(
        _TF,
        "transformers:Qwen2_5_VLModel.forward",
        keywords=(CACHE, *PICTURES[:2], MODALITY_TYPES),
        used_for="positions of pictures",
    ),
    Contract(
        _TF,
        "transformers:Qwen3VLTextModel.forward",
        keywords=("inputs_embeds", "visual_pos_masks", "deepstack_visual_embeds"),
        used_for="the gate objective, which exchanges pictures",
    ),
    # the vision tower: how it takes a blank picture
    Contract(_TF, "transformers:LlavaModel.get_image_features", keywords=("pixel_values",), used_for=_BLANK),
    *(
        Contract(_TF, f"transformers:{name}.get_image_features", keywords=keywords, used_for=_BLANK)
        for name, keywords in {
            "LlavaNextModel": ("pixel_values", "image_sizes"),
            "LlavaOnevisionModel": ("pixel_values", "image_sizes", "batch_num_images"),
            "Mistral3Model": ("pixel_values", "image_sizes"),
            "Qwen2_5_VLModel": ("pixel_values", "image_grid_thw"),
            "Qwen3VLModel": ("pixel_values", "image_grid_thw"),
        }.items()
    ),
    Contract(
        _TF,
        "transformers:GenerationMixin",
        members=(
            "_prepare_model_inputs",
            "_prepare_position_ids_for_generation",
            "prepare_inputs_for_generation",
            "_validate_model_kwargs",
        ),
        used_for="ids, evidence and positions of each step of generate",
    ),
    Contract(
        _TF,
        "transformers:GenerationMixin.prepare_inputs_for_generation",
        keywords=("input_ids", CACHE, "attention_mask", "inputs_embeds", "is_first_iteration"),
        used_for="ids of each step of generate",
    ),
    Contract(
        _TF,
        "transformers.cache_utils:Cache",
        members=("get_seq_length", "crop", "reorder_cache", "batch_repeat_interleave", "batch_select_indices"),
        used_for="evidence that follows the keys and values of a generation",
    ),
    Contract(
        _TF,
        "transformers.cache_utils:DynamicLayer",
        members=("reset", "crop", "reorder_cache", "batch_repeat_interleave", "batch_select_indices"),
        used_for="evidence that follows the keys and values of one layer",
    ),
    Contract(
        _TF,
        "transformers.cache_utils:Cache.__init__",
        keywords=("layers", "layer_class_to_replicate"),
        used_for="storing evidence before the first key arrives",
    ),
    Contract(
        _TF,
        "transformers:PreTrainedModel",
        members=(
            "base_model",
            "_init_weights",
            "_set_gradient_checkpointing",
            ("activation_checkpointing_enable", "gradient_checkpointing_enable"),
            "set_attn_implementation",
            "set_experts_implementation",
            "get_input_embeddings",
            "get_output_embeddings",
            "_can_set_experts_implementation",
        ),
        used_for="splicing, the lens, and the switch of routes",
    ),
    Contract(
        _TF,
        "transformers:PreTrainedModel.save_pretrained",
        keywords=("save_original_format",),
        used_for="names on disk that are those in memory",
    ),
    Contract(
        _TF,
        "transformers:PreTrainedConfig",
        members=("_experts_implementation", "_attn_implementation", "get_text_config", "to_dict"),
        used_for="the switch of routes, and the decoder's config",
    ),
    Contract(
        _TF,
        "transformers.initialization",
        members=("normal_", "zeros_", "copy_", "no_init_weights"),
        used_for="starting experts, and counting parameters without drawing any",
    ),
    # routes of the experts
    Contract(
        _TF,
        "transformers.integrations.moe",
        members=("ALL_EXPERTS_FUNCTIONS", "use_experts_implementation"),
        used_for="the routes eager, grouped_mm and batched_mm",
    ),
    Contract(
        _TF,
        "transformers.integrations.moe:ALL_EXPERTS_FUNCTIONS",
        members=("register", "grouped_mm", "batched_mm"),
        used_for="the routes eager, grouped_mm and batched_mm",
    ),
    # loading
    Contract(_TF, "transformers:AutoConfig", members=("register", "from_pretrained"), used_for="loading a folder"),
    Contract(
        _TF,
        "transformers:AutoModelForImageTextToText",
        members=("register", "_model_mapping"),
        used_for="loading a folder",
    ),
    Contract(_TF, "transformers:AutoModelForMultimodalLM", members=("register",), used_for="loading a folder"),
    Contract(
        _TF,
        _AUTO.rstrip(":"),
        members=(
            "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING",
            "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
            "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES",
        ),
        used_for="finding the dense class of a config, and `transformers serve`",
    ),
    Contract(_TF, "transformers.modeling_outputs", members=("BaseModelOutputWithPooling",), used_for="kept features"),
    Contract(
        _TF,
        "transformers.models.auto.configuration_auto",
        members=("CONFIG_MAPPING",),
        used_for="registering a family when its folder is met",
    ),
    Contract(
        _TF,
        "transformers.models.siglip.image_processing_pil_siglip",
        members=("SiglipImageProcessorPil",),
        used_for="processors of models from nothing, without torchvision",
    ),
    Contract(
        _TF,
        "transformers:ProcessorMixin.apply_chat_template",
        keywords=("conversation", "chat_template"),
        used_for="labels and prompts",
    ),
    # training
    Contract(
        _TF,
        "transformers:Trainer",
        members=(
            "compute_loss",
            "_get_train_sampler",
            "get_decay_parameter_names",
            "get_optimizer_cls_and_kwargs",
            "create_optimizer",
            "_save_checkpoint",
            "_save",
            "_get_output_dir",
            "_load_from_checkpoint",
            "_load_optimizer_and_scheduler",
            "floating_point_ops",
            "pop_callback",
        ),
        used_for="training",
    ),
    Contract(
        _TF,
        "transformers:Trainer.compute_loss",
        keywords=("model", "inputs", "return_outputs", "num_items_in_batch"),
        used_for="routing losses that do not depend on accumulation",
    ),
    Contract(
        _TF,
        "transformers:TrainingArguments",
        keywords=(
            ("activation_checkpointing", "gradient_checkpointing"),
            "train_sampling_strategy",
            "warmup_steps",
            "use_cpu",
            "data_seed",
        ),
        used_for="the section train of a recipe",
    ),
    Contract("accelerate", "accelerate:PartialState", members=("wait_for_everyone",), used_for="several processes"),
    Contract("accelerate", "accelerate:Accelerator", members=("unwrap_model", "reduce"), used_for="training"),
    Contract(
        "torch", "torch._subclasses:FakeTensorMode.__init__", keywords=("allow_non_fake_inputs",), used_for="plans"
    ),
    # serving and the page
    Contract(
        _TF,
        _CHAT,
        members=("_streaming", "_non_streaming", "_build_completion"),
        used_for="moiety serve",
    ),
    Contract(
        _TF,
        "transformers.cli.serving.utils",
        members=("BaseGenerateManager", "_StreamError"),
        used_for="moiety serve",
    ),
    Contract("openai", "openai.types.completion_usage", members=("CompletionUsage",), used_for="moiety serve"),
    Contract(
        "openai",
        "openai.types.chat.completion_create_params",
        members=("CompletionCreateParamsNonStreaming",),
        used_for="the fields of a request that moiety serve knows",
    ),
    Contract(
        "gradio",
        "gradio:Blocks.launch",
        keywords=("server_name", "server_port", "share", "prevent_thread_lock", "max_file_size", "quiet"),
        used_for="moiety demo-app",
    ),
    Contract(
        "gradio",
        "gradio",
        members=("Blocks", "Image", "Chatbot", "Textbox", "Slider", "Examples", "State", "skip", "on"),
        used_for="moiety demo-app",
    ),
    Contract("gradio", "gradio:Blocks", members=("preprocess_data",), used_for="requests that moiety demo-app refuses"),
    Contract("gradio", "gradio:Error", keywords=("print_exception",), used_for="requests that moiety demo-app refuses"),
    # adapters
    Contract(
        "peft",
        "peft:LoraConfig",
        keywords=("target_modules", "target_parameters", "modules_to_save"),
        used_for="adapters on experts",
    ),
    Contract("peft", "peft.tuners.lora.layer", members=("ParamWrapper",), used_for="adapters on experts"),
)
"""Every name of another library that moiety relies on."""

OPTIONAL = ("peft", "gradio", "openai")
"""Libraries of an extra. If one is not installed, its contracts are not checked."""


def applicable() -> Iterator[Contract]:
    """The contracts of every library that is installed."""
    for contract in CONTRACTS:
        if contract.library not in OPTIONAL or installed(contract.library):
            yield contract
