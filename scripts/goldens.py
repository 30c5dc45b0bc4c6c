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

With names after it, as in `scripts/goldens.py rounding`, it writes these files alone. The modules goldens_gelu,
goldens_mlp, goldens_model and goldens_rounding name the tensors. The versions that computed
them stand in each file's metadata.

Every value comes from a fixed seed, everything runs on the CPU, and a second run on the same machine writes
the same bytes. Another processor may pick other matrix kernels and so move last digits. Each module checks
its results before anything is written. What TensorFlow says about oneDNN is of no concern: gemma imports it,
and nothing here computes with it.
"""

import sys
from pathlib import Path

import jax
import torch

# First, whatever the alphabet says: transformers' models load Triton, goldens_mlp loads TensorFlow, and each brings an
# LLVM. In the other order the second one aborts the process.
import goldens_model  # isort: skip
import goldens_gelu
import goldens_mlp
import goldens_rounding
from goldens_common import check, to_safetensors

DIRECTORY = Path(__file__).resolve().parent.parent / "tests" / "goldens"
MODULES = {"gelu": goldens_gelu, "mlp": goldens_mlp, "model": goldens_model, "rounding": goldens_rounding}
SIZE_LIMIT = 700_000
# Sixteen results for each of 65,536 inputs of two bytes: all of them are the proof.
SIZE_LIMITS = {"rounding": 2_100_000}


def main():
    # One thread and no accelerator: the order of a sum must not depend on the machine's load or its devices.
    torch.set_num_threads(1)
    jax.config.update("jax_platforms", "cpu")

    names = sys.argv[1:] or list(MODULES)
    files = {name: to_safetensors(*MODULES[name].compute()) for name in names}
    small = sum(len(data) for name, data in files.items() if name not in SIZE_LIMITS)
    check(small < SIZE_LIMIT, f"the goldens take {small} bytes, more than the {SIZE_LIMIT} they may")
    for name in files.keys() & SIZE_LIMITS.keys():
        size, limit = len(files[name]), SIZE_LIMITS[name]
        check(size < limit, f"{name} takes {size} bytes, more than the {limit} it may")

    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (DIRECTORY / f"{name}.safetensors").write_bytes(data)
        print(f"{name}.safetensors: {len(data)} bytes")


if __name__ == "__main__":
    main()
