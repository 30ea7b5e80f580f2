"""Which units of a trained FFN should a narrower expert keep, and does refitting its down projection help?

    moiety fetch-demo-weights weights
    python speed/units.py weights/smollm2-135m-instruct

Every FFN of some layers of a language model becomes narrower, and the mean loss of three sentences of plain text is
printed. Units are chosen by the norms of their weights, or by their activity on tokens: random ones, or text that the
model wrote itself. The columns of the down projection are copied, or fitted to the output of the whole FFN by least
squares. The fit is free, or held near the copied columns. Nothing is trained.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from typing import Any

import torch
from language import TEXTS
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from moiety.evaluate.plain_text import text_loss

ROWS, LENGTH = 24, 64


@torch.no_grad()
def moments(model: Any, tokens: Tensor) -> list[Tensor]:
    """Second moments ``(ffn, ffn)`` of what the units of each layer hand to the down projection."""
    found: list[Tensor] = []
    handles = [
        layer.mlp.down_proj.register_forward_pre_hook(
            lambda _, args: found.append(args[0].flatten(0, -2).T @ args[0].flatten(0, -2))
        )
        for layer in model.model.layers
    ]
    model(input_ids=tokens)
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def narrow(model: Any, layers: Sequence[int], width: int, seen: Sequence[Tensor] | None, fit: str) -> Any:
    model = copy.deepcopy(model)
    for place in layers:
        mlp = model.model.layers[place].mlp
        gate, up, down = mlp.gate_proj.weight, mlp.up_proj.weight, mlp.down_proj.weight
        size = gate.norm(dim=1) * up.norm(dim=1) if seen is None else seen[place].diagonal().sqrt()
        kept = (size * down.norm(dim=0)).topk(width).indices.sort().values
        columns = down[:, kept]
        if fit != "copied":
            assert seen is not None
            moment, dense = seen[place].double(), down.double()
            ridge = (1e-3 if fit == "free" else 1e-2) * moment.diagonal().mean() * torch.eye(width).double()
            among = moment[kept][:, kept] + ridge
            if fit == "free":
                columns = torch.linalg.solve(among, moment[kept] @ dense.T).T.float()
            else:
                left = torch.ones(len(moment), dtype=torch.bool).index_fill(0, kept, False)
                columns = columns + torch.linalg.solve(among, moment[kept][:, left] @ dense[:, left].T).T.float()
        for name, weight in (("gate_proj", gate[kept]), ("up_proj", up[kept]), ("down_proj", columns)):
            getattr(mlp, name).weight = nn.Parameter(weight.contiguous())
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="a causal language model of the Llama kind")
    folder: str = parser.parse_args().folder
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model: Any = AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    start = torch.full((ROWS, 1), model.config.bos_token_id)
    there = torch.ones_like(start)
    written = model.generate(start, attention_mask=there, do_sample=True, top_k=0, max_new_tokens=LENGTH)
    drawn = torch.randint(0, model.config.vocab_size, (ROWS, LENGTH))
    seen = {"random tokens": moments(model, drawn), "own text": moments(model, written)}
    count, ffn = len(model.model.layers), model.config.intermediate_size
    print("| units by | down columns | half width, every second layer | half width, every layer |")
    print("| --- | --- | ---: | ---: |")
    whole = text_loss(model, tokenizer, TEXTS)
    print(f"| all (dense) | | {whole:.2f} | {whole:.2f} |", flush=True)
    choices = [("norms of weights", None, "copied")]
    choices += [(f"activity on {name}", name, fit) for name in seen for fit in ("copied", "free", "held")]
    for name, batch, fit in choices:
        losses = [
            text_loss(narrow(model, layers, ffn // 2, None if batch is None else seen[batch], fit), tokenizer, TEXTS)
            for layers in (range(1, count, 2), range(count))
        ]
        print(f"| {name} | {fit} | {losses[0]:.2f} | {losses[1]:.2f} |", flush=True)


if __name__ == "__main__":
    main()
