#!/usr/bin/env bash
# transformers: the config of a decoder inside a vision-language model does not say whether the head is tied.
#
# Seen with transformers 5.24.0, torch 2.13.0. Three freshly built models, each asked twice: what does
# config.get_text_config().tie_word_embeddings say, and are embeddings and head one tensor?
#   LLaVA over Llama: says False, and they are two tensors
#   InternVL over Qwen2: says False, and they are one tensor; the outer config ties them
#   Qwen3-VL (Qwen2.5-VL too): AttributeError, the text config has no such field; they are two tensors
# Who freezes, counts or merges embeddings by this field fails on every Qwen-VL model. Asking the weights
# (get_output_embeddings().weight is get_input_embeddings().weight) is right for all.
# In moiety: tests/vlm/test_parts.py, test_every_family_can_train_its_head_alone.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cat > "$work/look.py" <<'PY'
import transformers as hf

TEXT = dict(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=2)
TOWER = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2)
ROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]}}
MODELS = {
    "llava": hf.LlavaForConditionalGeneration(hf.LlavaConfig(
        text_config=hf.LlamaConfig(**TEXT), image_token_index=60,
        vision_config=hf.CLIPVisionConfig(**TOWER, image_size=8, patch_size=4))),
    "internvl": hf.InternVLForConditionalGeneration(hf.InternVLConfig(
        text_config=hf.Qwen2Config(**TEXT), image_token_id=60,
        vision_config=hf.InternVLVisionConfig(**TOWER, image_size=[8, 8], patch_size=[4, 4]))),
    "qwen3_vl": hf.Qwen3VLForConditionalGeneration(hf.Qwen3VLConfig(
        text_config={**TEXT, "head_dim": 8, **ROPE}, image_token_id=60,
        vision_config=dict(depth=1, hidden_size=32, intermediate_size=48, num_heads=2, patch_size=4, out_hidden_size=32,
                           spatial_merge_size=2, temporal_patch_size=2, num_position_embeddings=16,
                           deepstack_visual_indexes=[0]))),
}
for name, model in MODELS.items():
    try:
        says = str(model.config.get_text_config().tie_word_embeddings)
    except AttributeError:
        says = "AttributeError"
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    print(f"{name}: says {says}, tied {tied}", end="; ")
PY
python3 -m venv "$work/venv"; bin="$work/venv/bin"
"$bin/python" -m pip install --quiet "torch==2.13.0" "transformers==5.24.0" 2>"$work/log"
seen=$("$bin/python" "$work/look.py" 2>>"$work/log" | tail -n 1)
echo "$seen"
[ "$seen" = "llava: says False, tied False; internvl: says False, tied True; qwen3_vl: says AttributeError, tied False; " ]
