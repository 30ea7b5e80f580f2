"""What may be a part of an assembly: read from folders and GGUF files, and refused in plain words."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from moiety.recipe.recipe import MoESettings
from moiety.vlm.assemble.join import assemble, fitting_template
from moiety.vlm.assemble.language import read_language
from moiety.vlm.assemble.tower import read_tower
from moiety.vlm.loading import local_folder, read_config
from moiety.vlm.model import load
from moiety.vlm.parameters import count_parameters
from moiety.vlm.templates import TEMPLATES, load_processor
from moiety.vlm.upcycle import upcycle_folder
from tests import model_folders
from tests.vlm.assemble.parts import PATCH, SIDE, SIZES, language_folder, tower_folder

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # in peft 0.21


def write_gguf(folder: Path, path: Path, kind: str = "F32") -> None:
    """The language model of a folder as a GGUF file, as converters write Llama (queries and keys are permuted)."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    writer = gguf.GGUFWriter(path, "llama")
    heads = SIZES["num_attention_heads"]
    writer.add_context_length(2048)
    writer.add_embedding_length(SIZES["hidden_size"])
    writer.add_block_count(SIZES["num_hidden_layers"])
    writer.add_feed_forward_length(SIZES["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(model.config.rms_norm_eps)
    writer.add_rope_dimension_count(SIZES["hidden_size"] // heads)
    words = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])]
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_types([3 if word in tokenizer.all_special_tokens else 1 for word in words])
    written = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in written])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    names = {"model.embed_tokens": "token_embd", "model.norm": "output_norm"}
    inner = {
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    }  # fmt: skip
    for key, value in model.state_dict().items():
        name, array = key.removesuffix(".weight"), value.numpy()
        if name == "lm_head":
            continue
        if name.startswith("model.layers."):
            _, _, number, part = name.split(".", 3)
            if part in ("self_attn.q_proj", "self_attn.k_proj"):
                rows, columns = array.shape
                array = array.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
            names[name] = f"blk.{number}.{inner[part]}"
        array = np.ascontiguousarray(array, dtype=np.float32)
        packed = gguf.GGMLQuantizationType[kind if array.ndim == 2 else "F32"]  # norms are never packed
        writer.add_tensor(f"{names[name]}.weight", gguf.quants.quantize(array, packed), raw_dtype=packed)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_a_gguf_file_says_what_its_folder_says(tmp_path: Path) -> None:
    folder = language_folder(tmp_path / "language")
    write_gguf(folder, tmp_path / "tiny.Q8_0.gguf")
    language = read_language(tmp_path / "tiny.Q8_0.gguf")
    assert language.packed == "Q8_0"
    plain = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.arange(12)[None]
    with torch.no_grad():
        torch.testing.assert_close(language.model(ids).logits, plain(ids).logits, atol=1e-5, rtol=0)
    language.model.save_pretrained(tmp_path / "saved")  # nothing of the packed form is left on it
    text = "an apple is red"
    assert language.tokenizer(text)["input_ids"] == read_language(folder).tokenizer(text)["input_ids"]


@pytest.mark.parametrize(("kind", "most"), [("F16", 5e-4), ("Q8_0", 5e-3), ("Q4_0", 0.1)])
def test_packed_weights_are_unpacked(tmp_path: Path, kind: str, most: float) -> None:
    """The error of a weight is that of its packing: 11 bits, 8 bits and 4 bits of the largest of 32 (std 0.02)."""
    folder = language_folder(tmp_path / "language", initializer_range=0.5)
    write_gguf(folder, tmp_path / f"tiny.{kind}.gguf", kind)
    found = read_language(tmp_path / f"tiny.{kind}.gguf").model.state_dict()
    for name, wanted in AutoModelForCausalLM.from_pretrained(folder).state_dict().items():
        assert (found[name] - wanted).abs().max() / wanted.abs().max() < most, name


def test_a_gguf_file_of_another_kind_is_told(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "clip")
    writer.add_block_count(1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match=r"odd\.gguf cannot be read as a GGUF language model: .*clip"):
        read_language(tmp_path / "odd.gguf")


def test_a_gguf_file_is_sent_to_assemble(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    file = tmp_path / "folder" / "tiny.Q8_0.gguf"
    file.touch()
    for given in (file, tmp_path / "folder"):
        for told in (load, count_parameters, load_processor, local_folder):
            if told is local_folder and given != file:
                continue
            with pytest.raises(ValueError, match=rf"{file} is a GGUF file, expected .*`moiety assemble {file} TOWER"):
                told(given)


def test_files_that_are_no_gguf(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no GGUF file at"):
        read_language(tmp_path / "none.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"GGUF but not really")
    with pytest.raises(ValueError, match="cannot be read as a GGUF language model"):
        read_language(tmp_path / "bad.gguf")


def test_folders_that_are_no_language_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is a vision-language model already .*moiety upcycle"):
        read_language(model_folders.dense_folder())
    tower = tower_folder(tmp_path / "tower", "siglip")
    with pytest.raises(ValueError, match="expected a causal language model such as Llama"):
        read_language(tower)
    with pytest.raises(FileNotFoundError, match="no model"):
        read_language(tmp_path / "absent")
    adapters = adapters_of(model_folders.dense_folder(), load(model_folders.dense_folder()), tmp_path / "adapters")
    with pytest.raises(ValueError, match=r"adapters is a vision-language model already .*moiety upcycle"):
        read_language(adapters)


def adapters_of(base: Path, model: Any, folder: Path) -> Path:
    """Adapters of a model that change what it says, as peft saves them."""
    torch.manual_seed(0)
    config = peft.LoraConfig(r=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(model, config)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(folder)
    return folder


def test_adapters_of_a_language_model_are_merged(tmp_path: Path) -> None:
    base, tower = language_folder(tmp_path / "language"), tower_folder(tmp_path / "tower", "dinov2")
    adapters = adapters_of(base, AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapters")
    ids = torch.arange(12)[None]
    with torch.no_grad():
        adapted = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapters).eval()
        plain, wanted = read_language(base).model(ids).logits, adapted(ids).logits
        found = read_language(adapters)
        assert (wanted - plain).abs().max() > 1e-3
        torch.testing.assert_close(found.model(ids).logits, wanted, atol=1e-5, rtol=0)
    assemble(adapters, tower, tmp_path / "llava")
    with torch.no_grad():
        text = load(tmp_path / "llava")(input_ids=ids).logits[..., : wanted.shape[-1]]
    torch.testing.assert_close(text, wanted, atol=1e-5, rtol=0)
    part = read_config(tmp_path / "llava").provenance["assembled"]["language"]
    assert (part["source"], part["adapters_of"]) == ("adapters", "language")
    assert len({part["weights_sha256"], part["base_sha256"]}) == 2


def test_a_language_model_without_a_tokenizer(tmp_path: Path) -> None:
    folder = language_folder(tmp_path / "language")
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"(?s)no tokenizer in .*copy its files beside the weights"):
        read_language(folder)


@pytest.mark.parametrize(("kind", "tokens"), [("clip", 4), ("whole clip", 4), ("siglip", 4), ("dinov2", 4)])
def test_towers(tmp_path: Path, kind: str, tokens: int) -> None:
    tower = read_tower(tower_folder(tmp_path / "tower", kind))
    assert (tower.side, tower.patch, tower.num_patches) == (SIDE, PATCH, tokens)
    assert tower.image_processor.size["height"] == SIDE


def test_the_folder_says_how_pictures_are_normalised(tmp_path: Path) -> None:
    folder = tower_folder(tmp_path / "tower", "clip")
    SiglipImageProcessorPil(image_mean=[0.1, 0.2, 0.3], image_std=[1.0, 2.0, 3.0]).save_pretrained(folder)
    found = read_tower(folder).image_processor
    assert (list(found.image_mean), list(found.image_std)) == ([0.1, 0.2, 0.3], [1.0, 2.0, 3.0])


def test_towers_that_do_not_fit(tmp_path: Path) -> None:
    clip, dino = tower_folder(tmp_path / "clip", "clip"), tower_folder(tmp_path / "dino", "dinov2")
    with pytest.raises(ValueError, match=r"image_size=42, but the tower of .* reads pictures of 28 pixels only"):
        read_tower(clip, side=42)
    with pytest.raises(ValueError, match="image_size=45 is no multiple of the patch of 14 pixels; give 42"):
        read_tower(dino, side=45)
    with pytest.raises(ValueError, match="expected a vision tower of CLIP, SigLIP or DINOv2"):
        read_tower(language_folder(tmp_path / "language"))


def test_a_tower_that_lacks_a_tensor(tmp_path: Path) -> None:
    folder = tower_folder(tmp_path / "tower", "siglip")
    tensors = load_file(folder / "model.safetensors")
    gone = next(key for key in tensors if key.endswith("fc1.weight"))
    tensors.pop(gone)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks tensors of its vision tower \(.*fc1.weight\)"):
        read_tower(folder)


@pytest.mark.parametrize("name", ["chatml", "phi3", "vicuna"])
def test_the_template_that_fits(tmp_path: Path, name: str) -> None:
    template = TEMPLATES[name]
    special = (*template.tokens, *([] if template.end is None else [template.end]))
    folder = language_folder(tmp_path / "language", special=special, end=template.end)
    assert fitting_template(read_language(folder).tokenizer) == name


def test_a_language_model_alone_is_sent_to_assemble(tmp_path: Path) -> None:
    folder = language_folder(tmp_path / "language")
    for told in (lambda: count_parameters(str(folder)), lambda: upcycle_folder(folder, tmp_path / "s", MoESettings())):
        with pytest.raises(
            ValueError, match=rf"{folder} is of type 'llama'.*`moiety assemble {folder} TOWER NEW` joins it with a"
        ):
            told()
