#!/usr/bin/env bash
# transformers: with rope_type "dynamic" the logits of a text depend on the longest text that the model has read before.
#
# Seen with transformers 5.24.0, torch 2.13.0. A decoder for 32 positions, stretched by dynamic NTK (factor 4), reads the
# same 40 tokens before and after a text of 60 tokens:
#   the same 40 tokens again, nothing between: largest difference of the logits 0
#   after a text of 60 tokens: not 0, and it stays so until a text shorter than 32 tokens is read; then 0 again
# So a score depends on the order in which rows are evaluated, and two programs that read other rows before disagree.
# Nothing is said. Compare such models each from a fresh load.
# In moiety: tests/vlm/test_rope.py reads the logits first for this reason.
set -euo pipefail
work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
cat > "$work/look.py" <<'PY'
import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
config = LlamaConfig(
    vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
    max_position_embeddings=32, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0})
model = LlamaForCausalLM(config).eval()
with torch.no_grad():
    for parameter in model.parameters():
        if parameter.ndim > 1:
            parameter.mul_(4)
text = torch.randint(0, 64, (1, 60))


def logits(length):
    with torch.no_grad():
        return model(text[:, :length], use_cache=False).logits


first = logits(40)
again = (logits(40) - first).abs().max().item()
logits(60)
later = (logits(40) - first).abs().max().item()
logits(20)
reset = (logits(40) - first).abs().max().item()
print("equal" if again == 0 else "differs", "differs" if later > 1e-3 else "equal", "equal" if reset == 0 else "differs", f"{later:.3f}")
PY
python3 -m venv "$work/venv"; bin="$work/venv/bin"
"$bin/python" -m pip install --quiet "torch==2.13.0" "transformers==5.24.0" 2>"$work/log"
seen=$("$bin/python" "$work/look.py" 2>>"$work/log" | tail -n 1)
echo "again, after 60 tokens, after 20 tokens: $seen"
[ "${seen% *}" = "equal differs equal" ]
