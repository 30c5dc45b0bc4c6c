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

The modules goldens_gelu, goldens_mlp and goldens_model name the tensors. The versions that computed
them stand in each file's metadata.

Every value comes from a fixed seed, everything runs on the CPU, and a second run on the same machine writes
the same bytes. Another processor may pick other matrix kernels and so move last digits. Each module checks
its results before anything is written. What TensorFlow says about oneDNN is of no concern: gemma imports it,
and nothing here computes with it.
"""

from pathlib import Path

import jax
import torch

# First, whatever the alphabet says: transformers' models load Triton, goldens_mlp loads TensorFlow, and each brings an
# LLVM. In the other order the second one aborts the process.
import goldens_model  # isort: skip
import goldens_gelu
import goldens_mlp
from goldens_common import check, to_safetensors

DIRECTORY = Path(__file__).resolve().parent.parent / "tests" / "goldens"
SIZE_LIMIT = 600_000


def main():
    # One thread and no accelerator: the order of a sum must not depend on the machine's load or its devices.
    torch.set_num_threads(1)
    jax.config.update("jax_platforms", "cpu")

    files = {
        "gelu.safetensors": to_safetensors(*goldens_gelu.compute()),
        "mlp.safetensors": to_safetensors(*goldens_mlp.compute()),
        "model.safetensors": to_safetensors(*goldens_model.compute()),
    }
    total = sum(len(data) for data in files.values())
    check(total < SIZE_LIMIT, f"the goldens take {total} bytes, more than the {SIZE_LIMIT} they may")

    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (DIRECTORY / name).write_bytes(data)
        print(f"{name}: {len(data)} bytes")


if __name__ == "__main__":
    main()
