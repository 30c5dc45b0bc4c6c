"""Writes the golden files that the crate's tests compare against.

Run it from the repository's root, with Python 3.11:

    python3.11 -m venv .venv
    .venv/bin/pip install -r scripts/requirements.txt
    .venv/bin/pip install --no-deps -r scripts/requirements-gemma.txt
    .venv/bin/python scripts/goldens.py

It writes, under tests/goldens/,

    gelu.safetensors       the two GELUs and their derivatives, from torch and from JAX
    mlp.safetensors        whole MLP blocks, forward and backward, from transformers and from DeepMind's gemma
    model.safetensors      whole small models of six kinds of Gemma, from token ids to logits, from transformers
    rounding.safetensors   GELU and GEGLU of every bf16 and every f16, from torch and from JAX
    families/              whole small checkpoints of the later Gemmas, a directory each, and what transformers
                           makes of them

With names after it, as in `scripts/goldens.py rounding`, it writes these files alone; `families` and `model` need no
JAX. The modules goldens_gelu, goldens_mlp, goldens_model, goldens_rounding and goldens_families name the tensors. The
versions that computed them stand in each file's metadata.

Every value comes from a fixed seed, everything runs on the CPU, and a second run on the same machine writes
the same bytes. Another processor may pick other matrix kernels and so move last digits. Each module checks
its results before anything is written. What TensorFlow says about oneDNN is of no concern: gemma imports it,
and nothing here computes with it.
"""

import sys
from importlib import import_module
from pathlib import Path

import torch

from goldens_common import check, to_safetensors

DIRECTORY = Path(__file__).resolve().parent.parent / "tests" / "goldens"
# In this order: transformers' models load Triton, goldens_mlp loads TensorFlow, and each brings an LLVM. In the other
# order the second one aborts the process.
NAMES = ("model", "families", "gelu", "mlp", "rounding")
SIZE_LIMIT = 700_000
# Sixteen results for each of 65,536 inputs of two bytes: all of them are the proof. And twenty whole models.
SIZE_LIMITS = {"rounding": 2_100_000, "families": 2_500_000}


def main():
    # One thread and no accelerator: the order of a sum must not depend on the machine's load or its devices.
    torch.set_num_threads(1)

    names = [name for name in NAMES if name in sys.argv[1:] or not sys.argv[1:]]
    check(set(sys.argv[1:]) <= set(NAMES), f"the names are {', '.join(NAMES)}")
    if set(names) - {"model", "families"}:
        import jax

        jax.config.update("jax_platforms", "cpu")
    modules = {name: import_module(f"goldens_{name}") for name in names}
    files = {}
    for name, module in modules.items():
        if name == "families":
            files[name] = {f"families/{path}": data for path, data in module.compute().items()}
        else:
            files[name] = {f"{name}.safetensors": to_safetensors(*module.compute())}
    sizes = {name: sum(map(len, written.values())) for name, written in files.items()}
    small = sum(size for name, size in sizes.items() if name not in SIZE_LIMITS)
    check(small < SIZE_LIMIT, f"the goldens take {small} bytes, more than the {SIZE_LIMIT} they may")
    for name in sizes.keys() & SIZE_LIMITS.keys():
        check(sizes[name] < SIZE_LIMITS[name], f"{name} takes {sizes[name]} bytes, more than {SIZE_LIMITS[name]}")

    for written in files.values():
        for path, data in written.items():
            (DIRECTORY / path).parent.mkdir(parents=True, exist_ok=True)
            (DIRECTORY / path).write_bytes(data)
            print(f"{path}: {len(data)} bytes")


if __name__ == "__main__":
    main()
