"""Times PyTorch doing what a drift run compares: two f32 forward passes of one model, tanh and exact, on one text.

    python time_torch.py [--json] DIRECTORY IDS.json [THREADS]

Transformers' model with eager attention; the head runs on all positions, 256 at a time, so that its logits fit the
memory. Nothing is compared. To set it against a drift run, alternate the two on a quiet machine:

    gemma-mlp drift --model DIRECTORY --ids IDS.json --json > /dev/null
"""

import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM

CHUNK = 256


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("ids", help="a JSON list")
    parser.add_argument("threads", type=int, nargs="?", default=2)
    parser.add_argument("--json", action="store_true", help="print JSON, as scripts/perf_tables.py reads it")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with open(arguments.ids) as file:
        ids = torch.tensor([json.load(file)])
    total = 0.0
    for approximate, seconds in passes(arguments.directory, ids):
        total += seconds
        if not arguments.json:
            print(f"gelu approximate={approximate}: {seconds:.1f} s")
    if arguments.json:
        versions = {"torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability()}
        print(json.dumps({"tokens": ids.shape[1], "seconds": [total]} | versions))
    else:
        print(f"both: {total:.1f} s, {ids.shape[1]} tokens, {arguments.threads} threads, torch {torch.__version__}")


def passes(directory, ids):
    """The seconds of each."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32, attn_implementation="eager").eval()
    for approximate in ("tanh", "none"):
        for layer in model.model.layers:
            layer.mlp.act_fn = torch.nn.GELU(approximate=approximate)
        start = time.perf_counter()
        with torch.inference_mode():
            hidden = model.model(ids, use_cache=False).last_hidden_state
            for at in range(0, ids.shape[1], CHUNK):
                model.lm_head(hidden[:, at : at + CHUNK])
        yield approximate, time.perf_counter() - start


if __name__ == "__main__":
    main()
