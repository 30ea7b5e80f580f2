"""Chat templates that mark the answers of the assistant, and the loader that puts a template into a processor.

Labels come from the ``{% generation %}`` marks of a template (see :mod:`moiety.vlm.data`), never from a search for
separators. The end-of-turn token is inside the marks, so that a model learns to stop. Content may be a text or a list
of parts. An image part is written as an image mark at its place in the list.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import AutoProcessor

from moiety.groups import nearest_name
from moiety.vlm.adapters import base_of_adapters
from moiety.vlm.loading import refuse_gguf, refuse_own_code
from moiety.vlm.model import config_of
from moiety.vlm.vocabulary import check_vocabulary

_CONTENT = (
    "{%- macro content(message) -%}"
    "{%- if message.content is string -%}{{ message.content }}"
    "{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'image' -%}{{ '<image>' }}{%- else -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{%- endmacro -%}"
)
_GENERATION_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")
_VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)


@dataclass(frozen=True)
class Template:
    """How one turn of each role is written.

    Args:
        opening: Text at the start of a conversation.
        default_system: System sentence for a conversation that has none.
        system: Text before and after a system turn.
        user: Text before and after a turn of the user.
        assistant: Text before an answer (the generation prompt, not trained) and text that begins the answer (trained).
        end: Token that ends an answer (trained); None: the tokenizer's end-of-sequence token.
        after: Text behind the end of an answer (not trained).
        tokens: Special tokens that the template uses, besides the tokenizer's own.
    """

    opening: str
    default_system: str | None
    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    end: str | None
    after: str
    tokens: tuple[str, ...]

    def jinja(self, image_mark: str = "<image>") -> str:
        """The template as Jinja text, for :meth:`transformers.ProcessorMixin.apply_chat_template`."""
        end = "eos_token" if self.end is None else _quoted(self.end)
        default = ""
        if self.default_system is not None:
            given = "messages and messages[0].role == 'system'"
            default = (
                f"{{%- if not ({given}) -%}}{{{{ {_quoted(''.join(_around(self.system, self.default_system)))} }}}}"
            )
            default += "{%- endif -%}"
        return (
            _CONTENT.replace("<image>", image_mark)
            + (f"{{{{ {self.opening} }}}}" if self.opening else "")
            + default
            + "{%- for message in messages -%}"
            + "{%- if message.role == 'assistant' -%}"
            + f"{{{{ {_quoted(self.assistant[0])} }}}}"
            + f"{{%- generation -%}}{{{{ {_quoted(self.assistant[1])} + content(message) + {end} }}}}"
            + "{%- endgeneration -%}"
            + f"{{{{ {_quoted(self.after)} }}}}"
            + "{%- elif message.role == 'system' -%}"
            + f"{{{{ {_quoted(self.system[0])} + content(message) + {_quoted(self.system[1])} }}}}"
            + "{%- else -%}"
            + f"{{{{ {_quoted(self.user[0])} + content(message) + {_quoted(self.user[1])} }}}}"
            + "{%- endif -%}{%- endfor -%}"
            + f"{{%- if add_generation_prompt -%}}{{{{ {_quoted(self.assistant[0])} }}}}{{%- endif -%}}"
        )


def _around(pair: tuple[str, str], text: str) -> tuple[str, str, str]:
    return pair[0], text, pair[1]


def _quoted(text: str) -> str:
    """A Jinja string literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"


# In `plain` and `vicuna` an answer begins with a blank that is trained. Then " apple" is one token, as inside a
# sentence, and the generation prompt does not end with a blank, which would be a separate token.
TEMPLATES: dict[str, Template] = {
    "plain": Template("", None, ("", "\n"), ("", "\n"), ("", " "), None, "", ()),
    "vicuna": Template("", _VICUNA_SYSTEM, ("", " "), ("USER: ", " "), ("ASSISTANT:", " "), None, "", ()),
    "llama3": Template(
        "bos_token",
        None,
        ("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
        ("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
        ("<|start_header_id|>assistant<|end_header_id|>\n\n", ""),
        "<|eot_id|>",
        "",
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "chatml": Template(
        "",
        None,
        ("<|im_start|>system\n", "<|im_end|>\n"),
        ("<|im_start|>user\n", "<|im_end|>\n"),
        ("<|im_start|>assistant\n", ""),
        "<|im_end|>",
        "\n",
        ("<|im_start|>", "<|im_end|>"),
    ),
    "phi3": Template(
        "",
        None,
        ("<|system|>\n", "<|end|>\n"),
        ("<|user|>\n", "<|end|>\n"),
        ("<|assistant|>\n", ""),
        "<|end|>",
        "\n",
        ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    ),
}


def template_named(name: str) -> Template:
    """The template called `name`.

    Raises:
        ValueError: there is no such template.
    """
    if name not in TEMPLATES:
        raise ValueError(f"no chat template {name!r}; {nearest_name(name, TEMPLATES)}")
    return TEMPLATES[name]


_NO_PROCESSOR = (
    "Give the folder that has it: --processor FOLDER, or model.processor=FOLDER in a recipe; or copy its files here. A "
    "language model and a tower get their processor from `moiety assemble`"
)


def _without_processor(error: Exception, folder: str | Path) -> str:
    """What to say of a folder whose processor cannot be read; a damaged JSON file of the folder is named."""
    damaged = getattr(error, "doc", None)
    if damaged is None:
        return f"no processor in {folder}: {str(error).partition('. ')[0]}. {_NO_PROCESSOR}"
    names = [file for file in sorted(Path(folder).glob("*.json")) if file.read_text("utf-8", "replace") == damaged]
    return f"no processor in {folder}: {': '.join([*(file.name for file in names[:1]), str(error)])}"


def _refuse_no_model(folder: str | Path) -> None:
    """Raise where a folder without a processor is no vision-language model either; its model is told first."""
    refuse_gguf(folder)
    if any((Path(folder) / name).is_file() for name in ("config.json", "adapter_config.json")):
        config_of(folder)


def load_processor(
    folder: str | Path,
    template: str | None = None,
    *,
    marks: bool = True,
    processor: str | Path | None = None,
    **options: Any,
) -> Any:
    """Load the processor of a model folder and check or set its chat template.

    Args:
        folder: Hugging Face folder or id. For adapters without a tokenizer of their own, that of their model is loaded.
        template: Name of a template of :data:`TEMPLATES`. It is written into the processor and saved with it. None:
            keep the processor's own.
        marks: Require a template with generation marks. Labels need them unless they are found by prefixes.
        processor: Folder or id that holds the processor, for a model folder that has none; None: `folder` itself.
        options: Passed to ``AutoProcessor.from_pretrained`` (``revision``, ``token``).

    Returns:
        A processor with a ``tokenizer``.

    Raises:
        FileNotFoundError: the folder holds no processor.
        ImportError: the processor needs a package that is not installed (torchvision for most video models).
        ValueError: the template is unknown, does not fit the tokenizer, is missing or marks no answers; or the
            embedding table of the model has no row for some tokens. Or `folder` holds no vision-language model.
    """
    found = _read_processor(folder if processor is None else processor, folder, **options)
    check_vocabulary(found.tokenizer, folder, **options)
    if template is not None:
        use_template(found, template)
    check_template(found, str(folder if processor is None else processor), marks)
    return found


def _read_processor(place: str | Path, model: str | Path, **options: Any) -> Any:
    """The processor in a folder; where there is none, `model` is looked at first: it may be no model for one."""
    base = base_of_adapters(place)
    if base is not None and not (Path(place) / "tokenizer_config.json").is_file():
        place = base
    with _without_torchvision_notice():
        try:
            found = AutoProcessor.from_pretrained(str(place), trust_remote_code=False, **options)
        except (OSError, ValueError) as error:
            refuse_own_code(error, place)
            _refuse_no_model(model)
            raise FileNotFoundError(_without_processor(error, place)) from error
        except ImportError:
            raise
        except Exception as error:  # the tokenizers library raises this class alone
            raise ValueError(
                f"the processor of {place} cannot be read ({str(error)[:120] or type(error).__name__}); "
                "one of its files is damaged: copy or make it again"
            ) from error
    if not hasattr(found, "tokenizer"):
        _refuse_no_model(model)
        raise ValueError(
            f"{place} holds {type(found).__name__}, expected the processor of a vision-language model. {_NO_PROCESSOR}"
        )
    return found


def use_template(processor: Any, name: str) -> None:
    """Write the template called `name` into `processor`.

    Raises:
        ValueError: the name is unknown, or the tokenizer lacks a token of the template.
    """
    template = template_named(name)
    known = processor.tokenizer.get_vocab()
    needed = {token for token in (*template.tokens, template.end) if token is not None}
    missing = sorted(needed - known.keys())
    if template.end is None and processor.tokenizer.eos_token is None:
        missing.append("an end-of-sequence token")
    if missing:
        raise ValueError(
            f"template {name!r} needs tokens that this tokenizer does not have: {', '.join(missing)}; "
            "choose the template the model was trained with, or plain"
        )
    processor.chat_template = template.jinja(_image_mark(processor))


def check_template(processor: Any, where: str, marks: bool = True) -> None:
    """Refuse a processor whose template is missing or does not mark the answers.

    Raises:
        ValueError: there is no template, or it has no marks. Without marks every label would be masked, and the loss
            would train nothing. The text says what to do.
    """
    remedy = f"set model.template to one of {', '.join(sorted(TEMPLATES))}"
    if not isinstance(processor.chat_template, str):
        found = "several chat templates" if processor.chat_template else "no chat template"
        raise ValueError(f"the processor of {where} has {found}; {remedy}")
    if marks and not marks_answers(processor):
        raise ValueError(
            f"the chat template of {where} has no {{% generation %}} marks, so it does not say which tokens are "
            f"answers; {remedy}, or data.labels to prefix"
        )


def marks_answers(processor: Any) -> bool:
    """Whether the chat template of `processor` marks the answers of the assistant."""
    template = processor.chat_template
    return isinstance(template, str) and bool(_GENERATION_MARK.search(template))


def control_ids(processor: Any) -> frozenset[int]:
    """Ids of control tokens: the special tokens, and added tokens that the chat template writes.

    These are the tokens for begin, end and padding of a text, turn and role marks, and picture delimiters. Picture
    placeholders are among them, because they are special tokens. The modality ids say which positions hold pictures.
    """
    tokenizer, template = processor.tokenizer, processor.chat_template
    written = template if isinstance(template, str) else ""
    added = tokenizer.added_tokens_decoder.items()
    found = {
        token_id
        for token_id, token in added
        if token.special or (token.content.strip() and token.content in written)  # blanks occur in every template
    }
    return frozenset({*tokenizer.all_special_ids, *found})


def end_of_turn(processor: Any, name: str | None = None) -> int | None:
    """Token id that ends an answer under the template called `name` (None: the tokenizer's end of sequence)."""
    end = template_named(name).end if name is not None else None
    return processor.tokenizer.eos_token_id if end is None else processor.tokenizer.convert_tokens_to_ids(end)


def stop_at_end_of_turn(model: Any, processor: Any, name: str | None) -> None:
    """Let `generate` stop at the end-of-turn token of the template called `name`, in addition to its other stops.

    Args:
        model: The model; its ``generation_config`` is changed in place.
        processor: Processor of the model, which knows the token id.
        name: A template of :data:`TEMPLATES`; None changes nothing.
    """
    end = end_of_turn(processor, name) if name is not None else None
    if end is None:
        return
    before = model.generation_config.eos_token_id
    known = [] if before is None else [before] if isinstance(before, int) else list(before)
    model.generation_config.eos_token_id = [*known, end] if end not in known else before


def _image_mark(processor: Any) -> str:
    """The text that this processor expands into image tokens; for Qwen-VL it includes the delimiters."""
    mark = getattr(processor, "image_token", None) or "<image>"
    if mark == "<|image_pad|>":
        return f"<|vision_start|>{mark}<|vision_end|>"
    return mark


@contextmanager
def _without_torchvision_notice() -> Iterator[None]:
    """Silence one log line of transformers, which says that it uses PIL image processors without torchvision."""

    def wanted(record: logging.LogRecord) -> bool:
        return "torchvision" not in record.getMessage().lower()

    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict if name.startswith("transformers.")]
    for logger in loggers:
        logger.addFilter(wanted)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(wanted)
