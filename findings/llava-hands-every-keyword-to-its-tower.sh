#!/usr/bin/env bash
# Since transformers 5.24 a LLaVA base model hands every keyword it does not know to its vision tower as well.
#
# Seen with transformers 5.24.0 and 5.23.0, torch 2.13.0. A keyword that no class declares (here `token_kinds`), given to
# the model in a forward with a picture, reaches
#   5.23.0: each attention of the decoder                      -> "decoder"
#   5.24.0: each attention of the decoder and of the CLIP tower -> "decoder tower"
# So a tensor that is meant for the decoder, of the decoder's length, arrives in attention code of the tower, where a
# picture has another length. Nothing is said. Who passes keywords of their own down a decoder has to take them off
# before the tower. In moiety: tests/vlm/contracts/test_calls.py, test_tower_hears_nothing_of_the_decoder.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cat > "$work/look.py" <<'PY'
import sys
import torch
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

text = LlamaConfig(vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4)
tower = CLIPVisionConfig(hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, image_size=8, patch_size=4)
model = LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=tower, image_token_index=60, vision_feature_layer=-1)).eval()
heard = set()
for name, module in model.named_modules():
    if name.endswith("self_attn"):
        place = "tower" if "vision_tower" in name else "decoder"
        module.register_forward_pre_hook(
            lambda _, args, kwargs, place=place: heard.add(place) if "token_kinds" in kwargs else None, with_kwargs=True
        )
ids = torch.tensor([[1, 60, 60, 60, 60, 7]])
model(input_ids=ids, pixel_values=torch.ones(1, 3, 8, 8), token_kinds=(ids == 60).long())
print(" ".join(sorted(heard)))
sys.exit(0)
PY
python3 -m venv "$work/venv"; bin="$work/venv/bin"
"$bin/python" -m pip install --quiet "torch==2.13.0" "transformers==5.23.0" 2>"$work/log"
old=$("$bin/python" "$work/look.py" 2>>"$work/log" | tail -n 1)
"$bin/python" -m pip install --quiet "transformers==5.24.0" 2>>"$work/log"
new=$("$bin/python" "$work/look.py" 2>>"$work/log" | tail -n 1)
echo "5.23.0: $old | 5.24.0: $new"
[ "$old" = "decoder" ] && [ "$new" = "decoder tower" ]
