"""Times PyTorch doing what a drift run compares: two f32 forward passes of one model, tanh and exact, on one text.

    python time_torch.py DIRECTORY IDS.json [THREADS]

Transformers' model with eager attention; the head runs on all positions, 256 at a time, so that its logits fit the
memory. Nothing is compared. To set it against a drift run, alternate the two on a quiet machine:

    gemma-mlp drift --model DIRECTORY --ids IDS.json --json > /dev/null
"""

import json
import sys
import time

import torch
from transformers import AutoModelForCausalLM

CHUNK = 256


def main(directory, ids, threads=2):
    torch.set_num_threads(int(threads))
    with open(ids) as file:
        ids = torch.tensor([json.load(file)])
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    total = 0.0
    for approximate in ("tanh", "none"):
        for layer in model.model.layers:
            layer.mlp.act_fn = torch.nn.GELU(approximate=approximate)
        start = time.perf_counter()
        with torch.inference_mode():
            hidden = model.model(ids, use_cache=False).last_hidden_state
            for at in range(0, ids.shape[1], CHUNK):
                model.lm_head(hidden[:, at : at + CHUNK])
        seconds = time.perf_counter() - start
        total += seconds
        print(f"gelu approximate={approximate}: {seconds:.1f} s")
    print(f"both: {total:.1f} s, {ids.shape[1]} tokens, {threads} threads, torch {torch.__version__}")


main(*sys.argv[1:])
